//! The way from the console to an app: who is signed in and may see it is sent on with a one-time code, others sign in or are told.

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

/// What the app's host has to know this browser by: base64url of 32 bytes.
const STATE: usize = 43;

/// Where signing in is to lead: to an app, for the browser that came from it. Nothing else of a link is followed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Opening {
    app: String,
    state: String,
}

impl Opening {
    /// What a link or a form says, if it looks like it.
    pub(crate) fn of(app: Option<&str>, state: Option<&str>) -> Option<Self> {
        let app: rigbox_core::ids::AppId = app?.parse().ok()?;
        let state = state.filter(|state| is_state(state))?;
        Some(Self { app: app.to_string(), state: state.to_owned() })
    }

    /// The page that leads on.
    pub(crate) fn path(&self) -> String {
        format!("/open/{}?state={}", self.app, self.state)
    }

    /// For a URL's query.
    pub(crate) fn query(&self) -> String {
        format!("app={}&state={}", self.app, self.state)
    }

    /// For a form's fields.
    pub(crate) fn fields(&self) -> [(&'static str, &str); 2] {
        [("app", &self.app), ("state", &self.state)]
    }
}

fn is_state(text: &str) -> bool {
    text.len() == STATE
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// From where a browser comes.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct OpenQuery {
    /// What the app's host knows this browser by.
    state: String,
}

/// Go on to an app, as the user who is signed in
#[utoipa::path(get, path = "/open/{app}", tag = "pages", params(("app" = String, Path), OpenQuery), responses(
    (status = 303, description = "On to the app, or to signing in first"),
    (status = 403, content_type = "text/html", body = String, description = "There is no such app for this user"),
    (status = 503, content_type = "text/html", body = String),
))]
pub(crate) async fn show(
    State(app): State<ApiContext>,
    Address(from): Address,
    Path(id): Path<String>,
    PageParams(query): PageParams<OpenQuery>,
    headers: http::HeaderMap,
) -> Result<Response, PageError> {
    if !is_state(&query.state) {
        return Err(
            ApiError::bad_request("state: not one that an app's host gave: open the app again").into()
        );
    }
    let refused = || {
        let content = html! {
            p { "Either there is no such app, or it is not shared with you." }
            p { a href="/sign-in" { "Who am I signed in as?" } }
        };
        page(StatusCode::FORBIDDEN, "Not for you", &content)
    };
    let Some(opening) = Opening::of(Some(&id), Some(&query.state)) else { return Ok(refused()) };
    let Some(principal) = credentials::signed_in(&app.authenticator, &app.console, &headers, from).await?
    else {
        return Ok(redirect(&format!("/sign-in?{}", opening.query())));
    };
    let sent = app.visitors.hand_off(&principal, &opening.app, &opening.state).await?;
    Ok(sent.map_or_else(refused, |to| redirect(&to)))
}
