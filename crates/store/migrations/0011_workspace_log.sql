-- What has become of a workspace, and what its network refused it: lines for its owner, the newest of them kept.

CREATE TABLE workspace_log (
    workspace_id TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    -- From 1, per workspace.
    seq BIGINT NOT NULL,
    at BIGINT NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (workspace_id, seq)
);
