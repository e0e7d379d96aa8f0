-- SSH keys that users log in with. Several users may register the same one.

CREATE TABLE ssh_keys (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    -- One line as in authorized_keys, without options.
    public_key TEXT NOT NULL,
    -- The key as SSH writes it in messages, and its fingerprint.
    blob BLOB NOT NULL,
    fingerprint TEXT NOT NULL,
    -- Whether signatures count that the owner of a hardware token did not confirm by a touch.
    no_touch_required BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL,
    last_used_at BIGINT,
    UNIQUE (user_id, fingerprint)
);

CREATE INDEX ssh_keys_by_user ON ssh_keys (user_id, created_at, id);
CREATE INDEX ssh_keys_by_fingerprint ON ssh_keys (fingerprint);

CREATE TRIGGER grants_ssh_key_made AFTER INSERT ON ssh_keys
BEGIN
    UPDATE grants SET epoch = epoch + 1;
END;

-- That a key was used changes nothing.
CREATE TRIGGER grants_ssh_key_changed AFTER UPDATE ON ssh_keys WHEN NEW.last_used_at IS OLD.last_used_at
BEGIN
    UPDATE grants SET epoch = epoch + 1;
END;

CREATE TRIGGER grants_ssh_key_ended AFTER DELETE ON ssh_keys
BEGIN
    UPDATE grants SET epoch = epoch + 1;
END;
