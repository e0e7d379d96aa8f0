//! Values that a column holds as JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;

/// Returns the text of a value.
pub(crate) fn to_text(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| Error::Damaged(error.to_string()))
}

/// Parses the text of a value.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|error| Error::Damaged(error.to_string()))
}
