//! `/auth`: sign-in links, `rig login`, and signing out.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use rigbox_core::authz::{EndCredential, Target};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, JsonBody};
use crate::middleware::rate_limit::Address;
use crate::openapi::formats;
use rigbox_service::identity::devices::{LOGIN_TTL, POLL_INTERVAL};

/// Request for a sign-in link.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignInLinkRequest {
    /// Email address of the user.
    #[schema(value_type = formats::EmailAddress)]
    email: String,
}

/// Confirmation of the request.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SignInLinkResponse {
    message: String,
}

/// Request of a machine for access to an account.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeviceLoginRequest {
    /// 1 to 48 printable characters, for example its host name; shown to the user before approval.
    #[schema(pattern = r"^[^\u0000-\u001f\u007f-\u009f]{1,48}$")]
    machine: String,
}

/// Login that waits for its user.
#[derive(Serialize, ToSchema)]
pub(crate) struct DeviceLoginResponse {
    /// Secret for polling; keep it private.
    device_secret: String,
    /// Code that the user also sees at `verification_url`.
    user_code: String,
    /// Page on which the user approves; it contains the code.
    verification_url: String,
    /// Seconds until the login expires.
    expires_in_s: u64,
    /// Minimum seconds between two polls.
    interval_s: u64,
}

/// Poll of a login.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PollDeviceRequest {
    /// Secret from the start of the login.
    device_secret: String,
}

/// State of a login.
#[derive(Serialize, ToSchema)]
#[serde(tag = "status", rename_all = "snake_case")]
pub(crate) enum PollDeviceResponse {
    /// The user has not decided yet.
    Pending,
    /// The user approved; only this response contains the key.
    Approved {
        /// `rb_` and 43 letters and digits.
        api_key: String,
        user_id: String,
        user_email: String,
    },
}

/// Result of signing out.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SignOutResponse {
    /// True if the credential was ended: a session, or a key that `rig login` created. Other keys are left
    /// alone.
    ended: bool,
    message: String,
}

/// Request a sign-in link by email; the response is the same whether or not the account exists
#[utoipa::path(
    post, path = "/auth/link", operation_id = "request_sign_in_link", tag = "auth", request_body = SignInLinkRequest,
    responses(
        (status = 202, body = SignInLinkResponse),
        (status = 400, body = ApiErrorBody),
        (status = 413, body = ApiErrorBody),
        (status = 503, body = ApiErrorBody),
    ),
)]
pub(crate) async fn link(
    State(context): State<ApiContext>,
    JsonBody(body): JsonBody<SignInLinkRequest>,
) -> Result<(StatusCode, Json<SignInLinkResponse>), ApiError> {
    context.sign_in.send_link(&body.email, None)?;
    let message = "If this address has an account, we have sent a sign-in link.".to_owned();
    Ok((StatusCode::ACCEPTED, Json(SignInLinkResponse { message })))
}

/// Start a login from a machine, to be approved by its user (`rig login`)
#[utoipa::path(
    post, path = "/auth/device", operation_id = "start_device_login", tag = "auth", request_body = DeviceLoginRequest,
    responses(
        (status = 201, body = DeviceLoginResponse),
        (status = 400, body = ApiErrorBody),
        (status = 413, body = ApiErrorBody),
        (status = 503, body = ApiErrorBody),
    ),
)]
pub(crate) async fn device(
    State(context): State<ApiContext>,
    Address(from): Address,
    JsonBody(body): JsonBody<DeviceLoginRequest>,
) -> Result<Response, ApiError> {
    let login = context.devices.start(&body.machine, from).await?;
    let body = DeviceLoginResponse {
        device_secret: login.secret.reveal().to_owned(),
        verification_url: format!("{}/device", context.console.origin()),
        user_code: login.code.shown(),
        expires_in_s: LOGIN_TTL.as_secs(),
        interval_s: POLL_INTERVAL.as_secs(),
    };
    Ok((StatusCode::CREATED, [(http::header::CACHE_CONTROL, "no-store")], Json(body)).into_response())
}

/// Poll a machine's login; once it is approved, the response contains the key
#[utoipa::path(
    post, path = "/auth/device/poll", operation_id = "poll_device_login", tag = "auth", request_body = PollDeviceRequest,
    responses(
        (status = 200, body = PollDeviceResponse),
        (status = 400, body = ApiErrorBody),
        (status = 402, body = ApiErrorBody, description = "The account has the maximum number of keys"),
        (status = 403, body = ApiErrorBody, description = "The user denied the login"),
        (status = 404, body = ApiErrorBody, description = "The login has expired or was already used"),
        (status = 413, body = ApiErrorBody),
        (status = 503, body = ApiErrorBody),
    ),
)]
pub(crate) async fn poll(
    State(context): State<ApiContext>,
    JsonBody(body): JsonBody<PollDeviceRequest>,
) -> Result<Response, ApiError> {
    let response = match context.devices.poll(&body.device_secret).await? {
        None => PollDeviceResponse::Pending,
        Some((user, key)) => PollDeviceResponse::Approved {
            api_key: key.reveal().to_owned(),
            user_id: user.id.to_string(),
            user_email: user.email,
        },
    };
    Ok(([(http::header::CACHE_CONTROL, "no-store")], Json(response)).into_response())
}

/// Sign out: end the session, or revoke the key that `rig login` created
#[utoipa::path(post, path = "/auth/sign-out", operation_id = "sign_out", tag = "auth", responses((status = 200, body = SignOutResponse)))]
pub(crate) async fn sign_out(
    State(context): State<ApiContext>,
    caller: Caller<EndCredential>,
) -> Result<Json<SignOutResponse>, ApiError> {
    let ended = context.sign_in.end(&caller.authorize(Target::Account)?).await?;
    let message = if ended {
        "Signed out.".to_owned()
    } else {
        "This key was not created by `rig login` and stays valid. Revoke it with `rig api-key rm`.".to_owned()
    };
    Ok(Json(SignOutResponse { ended, message }))
}
