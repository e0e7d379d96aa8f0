//! `rig login` and `rig logout`: a key for this machine, approved by its user in a browser, kept in `~/.rigbox/config.json`.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use crate::api::{Api, ApiError};
use crate::config::{self, Source};
use crate::failure::Failure;
use crate::output::{Event, Output, answer_of, plain};

/// The server allows no longer name.
const LONGEST_NAME: usize = 48;

/// A log-in that waits for its user.
#[derive(Deserialize)]
struct Asked {
    device_secret: String,
    user_code: String,
    verification_url: String,
    expires_in_s: u64,
    interval_s: u64,
}

/// What became of it.
#[derive(Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
enum Polled {
    Pending,
    Approved { api_key: String, user_email: String },
}

pub(super) async fn login(api: &Api, out: &Output) -> Result<(), Failure> {
    if api.config().is_inside() {
        return Err(inside());
    }
    let request = api.anonymous(Method::POST, &["auth", "device"]).json(&json!({"machine": machine()}));
    let asked: Asked = api.call(request).await?;
    out.event(&Event::SessionCreated { code: &asked.user_code })?;
    out.event(&Event::BrowserUrl { url: &asked.verification_url })?;
    out.say(&format!("Open {}", plain(&asked.verification_url)))?;
    out.say(&format!("and approve this machine if the code there is {}", plain(&asked.user_code)))?;
    let (key, email) = wait(api, out, &asked).await?;
    out.event(&Event::Approved { user_email: &email })?;
    let path = config::save(api.config().address(), &key, &email)?;
    out.event(&Event::Saved { path: &path.display().to_string() })?;
    if api.config().key_source == Source::Env {
        out.warn("RIG_API_KEY is set and goes before the key that was saved");
    }
    out.say(&format!("logged in as {}", plain(&email)))
}

fn inside() -> Failure {
    let message = "inside a workspace nobody logs in or out: `rig` acts for the workspace there; set RIG_API_URL for another server";
    Failure::new("inside_workspace", message)
}

/// Waits for the user; answers the key and whose it is.
async fn wait(api: &Api, out: &Output, asked: &Asked) -> Result<(String, String), Failure> {
    let began = Instant::now();
    // A server that says nonsense is not asked all the time, nor for ever.
    let pause = Duration::from_secs(asked.interval_s.clamp(1, 60));
    let limit = Duration::from_secs(asked.expires_in_s.min(3_600));
    let progress = out.progress();
    progress.now("waiting for your approval");
    while began.elapsed() < limit {
        let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        out.event(&Event::Polling { elapsed_ms })?;
        let body = json!({"device_secret": asked.device_secret});
        match api.call(api.anonymous(Method::POST, &["auth", "device", "poll"]).json(&body)).await? {
            Polled::Approved { api_key, user_email } => return Ok((api_key, user_email)),
            Polled::Pending => tokio::time::sleep(pause).await,
        }
    }
    Err(Failure::new("expired", "nobody approved this machine in time: run `rig login` again"))
}

/// What this machine is called, as its user will see it.
fn machine() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name: String = name.chars().filter(|character| !character.is_control()).take(LONGEST_NAME).collect();
    if name.is_empty() { "a machine without a name".to_owned() } else { name }
}

pub(super) async fn logout(api: &Api, out: &Output) -> Result<(), Failure> {
    match api.config().key_source {
        Source::Env => {
            let message = "the key is in RIG_API_KEY: unset it; `rig api-key rm` ends it";
            return Err(Failure::new("key_in_environment", message));
        }
        Source::None => {
            out.answer("logout", answer_of(&json!({"ended": false}))?)?;
            return out.say("there was no key to forget");
        }
        Source::Bridge => return Err(inside()),
        Source::Config => {}
    }
    // What the server does not know any more has ended.
    let (ended, message) = match api.send::<SignedOut>(Method::POST, &["auth", "sign-out"]).await {
        Ok(SignedOut { ended, message }) => (ended, message),
        Err(ApiError::LogIn { .. }) => (true, "the key had ended".to_owned()),
        Err(error) => return Err(error.into()),
    };
    let path = config::forget_key()?;
    out.answer("logout", answer_of(&json!({"ended": ended, "path": path.display().to_string()}))?)?;
    out.say(&format!("forgot the key in {}; {}", path.display(), plain(&message)))
}

#[derive(Deserialize)]
struct SignedOut {
    ended: bool,
    message: String,
}
