-- Names of apps that their owners gave up. For a while only the last owner may take one again: browsers keep cookies, storage and
-- service workers of the host. By triggers, because apps also end with their workspace. (PostgreSQL writes triggers and times otherwise.)
CREATE TABLE released_app_names (
    name TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    released_at BIGINT NOT NULL
);

CREATE TRIGGER app_name_released_by_end AFTER DELETE ON apps
BEGIN
    INSERT INTO released_app_names (name, user_id, released_at)
    VALUES (OLD.name, OLD.user_id, CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
    ON CONFLICT (name) DO UPDATE SET user_id = excluded.user_id, released_at = excluded.released_at;
END;

CREATE TRIGGER app_name_released_by_change AFTER UPDATE ON apps WHEN NEW.name <> OLD.name
BEGIN
    INSERT INTO released_app_names (name, user_id, released_at)
    VALUES (OLD.name, OLD.user_id, CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
    ON CONFLICT (name) DO UPDATE SET user_id = excluded.user_id, released_at = excluded.released_at;
END;
