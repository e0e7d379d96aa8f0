//! JSON shapes that several nouns share.

use rigbox_core::time::Moment;
use time::OffsetDateTime;

/// A moment as clients read it (RFC 3339).
pub(super) fn date(moment: Moment) -> OffsetDateTime {
    let nanos = i128::from(moment.unix_ms()) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
