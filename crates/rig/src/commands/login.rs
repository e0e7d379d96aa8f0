//! `rig login` and `rig logout`: an API key for this machine, which its user approves in a browser.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use crate::api::{Api, ApiError};
use crate::config::{self, Source};
use crate::failure::Failure;
use crate::output::{Event, Output, escape, fields_of};

/// The server's limit for a machine's name.
const MAX_NAME_LEN: usize = 48;

/// Pending login.
#[derive(Deserialize)]
struct DeviceLogin {
    device_secret: String,
    user_code: String,
    verification_url: String,
    expires_in_s: u64,
    interval_s: u64,
}

/// Status of a login.
#[derive(Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
enum LoginStatus {
    Pending,
    Approved { api_key: String, user_email: String },
}

pub(super) async fn login(api: &Api, out: &Output) -> Result<(), Failure> {
    if api.config().is_inside() {
        return Err(inside());
    }
    let request = api.anonymous(Method::POST, &["auth", "device"]).json(&json!({"machine": machine()}));
    let login: DeviceLogin = api.call(request).await?;
    out.event(&Event::SessionCreated { code: &login.user_code })?;
    out.event(&Event::BrowserUrl { url: &login.verification_url })?;
    out.line(&format!("Open {}", escape(&login.verification_url)))?;
    out.line(&format!("and enter the code {}", escape(&login.user_code)))?;
    let (key, email) = wait(api, out, &login).await?;
    out.event(&Event::Approved { user_email: &email })?;
    let path = config::save(api.config().address(), &key, &email)?;
    out.event(&Event::Saved { path: &path.display().to_string() })?;
    if api.config().key_source == Source::Env {
        out.warn("RIG_API_KEY is set and overrides the saved key");
    }
    out.line(&format!("Logged in as {}", escape(&email)))
}

fn inside() -> Failure {
    let message = "cannot log in or out inside a workspace; set RIG_API_URL to use another server";
    Failure::new("inside_workspace", message)
}

/// Waits for the user's approval, and returns the API key and the user's email address.
async fn wait(api: &Api, out: &Output, login: &DeviceLogin) -> Result<(String, String), Failure> {
    let started = Instant::now();
    // Bounds for a server that sends nonsense.
    let interval = Duration::from_secs(login.interval_s.clamp(1, 60));
    let timeout = Duration::from_secs(login.expires_in_s.min(3_600));
    let progress = out.progress();
    progress.set_message("waiting for your approval");
    while started.elapsed() < timeout {
        let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        out.event(&Event::Polling { elapsed_ms })?;
        let body = json!({"device_secret": login.device_secret});
        match api.call(api.anonymous(Method::POST, &["auth", "device", "poll"]).json(&body)).await? {
            LoginStatus::Approved { api_key, user_email } => return Ok((api_key, user_email)),
            LoginStatus::Pending => tokio::time::sleep(interval).await,
        }
    }
    Err(Failure::new("expired", "the login expired before it was approved; run `rig login` again"))
}

/// Returns this machine's name for the approval page.
fn machine() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name: String = name.chars().filter(|character| !character.is_control()).take(MAX_NAME_LEN).collect();
    if name.is_empty() { "unnamed machine".to_owned() } else { name }
}

pub(super) async fn logout(api: &Api, out: &Output) -> Result<(), Failure> {
    match api.config().key_source {
        Source::Env => {
            let message = "the key is in RIG_API_KEY; unset it, and revoke it with `rig api-key rm`";
            return Err(Failure::new("key_in_environment", message));
        }
        Source::None => {
            out.response("logout", fields_of(&json!({"ended": false}))?)?;
            return out.line("Not logged in.");
        }
        Source::Bridge => return Err(inside()),
        Source::Config => {}
    }
    // A key that the server does not know is revoked already.
    let (ended, message) = match api.send::<Logout>(Method::POST, &["auth", "sign-out"]).await {
        Ok(Logout { ended, message }) => (ended, message),
        Err(ApiError::LogIn { .. }) => (true, "the key was already revoked".to_owned()),
        Err(error) => return Err(error.into()),
    };
    let path = config::delete_key()?;
    out.response("logout", fields_of(&json!({"ended": ended, "path": path.display().to_string()}))?)?;
    out.line(&format!("Deleted the key in {}; {}", path.display(), escape(&message)))
}

#[derive(Deserialize)]
struct Logout {
    ended: bool,
    message: String,
}
