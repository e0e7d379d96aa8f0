//! Apps, and the lookup of apps by host name.

use std::collections::BTreeMap;

use rigbox_core::app_access::Visibility;
use rigbox_core::apps::{AppKind, AppName, CustomDomain};
use rigbox_core::authz::Principal;
use rigbox_core::ids::{AppId, UserId, WorkspaceId};
use rigbox_core::status::Status;
use rigbox_core::time::Timestamp;
use rusqlite::{OptionalExtension, Row, params};
use sqlx::Row as _;

use crate::audit::{self, AuditEvent};
use crate::idempotency::{self, IdempotencyKey, Replay};
use crate::pagination::{ScopeFilter, page_start};
use crate::revocations::entry::Revocation;
use crate::sqlite::connection::Connection;
use crate::{Error, Store, json, parse};

/// App.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// Id of the app.
    pub id: AppId,
    /// Workspace that serves the app.
    pub workspace_id: WorkspaceId,
    /// Owner.
    pub user_id: UserId,
    /// Name: the label before the apps domain.
    pub name: AppName,
    /// Kind of app.
    pub kind: AppKind,
    /// Port; `None` for a command-line app.
    pub port: Option<u16>,
    /// Protocol, as declared by the owner.
    pub protocol: String,
    /// Audience.
    pub visibility: Visibility,
    /// Lower-case email addresses the app is shared with.
    pub shared_with: Vec<String>,
    /// Origins whose pages may send cross-origin requests.
    pub cors_origins: Vec<String>,
    /// Environment of the app's service.
    pub params: BTreeMap<String, String>,
    /// Free-form metadata of the owner.
    pub metadata: serde_json::Value,
    /// Description for people.
    pub description: Option<String>,
    /// True if the owner has stopped the app.
    pub stopped: bool,
    /// Name of the systemd unit of the app's service in the workspace.
    pub service: Option<String>,
    /// Custom domain.
    pub custom_domain: Option<CustomDomain>,
    /// Time at which the custom domain was verified.
    pub domain_verified_at: Option<Timestamp>,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Time of the last change.
    pub updated_at: Timestamp,
}

/// App with the relevant facts about its workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppWithWorkspace {
    /// The app.
    pub app: App,
    /// Node of the workspace.
    pub node_id: String,
    /// Status of the workspace.
    pub status: Status,
    /// Current boot of the workspace, if any.
    pub boot: Option<String>,
}

/// Action in the audit log of who loses a custom domain.
const DOMAIN_LOST: &str = "app.domain_lost";
/// Time for which a name stays its last owner's.
const RELEASED_NAME_TTL_MS: i64 = 90 * 24 * 60 * 60 * 1000;

/// Host name of an app.
#[derive(Debug, Clone)]
pub enum AppHost {
    /// Name below the apps domain.
    Name(AppName),
    /// Verified custom domain.
    Domain(CustomDomain),
}

/// Filter and position of a page of apps.
#[derive(Debug, Clone, Default)]
pub struct AppPage {
    /// Only apps of this workspace.
    pub workspace: Option<WorkspaceId>,
    /// Only the app of this name.
    pub name: Option<String>,
    /// Only apps after this creation time and id.
    pub after: Option<(i64, String)>,
    /// Maximum number of apps.
    pub limit: u32,
}

macro_rules! apps {
    ($rest:literal) => {
        concat!(
            "SELECT apps.id, apps.workspace_id, apps.user_id, apps.name, kind, port, protocol, visibility, shared_with, \
             cors_origins, params, metadata, description, stopped, service, custom_domain, domain_verified_at, \
             apps.created_at, apps.updated_at, workspaces.node_id, workspaces.status, workspaces.boot_id \
             FROM apps JOIN workspaces ON workspaces.id = apps.workspace_id ",
            $rest
        )
    };
}

impl Store {
    /// Returns the app with this id.
    pub fn app(&self, id: &AppId) -> Result<Option<AppWithWorkspace>, Error> {
        self.one_app(apps!("WHERE apps.id = ?1"), id.as_str())
    }

    /// Returns the app at a host name, unless its owner is disabled.
    pub fn app_at(&self, host: &AppHost) -> Result<Option<AppWithWorkspace>, Error> {
        match host {
            AppHost::Name(name) => self.one_app(
                apps!("WHERE apps.name = ?1 AND NOT EXISTS (SELECT 1 FROM users WHERE id = apps.user_id AND disabled_at > 0)"),
                name.as_str(),
            ),
            AppHost::Domain(domain) => self.one_app(
                apps!(
                    "WHERE custom_domain = ?1 AND domain_verified_at IS NOT NULL \
                     AND NOT EXISTS (SELECT 1 FROM users WHERE id = apps.user_id AND disabled_at > 0)"
                ),
                domain.as_str(),
            ),
        }
    }

    /// Returns a value that changes whenever a user is disabled or enabled.
    pub fn disabled_users(&self) -> Result<(i64, i64), Error> {
        self.readers.read(|connection| {
            let query =
                "SELECT COUNT(*), COALESCE(SUM(disabled_at), 0) FROM users WHERE disabled_at IS NOT NULL";
            Ok(connection.prepare_cached(query)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?)
        })
    }

    /// Returns the oldest app of a workspace that exposes a port.
    pub fn app_on_port(&self, workspace: &WorkspaceId, port: u16) -> Result<Option<AppWithWorkspace>, Error> {
        self.readers.read(|connection| {
            let query =
                apps!("WHERE apps.workspace_id = ?1 AND port = ?2 ORDER BY apps.created_at, apps.id LIMIT 1");
            let mut statement = connection.prepare_cached(query)?;
            let mut rows = statement.query((workspace.as_str(), port))?;
            rows.next()?.map(app).transpose()
        })
    }

    fn one_app(&self, query: &str, value: &str) -> Result<Option<AppWithWorkspace>, Error> {
        self.readers.read(|connection| {
            let mut statement = connection.prepare_cached(query)?;
            let mut rows = statement.query([value])?;
            rows.next()?.map(app).transpose()
        })
    }

    /// Returns a page of the apps that the principal's credential covers, oldest first.
    pub fn apps_of(&self, principal: &Principal, page: &AppPage) -> Result<Vec<AppWithWorkspace>, Error> {
        let Some(covered) = ScopeFilter::for_principal(principal) else { return Ok(Vec::new()) };
        let (after_time, after_id) = page_start(page.after.as_ref());
        self.readers.read(|connection| {
            let mut statement = connection.prepare_cached(apps!(
                "WHERE apps.user_id = ?1 AND (apps.created_at, apps.id) > (?2, ?3) \
                 AND (?4 = '' OR apps.workspace_id = ?4) AND (?5 = '' OR apps.name = ?5) \
                 AND (?6 = '' OR apps.workspace_id IN \
                     (SELECT workspace_id FROM api_key_workspaces WHERE key_id = ?6)) \
                 AND (?7 = '' OR apps.workspace_id = ?7) ORDER BY apps.created_at, apps.id LIMIT ?8"
            ))?;
            let mut rows = statement.query(params![
                principal.user.as_str(),
                after_time,
                after_id,
                page.workspace.as_ref().map_or("", WorkspaceId::as_str),
                page.name.as_deref().unwrap_or(""),
                covered.key,
                covered.workspace,
                page.limit,
            ])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(app(row)?);
            }
            Ok(found)
        })
    }

    /// Returns the ports of a workspace's apps, including stopped ones.
    pub fn app_ports(&self, workspace: &WorkspaceId) -> Result<Vec<u16>, Error> {
        self.readers.read(|connection| {
            let query = "SELECT DISTINCT port FROM apps WHERE workspace_id = ?1 AND port > 0 ORDER BY port";
            let mut statement = connection.prepare_cached(query)?;
            let ports = statement.query_map([workspace.as_str()], |row| row.get(0))?;
            Ok(ports.collect::<Result<_, _>>()?)
        })
    }

    /// Adds an app to a workspace that has fewer than `max` apps. With `idempotency_key`, a repetition
    /// returns the id stored the first time.
    pub async fn add_app(
        &self,
        new: &App,
        max: u32,
        idempotency_key: Option<&IdempotencyKey>,
        event: &AuditEvent,
    ) -> Result<Replay<()>, Error> {
        let mut tx = self.begin_write().await?;
        if let Some(idempotency_key) = idempotency_key
            && let Some(id) =
                idempotency::stored_response(&mut tx, &new.user_id, idempotency_key, new.created_at).await?
        {
            tx.commit().await?;
            return Ok(Replay::Repeated(id));
        }
        let workspace =
            sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM workspaces WHERE id = $1 AND status <> $2")
                .bind(new.workspace_id.as_str())
                .bind(Status::Deleting.as_str())
                .fetch_one(&mut *tx)
                .await?;
        if workspace == 0 {
            return Err(Error::NoWorkspace(new.workspace_id.clone()));
        }
        let apps: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM apps WHERE workspace_id = $1")
            .bind(new.workspace_id.as_str())
            .fetch_one(&mut *tx)
            .await?;
        if apps >= i64::from(max) {
            let used = u64::try_from(apps).unwrap_or(0);
            return Err(Error::Quota { limit_name: "max_apps_per_vm", limit: max.into(), used });
        }
        take_name(&mut tx, &new.name, &new.user_id, new.created_at).await?;
        insert(&mut tx, new).await?;
        if let Some(idempotency_key) = idempotency_key {
            idempotency::store_response(
                &mut tx,
                &new.user_id,
                idempotency_key,
                new.id.as_str(),
                new.created_at,
            )
            .await?;
        }
        audit::append(&mut tx, &self.chain, event, new.created_at).await?;
        tx.commit().await?;
        Ok(Replay::Fresh(()))
    }

    /// Stores a changed app. Returns the workspaces of apps that lose their custom domain to it, or `None` if the app was changed since it
    /// was read.
    pub async fn update_app(
        &self,
        previous: &App,
        app: &App,
        event: &AuditEvent,
    ) -> Result<Option<Vec<WorkspaceId>>, Error> {
        let mut tx = self.begin_write().await?;
        if app.name != previous.name {
            take_name(&mut tx, &app.name, &app.user_id, app.updated_at).await?;
        }
        // Whoever proves now that a domain is theirs gets it from whoever proved it before.
        let displaced = match &app.custom_domain {
            Some(domain) if app.domain_verified_at != previous.domain_verified_at => {
                self.displace(&mut tx, domain, app).await?
            }
            _ => Vec::new(),
        };
        let done = sqlx::query(
            "UPDATE apps SET name = $1, port = $2, visibility = $3, shared_with = $4, cors_origins = $5, params = $6, \
             metadata = $7, description = $8, stopped = $9, service = $10, custom_domain = $11, \
             domain_verified_at = $12, updated_at = $13 WHERE id = $14 AND updated_at = $15",
        )
        .bind(app.name.as_str())
        .bind(i64::from(app.port.unwrap_or(0)))
        .bind(app.visibility.as_str())
        .bind(json::to_text(&app.shared_with)?)
        .bind(json::to_text(&app.cors_origins)?)
        .bind(json::to_text(&app.params)?)
        .bind(json::to_text(&app.metadata)?)
        .bind(app.description.as_deref())
        .bind(app.stopped)
        .bind(app.service.as_deref())
        .bind(app.custom_domain.as_ref().map(CustomDomain::as_str))
        .bind(app.domain_verified_at.map(Timestamp::unix_ms))
        // The update time identifies the version, so it has to advance.
        .bind(app.updated_at.unix_ms().max(previous.updated_at.unix_ms() + 1))
        .bind(previous.id.as_str())
        .bind(previous.updated_at.unix_ms())
        .execute(&mut *tx)
        .await
        .map_err(taken)?;
        if done.rows_affected() != 1 {
            return Ok(None);
        }
        audit::append(&mut tx, &self.chain, event, app.updated_at).await?;
        let mut changes = self.changed_access(previous, app);
        let lost = |id: &AppId| Revocation::AppDomain { app: id.to_string(), domain: None };
        changes.extend(displaced.iter().map(|(id, _)| lost(id)));
        self.commit_revoking(tx, changes, app.updated_at).await?;
        Ok(Some(displaced.into_iter().map(|(_, workspace)| workspace).collect()))
    }

    /// Returns what a change of an app does to who may open it, for the log of revocations.
    fn changed_access(&self, previous: &App, app: &App) -> Vec<Revocation> {
        let access = |app: &App| Revocation::App {
            app: previous.id.to_string(),
            visibility: app.visibility.as_str().to_owned(),
            shared_with: app
                .shared_with
                .iter()
                .map(|address| self.revocations.hash_address(address))
                .collect(),
            cors_origins: app.cors_origins.clone(),
            port: app.port,
        };
        let domain = |app: &App| Revocation::AppDomain {
            app: previous.id.to_string(),
            domain: app
                .custom_domain
                .as_ref()
                .filter(|_| app.domain_verified_at.is_some())
                .map(ToString::to_string),
        };
        let pairs = [(access(previous), access(app)), (domain(previous), domain(app))];
        pairs.into_iter().filter(|(before, after)| before != after).map(|(_, after)| after).collect()
    }

    async fn displace(
        &self,
        connection: &mut Connection,
        domain: &CustomDomain,
        by: &App,
    ) -> Result<Vec<(AppId, WorkspaceId)>, Error> {
        let rows = sqlx::query(
            "UPDATE apps SET domain_verified_at = NULL \
             WHERE custom_domain = $1 AND id <> $2 AND domain_verified_at IS NOT NULL \
             RETURNING id, user_id, workspace_id",
        )
        .bind(domain.as_str())
        .bind(by.id.as_str())
        .fetch_all(&mut *connection)
        .await?;
        let mut workspaces = Vec::new();
        for row in rows {
            let (id, user): (String, String) = (row.try_get("id")?, row.try_get("user_id")?);
            let event = AuditEvent::by_operator(&parse(&user)?, DOMAIN_LOST, &id);
            audit::append(connection, &self.chain, &event, by.updated_at).await?;
            workspaces.push((parse(&id)?, parse(row.try_get("workspace_id")?)?));
        }
        Ok(workspaces)
    }

    /// Returns apps whose custom domain was last proved before `before`, the oldest proof first.
    pub async fn domains_proved_before(&self, before: Timestamp, limit: u32) -> Result<Vec<AppId>, Error> {
        let ids: Vec<String> = sqlx::query_scalar(
            "SELECT id FROM apps WHERE domain_verified_at < $1 ORDER BY domain_verified_at LIMIT $2",
        )
        .bind(before.unix_ms())
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        ids.iter().map(|id| parse(id)).collect()
    }

    /// Records a new proof of an app's custom domain, if the domain is still verified.
    pub async fn domain_proved(
        &self,
        app: &AppId,
        domain: &CustomDomain,
        now: Timestamp,
    ) -> Result<(), Error> {
        sqlx::query(
            "UPDATE apps SET domain_verified_at = $1 \
             WHERE id = $2 AND custom_domain = $3 AND domain_verified_at IS NOT NULL",
        )
        .bind(now.unix_ms())
        .bind(app.as_str())
        .bind(domain.as_str())
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// Records that an app's custom domain is no longer proved. Returns `false` if it was not verified.
    pub async fn domain_lost(&self, app: &App, now: Timestamp) -> Result<bool, Error> {
        let mut tx = self.begin_write().await?;
        let done = sqlx::query(
            "UPDATE apps SET domain_verified_at = NULL \
             WHERE id = $1 AND custom_domain = $2 AND domain_verified_at IS NOT NULL",
        )
        .bind(app.id.as_str())
        .bind(app.custom_domain.as_ref().map(CustomDomain::as_str))
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        let event = AuditEvent::by_operator(&app.user_id, DOMAIN_LOST, &app.id);
        audit::append(&mut tx, &self.chain, &event, now).await?;
        let change = Revocation::AppDomain { app: app.id.to_string(), domain: None };
        self.commit_revoking(tx, vec![change], now).await?;
        Ok(true)
    }

    /// Deletes an app. Returns `false` if there is none.
    pub async fn delete_app(&self, id: &AppId, event: &AuditEvent, now: Timestamp) -> Result<bool, Error> {
        let mut tx = self.begin_write().await?;
        let done = sqlx::query("DELETE FROM apps WHERE id = $1").bind(id.as_str()).execute(&mut *tx).await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        audit::append(&mut tx, &self.chain, event, now).await?;
        self.commit_revoking(tx, vec![Revocation::DeletedApp { app: id.to_string() }], now).await?;
        Ok(true)
    }

    /// Returns whether an app has this name, or another user's had it not long before `now`.
    pub fn has_app_name(&self, name: &AppName, user: &UserId, now: Timestamp) -> Result<bool, Error> {
        self.readers.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT 1 FROM apps WHERE name = ?1 UNION ALL \
                 SELECT 1 FROM released_app_names WHERE name = ?1 AND user_id <> ?2 AND released_at > ?3",
            )?;
            let values = params![name.as_str(), user.as_str(), now.unix_ms() - RELEASED_NAME_TTL_MS];
            Ok(statement.query_row(values, |_| Ok(())).optional()?.is_some())
        })
    }
}

/// Takes a name, unless another user's app had it not long ago.
async fn take_name(
    connection: &mut Connection,
    name: &AppName,
    user: &UserId,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query("DELETE FROM released_app_names WHERE released_at <= $1 OR (name = $2 AND user_id = $3)")
        .bind(now.unix_ms() - RELEASED_NAME_TTL_MS)
        .bind(name.as_str())
        .bind(user.as_str())
        .execute(&mut *connection)
        .await?;
    let kept: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM released_app_names WHERE name = $1")
        .bind(name.as_str())
        .fetch_one(connection)
        .await?;
    if kept > 0 { Err(Error::NameTaken) } else { Ok(()) }
}

async fn insert(connection: &mut Connection, new: &App) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO apps (id, workspace_id, user_id, name, kind, port, protocol, visibility, shared_with, \
         cors_origins, params, metadata, description, stopped, service, custom_domain, domain_verified_at, \
         created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)",
    )
    .bind(new.id.as_str())
    .bind(new.workspace_id.as_str())
    .bind(new.user_id.as_str())
    .bind(new.name.as_str())
    .bind(new.kind.as_str())
    .bind(i64::from(new.port.unwrap_or(0)))
    .bind(&new.protocol)
    .bind(new.visibility.as_str())
    .bind(json::to_text(&new.shared_with)?)
    .bind(json::to_text(&new.cors_origins)?)
    .bind(json::to_text(&new.params)?)
    .bind(json::to_text(&new.metadata)?)
    .bind(new.description.as_deref())
    .bind(new.stopped)
    .bind(new.service.as_deref())
    .bind(new.custom_domain.as_ref().map(CustomDomain::as_str))
    .bind(new.domain_verified_at.map(Timestamp::unix_ms))
    .bind(new.created_at.unix_ms())
    .bind(new.updated_at.unix_ms())
    .execute(connection)
    .await
    .map_err(taken)?;
    Ok(())
}

/// Maps a violation of the only unique column that users choose.
fn taken(error: sqlx::Error) -> Error {
    match error.as_database_error() {
        Some(database) if database.is_unique_violation() => Error::NameTaken,
        _ => Error::Sql(error),
    }
}

/// Parses a row of `apps!`, by column position.
fn app(row: &Row<'_>) -> Result<AppWithWorkspace, Error> {
    let text = |at: usize| Ok::<_, Error>(row.get_ref(at)?.as_str().map_err(rusqlite::Error::from)?);
    let optional =
        |at: usize| Ok::<_, Error>(row.get_ref(at)?.as_str_or_null().map_err(rusqlite::Error::from)?);
    let timestamp = |at: usize| Ok::<_, Error>(Timestamp::from_unix_ms(row.get(at)?));
    let app = App {
        id: parse(text(0)?)?,
        workspace_id: parse(text(1)?)?,
        user_id: parse(text(2)?)?,
        name: parse(text(3)?)?,
        kind: parse(text(4)?)?,
        port: Some(row.get::<_, u16>(5)?).filter(|port| *port > 0),
        protocol: text(6)?.to_owned(),
        visibility: parse(text(7)?)?,
        shared_with: json::parse(text(8)?)?,
        cors_origins: json::parse(text(9)?)?,
        params: json::parse(text(10)?)?,
        metadata: json::parse(text(11)?)?,
        description: optional(12)?.map(str::to_owned),
        stopped: row.get(13)?,
        service: optional(14)?.map(str::to_owned),
        custom_domain: optional(15)?.map(parse).transpose()?,
        domain_verified_at: row.get::<_, Option<i64>>(16)?.map(Timestamp::from_unix_ms),
        created_at: timestamp(17)?,
        updated_at: timestamp(18)?,
    };
    Ok(AppWithWorkspace {
        app,
        node_id: text(19)?.to_owned(),
        status: parse(text(20)?)?,
        boot: optional(21)?.map(str::to_owned),
    })
}
