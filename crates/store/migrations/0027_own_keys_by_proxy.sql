-- Way of a key of the user's own to its provider: `env`, in the workspace's environment, or `proxy`, added to calls outside of it.
ALTER TABLE ai_configs ADD COLUMN key_delivery TEXT;

-- The call was made with a key of the user's own: it is recorded, and costs no credits.
ALTER TABLE ai_calls ADD COLUMN own_key BOOLEAN NOT NULL DEFAULT FALSE;

-- The proxy as code in the workspace has switched it. It closes what the owner has opened, and opens nothing else.
ALTER TABLE workspaces ADD COLUMN ai_proxy_off BOOLEAN NOT NULL DEFAULT FALSE;

-- Credentials of users, each in an envelope (store/envelope.rs), which the proxy adds to requests for one host: to those of one workspace,
-- or of all that the user has.
CREATE TABLE proxied_secrets (
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    workspace_id TEXT REFERENCES workspaces (id) ON DELETE CASCADE,
    host TEXT NOT NULL,
    header TEXT NOT NULL,
    format TEXT NOT NULL,
    secret BLOB NOT NULL,
    master_key TEXT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, name)
);

CREATE INDEX proxied_secrets_by_workspace ON proxied_secrets (workspace_id);
CREATE INDEX proxied_secrets_by_master_key ON proxied_secrets (master_key);
