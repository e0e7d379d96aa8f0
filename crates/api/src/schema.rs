//! JSON schema pieces that several resources share.

use rigbox_core::authz::Scope;
use rigbox_core::time::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::error::ApiError;

/// Deserializes a present field, so that `null` differs from an omitted field.
pub(crate) fn deserialize_present<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

const DEFAULT_PAGE_SIZE: u32 = 100;
const MAX_PAGE_SIZE: u32 = 1_000;

/// Returns the error for an unreadable cursor.
pub(crate) fn invalid_cursor() -> ApiError {
    ApiError::bad_request("cursor: The cursor is invalid. Use `next_cursor` unchanged.")
}

/// Returns the cursor after a record, in a list sorted by creation.
pub(crate) fn cursor(created_at: Timestamp, id: &str) -> String {
    format!("{}.{id}", created_at.unix_ms())
}

pub(crate) fn parse_cursor(text: &str) -> Result<(i64, String), ApiError> {
    let read = || {
        let (time, id) = text.split_once('.')?;
        Some((time.parse().ok()?, id.to_owned()))
    };
    read().ok_or_else(invalid_cursor)
}

/// Returns the page size.
pub(crate) fn page_size(limit: Option<u32>) -> Result<u32, ApiError> {
    let limit = limit.unwrap_or(DEFAULT_PAGE_SIZE);
    if (1..=MAX_PAGE_SIZE).contains(&limit) {
        Ok(limit)
    } else {
        Err(ApiError::bad_request(format!("limit: {limit} is out of range. Use 1 to {MAX_PAGE_SIZE}.")))
    }
}

/// Converts a timestamp to the form that clients get (RFC 3339).
pub(crate) fn to_date(timestamp: Timestamp) -> OffsetDateTime {
    let nanos = i128::from(timestamp.unix_ms()) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Returns the role and the workspaces of an API key's scope; none for the whole account.
pub(crate) fn role_and_workspaces(scope: &Scope) -> (Option<&'static str>, Option<Vec<String>>) {
    match scope {
        // `OwnWorkspace` is never the scope of an API key.
        Scope::Account | Scope::OwnWorkspace(_) => (None, None),
        Scope::Workspaces { ids, role } => {
            (Some(role.as_str()), Some(ids.iter().map(ToString::to_string).collect()))
        }
    }
}

/// Deserializes a time that may be absent.
pub(crate) fn deserialize_time<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<OffsetDateTime>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    let time = OffsetDateTime::parse(&text, &Rfc3339);
    time.map(Some)
        .map_err(|_| D::Error::custom("The time is invalid. Use a time such as 2027-01-31T12:00:00Z."))
}
