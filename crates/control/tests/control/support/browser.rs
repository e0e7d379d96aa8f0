//! Browser on the console: it keeps its cookie and sends what a page of the console makes it send.

use reqwest::{Method, RequestBuilder};
use rigbox_control::admin;

use super::{ApiResponse, TestControl};

/// Browser on the console.
pub(crate) struct Browser<'a> {
    pub(crate) rig: &'a TestControl,
    pub(crate) cookie: Option<String>,
}

impl<'a> Browser<'a> {
    pub(crate) fn new(rig: &'a TestControl) -> Self {
        Self { rig, cookie: None }
    }

    /// Signs in by a link that the operator printed.
    pub(crate) async fn signed_in(rig: &'a TestControl, email: &str) -> Self {
        let mut browser = Self::new(rig);
        let link = admin::login_link(&rig.config(), email).await.unwrap();
        let (_, token) = link.split_once("token=").unwrap();
        let response = browser.submit("/sign-in/link", &[("token", token)]).await;
        assert_eq!(response.status, 303, "{}", text(&response));
        assert!(browser.cookie.is_some());
        browser
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.rig.client.request(method, format!("{}{path}", self.rig.console()));
        match &self.cookie {
            Some(cookie) => request.header("cookie", cookie),
            None => request,
        }
    }

    pub(crate) async fn open(&self, path: &str) -> ApiResponse {
        self.rig.send(self.request(Method::GET, path)).await
    }

    /// Sends a form as a page of the console does.
    pub(crate) async fn submit(&mut self, path: &str, fields: &[(&str, &str)]) -> ApiResponse {
        let request = self.request(Method::POST, path).header("origin", self.rig.console());
        let response = self.rig.send(form(request, fields)).await;
        if let Some(cookie) = response.headers.get("set-cookie") {
            let cookie = cookie.to_str().unwrap();
            assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
            assert!(!cookie.contains("Domain"), "{cookie}");
            self.cookie = Some(cookie.split(';').next().unwrap().to_owned());
        }
        response
    }

    /// Returns the API's status for a page of this browser.
    pub(crate) async fn api(&self, path: &str) -> u16 {
        self.open(&format!("/api/v1{path}")).await.status.as_u16()
    }
}

pub(crate) fn form(request: RequestBuilder, fields: &[(&str, &str)]) -> RequestBuilder {
    let mut url = reqwest::Url::parse("http://form").unwrap();
    url.query_pairs_mut().extend_pairs(fields);
    let content_type = "application/x-www-form-urlencoded";
    request.header("content-type", content_type).body(url.query().unwrap_or("").to_owned())
}

pub(crate) fn text(response: &ApiResponse) -> String {
    String::from_utf8_lossy(&response.body).into_owned()
}
