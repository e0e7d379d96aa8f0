-- Identity of this database. A node remembers it and works for no other one, which would not know its workspaces.
CREATE TABLE database_identity (
    id TEXT NOT NULL PRIMARY KEY
);

-- Evidence that the deletion of a workspace was acknowledged, without which nobody destroys a disk. It stays for good: a disk may come
-- back with an older file system.
CREATE TABLE tombstones (
    workspace_id TEXT NOT NULL PRIMARY KEY,
    node_id TEXT NOT NULL,
    deleted_at BIGINT NOT NULL
);

INSERT INTO tombstones (workspace_id, node_id, deleted_at)
SELECT id, node_id, updated_at FROM workspaces WHERE desired = 'deleted';

-- Workspaces that a node has and this database does not: stopped, and kept until an administrator adopts or removes them.
CREATE TABLE orphans (
    workspace_id TEXT NOT NULL PRIMARY KEY,
    node_id TEXT NOT NULL,
    disk_size_mb BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    found_at BIGINT NOT NULL
);
