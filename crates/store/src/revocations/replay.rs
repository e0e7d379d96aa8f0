//! Applies entries of the log to a database that lacks them, because it is an older one or a crash came before the commit. It only takes
//! away: what the database and the entry both allow is left.

use rigbox_core::app_access::Visibility;
use rigbox_core::egress::Egress;
use rigbox_core::time::Timestamp;
use sqlx::Row;

use super::entry::Revocation;
use crate::networks::{self, NetworkSettings};
use crate::sqlite::connection::Connection;
use crate::{Error, json, parse, tombstones};

/// Applies one change. `hash` returns the keyed hash of an address.
pub(super) async fn apply(
    connection: &mut Connection,
    change: &Revocation,
    hash: &(dyn Fn(&str) -> String + Sync),
    at: Timestamp,
) -> Result<(), Error> {
    match change {
        Revocation::RevokedKey { key } => delete(connection, "DELETE FROM api_keys WHERE id = $1", key).await,
        Revocation::RotatedKey { key, hash, preview, old_hash, old_hash_until } => {
            let query = sqlx::query(
                "UPDATE api_keys SET hash = $1, preview = $2, old_hash = $3, old_hash_until = $4 WHERE id = $5",
            );
            let query = query.bind(hash).bind(preview).bind(old_hash).bind(old_hash_until).bind(key);
            query.execute(connection).await?;
            Ok(())
        }
        Revocation::RemovedSshKey { key } => {
            delete(connection, "DELETE FROM ssh_keys WHERE id = $1", key).await
        }
        Revocation::ProxiedSecret { secret, until } => {
            let query = "DELETE FROM proxied_secrets WHERE user_id || '/' || name = $1 AND updated_at < $2";
            sqlx::query(query).bind(secret).bind(until).execute(connection).await?;
            Ok(())
        }
        Revocation::User { disabled_at: None, .. } | Revocation::Database { .. } => Ok(()),
        Revocation::User { user, disabled_at: Some(disabled_at) } => {
            let query = "UPDATE users SET disabled_at = COALESCE(disabled_at, $1) WHERE id = $2";
            sqlx::query(query).bind(disabled_at).bind(user).execute(connection).await?;
            Ok(())
        }
        Revocation::Session { session } => {
            delete(connection, "DELETE FROM sessions WHERE id = $1", session).await
        }
        Revocation::App { app, visibility, shared_with, cors_origins, port } => {
            let logged = Access { visibility: parse(visibility)?, shared_with, cors_origins, port: *port };
            narrow_app(connection, app, &logged, hash).await
        }
        Revocation::AppDomain { app, domain } => {
            let query = "UPDATE apps SET domain_verified_at = NULL, updated_at = updated_at + 1 \
                         WHERE id = $1 AND domain_verified_at IS NOT NULL AND custom_domain IS NOT $2";
            sqlx::query(query).bind(app).bind(domain).execute(connection).await?;
            Ok(())
        }
        Revocation::DeletedApp { app } => delete(connection, "DELETE FROM apps WHERE id = $1", app).await,
        Revocation::Network { workspace, egress, apps_from_inside_any } => {
            narrow_network(connection, workspace, egress, *apps_from_inside_any).await
        }
        Revocation::AiSpent { user, spent } => {
            let query = "UPDATE ai_accounts SET spent = CASE WHEN $1 > granted - reserved THEN granted - reserved ELSE $1 END, \
                         spent_logged = $1 WHERE user_id = $2 AND spent < $1";
            sqlx::query(query).bind(spent).bind(user).execute(connection).await?;
            Ok(())
        }
        Revocation::DeletedWorkspace { workspace, node } => {
            // The node removes what it still has of a workspace with a tombstone and no row.
            tombstones::add(connection, &parse(workspace)?, &parse(node)?, at).await?;
            delete(connection, "DELETE FROM workspaces WHERE id = $1", workspace).await
        }
    }
}

async fn delete(connection: &mut Connection, query: &'static str, id: &str) -> Result<(), Error> {
    sqlx::query(query).bind(id).execute(connection).await?;
    Ok(())
}

/// Logged state of an app.
struct Access<'a> {
    visibility: Visibility,
    shared_with: &'a [String],
    cors_origins: &'a [String],
    port: Option<u16>,
}

async fn narrow_app(
    connection: &mut Connection,
    app: &str,
    logged: &Access<'_>,
    hash: &(dyn Fn(&str) -> String + Sync),
) -> Result<(), Error> {
    let query = "SELECT visibility, shared_with, cors_origins, port FROM apps WHERE id = $1";
    let Some(row) = sqlx::query(query).bind(app).fetch_optional(&mut *connection).await? else {
        return Ok(());
    };
    let visibility: Visibility = parse(row.try_get("visibility")?)?;
    let port = u16::try_from(row.try_get::<i64, _>("port")?).ok().filter(|port| *port > 0);
    // What is at the port of then was not shared any more.
    let visibility =
        if port == logged.port { visibility.min(logged.visibility) } else { Visibility::Private };
    let (mut shared_with, mut cors_origins): (Vec<String>, Vec<String>) =
        (json::parse(row.try_get("shared_with")?)?, json::parse(row.try_get("cors_origins")?)?);
    shared_with.retain(|address| logged.shared_with.contains(&hash(address)));
    cors_origins.retain(|origin| logged.cors_origins.contains(origin));
    let query = "UPDATE apps SET visibility = $1, shared_with = $2, cors_origins = $3, updated_at = updated_at + 1 \
                 WHERE id = $4";
    sqlx::query(query)
        .bind(visibility.as_str())
        .bind(json::to_text(&shared_with)?)
        .bind(json::to_text(&cors_origins)?)
        .bind(app)
        .execute(connection)
        .await?;
    Ok(())
}

async fn narrow_network(
    connection: &mut Connection,
    workspace: &str,
    egress: &Egress,
    apps_from_inside_any: bool,
) -> Result<(), Error> {
    let narrow = |settings: &mut NetworkSettings| {
        settings.egress = settings.egress.intersection(egress);
        settings.apps_from_inside_any &= apps_from_inside_any;
    };
    networks::change(connection, workspace, narrow, None).await.map(drop)
}
