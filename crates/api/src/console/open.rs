//! Handoff from the console to an app: a signed-in user who may open the app is redirected with a one-time
//! code; others sign in or get a refusal.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;
use maud::html;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{PageError, PageParams, page, redirect};
use crate::context::ApiContext;
use crate::error::ApiError;
use crate::middleware::credentials;
use crate::middleware::rate_limit::Address;

/// Length of the state by which the app's host recognizes the browser: base64url of 32 bytes.
const STATE_LEN: usize = 43;
/// Maximum length of a host name.
const MAX_HOST_LEN: usize = 253;

/// App to open after signing in, for the browser that came from it. Nothing else in a link is followed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct AppRedirect {
    app: String,
    state: String,
    /// Host of the app at which the sign-in began.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
}

impl AppRedirect {
    /// Parses the fields of a link or a form. Returns `None` if they are invalid.
    pub(crate) fn parse(app: Option<&str>, state: Option<&str>, host: Option<&str>) -> Option<Self> {
        let app: rigbox_core::ids::AppId = app?.parse().ok()?;
        let state = state.filter(|state| is_state(state))?;
        host.is_none_or(is_host).then(|| Self {
            app: app.to_string(),
            state: state.to_owned(),
            host: host.map(str::to_owned),
        })
    }

    /// Returns the app's id.
    pub(crate) fn app(&self) -> &str {
        &self.app
    }

    /// Returns the page that hands off to the app.
    pub(crate) fn path(&self) -> String {
        format!("/open/{}?state={}{}", self.app, self.state, self.host_parameter())
    }

    /// Returns the fields as a URL query.
    pub(crate) fn query(&self) -> String {
        format!("app={}&state={}{}", self.app, self.state, self.host_parameter())
    }

    fn host_parameter(&self) -> String {
        self.host.as_ref().map(|host| format!("&host={host}")).unwrap_or_default()
    }

    /// Returns the fields for a form.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let host = self.host.as_deref().map(|host| ("host", host));
        [("app", self.app.as_str()), ("state", self.state.as_str())].into_iter().chain(host)
    }
}

/// Returns whether a text has the form of a host name. Which hosts an app has is checked at the end of the sign-in.
fn is_host(text: &str) -> bool {
    (1..=MAX_HOST_LEN).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}

fn is_state(text: &str) -> bool {
    text.len() == STATE_LEN
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Query of the page.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct OpenQuery {
    /// State by which the app's host recognizes this browser.
    #[param(pattern = "^[A-Za-z0-9_-]{43}$")]
    state: String,
    /// Host of the app at which the sign-in began; that of its name by default.
    #[param(pattern = "^[A-Za-z0-9.-]{1,253}$")]
    host: Option<String>,
}

/// Open an app as the signed-in user
#[utoipa::path(get, path = "/open/{app}", operation_id = "open_app_page", tag = "pages", params(("app" = String, Path), OpenQuery), responses(
    (status = 303, description = "To the app, or to sign in first"),
    (status = 403, content_type = "text/html", body = String, description = "No such app for this user"),
    (status = 503, content_type = "text/html", body = String),
))]
pub(crate) async fn show(
    State(context): State<ApiContext>,
    Address(from): Address,
    id: Result<Path<String>, PathRejection>,
    PageParams(query): PageParams<OpenQuery>,
    headers: http::HeaderMap,
) -> Result<Response, PageError> {
    if !is_state(&query.state) {
        return Err(ApiError::bad_request("state: The state is invalid. Open the app again.").into());
    }
    if !query.host.as_deref().is_none_or(is_host) {
        return Err(ApiError::bad_request("host: This is not a host name. Open the app again.").into());
    }
    let refused = || {
        let content = html! {
            p { "The app does not exist, or it is not shared with you." }
            p { a href="/sign-in" { "Switch account" } }
        };
        page(StatusCode::FORBIDDEN, "You don't have access", &content)
    };
    let app = id.as_ref().map(|Path(id)| id.as_str()).ok();
    let Some(redirect_to) = AppRedirect::parse(app, Some(&query.state), query.host.as_deref()) else {
        return Ok(refused());
    };
    let Some(principal) =
        credentials::signed_in(&context.authenticator, &context.console, &headers, from).await?
    else {
        return Ok(redirect(&format!("/sign-in?{}", redirect_to.query())));
    };
    let AppRedirect { app, state, host } = &redirect_to;
    let url = context.visitors.hand_off(&principal, app, state, host.as_deref()).await?;
    Ok(url.map_or_else(refused, |to| redirect(&to)))
}
