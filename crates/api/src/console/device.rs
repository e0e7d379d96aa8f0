//! Page on which a user approves a machine that runs `rig login`: it shows which machine, from which address
//! and since when, and needs a click.

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use http::header::REFERER;
use maud::html;
use rigbox_core::authz::{ApproveDevice, Permit, Principal, Target, authorize};
use rigbox_proto::headers::single_value;
use rigbox_service::records::UserCode;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::{FormParams, PageError, PageParams, page, redirect};
use crate::context::ApiContext;
use crate::error::ApiError;
use crate::middleware::credentials;
use crate::middleware::rate_limit::Address;
use rigbox_service::clock;

/// Query of the page.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeviceQuery {
    /// Code shown by the machine, typed into the form of this page. In a link it is ignored.
    code: Option<String>,
}

/// Decision of the user.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DecisionForm {
    code: String,
    decision: Decision,
}

/// Decision about a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Decision {
    Approve,
    Deny,
}

fn authorize_approval(principal: &Principal) -> Result<Permit<ApproveDevice>, ApiError> {
    Ok(authorize(principal, Target::Account)?)
}

fn parse_code(code: &str) -> Result<UserCode, ApiError> {
    UserCode::parse(code).ok_or_else(|| {
        ApiError::bad_request("code: The code is invalid. Enter the eight letters that `rig login` shows.")
    })
}

/// Returns whether a page of the console sent the request.
fn is_from_console(context: &ApiContext, headers: &http::HeaderMap) -> bool {
    match single_value(headers, "sec-fetch-site") {
        Some(site) => site == "same-origin",
        // Browsers without Fetch Metadata.
        None => single_value(headers, REFERER).is_some_and(|page| {
            page.strip_prefix(context.console.origin()).is_some_and(|path| path.starts_with('/'))
        }),
    }
}

/// Show the machine that requests access to your account
#[utoipa::path(get, path = "/device", operation_id = "show_device_page", tag = "pages", params(DeviceQuery), responses(
    (status = 200, content_type = "text/html", body = String),
    (status = 303, description = "To sign in, or to the console's own host"),
    (status = 404, content_type = "text/html", body = String, description = "The login request has expired or was already used"),
    (status = 503, content_type = "text/html", body = String),
))]
pub(crate) async fn show(
    State(context): State<ApiContext>,
    Address(from): Address,
    PageParams(query): PageParams<DeviceQuery>,
    headers: http::HeaderMap,
) -> Result<Response, PageError> {
    let Some(principal) =
        credentials::signed_in(&context.authenticator, &context.console, &headers, from).await?
    else {
        return Ok(redirect("/sign-in?device=1"));
    };
    // Typed into the form below. Whoever follows a link has not looked at a machine, and a stranger may have started the login.
    let Some(code) = query.code.filter(|_| is_from_console(&context, &headers)) else {
        let content = html! {
            form method="get" action="/device" {
                label { "Code shown by " code { "rig login" } input name="code" required autofocus autocomplete="off"; }
                button { "Continue" }
            }
        };
        return Ok(page(StatusCode::OK, "Authorize a machine", &content));
    };
    let code = parse_code(&code)?;
    let login = context.devices.find(&authorize_approval(&principal)?, &code).await?;
    let user = context.users.me(&authorize(&principal, Target::Account).map_err(ApiError::from)?).await?;
    let age = clock::now().since(login.created_at).as_secs();
    let content = html! {
        p { "A machine wants full access to your account " strong { (user.email) } ". Approve it only if you have just run " code { "rig login" }
            " there and it shows this code." }
        dl {
            dt { "Code" } dd { code { (code.shown()) } }
            dt { "Machine" } dd { (login.machine) }
            dt { "Address" } dd { (login.address) }
            dt { "Requested" } dd { (age / 60) " min " (age % 60) " s ago" }
        }
        form method="post" action="/device" {
            input type="hidden" name="code" value=(code.shown());
            button name="decision" value="approve" { "Approve" }
            button.plain name="decision" value="deny" { "Deny" }
        }
    };
    Ok(page(StatusCode::OK, "Authorize this machine?", &content))
}

/// Approve or deny a machine
#[utoipa::path(post, path = "/device", operation_id = "submit_device_form", tag = "pages",
    request_body(content = DecisionForm, content_type = "application/x-www-form-urlencoded"), responses(
    (status = 200, content_type = "text/html", body = String),
    (status = 303, description = "To sign in"),
    (status = 403, content_type = "text/html", body = String, description = "Not sent from this page"),
    (status = 404, content_type = "text/html", body = String, description = "The login request has expired or was already used"),
    (status = 503, content_type = "text/html", body = String),
))]
pub(crate) async fn decide(
    State(context): State<ApiContext>,
    Address(from): Address,
    headers: http::HeaderMap,
    FormParams(form): FormParams<DecisionForm>,
) -> Result<Response, PageError> {
    let Some(principal) =
        credentials::signed_in(&context.authenticator, &context.console, &headers, from).await?
    else {
        return Ok(redirect("/sign-in"));
    };
    let approved = form.decision == Decision::Approve;
    let machine =
        context.devices.decide(&authorize_approval(&principal)?, &parse_code(&form.code)?, approved).await?;
    let (title, text) = if approved {
        ("Machine authorized", html! { strong { (machine) } " is now authorized. You can close this page." })
    } else {
        ("Request denied", html! { strong { (machine) } " was denied access. You can close this page." })
    };
    Ok(page(StatusCode::OK, title, &html! { p { (text) } }))
}
