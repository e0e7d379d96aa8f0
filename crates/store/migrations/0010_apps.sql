-- Apps: ports of workspaces with a name in the world, and the way of a browser from the console to one of them.

CREATE TABLE apps (
    id TEXT NOT NULL PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    user_id TEXT NOT NULL REFERENCES users (id),
    -- The label before the apps' domain.
    name TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    -- 0: none.
    port BIGINT NOT NULL,
    protocol TEXT NOT NULL,
    visibility TEXT NOT NULL,
    -- JSON arrays of strings, and an object.
    shared_with TEXT NOT NULL,
    cors_origins TEXT NOT NULL,
    params TEXT NOT NULL,
    -- JSON, as its owner gave it.
    metadata TEXT NOT NULL,
    description TEXT,
    -- Stopped by its owner.
    stopped BOOLEAN NOT NULL,
    -- The systemd unit in the workspace that it is.
    service TEXT,
    custom_domain TEXT,
    -- Set once the domain has been seen to be its owner's.
    domain_verified_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE INDEX apps_by_workspace ON apps (workspace_id);
CREATE INDEX apps_by_user ON apps (user_id, created_at, id);
-- Anybody may claim a domain, one can have it.
CREATE UNIQUE INDEX apps_by_domain ON apps (custom_domain) WHERE domain_verified_at IS NOT NULL;

-- What a browser that comes from the console shows an app's host, once.
CREATE TABLE app_codes (
    -- Keyed hash.
    hash TEXT NOT NULL PRIMARY KEY,
    app_id TEXT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    -- What the browser has to know besides.
    state TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);

-- What a workspace lets through, besides its apps: JSON, as control's `network` noun writes it.
ALTER TABLE workspaces ADD COLUMN network TEXT NOT NULL DEFAULT '{}';

CREATE TRIGGER grants_session_ended AFTER DELETE ON sessions
BEGIN
    UPDATE grants SET epoch = epoch + 1;
END;

-- The user has followed a link that was sent to the address.
ALTER TABLE users ADD COLUMN email_verified BOOLEAN NOT NULL DEFAULT FALSE;
