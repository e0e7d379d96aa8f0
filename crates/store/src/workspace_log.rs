//! Log of a workspace: what happened to it, and what its network policy refused.

use rigbox_core::ids::WorkspaceId;
use rigbox_core::time::Timestamp;
use rusqlite::params;

use crate::sqlite::connection::Connection;
use crate::{Error, Store};

/// Maximum number of lines kept per workspace.
const MAX_ENTRIES_PER_WORKSPACE: i64 = 5_000;

/// Log line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Position in the log, from 1.
    pub seq: i64,
    /// Time of the event.
    pub at: Timestamp,
    /// Text of the line.
    pub message: String,
}

impl Store {
    /// Appends lines to the logs of their workspaces, in one transaction. Skips those of workspaces that are gone.
    pub async fn log_all(&self, lines: &[(WorkspaceId, Timestamp, String)]) -> Result<(), Error> {
        let mut tx = self.begin_write().await?;
        for (id, at, message) in lines {
            append(&mut tx, id, *at, message).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Returns at most `limit` lines after position `after`, oldest first, or else the last lines.
    pub fn log_of(&self, id: &WorkspaceId, after: Option<i64>, limit: u32) -> Result<Vec<LogEntry>, Error> {
        self.readers.read(|connection| {
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
                Ok(LogEntry {
                    seq: row.get(0)?,
                    at: Timestamp::from_unix_ms(row.get(1)?),
                    message: row.get(2)?,
                })
            })?;
            Ok(lines.collect::<Result<_, _>>()?)
        })
    }
}

/// Appends a line and drops the oldest. The transaction is a writing one, so appends are serialized.
pub(crate) async fn append(
    connection: &mut Connection,
    id: &WorkspaceId,
    at: Timestamp,
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
    .bind(MAX_ENTRIES_PER_WORKSPACE)
    .execute(connection)
    .await?;
    Ok(())
}
