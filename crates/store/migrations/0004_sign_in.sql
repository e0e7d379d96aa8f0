-- Sign-in: links by e-mail, sessions of browsers, and `rig login` from a machine.

ALTER TABLE users ADD COLUMN disabled_at BIGINT;

CREATE TABLE login_links (
    -- Keyed hash of the link's token.
    hash TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    expires_at BIGINT NOT NULL
);

CREATE TABLE sessions (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    -- Keyed hash of the cookie's token.
    hash TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    -- Unused until this moment it ends; each use moves it.
    idle_at BIGINT NOT NULL,
    -- It ends then, however much it is used.
    ends_at BIGINT NOT NULL
);

CREATE INDEX sessions_by_user ON sessions (user_id);

CREATE TABLE device_logins (
    -- Keyed hash of what the machine polls with.
    hash TEXT NOT NULL PRIMARY KEY,
    -- Keyed hash of what the user types.
    code_hash TEXT NOT NULL UNIQUE,
    machine TEXT NOT NULL,
    address TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    -- Null: nobody has decided.
    approved BOOLEAN,
    user_id TEXT REFERENCES users (id) ON DELETE CASCADE
);

-- Made by `rig login`: ended by `rig logout`.
ALTER TABLE api_keys ADD COLUMN by_login BOOLEAN NOT NULL DEFAULT FALSE;
