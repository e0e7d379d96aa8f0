//! Apps: who has which, and what stands at a host name.

use std::collections::BTreeMap;

use rigbox_core::access::Visibility;
use rigbox_core::apps::{AppKind, AppName, CustomDomain};
use rigbox_core::ids::{AppId, UserId, WorkspaceId};
use rigbox_core::permit::Principal;
use rigbox_core::status::Status;
use rigbox_core::time::Moment;
use rusqlite::{OptionalExtension, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::SqliteConnection;

use crate::audit::{self, Act};
use crate::idempotency::{self, Once, Replay};
use crate::lists::{Covered, begin};
use crate::{Error, Store, parsed};

/// An app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// Which one.
    pub id: AppId,
    /// Where it runs.
    pub workspace_id: WorkspaceId,
    /// Whose it is.
    pub user_id: UserId,
    /// The label before the apps' domain.
    pub name: AppName,
    /// Whether it listens.
    pub kind: AppKind,
    /// Where; none for what does not.
    pub port: Option<u16>,
    /// What it speaks, as its owner said.
    pub protocol: String,
    /// To whom it shows itself.
    pub visibility: Visibility,
    /// E-mail addresses in lower case.
    pub shared_with: Vec<String>,
    /// Origins whose pages may ask it.
    pub cors_origins: Vec<String>,
    /// What its service gets as environment.
    pub params: BTreeMap<String, String>,
    /// As its owner gave it.
    pub metadata: serde_json::Value,
    /// For people.
    pub description: Option<String>,
    /// Its owner has stopped it.
    pub stopped: bool,
    /// The systemd unit in the workspace that it is.
    pub service: Option<String>,
    /// A domain besides the installation's.
    pub custom_domain: Option<CustomDomain>,
    /// When the domain was seen to be its owner's.
    pub domain_verified_at: Option<Moment>,
    /// When it was made.
    pub created_at: Moment,
    /// When it changed last.
    pub updated_at: Moment,
}

/// An app with what is to be known of its workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppAt {
    /// The app.
    pub app: App,
    /// The node that the workspace is on.
    pub node_id: String,
    /// What the workspace is doing.
    pub status: Status,
    /// Its boot, if there is one.
    pub boot: Option<String>,
}

/// Where an app is looked for.
#[derive(Debug, Clone)]
pub enum AppHost {
    /// Below the installation's domain.
    Name(AppName),
    /// At a verified domain of its own.
    Domain(CustomDomain),
}

/// What of a list is wanted.
#[derive(Debug, Clone, Default)]
pub struct AppPage {
    /// Only in this workspace.
    pub workspace: Option<WorkspaceId>,
    /// Only this name.
    pub name: Option<String>,
    /// Only what comes after this creation time and id.
    pub after: Option<(i64, String)>,
    /// At most so many.
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
    /// The app of this id.
    pub fn app(&self, id: &AppId) -> Result<Option<AppAt>, Error> {
        self.one_app(apps!("WHERE apps.id = ?1"), id.as_str())
    }

    /// What stands at a host.
    pub fn app_at(&self, host: &AppHost) -> Result<Option<AppAt>, Error> {
        match host {
            AppHost::Name(name) => self.one_app(apps!("WHERE apps.name = ?1"), name.as_str()),
            AppHost::Domain(domain) => self.one_app(
                apps!("WHERE custom_domain = ?1 AND domain_verified_at IS NOT NULL"),
                domain.as_str(),
            ),
        }
    }

    fn one_app(&self, query: &str, value: &str) -> Result<Option<AppAt>, Error> {
        self.hot.read(|connection| {
            let mut statement = connection.prepare_cached(query)?;
            let mut rows = statement.query([value])?;
            rows.next()?.map(app).transpose()
        })
    }

    /// A page of the apps that the principal's credential covers, oldest first.
    pub fn apps_of(&self, principal: &Principal, page: &AppPage) -> Result<Vec<AppAt>, Error> {
        let Some(covered) = Covered::by(principal) else { return Ok(Vec::new()) };
        let (after_time, after_id) = begin(page.after.as_ref());
        self.hot.read(|connection| {
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

    /// The ports of a workspace that its apps are at, stopped ones included.
    pub fn app_ports(&self, workspace: &WorkspaceId) -> Result<Vec<u16>, Error> {
        self.hot.read(|connection| {
            let query = "SELECT DISTINCT port FROM apps WHERE workspace_id = ?1 AND port > 0 ORDER BY port";
            let mut statement = connection.prepare_cached(query)?;
            let ports = statement.query_map([workspace.as_str()], |row| row.get(0))?;
            Ok(ports.collect::<Result<_, _>>()?)
        })
    }

    /// Adds an app to a workspace that has fewer than `most`; with `once`, only if that was not done before (the answer kept is the
    /// id).
    pub async fn add_app(
        &self,
        new: &App,
        most: u32,
        once: Option<&Once>,
        act: &Act,
    ) -> Result<Replay<()>, Error> {
        let mut tx = self.write().await?;
        if let Some(once) = once
            && let Some(id) = idempotency::recall(&mut tx, &new.user_id, once, new.created_at).await?
        {
            tx.commit().await?;
            return Ok(Replay::Before(id));
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
        if apps >= i64::from(most) {
            return Err(Error::Quota { limit_name: "max_apps_per_vm", limit: most.into() });
        }
        insert(&mut tx, new).await?;
        if let Some(once) = once {
            idempotency::remember(&mut tx, &new.user_id, once, new.id.as_str(), new.created_at).await?;
        }
        audit::append(&mut tx, &self.chain, act, new.created_at).await?;
        tx.commit().await?;
        Ok(Replay::Fresh(()))
    }

    /// Stores what has become of an app, unless it was changed since it was read: then `false`.
    pub async fn update_app(&self, seen: &App, app: &App, act: &Act) -> Result<bool, Error> {
        let mut tx = self.write().await?;
        let done = sqlx::query(
            "UPDATE apps SET name = $1, port = $2, visibility = $3, shared_with = $4, cors_origins = $5, params = $6, \
             metadata = $7, description = $8, stopped = $9, service = $10, custom_domain = $11, \
             domain_verified_at = $12, updated_at = $13 WHERE id = $14 AND updated_at = $15",
        )
        .bind(app.name.as_str())
        .bind(i64::from(app.port.unwrap_or(0)))
        .bind(app.visibility.as_str())
        .bind(json(&app.shared_with)?)
        .bind(json(&app.cors_origins)?)
        .bind(json(&app.params)?)
        .bind(json(&app.metadata)?)
        .bind(app.description.as_deref())
        .bind(app.stopped)
        .bind(app.service.as_deref())
        .bind(app.custom_domain.as_ref().map(CustomDomain::as_str))
        .bind(app.domain_verified_at.map(Moment::unix_ms))
        // Told apart from the one before by its time, which therefore moves.
        .bind(app.updated_at.unix_ms().max(seen.updated_at.unix_ms() + 1))
        .bind(seen.id.as_str())
        .bind(seen.updated_at.unix_ms())
        .execute(&mut *tx)
        .await
        .map_err(taken)?;
        let stored = done.rows_affected() == 1;
        if stored {
            audit::append(&mut tx, &self.chain, act, app.updated_at).await?;
        }
        tx.commit().await?;
        Ok(stored)
    }

    /// Removes an app; `false` when it is not there.
    pub async fn delete_app(&self, id: &AppId, act: &Act, now: Moment) -> Result<bool, Error> {
        let mut tx = self.write().await?;
        let done = sqlx::query("DELETE FROM apps WHERE id = $1").bind(id.as_str()).execute(&mut *tx).await?;
        let deleted = done.rows_affected() == 1;
        if deleted {
            audit::append(&mut tx, &self.chain, act, now).await?;
        }
        tx.commit().await?;
        Ok(deleted)
    }

    /// Whether some app has the name.
    pub fn has_app_name(&self, name: &AppName) -> Result<bool, Error> {
        self.hot.read(|connection| {
            let mut statement = connection.prepare_cached("SELECT 1 FROM apps WHERE name = ?1")?;
            Ok(statement.query_row([name.as_str()], |_| Ok(())).optional()?.is_some())
        })
    }
}

async fn insert(connection: &mut SqliteConnection, new: &App) -> Result<(), Error> {
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
    .bind(json(&new.shared_with)?)
    .bind(json(&new.cors_origins)?)
    .bind(json(&new.params)?)
    .bind(json(&new.metadata)?)
    .bind(new.description.as_deref())
    .bind(new.stopped)
    .bind(new.service.as_deref())
    .bind(new.custom_domain.as_ref().map(CustomDomain::as_str))
    .bind(new.domain_verified_at.map(Moment::unix_ms))
    .bind(new.created_at.unix_ms())
    .bind(new.updated_at.unix_ms())
    .execute(connection)
    .await
    .map_err(taken)?;
    Ok(())
}

/// The one thing that is unique and chosen by people.
fn taken(error: sqlx::Error) -> Error {
    match error.as_database_error() {
        Some(database) if database.is_unique_violation() => Error::NameTaken,
        _ => Error::Sql(error),
    }
}

/// A row of `apps!`, by the places that the columns have there.
fn app(row: &Row<'_>) -> Result<AppAt, Error> {
    let text = |at: usize| Ok::<_, Error>(row.get_ref(at)?.as_str().map_err(rusqlite::Error::from)?);
    let optional =
        |at: usize| Ok::<_, Error>(row.get_ref(at)?.as_str_or_null().map_err(rusqlite::Error::from)?);
    let moment = |at: usize| Ok::<_, Error>(Moment::from_unix_ms(row.get(at)?));
    let app = App {
        id: parsed(text(0)?)?,
        workspace_id: parsed(text(1)?)?,
        user_id: parsed(text(2)?)?,
        name: parsed(text(3)?)?,
        kind: parsed(text(4)?)?,
        port: Some(row.get::<_, u16>(5)?).filter(|port| *port > 0),
        protocol: text(6)?.to_owned(),
        visibility: parsed(text(7)?)?,
        shared_with: read(text(8)?)?,
        cors_origins: read(text(9)?)?,
        params: read(text(10)?)?,
        metadata: read(text(11)?)?,
        description: optional(12)?.map(str::to_owned),
        stopped: row.get(13)?,
        service: optional(14)?.map(str::to_owned),
        custom_domain: optional(15)?.map(parsed).transpose()?,
        domain_verified_at: row.get::<_, Option<i64>>(16)?.map(Moment::from_unix_ms),
        created_at: moment(17)?,
        updated_at: moment(18)?,
    };
    Ok(AppAt {
        app,
        node_id: text(19)?.to_owned(),
        status: parsed(text(20)?)?,
        boot: optional(21)?.map(str::to_owned),
    })
}

fn json(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| Error::Damaged(error.to_string()))
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|error| Error::Damaged(error.to_string()))
}
