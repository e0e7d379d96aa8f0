//! Extractors for handlers: the caller, JSON bodies and queries, with errors that name the field.

mod invalid;

use std::marker::PhantomData;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, StatusCode, Uri};
use rigbox_core::authz::{self, Action, Permit, Principal, Role, Target};
use rigbox_service::records::{AppWithWorkspace, IdempotencyKey};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::ApiContext;
use crate::error::ApiError;
use rigbox_service::apps::AppError;
use rigbox_service::audit::AuditRecorder;
use rigbox_service::error::ServiceError;
use rigbox_service::identity::open_requests::OpenRequest;

/// Default limit of a request body.
pub(crate) const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Caller of a route with action `A`, created by the route's own layer.
pub(crate) struct Caller<A> {
    principal: Principal,
    /// The request, which is decided again while it is open.
    open: Option<Arc<OpenRequest>>,
    /// Log of refused attempts.
    audit: Option<AuditRecorder>,
    action: PhantomData<fn() -> A>,
}

// Not derived, because that would require `A: Clone`.
impl<A> Clone for Caller<A> {
    fn clone(&self) -> Self {
        Self {
            principal: self.principal.clone(),
            open: self.open.clone(),
            audit: self.audit.clone(),
            action: PhantomData,
        }
    }
}

impl<A: Action> Caller<A> {
    pub(crate) fn new(principal: Principal, open: Arc<OpenRequest>, audit: AuditRecorder) -> Self {
        Self { principal, open: Some(open), audit: Some(audit), action: PhantomData }
    }

    /// Returns a caller whose request is neither decided again nor audited.
    pub(crate) fn unobserved(principal: Principal) -> Self {
        Self { principal, open: None, audit: None, action: PhantomData }
    }

    /// Authorizes the route's action on `target`.
    pub(crate) fn authorize(&self, target: Target) -> Result<Permit<A>, ApiError> {
        authz::authorize(&self.principal, target).map_err(|denied| {
            self.refused("account");
            denied.into()
        })
    }

    /// Authorizes the route's action on the workspace in the path.
    pub(crate) async fn workspace(&self, context: &ApiContext, id: &str) -> Result<Permit<A>, ServiceError> {
        let authorized = context.workspaces.authorize(&self.principal, id).await;
        let permit = authorized.inspect_err(|error| {
            // What is not there and what may not be seen look the same, in the log too.
            if matches!(error, ServiceError::Denied(_) | ServiceError::NotFound(_)) {
                self.refused(id);
            }
        })?;
        self.concern(&permit);
        Ok(permit)
    }

    /// Records a refused attempt at more than reading.
    fn refused(&self, target: &str) {
        if A::MIN_ROLE != Some(Role::Read)
            && let Some(audit) = &self.audit
        {
            audit.refused(&self.principal, A::NAME, target);
        }
    }

    fn concern(&self, permit: &Permit<A>) {
        if let (Some(open), Some(workspace)) = (&self.open, permit.workspace()) {
            open.concern(workspace);
        }
    }
}

impl<A: Action> Caller<A> {
    /// Authorizes the route's action on the app in the path, and returns the permit and the app.
    pub(crate) fn app(
        &self,
        context: &ApiContext,
        id: &str,
    ) -> Result<(Permit<A>, AppWithWorkspace), AppError> {
        let authorized = context.apps.authorize(&self.principal, id);
        let (permit, app) = authorized.inspect_err(|error| {
            if matches!(error, AppError::NotFound(_) | AppError::Workspace(ServiceError::Denied(_))) {
                self.refused(id);
            }
        })?;
        self.concern(&permit);
        Ok((permit, app))
    }
}

impl<A: Action> FromRequestParts<ApiContext> for Caller<A> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &ApiContext) -> Result<Self, ApiError> {
        let caller = parts.extensions.remove::<Self>();
        caller.ok_or_else(|| ApiError::internal(&format!("route without the action {}", A::NAME)))
    }
}

/// JSON body of at most `MAX` bytes.
pub(crate) struct JsonBody<T, const MAX: usize = MAX_BODY_BYTES>(pub(crate) T);

impl<T: DeserializeOwned, const MAX: usize> FromRequest<ApiContext> for JsonBody<T, MAX> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &ApiContext) -> Result<Self, ApiError> {
        let bytes = read_body(request.into_body(), MAX).await?;
        parse(&bytes).map(Self)
    }
}

async fn read_body(body: Body, max: usize) -> Result<Bytes, ApiError> {
    to_bytes(body, max).await.map_err(|error| {
        let mut source: Option<&dyn std::error::Error> = Some(&error);
        while let Some(cause) = source {
            if cause.to_string().contains("length limit exceeded") {
                return ApiError::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "too_large",
                    format!("The request body is too large. Send at most {max} bytes."),
                );
            }
            source = cause.source();
        }
        ApiError::bad_request("The request body ended early. Send it again.")
    })
}

/// Parses JSON. Errors name the field.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    if bytes.is_empty() {
        return parse_empty();
    }
    // A list would be read as the fields of an object, in their order.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(ApiError::bad_request("The body is a list. Send a JSON object."));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| invalid::body(error, bytes))?;
    json.end().map_err(|error| invalid::syntax(&error))?;
    Ok(value)
}

/// Returns the value of an absent body, if the type has one: `None`, or an object without fields.
fn parse_empty<T: DeserializeOwned>() -> Result<T, ApiError> {
    let value = serde_json::from_slice(b"null").or_else(|_| serde_json::from_slice(b"{}"));
    value.map_err(|_| ApiError::bad_request("The body is empty. Send a JSON object."))
}

/// Maximum length of an `Idempotency-Key`.
const MAX_IDEMPOTENCY_KEY_LEN: usize = 255;

/// Returns the `Idempotency-Key` of a create request, bound to its `route` and `body`.
pub(crate) fn idempotency_key(
    headers: &HeaderMap,
    route: &str,
    body: &impl Serialize,
) -> Result<Option<IdempotencyKey>, ApiError> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key = key.to_str().ok().filter(|key| (1..=MAX_IDEMPOTENCY_KEY_LEN).contains(&key.len())).ok_or_else(
        || {
            ApiError::bad_request(format!(
                "Idempotency-Key: The key is invalid. Use 1 to {MAX_IDEMPOTENCY_KEY_LEN} printable characters."
            ))
        },
    )?;
    // The parsed body, so that whitespace and the order of fields make no difference.
    let request = serde_json::to_vec(body).map_err(|error| ApiError::internal(&error))?;
    Ok(Some(IdempotencyKey::new(key, &[route.as_bytes(), b"\n", &request].concat())))
}

/// Parameters in the path: `{id}`, or several.
pub(crate) struct PathParams<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<ApiContext> for PathParams<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, context: &ApiContext) -> Result<Self, ApiError> {
        let params: Result<Path<T>, _> = Path::from_request_parts(parts, context).await;
        params.map(|Path(params)| Self(params)).map_err(|_: PathRejection| {
            ApiError::bad_request("The path is not valid UTF-8. Encode it as a URL.")
        })
    }
}

/// Parses the query of a URL.
pub(crate) fn parse_query<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    let query = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    serde_path_to_error::deserialize(serde_urlencoded::Deserializer::new(query)).map_err(invalid::query)
}

/// Query parameters.
pub(crate) struct QueryParams<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<ApiContext> for QueryParams<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &ApiContext) -> Result<Self, ApiError> {
        parse_query(&parts.uri).map(Self)
    }
}
