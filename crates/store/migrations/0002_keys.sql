-- API keys that end, that are limited to some workspaces, and that can be replaced without a gap.

ALTER TABLE api_keys ADD COLUMN expires_at BIGINT;
ALTER TABLE api_keys ADD COLUMN last_used_at BIGINT;
-- Null: the whole account. Otherwise what the key may do in the workspaces of api_key_workspaces.
ALTER TABLE api_keys ADD COLUMN role TEXT;
-- The secret before the last rotation, good until the moment beside it.
ALTER TABLE api_keys ADD COLUMN old_hash TEXT;
ALTER TABLE api_keys ADD COLUMN old_hash_until BIGINT;

CREATE INDEX api_keys_by_user ON api_keys (user_id, created_at, id);
CREATE UNIQUE INDEX api_keys_by_old_hash ON api_keys (old_hash);

CREATE TABLE api_key_workspaces (
    key_id TEXT NOT NULL REFERENCES api_keys (id) ON DELETE CASCADE,
    workspace_id TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    PRIMARY KEY (key_id, workspace_id)
);

CREATE INDEX api_key_workspaces_by_workspace ON api_key_workspaces (workspace_id);
