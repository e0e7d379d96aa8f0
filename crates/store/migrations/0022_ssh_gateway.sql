-- Secrets of the SSH gateway, each in an envelope (store/envelope.rs), and the log-ins that were taken.

CREATE TABLE ssh_secrets (
    -- `host_key`: seed of the key by which clients know the gateway. `boot_keys`: what the keys of boots derive from.
    name TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL,
    master_key TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE INDEX ssh_secrets_by_master_key ON ssh_secrets (master_key);

-- Session ids that were signed: each is taken once, or who has seen a signature could use it again. They are never deleted.
CREATE TABLE ssh_log_ins (
    session_id BLOB NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL
) WITHOUT ROWID;
