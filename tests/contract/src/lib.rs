//! Checks responses of the API against its own OpenAPI document: status, content type, and body, which may have no undocumented field. Tests
//! check all their responses with it; no program depends on it.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use serde_json::Value;

mod closed;
mod error;
mod operations;
mod schema;

pub use error::{InvalidDocument, Violation};

use error::object;
use operations::{Match, Operations};
use schema::{Schema, Schemas};

/// Name of the schema of all errors.
const ERROR_SCHEMA: &str = "ApiErrorBody";
const JSON: &str = "application/json";
/// Content type with one JSON value per line.
const NDJSON: &str = "application/x-ndjson";

/// Request and its response.
#[derive(Debug, Clone, Copy)]
pub struct Exchange<'a> {
    /// Method of the request.
    pub method: &'a Method,
    /// Path of the request, as sent.
    pub path: &'a str,
    /// Status of the response.
    pub status: StatusCode,
    /// `Content-Type` of the response.
    pub content_type: Option<&'a str>,
    /// Body of the response; `None` if it was not read to its end.
    pub body: Option<&'a [u8]>,
}

/// Contents of a response: a schema per content type.
type Contents = BTreeMap<String, Option<Schema>>;

/// OpenAPI document, compiled for checks.
#[derive(Debug)]
pub struct Contract {
    operations: Operations<BTreeMap<u16, Contents>>,
    schemas: Schemas,
    refusal: Contents,
}

impl Contract {
    /// Reads an OpenAPI document.
    pub fn new(text: &str) -> Result<Self, InvalidDocument> {
        let document: Value = serde_json::from_str(text)?;
        let mut schemas = Schemas::new(&document);
        let refusal = Contents::from([(JSON.to_owned(), Some(schemas.named(ERROR_SCHEMA)?))]);
        let operations = Operations::read(&document, |place, operation| {
            let responses = object(operation, "responses", place)?;
            responses
                .iter()
                .map(|(status, response)| {
                    let place = format!("{place} {status}");
                    let status = status.parse().map_err(|_| InvalidDocument::Missing(place.clone()))?;
                    Ok((status, contents(&mut schemas, response, &place)?))
                })
                .collect()
        })?;
        Ok(Self { operations, schemas, refusal })
    }

    /// Checks a response.
    pub fn check(&self, exchange: &Exchange<'_>) -> Result<(), Violation> {
        let request = || format!("{} {}", exchange.method, exchange.path);
        let status = exchange.status;
        let contents = match self.operations.find(exchange.method, exchange.path) {
            Match::Operation(responses) => {
                responses.get(&status.as_u16()).ok_or_else(|| Violation::Status {
                    request: request(),
                    status,
                    documented: responses.keys().copied().collect(),
                })?
            }
            // Requests without an operation are not in the document. Only errors are allowed for them.
            Match::OtherMethod if is_refusal(status, StatusCode::METHOD_NOT_ALLOWED) => &self.refusal,
            Match::None if is_refusal(status, StatusCode::NOT_FOUND) => &self.refusal,
            Match::OtherMethod | Match::None => {
                return Err(Violation::Operation { request: request(), status });
            }
        };
        self.content(exchange, contents)
    }

    /// Checks a value against a named schema.
    pub fn check_value(&self, name: &str, value: &Value) -> Result<(), String> {
        self.schemas.find(name).ok_or_else(|| format!("schema {name} not found"))?.check(value)
    }

    fn content(&self, exchange: &Exchange<'_>, contents: &Contents) -> Result<(), Violation> {
        let Exchange { method, path, status, content_type, body } = *exchange;
        // Without parameters.
        let essence = content_type.map(|text| text.split(';').next().unwrap_or_default().trim());
        let schema = match essence {
            None if contents.is_empty() => None,
            Some(essence) if contents.contains_key(essence) => contents.get(essence).and_then(Option::as_ref),
            found => {
                return Err(Violation::ContentType {
                    request: format!("{method} {path}"),
                    status,
                    found: found.map(str::to_owned),
                    documented: contents.keys().cloned().collect(),
                });
            }
        };
        let Some(body) = body else { return Ok(()) };
        let checked = match (essence, schema) {
            // HEAD has the head of GET, and no body.
            _ if *method == Method::HEAD => empty(body),
            (None, _) => empty(body),
            (Some(NDJSON), Some(schema)) => body
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .try_for_each(|line| schema.check_text(line)),
            (Some(JSON), Some(schema)) => schema.check_text(body),
            _ => Ok(()),
        };
        checked.map_err(|problem| Violation::Body {
            request: format!("{method} {path}"),
            status,
            problem,
            body: String::from_utf8_lossy(body).chars().take(500).collect(),
        })
    }
}

/// Returns whether an undocumented request may have this status: `own`, or one that any request may get.
fn is_refusal(status: StatusCode, own: StatusCode) -> bool {
    [own, StatusCode::BAD_REQUEST, StatusCode::MISDIRECTED_REQUEST].contains(&status)
}

fn empty(body: &[u8]) -> Result<(), String> {
    if body.is_empty() { Ok(()) } else { Err("unexpected body; none is documented".to_owned()) }
}

fn contents(schemas: &mut Schemas, response: &Value, place: &str) -> Result<Contents, InvalidDocument> {
    if response.get("content").is_none() {
        return Ok(Contents::new());
    }
    object(response, "content", place)?
        .iter()
        .map(|(kind, content)| {
            let schema = content.get("schema").filter(|_| [JSON, NDJSON].contains(&kind.as_str()));
            let compiled =
                schema.map(|schema| schemas.compile(schema, &format!("{place} {kind}"))).transpose()?;
            Ok((kind.clone(), compiled))
        })
        .collect()
}

#[cfg(test)]
mod tests;
