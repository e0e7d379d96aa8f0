//! `/auth`: asking for a sign-in link, `rig login` from a machine, and signing out.

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
use rigbox_service::identity::devices::{LOGIN_TTL, POLL_INTERVAL};

/// Who wants to sign in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskLinkRequest {
    /// The user's e-mail address.
    email: String,
}

/// What was done, for people.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SignInMessage {
    message: String,
}

/// What a machine is called that wants to event for a user.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeviceLoginRequest {
    /// 1 to 48 printable characters, e.g. its host name; the user sees it before approving.
    machine: String,
}

/// A log-in that waits for its user.
#[derive(Serialize, ToSchema)]
pub(crate) struct DeviceLoginResponse {
    /// To poll with; shown to nobody.
    device_secret: String,
    /// The user sees the same at `verification_url`.
    user_code: String,
    /// Where the user approves; the code is in it.
    verification_url: String,
    /// It ends after so many seconds.
    expires_in_s: u64,
    /// Poll no more often than this, s.
    interval_s: u64,
}

/// Which log-in a machine asks about.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PollDeviceRequest {
    /// As it was given.
    device_secret: String,
}

/// What became of a log-in.
#[derive(Serialize, ToSchema)]
#[serde(tag = "status", rename_all = "snake_case")]
pub(crate) enum PollDeviceResponse {
    /// Nobody has decided.
    Pending,
    /// The user has approved: the key is in this answer and in no other.
    Approved {
        /// `rb_` and 43 letters and digits.
        api_key: String,
        user_id: String,
        user_email: String,
    },
}

/// How signing out ended.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SignOutResponse {
    /// Whether what was shown opens nothing any more: a session, or a key that `rig login` made. Other keys are left alone.
    ended: bool,
    message: String,
}

/// Ask for a link to sign in with, by e-mail; the answer is the same whether or not there is such a user
#[utoipa::path(
    post, path = "/auth/link", tag = "auth", request_body = AskLinkRequest,
    responses(
        (status = 202, body = SignInMessage),
        (status = 400, body = ApiErrorBody),
        (status = 413, body = ApiErrorBody),
        (status = 503, body = ApiErrorBody),
    ),
)]
pub(crate) async fn link(
    State(app): State<ApiContext>,
    JsonBody(body): JsonBody<AskLinkRequest>,
) -> Result<(StatusCode, Json<SignInMessage>), ApiError> {
    app.sign_in.ask(&body.email, None)?;
    let message = "if there is a user with this address, a link is on its way".to_owned();
    Ok((StatusCode::ACCEPTED, Json(SignInMessage { message })))
}

/// Ask for a user's approval to event for them from a machine (`rig login`)
#[utoipa::path(
    post, path = "/auth/device", tag = "auth", request_body = DeviceLoginRequest,
    responses(
        (status = 201, body = DeviceLoginResponse),
        (status = 400, body = ApiErrorBody),
        (status = 413, body = ApiErrorBody),
        (status = 503, body = ApiErrorBody),
    ),
)]
pub(crate) async fn device(
    State(app): State<ApiContext>,
    Address(from): Address,
    JsonBody(body): JsonBody<DeviceLoginRequest>,
) -> Result<Response, ApiError> {
    let requested = app.devices.ask(&body.machine, from).await?;
    let body = DeviceLoginResponse {
        device_secret: requested.secret.reveal().to_owned(),
        verification_url: format!("{}/device?code={}", app.console.origin(), requested.code.shown()),
        user_code: requested.code.shown(),
        expires_in_s: LOGIN_TTL.as_secs(),
        interval_s: POLL_INTERVAL.as_secs(),
    };
    Ok((StatusCode::CREATED, [(http::header::CACHE_CONTROL, "no-store")], Json(body)).into_response())
}

/// Ask what became of a machine's log-in; once it is approved, collect the key
#[utoipa::path(
    post, path = "/auth/device/poll", tag = "auth", request_body = PollDeviceRequest,
    responses(
        (status = 200, body = PollDeviceResponse),
        (status = 400, body = ApiErrorBody),
        (status = 402, body = ApiErrorBody, description = "The account has as many keys as it may have"),
        (status = 403, body = ApiErrorBody, description = "The user has denied it"),
        (status = 404, body = ApiErrorBody, description = "It has ended, or was collected before"),
        (status = 413, body = ApiErrorBody),
        (status = 503, body = ApiErrorBody),
    ),
)]
pub(crate) async fn poll(
    State(app): State<ApiContext>,
    JsonBody(body): JsonBody<PollDeviceRequest>,
) -> Result<Response, ApiError> {
    let answer = match app.devices.poll(&body.device_secret).await? {
        None => PollDeviceResponse::Pending,
        Some((user, key)) => PollDeviceResponse::Approved {
            api_key: key.reveal().to_owned(),
            user_id: user.id.to_string(),
            user_email: user.email,
        },
    };
    Ok(([(http::header::CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}

/// Sign out: end the session, or the key that `rig login` made
#[utoipa::path(post, path = "/auth/sign-out", tag = "auth", responses((status = 200, body = SignOutResponse)))]
pub(crate) async fn sign_out(
    State(app): State<ApiContext>,
    caller: Caller<EndCredential>,
) -> Result<Json<SignOutResponse>, ApiError> {
    let ended = app.sign_in.end(&caller.authorize(Target::Account)?).await?;
    let message = if ended {
        "signed out".to_owned()
    } else {
        "this key was not made by `rig login` and is left alone: `rig api-key rm` ends it".to_owned()
    };
    Ok(Json(SignOutResponse { ended, message }))
}
