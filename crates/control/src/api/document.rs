//! The OpenAPI document, as the handlers describe themselves.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Components, InfoBuilder, OpenApi};
use utoipa::{PartialSchema, ToSchema};

use super::App;
use super::error::{ApiErrorBody, ApiErrorDetail};

/// Name of the security scheme.
pub(super) const BEARER: &str = "bearer";

pub(super) fn complete(mut document: OpenApi) -> OpenApi {
    document.info = InfoBuilder::new()
        .title("Rigbox")
        .description(Some(
            "Micro-VMs for code that you did not write. The same routes also answer under `/v1`.",
        ))
        .version(env!("CARGO_PKG_VERSION"))
        .build();
    let components = document.components.get_or_insert_with(Components::new);
    components.add_security_scheme(BEARER, SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    components.schemas.insert(ApiErrorBody::name().into_owned(), ApiErrorBody::schema());
    components.schemas.insert(ApiErrorDetail::name().into_owned(), ApiErrorDetail::schema());
    document
}

pub(super) fn route(document: OpenApi) -> Router<App> {
    // It does not change while the process lives.
    let text = Arc::new(document.to_json().map(Bytes::from));
    Router::new().route(
        "/api-docs/openapi.json",
        get(move || {
            let text = text.clone();
            async move {
                match text.as_ref() {
                    Ok(text) => Ok(([(CONTENT_TYPE, "application/json")], text.clone())),
                    Err(error) => Err(super::error::ApiError::internal(error)),
                }
            }
        }),
    )
}
