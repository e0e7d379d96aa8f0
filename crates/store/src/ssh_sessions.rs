//! Sessions by SSH: the log-ins that were taken, each once, and the sessions that are open. Beginning and end of each are in the audit log,
//! written in the transaction that opens or ends it.

use rigbox_core::authz::Principal;
use rigbox_core::ids::{GatewayId, SshKeyId, WorkspaceId};
use rigbox_core::time::Timestamp;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::audit::{self, AuditEvent};
use crate::{Error, Store, parse};

/// Sessions that are ended in one transaction.
const BATCH_LEN: i64 = 64;

/// Session by SSH that a log-in opens.
#[derive(Debug, Clone, Copy)]
pub struct NewSshSession<'a> {
    /// Id of the session, which the client has signed.
    pub id: &'a [u8],
    /// Process that has the session.
    pub gateway: &'a GatewayId,
    /// Workspace.
    pub workspace: &'a WorkspaceId,
    /// Its owner, with the client's address.
    pub principal: &'a Principal,
    /// Key of the owner.
    pub key: &'a SshKeyId,
}

impl Store {
    /// Returns whether the log-in with this session id was taken.
    pub async fn is_ssh_log_in_taken(&self, session_id: &[u8]) -> Result<bool, Error> {
        let query = sqlx::query("SELECT 1 FROM ssh_log_ins WHERE session_id = $1");
        Ok(query.bind(session_id).fetch_optional(&self.pool).await?.is_some())
    }

    /// Takes a log-in, and opens its session. Returns `false` if this session id was taken before.
    pub async fn open_ssh_session(
        &self,
        session: NewSshSession<'_>,
        event: &AuditEvent,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let NewSshSession { id, gateway, workspace, principal, key } = session;
        let mut tx = self.begin_write().await?;
        let query =
            "INSERT INTO ssh_log_ins (session_id, at) VALUES ($1, $2) ON CONFLICT (session_id) DO NOTHING";
        let taken = sqlx::query(query).bind(id).bind(now.unix_ms()).execute(&mut *tx).await?;
        if taken.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query("UPDATE ssh_keys SET last_used_at = $1 WHERE id = $2")
            .bind(now.unix_ms())
            .bind(key.as_str())
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "INSERT INTO ssh_sessions (session_id, gateway, workspace_id, user_id, key_id, address, opened_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(id)
        .bind(gateway.as_str())
        .bind(workspace.as_str())
        .bind(principal.user.as_str())
        .bind(key.as_str())
        .bind(principal.from.map(|address| address.to_string()))
        .bind(now.unix_ms())
        .execute(&mut *tx)
        .await?;
        audit::append(&mut tx, &self.chain, event, now).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Ends a session, with a word on what it was. Returns `false` if it is not open.
    pub async fn end_ssh_session(&self, id: &[u8], detail: &str, now: Timestamp) -> Result<bool, Error> {
        let mut tx = self.begin_write().await?;
        let ended = sqlx::query(
            "DELETE FROM ssh_sessions WHERE session_id = $1 RETURNING workspace_id, user_id, key_id, address",
        )
        .bind(id)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(ended) = ended else { return Ok(false) };
        audit::append(&mut tx, &self.chain, &end_of(&ended, detail)?, now).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Ends all sessions of a gateway, with a word on why. Returns their number.
    pub async fn end_ssh_sessions_of(
        &self,
        gateway: &GatewayId,
        detail: &str,
        now: Timestamp,
    ) -> Result<usize, Error> {
        let mut count = 0;
        loop {
            let mut tx = self.begin_write().await?;
            let ended = sqlx::query(
                "DELETE FROM ssh_sessions WHERE session_id IN \
                 (SELECT session_id FROM ssh_sessions WHERE gateway = $1 LIMIT $2) \
                 RETURNING workspace_id, user_id, key_id, address",
            )
            .bind(gateway.as_str())
            .bind(BATCH_LEN)
            .fetch_all(&mut *tx)
            .await?;
            if ended.is_empty() {
                return Ok(count);
            }
            count += ended.len();
            for row in &ended {
                audit::append(&mut tx, &self.chain, &end_of(row, detail)?, now).await?;
            }
            tx.commit().await?;
        }
    }

    /// Returns the gateways that have sessions.
    pub async fn gateways_with_ssh_sessions(&self) -> Result<Vec<GatewayId>, Error> {
        let query = sqlx::query_scalar("SELECT DISTINCT gateway FROM ssh_sessions");
        let gateways: Vec<String> = query.fetch_all(&self.pool).await?;
        gateways.iter().map(|gateway| parse(gateway)).collect()
    }
}

/// Returns the event of a session's end.
fn end_of(row: &SqliteRow, detail: &str) -> Result<AuditEvent, Error> {
    let (user, key) = (parse(row.try_get("user_id")?)?, parse(row.try_get("key_id")?)?);
    let target = format!("{} {detail}", row.try_get::<String, _>("workspace_id")?);
    Ok(AuditEvent::by_ssh_key(user, key, row.try_get("address")?, "ssh.close", target))
}
