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

/// App to open after signing in, for the browser that came from it. Nothing else in a link is followed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct AppRedirect {
    app: String,
    state: String,
}

impl AppRedirect {
    /// Parses the fields of a link or a form. Returns `None` if they are invalid.
    pub(crate) fn parse(app: Option<&str>, state: Option<&str>) -> Option<Self> {
        let app: rigbox_core::ids::AppId = app?.parse().ok()?;
        let state = state.filter(|state| is_state(state))?;
        Some(Self { app: app.to_string(), state: state.to_owned() })
    }

    /// Returns the app's id.
    pub(crate) fn app(&self) -> &str {
        &self.app
    }

    /// Returns the page that hands off to the app.
    pub(crate) fn path(&self) -> String {
        format!("/open/{}?state={}", self.app, self.state)
    }

    /// Returns the fields as a URL query.
    pub(crate) fn query(&self) -> String {
        format!("app={}&state={}", self.app, self.state)
    }

    /// Returns the fields for a form.
    pub(crate) fn fields(&self) -> [(&'static str, &str); 2] {
        [("app", &self.app), ("state", &self.state)]
    }
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
    let refused = || {
        let content = html! {
            p { "The app does not exist, or it is not shared with you." }
            p { a href="/sign-in" { "Switch account" } }
        };
        page(StatusCode::FORBIDDEN, "You don't have access", &content)
    };
    let app = id.as_ref().map(|Path(id)| id.as_str()).ok();
    let Some(redirect_to) = AppRedirect::parse(app, Some(&query.state)) else { return Ok(refused()) };
    let Some(principal) =
        credentials::signed_in(&context.authenticator, &context.console, &headers, from).await?
    else {
        return Ok(redirect(&format!("/sign-in?{}", redirect_to.query())));
    };
    let url = context.visitors.hand_off(&principal, &redirect_to.app, &redirect_to.state).await?;
    Ok(url.map_or_else(refused, |to| redirect(&to)))
}
