//! A workspace's own log: what has become of it, and what its network refused it.

use rigbox_core::ids::WorkspaceId;
use rigbox_core::time::Moment;
use rusqlite::params;
use sqlx::SqliteConnection;

use crate::{Error, Store};

/// Lines that are kept of one workspace.
const KEPT: i64 = 5_000;

/// A line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place in the log, from 1.
    pub seq: i64,
    /// When it was.
    pub at: Moment,
    /// What was.
    pub message: String,
}

impl Store {
    /// Adds a line. A workspace that is gone has no log.
    pub async fn log(&self, id: &WorkspaceId, at: Moment, message: &str) -> Result<(), Error> {
        let mut tx = self.write().await?;
        append(&mut tx, id, at, message).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The lines after `after`, oldest first; without it the last ones. At most `limit`.
    pub fn log_of(&self, id: &WorkspaceId, after: Option<i64>, limit: u32) -> Result<Vec<LogEntry>, Error> {
        self.hot.read(|connection| {
            let query = match after {
                Some(_) => {
                    "SELECT seq, at, message FROM workspace_log WHERE workspace_id = ?1 AND seq > ?2 \
                     ORDER BY seq LIMIT ?3"
                }
                None => {
                    "SELECT seq, at, message FROM (SELECT seq, at, message FROM workspace_log \
                     WHERE workspace_id = ?1 AND seq > ?2 ORDER BY seq DESC LIMIT ?3) ORDER BY seq"
                }
            };
            let mut statement = connection.prepare_cached(query)?;
            let lines = statement.query_map(params![id.as_str(), after.unwrap_or(0), limit], |row| {
                Ok(LogEntry { seq: row.get(0)?, at: Moment::from_unix_ms(row.get(1)?), message: row.get(2)? })
            })?;
            Ok(lines.collect::<Result<_, _>>()?)
        })
    }
}

/// Adds a line, and lets go of the oldest; the transaction is one that writes, so nobody else does meanwhile.
pub(crate) async fn append(
    connection: &mut SqliteConnection,
    id: &WorkspaceId,
    at: Moment,
    message: &str,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO workspace_log (workspace_id, seq, at, message) \
         SELECT id, COALESCE((SELECT MAX(seq) FROM workspace_log WHERE workspace_id = $1), 0) + 1, $2, $3 \
         FROM workspaces WHERE id = $1",
    )
    .bind(id.as_str())
    .bind(at.unix_ms())
    .bind(message)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "DELETE FROM workspace_log WHERE workspace_id = $1 \
         AND seq <= (SELECT MAX(seq) FROM workspace_log WHERE workspace_id = $1) - $2",
    )
    .bind(id.as_str())
    .bind(KEPT)
    .execute(connection)
    .await?;
    Ok(())
}
