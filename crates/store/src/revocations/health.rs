//! Health of the log of revocations, for the operator: a restored backup opens again what was revoked since, unless the log has it.

use super::check_owner;
use crate::{Error, Store, parse};

/// Health of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevocationLogHealth {
    /// It has each revocation.
    Complete,
    /// There is no log.
    Missing {
        /// Path where it belongs.
        path: String,
    },
    /// It cannot be read, or is another database's. The text names path, problem and remedy.
    Unusable(String),
    /// It ends before the last entry that the database has.
    Short {
        /// Path of the log.
        path: String,
        /// Number of its last entry.
        last: i64,
        /// Number of the last entry that the database has.
        wanted: i64,
    },
    /// It was begun anew, or was short when the database was opened: up to this number, it lacks entries for good.
    Incomplete {
        /// Path of the log.
        path: String,
        /// Number of the last entry that may be lacking.
        up_to: i64,
    },
}

impl Store {
    /// Compares the log of revocations with the database.
    pub async fn revocation_log_health(&self) -> Result<RevocationLogHealth, Error> {
        // Read before the log: an entry is appended before its number is committed.
        let query = "SELECT seq, (SELECT id FROM database_identity) FROM revocation_log";
        let (wanted, id): (i64, String) = sqlx::query_as(query).fetch_one(&self.pool).await?;
        let id = parse(&id)?;
        let (file, path) = (&self.revocations.file, self.revocations.file.path().display().to_string());
        let log = match file.read() {
            Ok(Some(log)) => log,
            Ok(None) => return Ok(RevocationLogHealth::Missing { path }),
            Err(error) => return Ok(RevocationLogHealth::Unusable(error.to_string())),
        };
        Ok(match check_owner(file, &log, &id) {
            Err(error) => RevocationLogHealth::Unusable(error.to_string()),
            Ok(()) if log.last() < wanted => RevocationLogHealth::Short { path, last: log.last(), wanted },
            Ok(()) if log.header.after > 0 => {
                RevocationLogHealth::Incomplete { path, up_to: log.header.after }
            }
            Ok(()) => RevocationLogHealth::Complete,
        })
    }
}
