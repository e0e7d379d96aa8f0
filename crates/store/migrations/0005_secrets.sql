-- Secrets at rest. A column with a secret holds an envelope (store/envelope.rs); beside it stands which master key opens it.

CREATE TABLE master_keys (
    -- Follows from the key; says nothing about it.
    id TEXT NOT NULL PRIMARY KEY,
    -- What is written now is encrypted with this one; the others are on their way out.
    active BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE UNIQUE INDEX one_active_master_key ON master_keys (active) WHERE active;

CREATE TABLE workspace_env (
    workspace_id TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value BLOB NOT NULL,
    master_key TEXT NOT NULL,
    PRIMARY KEY (workspace_id, name)
);

CREATE INDEX workspace_env_by_master_key ON workspace_env (master_key);

-- Names of its variables, with commas between, and how often they were changed.
ALTER TABLE workspaces ADD COLUMN env_names TEXT NOT NULL DEFAULT '';
ALTER TABLE workspaces ADD COLUMN env_revision BIGINT NOT NULL DEFAULT 0;

-- The key that a workspace has of itself for one boot.
CREATE TABLE workspace_keys (
    workspace_id TEXT NOT NULL PRIMARY KEY REFERENCES workspaces (id) ON DELETE CASCADE,
    boot_id TEXT NOT NULL,
    -- Keyed hash, hexadecimal.
    hash TEXT NOT NULL UNIQUE,
    -- It is in the VM: nobody else knows it any more.
    delivered BOOLEAN NOT NULL
);
