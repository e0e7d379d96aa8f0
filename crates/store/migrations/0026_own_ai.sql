-- Users' own AI providers. Workspaces without settings use those of their owner.
CREATE TABLE ai_configs (
    -- Id of a workspace or of a user.
    subject TEXT NOT NULL PRIMARY KEY,
    workspace_id TEXT REFERENCES workspaces (id) ON DELETE CASCADE,
    user_id TEXT REFERENCES users (id) ON DELETE CASCADE,
    provider TEXT,
    model TEXT,
    updated_at BIGINT NOT NULL,
    CHECK ((workspace_id IS NULL) <> (user_id IS NULL))
);

CREATE INDEX ai_configs_by_workspace ON ai_configs (workspace_id);
CREATE INDEX ai_configs_by_user ON ai_configs (user_id);

-- Keys of users at providers, each in an envelope (store/envelope.rs). One for each provider, so that a change of the provider loses none.
CREATE TABLE ai_own_keys (
    subject TEXT NOT NULL REFERENCES ai_configs (subject) ON DELETE CASCADE,
    provider TEXT NOT NULL,
    secret BLOB NOT NULL,
    master_key TEXT NOT NULL,
    PRIMARY KEY (subject, provider)
);

CREATE INDEX ai_own_keys_by_master_key ON ai_own_keys (master_key);
