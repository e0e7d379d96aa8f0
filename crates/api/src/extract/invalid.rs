//! Messages for bodies and queries that do not have the form of a request. The parsers' own texts are for programmers: each is put into a
//! sentence that names the parameter, the problem and the remedy. A value is never repeated, because it may be a secret.

use serde::de::IgnoredAny;
use serde_json::error::Category;
use serde_json::json;
use serde_path_to_error::Error;

use crate::error::ApiError;

/// Maximum length of a client's own word in a message.
const MAX_WORD_LEN: usize = 64;

/// Reason for a value of another type in place of a word.
const NO_WORD: &str = "invalid type: other, expected string only";

/// Returns the error for a JSON body.
pub(super) fn body(error: Error<serde_json::Error>, bytes: &[u8]) -> ApiError {
    let path = path_of(error.path());
    let error = error.into_inner();
    let is_syntax = matches!(error.classify(), Category::Syntax | Category::Eof);
    if is_syntax && serde_json::from_slice::<IgnoredAny>(bytes).is_err() {
        return syntax(&error);
    }
    // In valid JSON, the parser finds fault with the syntax where one of several words is expected.
    let reason = if is_syntax { NO_WORD.to_owned() } else { error.to_string() };
    // The position is for who reads the bytes; the path says more.
    let reason = reason.rsplit_once(" at line ").map_or(reason.as_str(), |(reason, _)| reason);
    match explain(path, reason) {
        Problem { field: Some(field), text } => field_error(&field, &text),
        Problem { field: None, text } => ApiError::bad_request(
            text.replacen("The value", "The body", 1).replacen("Use an", "Send a JSON", 1),
        ),
    }
}

/// Returns the error for a query.
pub(super) fn query(error: Error<serde_urlencoded::de::Error>) -> ApiError {
    let path = path_of(error.path());
    match explain(path, &error.into_inner().to_string()) {
        Problem { field: Some(field), text } => field_error(&field, &text.replacen("field", "parameter", 1)),
        Problem { field: None, .. } => {
            ApiError::bad_request("The query is invalid. Use NAME=VALUE pairs with `&` between them.")
        }
    }
}

/// Returns the error for a text that is not JSON.
pub(super) fn syntax(error: &serde_json::Error) -> ApiError {
    ApiError::bad_request(format!(
        "The body is not valid JSON (line {}, column {}). Send one JSON object.",
        error.line(),
        error.column()
    ))
}

fn field_error(field: &str, text: &str) -> ApiError {
    ApiError::bad_request(format!("{field}: {text}")).with_details(json!({"field": field}))
}

fn path_of(path: &serde_path_to_error::Path) -> Option<String> {
    let path = path.to_string();
    (path != "." && path != "?").then(|| cut(&path))
}

/// Problem with one field, or with the whole.
#[derive(Debug, PartialEq, Eq)]
struct Problem {
    field: Option<String>,
    text: String,
}

fn explain(path: Option<String>, reason: &str) -> Problem {
    let at = |field: Option<String>, text: String| Problem { field, text };
    if let Some(name) = quoted_after(reason, "missing field ") {
        let field = path.map_or_else(|| name.clone(), |path| format!("{path}.{name}"));
        return at(Some(field), "The field is missing. Add it.".to_owned());
    }
    if let Some(name) = quoted_after(reason, "unknown field ") {
        return at(Some(name), format!("Unknown field. {}", choices(reason)));
    }
    if let Some(name) = quoted_after(reason, "duplicate field ") {
        return at(Some(name), "The field is given twice. Give it once.".to_owned());
    }
    if reason.starts_with("unknown variant ") {
        return at(path, format!("The value is not one of those allowed. {}", choices(reason)));
    }
    if let Some((found, expected)) = found_and_expected(reason, "invalid type: ") {
        return at(path, format!("The value is {}. Use {}.", found_text(found), expected_text(expected)));
    }
    if let Some((found, expected)) = found_and_expected(reason, "invalid value: ") {
        let problem = if found.starts_with("integer") { "out of range" } else { "invalid" };
        return at(path, format!("The value is {problem}. Use {}.", expected_text(expected)));
    }
    if let Some((_, expected)) = found_and_expected(reason, "invalid length ") {
        return at(
            path,
            format!("The value is a list of the wrong length. Use {}.", expected_text(expected)),
        );
    }
    let text = match reason {
        "invalid digit found in string" => "The value is not a whole number. Use digits only.",
        "cannot parse integer from empty string" => "The value is empty. Use a whole number.",
        "number too large to fit in target type" => "The number is too large. Use a smaller one.",
        "number too small to fit in target type" => "The number is too small. Use a larger one.",
        "invalid float literal" | "cannot parse float from empty string" => {
            "The value is not a number. Use a number such as 1.5."
        }
        "provided string was not `true` or `false`" => "The value is invalid. Use true or false.",
        // The sentence of one of our own types.
        ours if ours.ends_with('.') => ours,
        _ => "The value is invalid. See /api-docs/openapi.json for what is allowed.",
    };
    at(path, text.to_owned())
}

/// Returns the word in backticks after `start`.
fn quoted_after(reason: &str, start: &str) -> Option<String> {
    let (word, _) = reason.strip_prefix(start)?.strip_prefix('`')?.split_once('`')?;
    Some(cut(word))
}

fn found_and_expected<'a>(reason: &'a str, start: &str) -> Option<(&'a str, &'a str)> {
    // The last one: what was found may be any text.
    reason.strip_prefix(start)?.rsplit_once(", expected ")
}

/// Returns the remedy for a word that is not among the expected ones.
fn choices(reason: &str) -> String {
    let Some((_, expected)) = reason.rsplit_once(", expected ") else { return "Remove it.".to_owned() };
    let words: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    match words.as_slice() {
        [] => "Remove it.".to_owned(),
        [one] => format!("Use {one}."),
        [most @ .., last] => format!("Use {} or {last}.", most.join(", ")),
    }
}

fn found_text(found: &str) -> &'static str {
    match found.split([' ', '`']).next().unwrap_or_default() {
        "null" | "unit" => "null",
        "boolean" => "a boolean",
        "integer" => "a number",
        "floating" => "a number with a fraction",
        "string" => "a string",
        "sequence" => "a list",
        "map" => "an object",
        _ => "of another type",
    }
}

fn expected_text(expected: &str) -> &str {
    match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number, 0 or more",
        "i8" | "i16" | "i32" | "i64" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        "string or map" | "variant identifier" | "string only" => "a string",
        other if other.starts_with("struct ") => "an object",
        other if other.starts_with("enum ") => "a string",
        other => other,
    }
}

fn cut(word: &str) -> String {
    word.chars().take(MAX_WORD_LEN).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde::de::DeserializeOwned;

    use super::super::{parse, parse_query};

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Color {
        Red,
        Green,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only deserialized")]
    struct Body {
        name: String,
        port: Option<u16>,
        color: Option<Color>,
        list: Option<Vec<String>>,
        env: Option<BTreeMap<String, String>>,
        is_on: Option<bool>,
        seconds: Option<f64>,
        inner: Option<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only deserialized")]
    struct Inner {
        path: String,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only deserialized")]
    struct Optional {
        limit: Option<u32>,
        follow: Option<bool>,
        color: Option<Color>,
    }

    fn message<T: DeserializeOwned + std::fmt::Debug>(text: &str) -> String {
        parse::<T>(text.as_bytes()).unwrap_err().into_code_and_message().1
    }

    #[test]
    fn body_is_refused_in_a_sentence_that_names_the_field() {
        for (text, expected) in [
            ("{}", "name: The field is missing. Add it."),
            (r#"{"name": "a", "inner": {}}"#, "inner.path: The field is missing. Add it."),
            (r#"{"name": 5}"#, "name: The value is a number. Use a string."),
            (r#"{"name": null}"#, "name: The value is null. Use a string."),
            (
                r#"{"name": "a", "port": -1}"#,
                "port: The value is out of range. Use a whole number from 0 to 65535.",
            ),
            (
                r#"{"name": "a", "port": 1.5}"#,
                "port: The value is a number with a fraction. Use a whole number from 0 to 65535.",
            ),
            (
                r#"{"name": "a", "port": "secret"}"#,
                "port: The value is a string. Use a whole number from 0 to 65535.",
            ),
            (
                r#"{"name": "a", "color": "blue"}"#,
                "color: The value is not one of those allowed. Use red or green.",
            ),
            (r#"{"name": "a", "color": 1}"#, "color: The value is of another type. Use a string."),
            (r#"{"name": "a", "list": {}}"#, "list: The value is an object. Use a list."),
            (r#"{"name": "a", "list": ["b", 1]}"#, "list[1]: The value is a number. Use a string."),
            (r#"{"name": "a", "env": {"A": true}}"#, "env.A: The value is a boolean. Use a string."),
            (r#"{"name": "a", "is_on": "yes"}"#, "is_on: The value is a string. Use true or false."),
            (r#"{"name": "a", "seconds": "1"}"#, "seconds: The value is a string. Use a number."),
            (r#"{"name": "a", "name": "b"}"#, "name: The field is given twice. Give it once."),
            (
                r#"{"colour": 1}"#,
                "colour: Unknown field. Use name, port, color, list, env, is_on, seconds or inner.",
            ),
            ("[]", "The body is a list. Send a JSON object."),
            ("5", "The body is a number. Send a JSON object."),
            (r#""a, expected b""#, "The body is a string. Send a JSON object."),
            ("{\"name\":\n nope}", "The body is not valid JSON (line 2, column 3). Send one JSON object."),
            ("{", "The body is not valid JSON (line 1, column 1). Send one JSON object."),
            (r#"{"name": "a"} {}"#, "The body is not valid JSON (line 1, column 15). Send one JSON object."),
        ] {
            assert_eq!(message::<Body>(text), expected, "{text}");
        }
    }

    #[test]
    fn query_is_refused_in_a_sentence_that_names_the_parameter() {
        for (query, expected) in [
            ("limit=x", "limit: The value is not a whole number. Use digits only."),
            ("limit=", "limit: The value is empty. Use a whole number."),
            ("limit=99999999999", "limit: The number is too large. Use a smaller one."),
            ("follow=maybe", "follow: The value is invalid. Use true or false."),
            ("color=blue", "color: The value is not one of those allowed. Use red or green."),
            ("colour=1", "colour: Unknown parameter. Use limit, follow or color."),
            ("limit=1&limit=2", "limit: The parameter is given twice. Give it once."),
        ] {
            let uri = format!("/x?{query}").parse().unwrap();
            let error = parse_query::<Optional>(&uri).unwrap_err();
            assert_eq!(error.into_code_and_message().1, expected, "{query}");
        }
        let uri = "/x".parse().unwrap();
        let error = parse_query::<Inner>(&uri).unwrap_err();
        assert_eq!(error.into_code_and_message().1, "path: The parameter is missing. Add it.");
    }

    #[test]
    fn empty_body_is_refused_where_a_field_is_required() {
        assert_eq!(message::<Body>(""), "The body is empty. Send a JSON object.");
        assert!(parse::<Optional>(b"").unwrap().limit.is_none());
        assert!(parse::<Option<Body>>(b"").unwrap().is_none());
    }
}
