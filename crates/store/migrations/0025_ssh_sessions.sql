-- Sessions by SSH that are open, each until its gateway tells its end, or control finds that the gateway is gone.
CREATE TABLE ssh_sessions (
    -- What the client has signed (ssh_log_ins).
    session_id BLOB NOT NULL PRIMARY KEY,
    -- Process of a gateway.
    gateway TEXT NOT NULL,
    workspace_id TEXT NOT NULL,
    -- For the audit log, which outlives the user's key.
    user_id TEXT NOT NULL,
    key_id TEXT NOT NULL,
    address TEXT,
    opened_at BIGINT NOT NULL
);

CREATE INDEX ssh_sessions_by_gateway ON ssh_sessions (gateway);
