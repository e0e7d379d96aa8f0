//! Copies of the database: made while it is in use, and inspected before one is restored.

use std::fs::{self, File};
use std::path::Path;

use rigbox_core::ids::DatabaseId;
use rigbox_core::time::Timestamp;
use rusqlite::{OpenFlags, OptionalExtension};
use sqlx::AssertSqlSafe;

use crate::audit::{self, AuditEvent};
use crate::sqlite::connection::Connection;
use crate::tokens::create_private;
use crate::workspaces::UNDELIVERED;
use crate::{Error, MasterKeyId, Store, migrations, parse};

/// Facts about a copy of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyInfo {
    /// Version of its schema.
    pub schema: i64,
    /// Identity of the database.
    pub database: DatabaseId,
    /// Master keys that its secrets are encrypted with.
    pub master_keys: Vec<MasterKeyId>,
}

impl Store {
    /// Writes a consistent copy of the database to `path`, in place of an earlier copy, while others may write. It is durable on return.
    pub async fn copy_to(&self, path: &Path) -> Result<CopyInfo, Error> {
        // The copy has to have an identity.
        self.database_id().await?;
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::file(path, error));
            }
            _ => {}
        }
        // SQLite would create the file for everyone to read.
        create_private(path, &[])?;
        sqlx::query("VACUUM INTO $1")
            .bind(path.to_str().ok_or_else(|| Error::file(path, "not valid UTF-8"))?)
            .execute(&self.writer)
            .await?;
        make_undelivered(path)?;
        File::open(path).and_then(|copy| copy.sync_all()).map_err(|error| Error::file(path, error))?;
        inspect_copy(path)
    }

    /// Ends what does not live on in a database from a backup: sessions, sign-in links, device logins, codes of apps, and keys of boots
    /// (a VM that runs gets a new one, with all its secrets).
    pub async fn end_sign_ins(&self, now: Timestamp) -> Result<(), Error> {
        let database = self.database_id().await?;
        let first = self.first_user().await?;
        let mut tx = self.begin_write().await?;
        end_all(&mut tx).await?;
        if let Some(first) = first {
            let event = AuditEvent::by_operator(&first.id, "database.restore", database);
            audit::append(&mut tx, &self.chain, &event, now).await?;
        }
        Ok(tx.commit().await?)
    }
}

/// Ends all sign-ins within a transaction.
pub(crate) async fn end_all(connection: &mut Connection) -> Result<(), Error> {
    let query = "UPDATE workspaces SET delivered_revision = $1";
    sqlx::query(query).bind(UNDELIVERED).execute(&mut *connection).await?;
    for table in ["app_codes", "sessions", "login_links", "device_logins", "workspace_keys"] {
        sqlx::query(AssertSqlSafe(format!("DELETE FROM {table}"))).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Makes a copy of the database deliver all secrets again: when it is restored, the VMs have what came after it.
fn make_undelivered(path: &Path) -> Result<(), Error> {
    let connection = rusqlite::Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.execute("UPDATE workspaces SET delivered_revision = ?1", [UNDELIVERED])?;
    connection.close().map_err(|(_, error)| Error::Inline(error))
}

/// Reads the facts about a copy of the database, and checks that it is intact and that this version can open it.
pub fn inspect_copy(path: &Path) -> Result<CopyInfo, Error> {
    let connection = rusqlite::Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let state: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if state != "ok" {
        return Err(Error::file(path, format!("it is damaged ({state}): use another backup")));
    }
    let schema: i64 =
        connection.query_row("SELECT MAX(version) FROM _sqlx_migrations", [], |row| row.get(0))?;
    if schema > migrations::newest() {
        return Err(Error::NewerSchema(schema));
    }
    let id = "SELECT id FROM database_identity";
    let id: Option<String> = connection.query_row(id, [], |row| row.get(0)).optional()?;
    let id =
        id.ok_or_else(|| Error::file(path, "it has no id: it is no copy made by `rigboxd admin backup`"))?;
    let mut keys = connection.prepare("SELECT id FROM master_keys ORDER BY active DESC, id")?;
    let keys = keys.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    let master_keys = keys.iter().map(|key| parse(key)).collect::<Result<_, _>>()?;
    Ok(CopyInfo { schema, database: parse(&id)?, master_keys })
}
