-- Times are milliseconds since the epoch. Plain types only: the same text runs on SQLite and PostgreSQL.

CREATE TABLE users (
    id TEXT NOT NULL PRIMARY KEY,
    email TEXT NOT NULL UNIQUE,
    plan TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE api_keys (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    -- Keyed hash of the secret, hexadecimal.
    hash TEXT NOT NULL UNIQUE,
    -- The first characters, to tell keys apart.
    preview TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE workspaces (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    node_id TEXT NOT NULL,
    name TEXT NOT NULL,
    template_id TEXT NOT NULL,
    image TEXT NOT NULL,
    ram_mb BIGINT NOT NULL,
    vcpu_count BIGINT NOT NULL,
    disk_size_mb BIGINT NOT NULL,
    -- Counts writes of this row: a writer that read an older one is refused.
    revision BIGINT NOT NULL,
    status TEXT NOT NULL,
    status_since BIGINT NOT NULL,
    desired TEXT NOT NULL,
    generation BIGINT NOT NULL,
    has_disk BOOLEAN NOT NULL,
    boot_id TEXT,
    last_boot_id TEXT,
    agent_lost BOOLEAN NOT NULL,
    attempts BIGINT NOT NULL,
    failure_code TEXT,
    failure_message TEXT,
    failure_retryable BOOLEAN,
    failure_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (user_id, name)
);

CREATE INDEX workspaces_by_age ON workspaces (user_id, created_at, id);
CREATE INDEX workspaces_by_status ON workspaces (status);

CREATE TABLE idempotency_keys (
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    -- Hash of what was asked for.
    request TEXT NOT NULL,
    -- The answer's body.
    answer TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, key)
);
