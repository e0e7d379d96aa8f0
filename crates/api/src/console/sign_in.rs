//! Pages to sign in and out: a link is requested for, followed, and its button pressed. Opening the link alone signs nobody in: programs that
//! look at letters open links too.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::SET_COOKIE;
use maud::{Markup, html};
use rigbox_core::authz::{EndCredential, Target, authorize};
use rigbox_service::records::UserCode;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::open::Opening;
use super::{FormParams, PageError, PageParams, page, redirect};
use crate::context::ApiContext;
use crate::error::ApiError;
use crate::middleware::credentials;
use crate::middleware::rate_limit::Address;
use rigbox_service::identity::sign_in::{LINK_TTL_MINUTES, SESSION_MAX_LIFETIME};

/// Where signing in is to lead.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SignInQuery {
    /// Code of a machine's log-in that is to be approved then.
    device: Option<String>,
    /// The app that is to be opened then.
    app: Option<String>,
    /// What that app's host knows this browser by.
    state: Option<String>,
}

/// Who wants to sign in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignInForm {
    email: String,
    device: Option<String>,
    app: Option<String>,
    state: Option<String>,
}

/// A link as it was followed.
#[derive(Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct FollowedLink {
    token: String,
    /// Code of a machine's log-in that is to be approved then.
    device: Option<String>,
    /// The app that is to be opened then.
    app: Option<String>,
    /// What that app's host knows the browser by that requested for it.
    state: Option<String>,
}

/// Where a form or a link leads after signing in.
enum Next {
    Device(UserCode),
    App(Opening),
}

impl Next {
    /// Nothing else of a link is followed.
    fn of(device: Option<&str>, app: Option<&str>, state: Option<&str>) -> Option<Self> {
        code(device).map(Self::Device).or_else(|| Opening::of(app, state).map(Self::App))
    }

    /// To have the next form say it again.
    fn fields(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Device(code) => vec![("device", code.shown())],
            Self::App(opening) => opening.fields().map(|(name, value)| (name, value.to_owned())).to_vec(),
        }
    }
}

fn hidden(next: Option<&Next>) -> Markup {
    html! {
        @for (name, value) in next.map(Next::fields).unwrap_or_default() {
            input type="hidden" name=(name) value=(value);
        }
    }
}

/// The code, if it looks like one: nothing else of what a link says is followed.
fn code(device: Option<&str>) -> Option<UserCode> {
    device.and_then(UserCode::parse)
}

/// Sign in, or see who is signed in
#[utoipa::path(get, path = "/sign-in", tag = "pages", params(SignInQuery), responses(
    (status = 200, content_type = "text/html", body = String),
    (status = 303, description = "Pages are on the console's own host"),
))]
pub(crate) async fn show(
    State(app): State<ApiContext>,
    Address(from): Address,
    PageParams(query): PageParams<SignInQuery>,
    headers: http::HeaderMap,
) -> Result<Response, PageError> {
    let next = Next::of(query.device.as_deref(), query.app.as_deref(), query.state.as_deref());
    let Some(principal) = credentials::signed_in(&app.authenticator, &app.console, &headers, from).await?
    else {
        let content = html! {
            p { "You get a letter with a link." }
            form method="post" action="/sign-in" {
                label { "E-mail address" input type="email" name="email" required autofocus autocomplete="email"; }
                (hidden(next.as_ref()))
                button { "Send the link" }
            }
        };
        return Ok(page(StatusCode::OK, "Sign in", &content));
    };
    let user = app.users.me(&authorize(&principal, Target::Account).map_err(ApiError::from)?).await?;
    let content = html! {
        p { "You are signed in as " strong { (user.email) } "." }
        @match &next {
            Some(Next::Device(code)) => { p { a href={"/device?code=" (code.shown())} { "Approve a machine" } } }
            Some(Next::App(opening)) => { p { a href=(opening.path()) { "Go on to the app" } } }
            None => {}
        }
        form method="post" action="/sign-out" { button { "Sign out" } }
    };
    Ok(page(StatusCode::OK, "Signed in", &content))
}

/// Ask for a link
#[utoipa::path(post, path = "/sign-in", tag = "pages",
    request_body(content = SignInForm, content_type = "application/x-www-form-urlencoded"), responses(
    (status = 200, content_type = "text/html", body = String, description = "The same whether or not there is such a user"),
    (status = 403, content_type = "text/html", body = String, description = "Not sent from this page"),
    (status = 503, content_type = "text/html", body = String),
))]
pub(crate) async fn ask(
    State(app): State<ApiContext>,
    FormParams(form): FormParams<SignInForm>,
) -> Result<Response, PageError> {
    let next = Next::of(form.device.as_deref(), form.app.as_deref(), form.state.as_deref());
    let query = next.map(|next| match next {
        Next::Device(code) => format!("device={}", code.shown()),
        Next::App(opening) => opening.query(),
    });
    app.sign_in.ask(&form.email, query)?;
    let content = html! {
        p { "If there is a user with this address, a link is on its way. It is good idempotency_key, for " (LINK_TTL_MINUTES) " minutes." }
    };
    Ok(page(StatusCode::OK, "Look for a letter", &content))
}

/// The link in the letter: shows whom it would sign in
#[utoipa::path(get, path = "/sign-in/link", tag = "pages", params(FollowedLink), responses(
    (status = 200, content_type = "text/html", body = String),
    (status = 303, description = "Pages are on the console's own host"),
    (status = 404, content_type = "text/html", body = String, description = "It is not good (any more)"),
    (status = 503, content_type = "text/html", body = String),
))]
pub(crate) async fn link(
    State(app): State<ApiContext>,
    PageParams(link): PageParams<FollowedLink>,
) -> Result<Response, PageError> {
    let user = app.sign_in.look(&link.token).await?;
    let next = Next::of(link.device.as_deref(), link.app.as_deref(), link.state.as_deref());
    let content = html! {
        p { "Sign in as " strong { (user.email) } "?" }
        form method="post" action="/sign-in/link" {
            input type="hidden" name="token" value=(link.token);
            (hidden(next.as_ref()))
            button autofocus { "Sign in" }
        }
    };
    Ok(page(StatusCode::OK, "Sign in", &content))
}

/// Follow the link: begins a session
#[utoipa::path(post, path = "/sign-in/link", tag = "pages",
    request_body(content = FollowedLink, content_type = "application/x-www-form-urlencoded"), responses(
    (status = 303, description = "Signed in; the session is in the cookie"),
    (status = 403, content_type = "text/html", body = String, description = "Not sent from this page"),
    (status = 404, content_type = "text/html", body = String, description = "It is not good (any more)"),
    (status = 503, content_type = "text/html", body = String),
))]
pub(crate) async fn follow(
    State(app): State<ApiContext>,
    Address(from): Address,
    FormParams(link): FormParams<FollowedLink>,
) -> Result<Response, PageError> {
    let token = app.sign_in.follow(&link.token, from).await?;
    let next = Next::of(link.device.as_deref(), link.app.as_deref(), link.state.as_deref());
    let mut response = match next {
        Some(Next::Device(code)) => redirect(&format!("/device?code={}", code.shown())),
        // By a page of our own: a form may lead nowhere else (`form-action` in its policy).
        Some(Next::App(opening)) => redirect(&format!("/sign-in?{}", opening.query())),
        None => redirect("/sign-in"),
    };
    response.headers_mut().extend(
        credentials::session_cookie(&app.console, Some(&token), SESSION_MAX_LIFETIME.as_secs())
            .map(|cookie| (SET_COOKIE, cookie)),
    );
    Ok(response)
}

/// Sign out: ends the session
#[utoipa::path(post, path = "/sign-out", tag = "pages", responses(
    (status = 303, description = "Signed out"),
    (status = 403, content_type = "text/html", body = String, description = "Not sent from this page"),
    (status = 503, content_type = "text/html", body = String),
))]
pub(crate) async fn sign_out(
    State(app): State<ApiContext>,
    Address(from): Address,
    headers: http::HeaderMap,
) -> Result<Response, PageError> {
    if let Some(principal) = credentials::signed_in(&app.authenticator, &app.console, &headers, from).await? {
        let permit = authorize::<EndCredential>(&principal, Target::Account).map_err(ApiError::from)?;
        app.sign_in.end(&permit).await?;
    }
    let mut response = redirect("/sign-in").into_response();
    response
        .headers_mut()
        .extend(credentials::session_cookie(&app.console, None, 0).map(|cookie| (SET_COOKIE, cookie)));
    Ok(response)
}
