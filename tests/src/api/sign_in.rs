//! A user's way from a link to an API key, as a browser goes it.

use anyhow::{Context, Result, ensure};
use reqwest::header::{COOKIE, ORIGIN, SET_COOKIE};
use serde_json::{Value, json};

use super::Api;

/// Where people sign in, unless the configuration says otherwise.
const CONSOLE: &str = "console.localhost:7070";

impl Api {
    /// Follows a link that signs in, and makes a key of the user's. Everything happens on the console's host.
    pub(crate) fn key_by_link(&self, link: &str) -> Result<String> {
        let (_, token) = link.split_once("token=").context("a link with a token")?;
        let origin = format!("http://{CONSOLE}");
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .resolve("console.localhost", ([127, 0, 0, 1], 7070).into())
            .build()?;
        self.runtime.block_on(async {
            let form = format!("token={token}");
            let request = client.post(format!("{origin}/sign-in/link")).header(ORIGIN, &origin);
            let request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
            let response = request.send().await?;
            ensure!(response.status() == 303, "the link: {}", response.status());
            let cookie = response.headers().get(SET_COOKIE).context("no cookie")?.to_str()?;
            let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
            let request = client.post(format!("{origin}/api/v1/api-keys")).json(&json!({"name": "test"}));
            let made = request.header(ORIGIN, &origin).header(COOKIE, cookie).send().await?;
            let made: Value = made.error_for_status()?.json().await?;
            Ok(made.get("key").and_then(Value::as_str).context("no key")?.to_owned())
        })
    }
}
