//! OpenAPI document, generated from the handlers.

use std::sync::Arc;

use axum::Extension;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use utoipa::openapi::info::LicenseBuilder;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::server::ServerBuilder;
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{Components, InfoBuilder, OpenApi, RefOr};
use utoipa::{PartialSchema, ToSchema};

use crate::error::{ApiError, ApiErrorBody, ApiErrorDetail};

pub(crate) mod formats;
mod rules;

/// Security scheme of API keys.
pub(crate) const BEARER: &str = "bearer";
/// Security scheme of the console's sessions.
pub(crate) const SESSION: &str = "session";

const DESCRIPTION: &str = "Micro-VMs for untrusted code: create workspaces, run commands in them, publish their ports.\n\n\
    Requests are authenticated with an API key (`Authorization: Bearer rb_...`). The same routes are also served under `/v1`. \
    Every failure has the same body: a code for programs, and a message for people.";

/// Tags and their descriptions, in the order in which they are shown.
const TAGS: [(&str, &str); 17] = [
    ("workspaces", "Workspaces: micro-VMs with a disk of their own"),
    ("exec", "Commands in a workspace"),
    ("files", "Files of a workspace"),
    ("environment", "Environment variables of a workspace"),
    ("network", "Network access of a workspace"),
    ("apps", "Ports of workspaces, published under a name"),
    ("templates", "Templates of workspaces"),
    ("users", "Account of the caller"),
    ("api-keys", "API keys of the account"),
    ("ssh-keys", "SSH keys of the account, and SSH to workspaces"),
    ("ai", "Credits and usage of AI calls, and with whose keys they are made"),
    ("secrets", "Credentials that stay outside of workspaces, and that the proxy adds to requests"),
    ("audit", "Actions with the account's credentials"),
    ("auth", "Signing in and out"),
    ("machine", "Capacity and problems of the installation"),
    ("health", "Health of the server, and this document"),
    ("pages", "Pages for browsers"),
];

/// Completes the document with what does not depend on a single handler.
pub(crate) fn complete(mut document: OpenApi) -> OpenApi {
    document.info = InfoBuilder::new()
        .title("Rigbox")
        .description(Some(DESCRIPTION))
        .version(env!("CARGO_PKG_VERSION"))
        .license(Some(LicenseBuilder::new().name("Apache 2.0").identifier(Some("Apache-2.0")).build()))
        .build();
    // Relative to the document, which has several addresses: workspaces get it at their own.
    let server = ServerBuilder::new().url("/").description(Some("The server of this document"));
    document.servers = Some(vec![server.build()]);
    let tag = |(name, text)| TagBuilder::new().name(name).description(Some(text)).build();
    document.tags = Some(TAGS.map(tag).into());
    operations(&mut document).for_each(describe_responses);
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

fn operations(document: &mut OpenApi) -> impl Iterator<Item = &mut Operation> {
    document.paths.paths.values_mut().flat_map(|item| {
        [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch]
            .into_iter()
            .flatten()
    })
}

/// Describes the responses for which the handler does not say more than the status.
fn describe_responses(operation: &mut Operation) {
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response
            && response.description.is_empty()
        {
            response.description = default_description(status).to_owned();
        }
    }
}

fn default_description(status: &str) -> &'static str {
    match status {
        "201" => "Created",
        "202" => "Accepted",
        "400" => "The request is malformed; the message names the problem",
        "401" => "No valid API key",
        "402" => "A limit of the plan or the machine; the message names it",
        "403" => "The key does not allow this",
        "404" => "It does not exist, or not for this key",
        "409" => "Not possible in the current state; the message says why",
        "413" => "The request body is too large",
        "429" => "Too many requests; see Retry-After",
        "503" => "The node or the database does not answer",
        _ => "Success",
    }
}

/// Serialized document, which does not change while the process runs.
#[derive(Clone)]
pub(crate) struct PublishedDocument(Result<Bytes, Arc<str>>);

impl PublishedDocument {
    pub(crate) fn new(document: &OpenApi) -> Self {
        let serialized = serde_json::to_value(document).and_then(|mut document| {
            rules::add(&mut document);
            serde_json::to_vec(&document)
        });
        Self(serialized.map(Bytes::from).map_err(|error| error.to_string().into()))
    }
}

/// Get this document
#[utoipa::path(
    get, path = "/api-docs/openapi.json", operation_id = "get_openapi_document", tag = "health",
    responses((status = 200, body = HashMap<String, Value>, description = "OpenAPI 3.1, generated from the handlers")),
)]
pub(crate) async fn document(
    Extension(published): Extension<PublishedDocument>,
) -> Result<Response, ApiError> {
    let text = published.0.map_err(|error| ApiError::internal(&error))?;
    Ok(([(CONTENT_TYPE, "application/json")], text).into_response())
}
