//! Users' own AI providers: settings of workspaces and of users, with keys in envelopes.

use rigbox_core::ai::mode::AiMode;
use rigbox_core::ai::own_key::{EffectiveAi, KeyDelivery, OwnAi};
use rigbox_core::ai::provider::Provider;
use rigbox_core::ids::{UserId, WorkspaceId};
use rigbox_core::time::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sqlx::Row;

use super::limits::AiSubject;
use super::modes;
use crate::audit::{self, AuditEvent};
use crate::secrets::envelope::{self, Column};
use crate::sqlite::connection::Connection;
use crate::{Error, Store, parse, timestamp};

/// Column of the keys.
pub(crate) static VALUE: Column =
    Column { table: "ai_own_keys", column: "secret", row: &["subject", "provider"] };

/// Change of settings. `None` keeps what there is, and `Some(None)` clears it.
#[derive(Debug, Default)]
pub struct AiConfigChange {
    /// Mode. Cleared: of a workspace that of its owner, of a user the first one.
    pub mode: Option<Option<AiMode>>,
    /// Provider.
    pub provider: Option<Option<Provider>>,
    /// Model.
    pub model: Option<Option<String>>,
    /// Key at a provider.
    pub key: Option<(Provider, Option<SecretString>)>,
    /// Way of the keys.
    pub delivery: Option<Option<KeyDelivery>>,
}

/// Settings that hold for a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceAi {
    /// Its own settings, and its owner's where it has none.
    pub effective: EffectiveAi,
    /// Time of the last change.
    pub updated_at: Timestamp,
}

impl Store {
    /// Returns the settings that hold for a workspace, or `None` if there is no such workspace.
    pub async fn workspace_ai(&self, id: &WorkspaceId) -> Result<Option<WorkspaceAi>, Error> {
        let row = sqlx::query("SELECT user_id, created_at FROM workspaces WHERE id = $1").bind(id.as_str());
        let row = row.fetch_optional(&self.pool).await?;
        let (Some(row), Some(mode)) = (row, self.workspace_ai_mode(id).await?) else { return Ok(None) };
        let (own, own_time) = self.own_ai(id.as_str()).await?;
        let (owner, owner_time) = self.own_ai(row.try_get("user_id")?).await?;
        let created_at = Timestamp::from_unix_ms(row.try_get("created_at")?);
        let updated_at = own_time.max(owner_time).unwrap_or(created_at);
        Ok(Some(WorkspaceAi { effective: EffectiveAi::of(mode.current(), &own, &owner), updated_at }))
    }

    /// Returns the settings of a user.
    pub async fn user_ai(&self, user: &UserId) -> Result<EffectiveAi, Error> {
        let mode: Option<String> = sqlx::query_scalar("SELECT mode FROM ai_accounts WHERE user_id = $1")
            .bind(user.as_str())
            .fetch_optional(&self.pool)
            .await?;
        let mode = mode.as_deref().map(parse).transpose()?.unwrap_or_default();
        let (own, _) = self.own_ai(user.as_str()).await?;
        Ok(EffectiveAi::of(mode, &own, &OwnAi::default()))
    }

    /// Returns the key of a workspace at a provider: its own, or else its owner's.
    pub async fn own_ai_key(
        &self,
        id: &WorkspaceId,
        provider: Provider,
    ) -> Result<Option<SecretString>, Error> {
        let row = sqlx::query(
            "SELECT k.subject, k.secret FROM ai_own_keys k JOIN workspaces w ON k.subject IN (w.id, w.user_id) \
             WHERE w.id = $1 AND k.provider = $2 ORDER BY k.subject = w.id DESC LIMIT 1",
        )
        .bind(id.as_str())
        .bind(provider.as_str())
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let parts = [row.try_get("subject")?, provider.as_str()];
        let secret = self.unseal(&VALUE.at(&parts), row.try_get("secret")?).await?;
        let secret = std::str::from_utf8(&secret).map_err(|error| Error::Damaged(error.to_string()))?;
        Ok(Some(SecretString::from(secret)))
    }

    /// Changes settings, which the environments of workspaces follow. Returns these workspaces, each with the revision of its environment;
    /// none if there is no such workspace.
    pub async fn change_ai_config(
        &self,
        subject: &AiSubject,
        change: &AiConfigChange,
        event: &AuditEvent,
        now: Timestamp,
    ) -> Result<Vec<(WorkspaceId, i64)>, Error> {
        let (mut tx, master) = match &change.key {
            Some((_, Some(_))) => {
                let (tx, master) = self.begin_sealed_write().await?;
                (tx, Some(master))
            }
            _ => (self.begin_write().await?, None),
        };
        let changed = match subject {
            AiSubject::Workspace(id, _) => {
                modes::environment_changed(&mut tx, "id", id.as_str(), now).await?
            }
            AiSubject::User(id) => modes::environment_changed(&mut tx, "user_id", id.as_str(), now).await?,
        };
        let id = match subject {
            AiSubject::Workspace(..) if changed.is_empty() => return Ok(changed),
            AiSubject::Workspace(id, _) => id.as_str(),
            AiSubject::User(id) => id.as_str(),
        };
        if let Some(mode) = change.mode {
            match subject {
                AiSubject::Workspace(id, _) => modes::set_of_workspace(&mut tx, id, mode).await?,
                AiSubject::User(id) => modes::set_of_user(&mut tx, id, mode.unwrap_or_default()).await?,
            }
        }
        write(&mut tx, subject, change, now).await?;
        if let Some((provider, _)) = &change.key {
            sqlx::query("DELETE FROM ai_own_keys WHERE subject = $1 AND provider = $2")
                .bind(id)
                .bind(provider.as_str())
                .execute(&mut *tx)
                .await?;
        }
        if let (Some((provider, Some(key))), Some(master)) = (&change.key, &master) {
            let row = [id, provider.as_str()];
            let record = envelope::seal(master, &VALUE.at(&row), key.expose_secret().as_bytes())?;
            sqlx::query(
                "INSERT INTO ai_own_keys (subject, provider, secret, master_key) VALUES ($1, $2, $3, $4)",
            )
            .bind(id)
            .bind(provider.as_str())
            .bind(record)
            .bind(master.id().to_string())
            .execute(&mut *tx)
            .await?;
        }
        audit::append(&mut tx, &self.chain, event, now).await?;
        tx.commit().await?;
        Ok(changed)
    }

    async fn own_ai(&self, subject: &str) -> Result<(OwnAi, Option<Timestamp>), Error> {
        let query = "SELECT provider, model, key_delivery, updated_at FROM ai_configs WHERE subject = $1";
        let row = sqlx::query(query).bind(subject).fetch_optional(&self.pool).await?;
        let Some(row) = row else { return Ok((OwnAi::default(), None)) };
        let keys: Vec<String> =
            sqlx::query_scalar("SELECT provider FROM ai_own_keys WHERE subject = $1 ORDER BY provider")
                .bind(subject)
                .fetch_all(&self.pool)
                .await?;
        let own = OwnAi {
            provider: row.try_get::<Option<&str>, _>("provider")?.map(parse).transpose()?,
            model: row.try_get("model")?,
            keys: keys.iter().map(|provider| parse(provider)).collect::<Result<_, _>>()?,
            delivery: row.try_get::<Option<&str>, _>("key_delivery")?.map(parse).transpose()?,
        };
        Ok((own, timestamp(&row, "updated_at")?))
    }
}

async fn write(
    tx: &mut Connection,
    subject: &AiSubject,
    change: &AiConfigChange,
    now: Timestamp,
) -> Result<(), Error> {
    let (id, workspace, user) = match subject {
        AiSubject::Workspace(id, _) => (id.as_str(), Some(id.as_str()), None),
        AiSubject::User(id) => (id.as_str(), None, Some(id.as_str())),
    };
    sqlx::query(
        "INSERT INTO ai_configs (subject, workspace_id, user_id, updated_at) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (subject) DO UPDATE SET updated_at = excluded.updated_at",
    )
    .bind(id)
    .bind(workspace)
    .bind(user)
    .bind(now.unix_ms())
    .execute(&mut *tx)
    .await?;
    if let Some(provider) = change.provider {
        let query = sqlx::query("UPDATE ai_configs SET provider = $1 WHERE subject = $2");
        query.bind(provider.map(Provider::as_str)).bind(id).execute(&mut *tx).await?;
    }
    if let Some(model) = &change.model {
        let query = sqlx::query("UPDATE ai_configs SET model = $1 WHERE subject = $2");
        query.bind(model.as_deref()).bind(id).execute(&mut *tx).await?;
    }
    if let Some(delivery) = change.delivery {
        let query = sqlx::query("UPDATE ai_configs SET key_delivery = $1 WHERE subject = $2");
        query.bind(delivery.map(KeyDelivery::as_str)).bind(id).execute(&mut *tx).await?;
    }
    Ok(())
}
