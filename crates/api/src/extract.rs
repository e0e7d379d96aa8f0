//! What handlers take in: the caller, JSON bodies and queries, with errors that name the field.

use std::marker::PhantomData;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use rigbox_core::authz::{self, Action, Permit, Principal, Target};
use rigbox_service::records::{AppWithWorkspace, IdempotencyKey};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::context::ApiContext;
use crate::error::ApiError;
use rigbox_service::apps::AppError;
use rigbox_service::error::ServiceError;

/// Largest body of a request, unless a route says otherwise.
pub(crate) const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Who calls a route of action `A`; made by the route's own layer.
pub(crate) struct Caller<A> {
    principal: Principal,
    action: PhantomData<fn() -> A>,
}

// Not derived: that would ask actions to be cloned.
impl<A> Clone for Caller<A> {
    fn clone(&self) -> Self {
        Self { principal: self.principal.clone(), action: PhantomData }
    }
}

impl<A: Action> Caller<A> {
    pub(crate) fn new(principal: Principal) -> Self {
        Self { principal, action: PhantomData }
    }

    /// The permit for the route's action on `target`.
    pub(crate) fn authorize(&self, target: Target) -> Result<Permit<A>, ApiError> {
        Ok(authz::authorize(&self.principal, target)?)
    }

    /// The permit for the route's action on the workspace that the path names.
    pub(crate) async fn workspace(&self, app: &ApiContext, id: &str) -> Result<Permit<A>, ServiceError> {
        app.workspaces.authorize(&self.principal, id).await
    }
}

impl<A: Action> Caller<A> {
    /// The permit for the route's action on the app that the path names, and the app.
    pub(crate) fn app(&self, app: &ApiContext, id: &str) -> Result<(Permit<A>, AppWithWorkspace), AppError> {
        app.apps.authorize(&self.principal, id)
    }
}

impl<A: Action> FromRequestParts<ApiContext> for Caller<A> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &ApiContext) -> Result<Self, ApiError> {
        let caller = parts.extensions.remove::<Self>();
        caller.ok_or_else(|| ApiError::internal(&format!("a route without the action {}", A::NAME)))
    }
}

/// A JSON body of at max `MOST` bytes.
pub(crate) struct JsonBody<T, const MAX: usize = MAX_BODY_BYTES>(pub(crate) T);

impl<T: DeserializeOwned, const MAX: usize> FromRequest<ApiContext> for JsonBody<T, MAX> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &ApiContext) -> Result<Self, ApiError> {
        let bytes = read(request.into_body(), MAX).await?;
        // No body is an object without fields: whether that is enough is the type's affair.
        parse(if bytes.is_empty() { b"{}" } else { &bytes }).map(Self)
    }
}

async fn read(body: Body, max: usize) -> Result<Bytes, ApiError> {
    to_bytes(body, max).await.map_err(|error| {
        let mut source: Option<&dyn std::error::Error> = Some(&error);
        while let Some(cause) = source {
            if cause.to_string().contains("length limit exceeded") {
                return ApiError::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "too_large",
                    format!("the body is larger than {max} bytes"),
                );
            }
            source = cause.source();
        }
        ApiError::bad_request("the body did not come to its end")
    })
}

/// `bytes` as a `T`; what is wrong is said with the field it is wrong in.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner().to_string();
        let field = match reason.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) {
            Some((field, _)) => Some(field.to_owned()),
            None => (path != "." && path != "?").then_some(path),
        };
        match field {
            Some(field) => {
                ApiError::bad_request(format!("{field}: {reason}")).with_details(json!({"field": field}))
            }
            None => ApiError::bad_request(format!("the body is not what is expected here: {reason}")),
        }
    })?;
    json.end().map_err(|error| ApiError::bad_request(format!("after the body's JSON: {error}")))?;
    Ok(value)
}

/// Longest `Idempotency-Key`.
const MAX_IDEMPOTENCY_KEY_LEN: usize = 255;

/// What `Idempotency-Key` makes of a create: `route` and `body` are what it is told by from another request.
pub(crate) fn idempotency_key(
    headers: &HeaderMap,
    route: &str,
    body: &impl Serialize,
) -> Result<Option<IdempotencyKey>, ApiError> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key = key.to_str().ok().filter(|key| (1..=MAX_IDEMPOTENCY_KEY_LEN).contains(&key.len())).ok_or_else(
        || {
            ApiError::bad_request(format!(
                "Idempotency-Key: expected 1 to {MAX_IDEMPOTENCY_KEY_LEN} printable characters"
            ))
        },
    )?;
    // What was understood, so that blanks and the order of fields make no difference.
    let request = serde_json::to_vec(body).map_err(|error| ApiError::internal(&error))?;
    Ok(Some(IdempotencyKey::new(key, &[route.as_bytes(), b"\n", &request].concat())))
}

/// The `{id}` in the URL's path.
pub(crate) struct PathId(pub(crate) String);

impl FromRequestParts<ApiContext> for PathId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &ApiContext) -> Result<Self, ApiError> {
        let id: Result<Path<String>, _> = Path::from_request_parts(parts, app).await;
        id.map(|Path(id)| Self(id))
            .map_err(|error| ApiError::bad_request(format!("id: {}", error.body_text())))
    }
}

/// The part of the URL after `?`.
pub(crate) struct QueryParams<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<ApiContext> for QueryParams<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &ApiContext) -> Result<Self, ApiError> {
        let query: Result<Query<T>, _> = Query::try_from_uri(&parts.uri);
        query.map(|Query(value)| Self(value)).map_err(|error| ApiError::bad_request(error.body_text()))
    }
}
