//! JSON shapes that several nouns share.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rigbox_core::time::Timestamp;
use time::OffsetDateTime;

use crate::error::ApiError;

const DEFAULT_PAGE_SIZE: u32 = 100;
const MAX_PAGE_SIZE: u32 = 1_000;

/// What a cursor is answered with that cannot be read.
pub(crate) fn bad_cursor() -> ApiError {
    ApiError::bad_request("cursor: not one that this API gave: take `next_cursor` as it is")
}

/// Where a list that is sorted by creation goes on after what was made then with that id.
pub(crate) fn cursor(created_at: Timestamp, id: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}:{id}", created_at.unix_ms()))
}

pub(crate) fn read_cursor(text: &str) -> Result<(i64, String), ApiError> {
    let read = || {
        let plain = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let (time, id) = plain.split_once(':')?;
        Some((time.parse().ok()?, id.to_owned()))
    };
    read().ok_or_else(bad_cursor)
}

/// How many a list answers with.
pub(crate) fn page_size(limit: Option<u32>) -> Result<u32, ApiError> {
    let limit = limit.unwrap_or(DEFAULT_PAGE_SIZE);
    if (1..=MAX_PAGE_SIZE).contains(&limit) {
        Ok(limit)
    } else {
        Err(ApiError::bad_request(format!("limit: {limit} is not between 1 and {MAX_PAGE_SIZE}")))
    }
}

/// A moment as clients read it (RFC 3339).
pub(crate) fn date(moment: Timestamp) -> OffsetDateTime {
    let nanos = i128::from(moment.unix_ms()) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
