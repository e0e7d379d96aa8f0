//! Control's part of a backup: a copy of the database, and which keys it needs.

use std::path::Path;

use rigbox_service::database::CopyInfo;

use super::Database;
use crate::{Config, Error};

/// Copy of the database for a backup.
#[derive(Debug, Clone)]
pub struct DatabaseCopy {
    /// Facts about the copy.
    pub info: CopyInfo,
    /// Id of the token key whose hashes it contains.
    pub token_key: String,
}

/// Writes a copy of the database to `path`, beside a control role that may be running.
pub async fn copy_database(config: &Config, path: &Path) -> Result<DatabaseCopy, Error> {
    let Database { store, token_key } = Database::open(config).await?;
    let info = store.copy_to(path).await?;
    store.close().await;
    Ok(DatabaseCopy { info, token_key: token_key.id() })
}
