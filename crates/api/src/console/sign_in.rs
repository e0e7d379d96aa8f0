//! Pages for signing in and out: a link is requested, opened, and confirmed with a button. Opening the link
//! alone signs no one in, because programs that scan email open links too.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::SET_COOKIE;
use maud::{Markup, html};
use rigbox_core::authz::{EndCredential, Target, authorize};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::open::AppRedirect;
use super::{FormParams, PageError, PageParams, page, page_before, redirect};
use crate::context::ApiContext;
use crate::error::ApiError;
use crate::middleware::credentials;
use crate::middleware::rate_limit::Address;
use crate::openapi::formats;
use rigbox_service::identity::sign_in::{LINK_TTL_MINUTES, SESSION_MAX_LIFETIME};

/// Query of the page.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SignInQuery {
    /// `1` to approve a machine after signing in. Its code is typed then, because a link may be a stranger's.
    device: Option<String>,
    /// App to open after signing in.
    app: Option<String>,
    /// State by which that app's host recognizes this browser.
    state: Option<String>,
    /// Host of the app at which the sign-in began.
    host: Option<String>,
}

/// Form with an email address.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignInForm {
    #[schema(value_type = formats::EmailAddress)]
    email: String,
    device: Option<String>,
    app: Option<String>,
    state: Option<String>,
    host: Option<String>,
}

/// Sign-in link.
#[derive(Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SignInLink {
    token: String,
    /// `1` to approve a machine after signing in. Its code is typed then, because a link may be a stranger's.
    device: Option<String>,
    /// App to open after signing in.
    app: Option<String>,
    /// State by which that app's host recognizes the browser that requested the link.
    state: Option<String>,
    /// Host of the app at which the sign-in began.
    host: Option<String>,
}

/// Page to open after signing in.
enum NextPage {
    Device,
    App(AppRedirect),
}

impl NextPage {
    /// Parses the fields. Nothing else in a link is followed.
    fn parse(
        device: &Option<String>,
        app: &Option<String>,
        state: &Option<String>,
        host: &Option<String>,
    ) -> Option<Self> {
        if device.as_deref() == Some("1") {
            return Some(Self::Device);
        }
        AppRedirect::parse(app.as_deref(), state.as_deref(), host.as_deref()).map(Self::App)
    }

    /// Returns the fields to repeat in the next form.
    fn fields(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Device => vec![("device", "1".to_owned())],
            Self::App(redirect_to) => {
                redirect_to.fields().map(|(name, value)| (name, value.to_owned())).collect()
            }
        }
    }
}

fn hidden_fields(next: Option<&NextPage>) -> Markup {
    html! {
        @for (name, value) in next.map(NextPage::fields).unwrap_or_default() {
            input type="hidden" name=(name) value=(value);
        }
    }
}

/// Show the sign-in form or the signed-in user
#[utoipa::path(get, path = "/sign-in", operation_id = "show_sign_in_page", tag = "pages", params(SignInQuery), responses(
    (status = 200, content_type = "text/html", body = String),
    (status = 303, description = "To the console's own host"),
))]
pub(crate) async fn show(
    State(context): State<ApiContext>,
    Address(from): Address,
    PageParams(query): PageParams<SignInQuery>,
    headers: http::HeaderMap,
) -> Result<Response, PageError> {
    let next = NextPage::parse(&query.device, &query.app, &query.state, &query.host);
    let Some(principal) =
        credentials::signed_in(&context.authenticator, &context.console, &headers, from).await?
    else {
        let app = match &next {
            Some(NextPage::App(redirect_to)) => context.visitors.name_of(redirect_to.app())?,
            _ => None,
        };
        let content = html! {
            @if let Some(app) = &app { p { "to open the app " strong { (app) } } }
            p { "We'll email you a sign-in link." }
            form method="post" action="/sign-in" {
                label { "Email address" input type="email" name="email" required autofocus autocomplete="email"; }
                (hidden_fields(next.as_ref()))
                button { "Send link" }
            }
        };
        return Ok(page(StatusCode::OK, "Sign in", &content));
    };
    let user = context.users.me(&authorize(&principal, Target::Account).map_err(ApiError::from)?).await?;
    let content = html! {
        p { "You are signed in as " strong { (user.email) } "." }
        @match &next {
            Some(NextPage::Device) => { p { a href="/device" { "Authorize a machine" } } }
            Some(NextPage::App(redirect_to)) => { p { a href=(redirect_to.path()) { "Continue to the app" } } }
            None => {}
        }
        form method="post" action="/sign-out" { button.plain { "Sign out" } }
    };
    Ok(match &next {
        // A form may lead nowhere else (`form-action` in the policy), so its redirect ends here, and this page goes on.
        Some(NextPage::App(redirect_to)) => page_before(&redirect_to.path(), "Signed in", &content),
        _ => page(StatusCode::OK, "Signed in", &content),
    })
}

/// Request a sign-in link
#[utoipa::path(post, path = "/sign-in", operation_id = "submit_sign_in_form", tag = "pages",
    request_body(content = SignInForm, content_type = "application/x-www-form-urlencoded"), responses(
    (status = 200, content_type = "text/html", body = String, description = "The same whether or not the address has an account"),
    (status = 403, content_type = "text/html", body = String, description = "Not sent from this page"),
    (status = 503, content_type = "text/html", body = String),
))]
pub(crate) async fn ask(
    State(context): State<ApiContext>,
    FormParams(form): FormParams<SignInForm>,
) -> Result<Response, PageError> {
    let next = NextPage::parse(&form.device, &form.app, &form.state, &form.host);
    let query = next.map(|next| match next {
        NextPage::Device => "device=1".to_owned(),
        NextPage::App(redirect_to) => redirect_to.query(),
    });
    context.sign_in.send_link(&form.email, query)?;
    let content = html! {
        p { "If this address has an account, we have sent a sign-in link. It works once and expires in " (LINK_TTL_MINUTES) " minutes." }
    };
    Ok(page(StatusCode::OK, "Check your email", &content))
}

/// Open a sign-in link and show the user it signs in
#[utoipa::path(get, path = "/sign-in/link", operation_id = "show_sign_in_link_page", tag = "pages", params(SignInLink), responses(
    (status = 200, content_type = "text/html", body = String),
    (status = 303, description = "To the console's own host"),
    (status = 404, content_type = "text/html", body = String, description = "The link has expired or was already used"),
    (status = 503, content_type = "text/html", body = String),
))]
pub(crate) async fn link(
    State(context): State<ApiContext>,
    PageParams(link): PageParams<SignInLink>,
) -> Result<Response, PageError> {
    let user = context.sign_in.user_of_link(&link.token).await?;
    let next = NextPage::parse(&link.device, &link.app, &link.state, &link.host);
    let content = html! {
        p { "Sign in as " strong { (user.email) } "?" }
        form method="post" action="/sign-in/link" {
            input type="hidden" name="token" value=(link.token);
            (hidden_fields(next.as_ref()))
            button autofocus { "Sign in" }
        }
    };
    Ok(page(StatusCode::OK, "Sign in", &content))
}

/// Use a sign-in link and start a session
#[utoipa::path(post, path = "/sign-in/link", operation_id = "submit_sign_in_link_form", tag = "pages",
    request_body(content = SignInLink, content_type = "application/x-www-form-urlencoded"), responses(
    (status = 303, description = "Signed in; the session is in the cookie"),
    (status = 403, content_type = "text/html", body = String, description = "Not sent from this page"),
    (status = 404, content_type = "text/html", body = String, description = "The link has expired or was already used"),
    (status = 503, content_type = "text/html", body = String),
))]
pub(crate) async fn follow(
    State(context): State<ApiContext>,
    Address(from): Address,
    FormParams(link): FormParams<SignInLink>,
) -> Result<Response, PageError> {
    let token = context.sign_in.follow(&link.token, from).await?;
    let next = NextPage::parse(&link.device, &link.app, &link.state, &link.host);
    let mut response = match next {
        Some(NextPage::Device) => redirect("/device"),
        // Through a page of our own, because a form may lead nowhere else (`form-action` in the policy).
        Some(NextPage::App(redirect_to)) => redirect(&format!("/sign-in?{}", redirect_to.query())),
        None => redirect("/sign-in"),
    };
    response.headers_mut().extend(
        credentials::session_cookie(&context.console, Some(&token), SESSION_MAX_LIFETIME.as_secs())
            .map(|cookie| (SET_COOKIE, cookie)),
    );
    Ok(response)
}

/// Sign out and end the session
#[utoipa::path(post, path = "/sign-out", operation_id = "submit_sign_out_form", tag = "pages", responses(
    (status = 303, description = "Signed out"),
    (status = 403, content_type = "text/html", body = String, description = "Not sent from this page"),
    (status = 503, content_type = "text/html", body = String),
))]
pub(crate) async fn sign_out(
    State(context): State<ApiContext>,
    Address(from): Address,
    headers: http::HeaderMap,
) -> Result<Response, PageError> {
    if let Some(principal) =
        credentials::signed_in(&context.authenticator, &context.console, &headers, from).await?
    {
        let permit = authorize::<EndCredential>(&principal, Target::Account).map_err(ApiError::from)?;
        context.sign_in.end(&permit).await?;
    }
    let mut response = redirect("/sign-in").into_response();
    response
        .headers_mut()
        .extend(credentials::session_cookie(&context.console, None, 0).map(|cookie| (SET_COOKIE, cookie)));
    Ok(response)
}
