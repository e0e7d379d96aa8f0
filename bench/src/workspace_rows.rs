//! Workspaces that a benchmark writes into the database by itself, as running ones: there can be more than a machine boots, and none needs a
//! node.

use anyhow::Result;
use rigbox_core::ids::{NodeId, WorkspaceId};
use rusqlite::{Connection, params};

/// Running workspace.
pub(crate) struct RunningWorkspace<'a> {
    pub(crate) id: WorkspaceId,
    /// Id of its user.
    pub(crate) owner: &'a str,
    pub(crate) name: &'a str,
    pub(crate) created_ms: i64,
}

/// Adds a workspace.
pub(crate) fn insert(connection: &Connection, workspace: &RunningWorkspace<'_>) -> Result<()> {
    let RunningWorkspace { id, owner, name, created_ms } = workspace;
    let mut add = connection.prepare_cached(
        "INSERT INTO workspaces (id, user_id, node_id, name, template_id, image, ram_mb, vcpu_count, \
         disk_size_mb, revision, status, status_since, desired, generation, has_disk, boot_id, was_started, \
         attempts, created_at, updated_at) \
         VALUES (?1, ?2, ?3, ?4, 'base', 'base', 512, 1, 4096, 3, 'running', ?5, 'running', 2, TRUE, ?6, TRUE, \
         0, ?5, ?5)",
    )?;
    let (node, boot) = (NodeId::from_random([7; 5]), format!("boot-{id}"));
    add.execute(params![id.as_str(), owner, node.as_str(), name, created_ms, boot])?;
    Ok(())
}
