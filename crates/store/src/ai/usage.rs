//! Sums of calls: by day and by workspace for their user, by model for the operator. Calls that are open count once they are settled. Records
//! are deleted when they are old; accounts and months have sums of their own.

use rigbox_core::ai::money::Money;
use rigbox_core::ai::provider::Provider;
use rigbox_core::ids::UserId;
use rigbox_core::time::{DAY_MS, Timestamp};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::amounts::{money, number};
use crate::{Error, Store};

/// Sums of calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AiSums {
    /// Number of calls.
    pub requests: u64,
    /// Input, caches included.
    pub input_tokens: u64,
    /// Output, reasoning included.
    pub output_tokens: u64,
    /// Cost.
    pub cost: Money,
}

/// Sums of a day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AiDay {
    /// Days since 1970-01-01 in UTC.
    pub day: i64,
    /// Sums.
    pub sums: AiSums,
}

/// Sums of a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AiWorkspaceSum {
    /// Id of the workspace, which may be deleted.
    pub workspace_id: String,
    /// Its present name, or the last one of a deleted workspace that a call has recorded.
    pub name: String,
    /// Sums.
    pub sums: AiSums,
}

/// Sums of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AiModelSum {
    /// Model, as clients named it.
    pub model: String,
    /// Sums.
    pub sums: AiSums,
    /// Part of the calls whose usage is estimated.
    pub estimated: u64,
}

impl Store {
    /// Returns the sums of a user's days from `first` on, in order. Days without a call are absent.
    pub async fn ai_days(&self, user: &UserId, first: i64) -> Result<Vec<AiDay>, Error> {
        let rows = sqlx::query(
            "SELECT began_at / 86400000 AS day, COUNT(*) AS requests, \
             CAST(SUM(input_tokens + cache_read_tokens + cache_write_5m_tokens + cache_write_1h_tokens) AS BIGINT) AS input, \
             CAST(SUM(output_tokens) AS BIGINT) AS output, CAST(SUM(cost) AS BIGINT) AS cost FROM ai_calls \
             WHERE user_id = $1 AND began_at >= $2 AND ended_at IS NOT NULL GROUP BY began_at / 86400000 ORDER BY 1",
        )
        .bind(user.as_str())
        .bind(first.saturating_mul(DAY_MS))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| Ok(AiDay { day: row.try_get("day")?, sums: sums(row)? })).collect()
    }

    /// Returns the sums of a user's workspaces from the day `first` on, the dearest first.
    pub async fn ai_workspace_sums(&self, user: &UserId, first: i64) -> Result<Vec<AiWorkspaceSum>, Error> {
        let rows = sqlx::query(
            "SELECT c.workspace_id, COALESCE(MAX(w.name), MAX(c.workspace_name)) AS name, COUNT(*) AS requests, \
             CAST(SUM(input_tokens + cache_read_tokens + cache_write_5m_tokens + cache_write_1h_tokens) AS BIGINT) AS input, \
             CAST(SUM(output_tokens) AS BIGINT) AS output, CAST(SUM(cost) AS BIGINT) AS cost FROM ai_calls c \
             LEFT JOIN workspaces w ON w.id = c.workspace_id \
             WHERE c.user_id = $1 AND c.began_at >= $2 AND c.ended_at IS NOT NULL \
             GROUP BY c.workspace_id ORDER BY cost DESC, c.workspace_id",
        )
        .bind(user.as_str())
        .bind(first.saturating_mul(DAY_MS))
        .fetch_all(&self.pool)
        .await?;
        let sum = |row: &SqliteRow| {
            Ok(AiWorkspaceSum {
                workspace_id: row.try_get("workspace_id")?,
                name: row.try_get("name")?,
                sums: sums(row)?,
            })
        };
        rows.iter().map(sum).collect()
    }

    /// Returns the sums of a provider's calls with the operator's keys, by model, that began within a time and reached the provider.
    pub async fn ai_model_sums(
        &self,
        provider: &str,
        from: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<AiModelSum>, Error> {
        let rows = sqlx::query(
            "SELECT model, COUNT(*) AS requests, \
             CAST(SUM(input_tokens + cache_read_tokens + cache_write_5m_tokens + cache_write_1h_tokens) AS BIGINT) AS input, \
             CAST(SUM(output_tokens) AS BIGINT) AS output, CAST(SUM(cost) AS BIGINT) AS cost, \
             CAST(SUM(CASE WHEN estimated THEN 1 ELSE 0 END) AS BIGINT) AS estimated FROM ai_calls \
             WHERE provider = $1 AND NOT own_key AND began_at >= $2 AND began_at < $3 AND ended_at IS NOT NULL \
             AND operation <> 'count' AND ending <> 'not_sent' GROUP BY model ORDER BY model",
        )
        .bind(provider)
        .bind(from.unix_ms())
        .bind(until.unix_ms())
        .fetch_all(&self.pool)
        .await?;
        let sum = |row: &SqliteRow| {
            Ok(AiModelSum {
                model: row.try_get("model")?,
                sums: sums(row)?,
                estimated: number(row, "estimated")?,
            })
        };
        rows.iter().map(sum).collect()
    }

    /// Deletes records of calls that are over and began before `before`, at most `max` of each provider. Returns their number.
    pub async fn delete_ai_calls(&self, before: Timestamp, max: u32) -> Result<u64, Error> {
        let mut deleted = 0;
        for provider in Provider::ALL {
            let done = sqlx::query(
                "DELETE FROM ai_calls WHERE id IN (SELECT id FROM ai_calls \
                 WHERE provider = $1 AND began_at < $2 AND ended_at IS NOT NULL LIMIT $3)",
            )
            .bind(provider.as_str())
            .bind(before.unix_ms())
            .bind(i64::from(max))
            .execute(&self.writer)
            .await?;
            deleted += done.rows_affected();
        }
        Ok(deleted)
    }

    /// Returns the number of calls that are open, and what they have reserved.
    pub async fn open_ai_calls(&self) -> Result<(u64, Money), Error> {
        let row = sqlx::query(
            "SELECT COUNT(*) AS calls, CAST(COALESCE(SUM(reserved), 0) AS BIGINT) AS reserved FROM ai_calls \
             WHERE ended_at IS NULL",
        )
        .fetch_one(&self.pool)
        .await?;
        Ok((number(&row, "calls")?, money(&row, "reserved")?))
    }
}

fn sums(row: &SqliteRow) -> Result<AiSums, Error> {
    Ok(AiSums {
        requests: number(row, "requests")?,
        input_tokens: number(row, "input")?,
        output_tokens: number(row, "output")?,
        cost: money(row, "cost")?,
    })
}
