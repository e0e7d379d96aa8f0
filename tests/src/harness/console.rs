//! Minimal browser for the console: it keeps the session cookie and submits forms as the console's pages do.

use anyhow::{Context, Result, ensure};
use reqwest::header::{COOKIE, LOCATION, ORIGIN, SET_COOKIE};

use crate::harness::installation::Installation;

pub(crate) struct Console {
    origin: String,
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
    /// Session cookie, as sent.
    pub(crate) cookie: Option<String>,
}

/// Response of the console.
pub(crate) struct Page {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    pub(crate) text: String,
}

impl Console {
    pub(crate) fn new(installation: &Installation) -> Result<Self> {
        let port = installation.api.url.rsplit(':').next().context("the API's port")?;
        let origin = format!("http://console.localhost:{port}");
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .resolve("console.localhost", format!("127.0.0.1:{port}").parse()?)
            .build()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { origin, client, runtime, cookie: None })
    }

    /// Signs in with a link.
    pub(crate) fn follow(&mut self, link: &str) -> Result<()> {
        let path = link.strip_prefix(&self.origin).with_context(|| format!("not the console's: {link}"))?;
        let page = self.open(path)?;
        ensure!(page.status == 200, "{path}: {} {}", page.status, page.text);
        let token = path.split_once("token=").and_then(|(_, rest)| rest.split('&').next());
        let followed = self.submit("/sign-in/link", &[("token", token.context("no token")?)])?;
        ensure!(followed.status == 303 && self.cookie.is_some(), "{} {}", followed.status, followed.text);
        Ok(())
    }

    /// Creates an API key of the signed-in account.
    pub(crate) fn create_key(&mut self, name: &str) -> Result<String> {
        let request =
            self.client.post(format!("{}/api/v1/api-keys", self.origin)).header(ORIGIN, &self.origin);
        let created = self.send(request.json(&serde_json::json!({"name": name})))?;
        ensure!(created.status == 201, "{} {}", created.status, created.text);
        let created: serde_json::Value = serde_json::from_str(&created.text)?;
        Ok(created.get("key").and_then(|key| key.as_str()).context("no key")?.to_owned())
    }

    pub(crate) fn open(&mut self, path: &str) -> Result<Page> {
        let request = self.client.get(format!("{}{path}", self.origin));
        self.send(request)
    }

    /// Submits a form of a page.
    pub(crate) fn submit(&mut self, path: &str, fields: &[(&str, &str)]) -> Result<Page> {
        let mut form = reqwest::Url::parse("http://form")?;
        form.query_pairs_mut().extend_pairs(fields);
        let request = self
            .client
            .post(format!("{}{path}", self.origin))
            .header(ORIGIN, &self.origin)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form.query().unwrap_or_default().to_owned());
        self.send(request)
    }

    fn send(&mut self, mut request: reqwest::RequestBuilder) -> Result<Page> {
        if let Some(cookie) = &self.cookie {
            request = request.header(COOKIE, cookie);
        }
        self.runtime.block_on(async {
            let response = request.send().await?;
            if let Some(cookie) = response.headers().get(SET_COOKIE) {
                self.cookie = cookie.to_str()?.split(';').next().map(str::to_owned);
            }
            let location = response.headers().get(LOCATION).map(|location| location.to_str()).transpose()?;
            let (status, location) = (response.status().as_u16(), location.map(str::to_owned));
            Ok(Page { status, location, text: response.text().await? })
        })
    }
}
