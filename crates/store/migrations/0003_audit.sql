-- What was done with credentials, in order. Rows are added and never changed: each holds a keyed hash over itself and the one before.

CREATE TABLE audit_log (
    seq BIGINT NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    -- The key that was shown; none for what was done on the machine itself.
    key_id TEXT,
    address TEXT,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    hash TEXT NOT NULL
);

CREATE INDEX audit_log_by_user ON audit_log (user_id, seq);

-- Where a key has been used from before.
CREATE TABLE api_key_addresses (
    key_id TEXT NOT NULL REFERENCES api_keys (id) ON DELETE CASCADE,
    address TEXT NOT NULL,
    PRIMARY KEY (key_id, address)
);
