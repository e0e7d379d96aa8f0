//! Databases of the benchmark `api`: the caller with a few workspaces, among any number of those of other users.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rigbox_control::admin;
use rigbox_core::ids::{UserId, WorkspaceId};
use rigbox_core::plans::LimitOverrides;
use rusqlite::{Connection, params};

use crate::control_config::control_config;
use crate::workspace_rows::{RunningWorkspace, insert};

/// Number of workspaces per user.
const WORKSPACES_PER_USER: u32 = 10;
/// Rate limit that is checked but never reached.
const RATE: Option<NonZeroU32> = NonZeroU32::new(600_000_000);
const EMAIL: &str = "bench@rigbox.invalid";
const NOW_MS: i64 = 1_800_000_000_000;

pub(super) struct Database {
    pub(super) folder: PathBuf,
    /// Id of the caller.
    pub(super) user: String,
    pub(super) key: String,
}

impl Database {
    /// Creates a database in a new folder.
    pub(super) fn create(folder: &Path, others: u32) -> Result<Self> {
        std::fs::create_dir(folder)?;
        // The address is not known yet and has no effect here.
        let config = control_config(folder, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let created = runtime.block_on(async {
            let created = admin::bootstrap(&config, EMAIL).await?;
            let limits = LimitOverrides { workspaces_per_min: RATE, ..LimitOverrides::default() };
            admin::set_limits(&config, EMAIL, Some(limits)).await?;
            anyhow::Ok(created)
        })?;
        fill(&config.database, &created.user_id, others).context("filling the database")?;
        Ok(Self {
            folder: folder.to_owned(),
            user: created.user_id.to_string(),
            key: created.api_key.reveal().to_owned(),
        })
    }
}

fn fill(path: &Path, user: &UserId, others: u32) -> Result<()> {
    let mut connection = Connection::open(path)?;
    // Nothing here has to survive a crash.
    connection.execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -500000;")?;
    let transaction = connection.transaction()?;
    {
        let mut add_user = transaction
            .prepare("INSERT INTO users (id, email, plan, created_at) VALUES (?1, ?2, 'pro', ?3)")?;
        let mut owner = user.to_string();
        for number in 0..WORKSPACES_PER_USER + others {
            if number >= WORKSPACES_PER_USER && number.is_multiple_of(WORKSPACES_PER_USER) {
                owner = UserId::from_random(scattered(number)).to_string();
                add_user.execute(params![owner, format!("user-{number}@rigbox.invalid"), NOW_MS])?;
            }
            let name = format!("workspace-{}", number % WORKSPACES_PER_USER);
            let id = WorkspaceId::from_random(scattered(number));
            let created_ms = NOW_MS + i64::from(number);
            insert(&transaction, &RunningWorkspace { id, owner: &owner, name: &name, created_ms })?;
        }
    }
    transaction.commit()?;
    Ok(())
}

/// Returns a distinct id for each number, in no order, like a random one.
fn scattered(number: u32) -> [u8; 5] {
    // Multiplication by an odd number is invertible.
    let [.., a, b, c, d, e] = (u64::from(number) + 1).wrapping_mul(0x9E_3779_B97F_4A7D).to_be_bytes();
    [a, b, c, d, e]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scattered_ids_are_distinct() {
        let all: std::collections::HashSet<_> = (0..100_000).map(scattered).collect();
        assert_eq!(all.len(), 100_000);
    }
}
