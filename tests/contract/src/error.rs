//! Errors: invalid documents, and responses that violate one.

use http::StatusCode;
use serde_json::Value;

/// Error in an OpenAPI document.
#[derive(Debug, thiserror::Error)]
pub enum InvalidDocument {
    /// The document is not JSON.
    #[error("the document is not JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    /// A part is missing, or has another type than in OpenAPI 3.1.
    #[error("the document has no usable `{0}`")]
    Missing(String),
    /// A schema is not valid.
    #[error("invalid schema of {place}: {problem}")]
    Schema {
        /// Place in the document.
        place: String,
        /// Reason.
        problem: String,
    },
}

/// Violation of the document by a response.
#[derive(Debug, thiserror::Error)]
pub enum Violation {
    /// The operation is not documented, and the response is not a refusal.
    #[error("{request} is not documented, but its response is {status}")]
    Operation {
        /// Method and path.
        request: String,
        /// Status of the response.
        status: StatusCode,
    },
    /// The status is not documented.
    #[error("{request}: status {status} is not documented; documented are {documented:?}")]
    Status {
        /// Method and path.
        request: String,
        /// Status of the response.
        status: StatusCode,
        /// Documented ones.
        documented: Vec<u16>,
    },
    /// The content type is not documented.
    #[error("{request} {status}: content type {found:?} is not documented; documented are {documented:?}")]
    ContentType {
        /// Method and path.
        request: String,
        /// Status of the response.
        status: StatusCode,
        /// Content type of the response.
        found: Option<String>,
        /// Documented ones.
        documented: Vec<String>,
    },
    /// The body does not match the schema.
    #[error("{request} {status}: {problem}; body: {body}")]
    Body {
        /// Method and path.
        request: String,
        /// Status of the response.
        status: StatusCode,
        /// Mismatch and its place.
        problem: String,
        /// Start of the body.
        body: String,
    },
}

/// Returns the object `name` in `value`, which is at `place` in the document.
pub(crate) fn object<'a>(
    value: &'a Value,
    name: &str,
    place: &str,
) -> Result<&'a serde_json::Map<String, Value>, InvalidDocument> {
    let found = value.get(name).and_then(Value::as_object);
    found.ok_or_else(|| InvalidDocument::Missing(format!("{place} {name}")))
}
