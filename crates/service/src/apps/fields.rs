//! Values of an app's fields: each is checked, and normalized into the form that is stored and compared.

use std::collections::BTreeMap;

use rigbox_core::environment::{InvalidVariable, VariableName};
use rigbox_store::App;

use crate::apps::error::AppError;
use crate::identity::email;

/// Maximum number of email addresses in one app's list.
const MAX_SHARED_WITH: usize = 100;
const MAX_CORS_ORIGINS: usize = 20;
const MAX_PARAMS: usize = 100;
/// Maximum length of a parameter in characters.
pub const MAX_PARAM_LEN: usize = 4_096;
/// Maximum length of a description in characters.
const MAX_DESCRIPTION_LEN: usize = 1_000;
const MAX_METADATA_BYTES: usize = 16 * 1024;

/// Creates the error for a field's value.
pub(super) fn invalid(field: &'static str, problem: impl Into<String>) -> AppError {
    AppError::InvalidValue { field, problem: problem.into() }
}

pub(super) fn apply_params(app: &mut App, params: &BTreeMap<String, Option<String>>) -> Result<(), AppError> {
    for (name, value) in params {
        let name: VariableName =
            name.parse().map_err(|error: InvalidVariable| invalid("params", error.to_string()))?;
        match value {
            None => drop(app.params.remove(name.as_str())),
            Some(value) if value.chars().count() > MAX_PARAM_LEN || value.chars().any(char::is_control) => {
                let problem = format!(
                    "The value of `{name}` is invalid. Use at most {MAX_PARAM_LEN} characters without control characters."
                );
                return Err(invalid("params", problem));
            }
            Some(value) => drop(app.params.insert(name.to_string(), value.clone())),
        }
    }
    if app.params.len() > MAX_PARAMS {
        return Err(invalid("params", format!("Too many parameters. Use at most {MAX_PARAMS}.")));
    }
    Ok(())
}

/// Returns each address once, in the normalized spelling used for comparison.
pub(super) fn addresses(list: &[String]) -> Result<Vec<String>, AppError> {
    let mut checked = Vec::new();
    for text in list {
        let address = email::parse_address(text).ok_or_else(|| {
            let text: String = text.chars().take(64).collect();
            invalid(
                "allowed_emails",
                format!("`{text}` is not an email address. Expected for example ada@example.org."),
            )
        })?;
        if !checked.contains(&address) {
            checked.push(address);
        }
    }
    if checked.len() > MAX_SHARED_WITH {
        return Err(invalid("allowed_emails", format!("Too many addresses. Use at most {MAX_SHARED_WITH}.")));
    }
    Ok(checked)
}

pub(super) fn origins(list: &[String]) -> Result<Vec<String>, AppError> {
    if list.len() > MAX_CORS_ORIGINS {
        return Err(invalid("cors_origins", format!("Too many origins. Use at most {MAX_CORS_ORIGINS}.")));
    }
    let origin = |text: &String| {
        let uri: http::Uri = text.parse().ok()?;
        let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"))?;
        let bare = text == &format!("{scheme}://{}", uri.authority()?) && !text.contains('@');
        bare.then(|| text.to_ascii_lowercase())
    };
    let checked = list.iter().map(|text| {
        origin(text).ok_or_else(|| {
            let text: String = text.chars().take(64).collect();
            invalid(
                "cors_origins",
                format!("`{text}` is not an origin. Expected for example https://app.example.org."),
            )
        })
    });
    checked.collect()
}

pub(super) fn protocol(text: Option<String>) -> Result<String, AppError> {
    match text.as_deref() {
        None => Ok("http".to_owned()),
        Some(text @ ("http" | "https" | "ws" | "grpc" | "tcp")) => Ok(text.to_owned()),
        Some(_) => Err(invalid("protocol", "The protocol is not supported. Use http, ws or grpc.")),
    }
}

pub(super) fn description(text: String) -> Result<Option<String>, AppError> {
    if text.chars().count() > MAX_DESCRIPTION_LEN {
        return Err(invalid(
            "description",
            format!("The text is too long. Use at most {MAX_DESCRIPTION_LEN} characters."),
        ));
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

pub(super) fn metadata(value: serde_json::Value) -> Result<serde_json::Value, AppError> {
    match value {
        serde_json::Value::Null => Ok(serde_json::json!({})),
        value @ serde_json::Value::Object(_) if value.to_string().len() <= MAX_METADATA_BYTES => Ok(value),
        _ => Err(invalid(
            "metadata",
            format!("The value is invalid. Use an object of at most {MAX_METADATA_BYTES} bytes."),
        )),
    }
}
