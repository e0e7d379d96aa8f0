//! Evidence that the deletion of a workspace was acknowledged. Nothing is destroyed because it was not found.

use rigbox_core::ids::{NodeId, WorkspaceId};
use rigbox_core::time::Timestamp;

use crate::Error;
use crate::sqlite::connection::Connection;

/// Records that a workspace was deleted.
pub(crate) async fn add(
    connection: &mut Connection,
    id: &WorkspaceId,
    node: &NodeId,
    now: Timestamp,
) -> Result<(), Error> {
    let query = "INSERT INTO tombstones (workspace_id, node_id, deleted_at) VALUES ($1, $2, $3) \
                 ON CONFLICT (workspace_id) DO NOTHING";
    let query = sqlx::query(query).bind(id.as_str()).bind(node.as_str()).bind(now.unix_ms());
    query.execute(connection).await?;
    Ok(())
}
