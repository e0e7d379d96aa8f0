//! OpenAPI document, generated from the handlers.

use std::sync::Arc;

use axum::Extension;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Components, InfoBuilder, OpenApi};
use utoipa::{PartialSchema, ToSchema};

use crate::error::{ApiError, ApiErrorBody, ApiErrorDetail};

/// Security scheme of API keys.
pub(crate) const BEARER: &str = "bearer";
/// Security scheme of the console's sessions.
pub(crate) const SESSION: &str = "session";

pub(crate) fn complete(mut document: OpenApi) -> OpenApi {
    document.info = InfoBuilder::new()
        .title("Rigbox")
        .description(Some("Micro-VMs for untrusted code. The same routes are also served under `/v1`."))
        .version(env!("CARGO_PKG_VERSION"))
        .build();
    let components = document.components.get_or_insert_with(Components::new);
    components.add_security_scheme(BEARER, SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    let cookie = ApiKeyValue::with_description(
        "rigbox_session",
        "Session of a signed-in browser, valid on the console's host and from its own pages only; `__Host-rigbox_session` with TLS",
    );
    components.add_security_scheme(SESSION, SecurityScheme::ApiKey(ApiKey::Cookie(cookie)));
    components.schemas.insert(ApiErrorBody::name().into_owned(), ApiErrorBody::schema());
    components.schemas.insert(ApiErrorDetail::name().into_owned(), ApiErrorDetail::schema());
    document
}

/// Serialized document, which does not change while the process runs.
#[derive(Clone)]
pub(crate) struct PublishedDocument(Result<Bytes, Arc<str>>);

impl PublishedDocument {
    pub(crate) fn new(document: &OpenApi) -> Self {
        Self(document.to_json().map(Bytes::from).map_err(|error| error.to_string().into()))
    }
}

/// Get this document
#[utoipa::path(
    get, path = "/api-docs/openapi.json", tag = "health",
    responses((status = 200, body = HashMap<String, Value>, description = "OpenAPI 3.1, generated from the handlers")),
)]
pub(crate) async fn document(
    Extension(published): Extension<PublishedDocument>,
) -> Result<Response, ApiError> {
    let text = published.0.map_err(|error| ApiError::internal(&error))?;
    Ok(([(CONTENT_TYPE, "application/json")], text).into_response())
}
