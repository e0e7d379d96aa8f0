//! State of the AI proxy: whether calls are stopped, and how often what it has to be told has changed.

use rigbox_core::ids::UserId;
use rigbox_core::time::Timestamp;

use crate::audit::{self, AuditEvent};
use crate::{Error, Store};

/// State of the AI proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AiProxyState {
    /// The operator has stopped all calls.
    pub stopped: bool,
    /// Number of changes that the proxy has to be told.
    pub revision: i64,
}

impl Store {
    /// Returns the state. It is read often.
    pub fn ai_proxy_state(&self) -> Result<AiProxyState, Error> {
        self.readers.read(|connection| {
            let mut statement = connection.prepare_cached("SELECT stopped, revision FROM ai_proxy")?;
            let state =
                |row: &rusqlite::Row<'_>| Ok(AiProxyState { stopped: row.get(0)?, revision: row.get(1)? });
            Ok(statement.query_row([], state)?)
        })
    }

    /// Stops all calls, or lets them go on.
    pub async fn set_ai_stopped(
        &self,
        stopped: bool,
        operator: &UserId,
        now: Timestamp,
    ) -> Result<(), Error> {
        let mut tx = self.begin_write().await?;
        sqlx::query("UPDATE ai_proxy SET stopped = $1, revision = revision + 1")
            .bind(stopped)
            .execute(&mut *tx)
            .await?;
        let action = if stopped { "ai.stop" } else { "ai.resume" };
        audit::append(&mut tx, &self.chain, &AuditEvent::by_operator(operator, action, ""), now).await?;
        Ok(tx.commit().await?)
    }
}
