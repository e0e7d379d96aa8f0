//! Databases of the bench `api`: one user with a few workspaces, among as many of others as are wanted.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rigbox_control::admin;
use rigbox_core::ids::{NodeId, UserId, WorkspaceId};
use rigbox_core::plans::LimitOverrides;
use rusqlite::{Connection, params};

use super::server::config;

/// Workspaces of the user who asks, and of each other user.
const EACH: u32 = 10;
/// A limit that is looked at, and never reached.
const RATE: Option<NonZeroU32> = NonZeroU32::new(600_000_000);
const EMAIL: &str = "bench@rigbox.invalid";
const NOW_MS: i64 = 1_800_000_000_000;

pub(super) struct Database {
    pub(super) folder: PathBuf,
    /// The user who asks.
    pub(super) user: String,
    pub(super) key: String,
}

impl Database {
    /// A database in a new folder.
    pub(super) fn make(folder: &Path, others: u32) -> Result<Self> {
        std::fs::create_dir(folder)?;
        // Where it will listen is not known yet, and does not matter here.
        let config = config(folder, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let made = runtime.block_on(async {
            let made = admin::bootstrap(&config, EMAIL).await?;
            let limits = LimitOverrides { workspaces_per_min: RATE, ..LimitOverrides::default() };
            admin::set_limits(&config, EMAIL, Some(limits)).await?;
            anyhow::Ok(made)
        })?;
        fill(&config.database, &made.user_id, others).context("filling the database")?;
        Ok(Self {
            folder: folder.to_owned(),
            user: made.user_id.to_string(),
            key: made.api_key.reveal().to_owned(),
        })
    }
}

fn fill(path: &Path, user: &UserId, others: u32) -> Result<()> {
    let mut connection = Connection::open(path)?;
    // Whoever is interrupted begins anew: nothing here has to survive a crash.
    connection.execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -500000;")?;
    let transaction = connection.transaction()?;
    {
        let mut add_user = transaction
            .prepare("INSERT INTO users (id, email, plan, created_at) VALUES (?1, ?2, 'pro', ?3)")?;
        let mut add = transaction.prepare(
            "INSERT INTO workspaces (id, user_id, node_id, name, template_id, image, ram_mb, vcpu_count, \
             disk_size_mb, revision, status, status_since, desired, generation, has_disk, boot_id, last_boot_id, \
             agent_lost, attempts, created_at, updated_at) \
             VALUES (?1, ?2, ?3, ?4, 'base', 'base', 512, 1, 4096, 3, 'running', ?5, 'running', 2, TRUE, ?6, ?6, \
             FALSE, 0, ?5, ?5)",
        )?;
        let node = NodeId::from_random([7; 5]);
        let mut owner = user.to_string();
        for number in 0..EACH + others {
            if number >= EACH && number.is_multiple_of(EACH) {
                owner = UserId::from_random(scattered(number)).to_string();
                add_user.execute(params![owner, format!("user-{number}@rigbox.invalid"), NOW_MS])?;
            }
            let id = WorkspaceId::from_random(scattered(number));
            let (name, made) = (format!("workspace-{}", number % EACH), NOW_MS + i64::from(number));
            let boot = format!("boot-{number}");
            add.execute(params![id.as_str(), owner, node.as_str(), name, made, boot])?;
        }
    }
    transaction.commit()?;
    Ok(())
}

/// Ids in no order, as random ones are, and never the same for two numbers.
fn scattered(number: u32) -> [u8; 5] {
    // Odd, so that multiplying by it loses nothing.
    let [.., a, b, c, d, e] = (u64::from(number) + 1).wrapping_mul(0x9E_3779_B97F_4A7D).to_be_bytes();
    [a, b, c, d, e]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scattered_numbers_are_as_many_as_numbers() {
        let all: std::collections::HashSet<_> = (0..100_000).map(scattered).collect();
        assert_eq!(all.len(), 100_000);
    }
}
