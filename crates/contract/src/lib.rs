//! Whether an answer of the API is one that its own OpenAPI document describes: status, content type, and the body's shape, with no field
//! that the document does not know. For tests, which hold every answer that they get against it; no program depends on this.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use serde_json::Value;

mod closed;
mod operations;
mod shape;

use operations::{Found, Operations};
use shape::{Shape, Shapes};

/// Name of the schema that every refusal has.
const REFUSAL: &str = "ApiErrorBody";
const JSON: &str = "application/json";
/// One JSON value per line.
const LINES: &str = "application/x-ndjson";

/// Why a text is no document that answers can be held against.
#[derive(Debug, thiserror::Error)]
pub enum BadDocument {
    /// It is no JSON.
    #[error("the document is not JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    /// A part of it is missing or of another kind than OpenAPI 3.1 has it.
    #[error("the document has no usable `{0}`")]
    Missing(String),
    /// A schema that is none.
    #[error("the schema of {place}: {problem}")]
    Schema {
        /// Where it stands.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// How an answer differs from the document.
#[derive(Debug, thiserror::Error)]
pub enum Breach {
    /// The document does not have the operation, and the answer is no refusal.
    #[error("{request} is not in the document, and is answered {status}")]
    Operation {
        /// What was asked.
        request: String,
        /// What was answered.
        status: StatusCode,
    },
    /// The operation does not have this status.
    #[error("{request}: the status {status} is not documented; documented are {documented:?}")]
    Status {
        /// What was asked.
        request: String,
        /// What was answered.
        status: StatusCode,
        /// What could have been.
        documented: Vec<u16>,
    },
    /// The status does not have this content type.
    #[error(
        "{request} {status}: the content type {found:?} is not documented; documented are {documented:?}"
    )]
    ContentType {
        /// What was asked.
        request: String,
        /// What was answered.
        status: StatusCode,
        /// Type of the answer's content.
        found: Option<String>,
        /// What could have been.
        documented: Vec<String>,
    },
    /// The body has another shape.
    #[error("{request} {status}: {problem}; the body: {body}")]
    Body {
        /// What was asked.
        request: String,
        /// What was answered.
        status: StatusCode,
        /// Where and how it differs.
        problem: String,
        /// Its beginning.
        body: String,
    },
}

/// What was asked and what was answered.
#[derive(Debug, Clone, Copy)]
pub struct Exchange<'a> {
    /// The request's method.
    pub method: &'a Method,
    /// The path of its URL, as it was sent.
    pub path: &'a str,
    /// The answer's status.
    pub status: StatusCode,
    /// The answer's `Content-Type`.
    pub content_type: Option<&'a str>,
    /// The answer's body; none when it was not read to its end.
    pub body: Option<&'a [u8]>,
}

/// What an operation answers with one status: a shape per content type.
type Contents = BTreeMap<String, Option<Shape>>;

/// The document, ready to hold answers against.
#[derive(Debug)]
pub struct Contract {
    operations: Operations<BTreeMap<u16, Contents>>,
    shapes: Shapes,
    refusal: Contents,
}

impl Contract {
    /// Reads an OpenAPI document.
    pub fn new(text: &str) -> Result<Self, BadDocument> {
        let document: Value = serde_json::from_str(text)?;
        let mut shapes = Shapes::new(&document);
        let refusal = Contents::from([(JSON.to_owned(), Some(shapes.named(REFUSAL)?))]);
        let operations = Operations::read(&document, |place, operation| {
            let answers = object(operation, "responses", place)?;
            answers
                .iter()
                .map(|(status, answer)| {
                    let place = format!("{place} {status}");
                    let status = status.parse().map_err(|_| BadDocument::Missing(place.clone()))?;
                    Ok((status, contents(&mut shapes, answer, &place)?))
                })
                .collect()
        })?;
        Ok(Self { operations, shapes, refusal })
    }

    /// Holds an answer against the document.
    pub fn check(&self, exchange: &Exchange<'_>) -> Result<(), Breach> {
        let request = || format!("{} {}", exchange.method, exchange.path);
        let status = exchange.status;
        let contents = match self.operations.find(exchange.method, exchange.path) {
            Found::Operation(answers) => answers.get(&status.as_u16()).ok_or_else(|| Breach::Status {
                request: request(),
                status,
                documented: answers.keys().copied().collect(),
            })?,
            // There is nothing to document it at, so these are said here: where there is no operation, only a refusal may come.
            Found::OtherMethod if refused(status, StatusCode::METHOD_NOT_ALLOWED) => &self.refusal,
            Found::Nothing if refused(status, StatusCode::NOT_FOUND) => &self.refusal,
            Found::OtherMethod | Found::Nothing => {
                return Err(Breach::Operation { request: request(), status });
            }
        };
        self.content(exchange, contents)
    }

    /// Holds a value against the schema of this name.
    pub fn check_value(&self, name: &str, value: &Value) -> Result<(), String> {
        self.shapes.find(name).ok_or_else(|| format!("there is no schema {name}"))?.check(value)
    }

    fn content(&self, exchange: &Exchange<'_>, contents: &Contents) -> Result<(), Breach> {
        let Exchange { method, path, status, content_type, body } = *exchange;
        // Without its parameters.
        let essence = content_type.map(|text| text.split(';').next().unwrap_or_default().trim());
        let shape = match essence {
            None if contents.is_empty() => None,
            Some(essence) if contents.contains_key(essence) => contents.get(essence).and_then(Option::as_ref),
            found => {
                return Err(Breach::ContentType {
                    request: format!("{method} {path}"),
                    status,
                    found: found.map(str::to_owned),
                    documented: contents.keys().cloned().collect(),
                });
            }
        };
        let Some(body) = body else { return Ok(()) };
        let checked = match (essence, shape) {
            // HEAD has the head of GET.
            _ if *method == Method::HEAD => empty(body),
            (None, _) => empty(body),
            (Some(LINES), Some(shape)) => body
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .try_for_each(|line| shape.check_text(line)),
            (Some(JSON), Some(shape)) => shape.check_text(body),
            _ => Ok(()),
        };
        checked.map_err(|problem| Breach::Body {
            request: format!("{method} {path}"),
            status,
            problem,
            body: String::from_utf8_lossy(body).chars().take(500).collect(),
        })
    }
}

/// What the edge of the API says to any request, whatever it is for.
fn refused(status: StatusCode, own: StatusCode) -> bool {
    [own, StatusCode::BAD_REQUEST, StatusCode::MISDIRECTED_REQUEST].contains(&status)
}

fn empty(body: &[u8]) -> Result<(), String> {
    if body.is_empty() { Ok(()) } else { Err("a body, and none is documented".to_owned()) }
}

fn contents(shapes: &mut Shapes, answer: &Value, place: &str) -> Result<Contents, BadDocument> {
    if answer.get("content").is_none() {
        return Ok(Contents::new());
    }
    object(answer, "content", place)?
        .iter()
        .map(|(kind, content)| {
            let schema = content.get("schema").filter(|_| [JSON, LINES].contains(&kind.as_str()));
            let shape = schema.map(|schema| shapes.of(schema, &format!("{place} {kind}"))).transpose()?;
            Ok((kind.clone(), shape))
        })
        .collect()
}

fn object<'a>(
    value: &'a Value,
    name: &str,
    place: &str,
) -> Result<&'a serde_json::Map<String, Value>, BadDocument> {
    let found = value.get(name).and_then(Value::as_object);
    found.ok_or_else(|| BadDocument::Missing(format!("{place} {name}")))
}

#[cfg(test)]
mod tests;
