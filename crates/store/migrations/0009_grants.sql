-- Counts every change of what some credential opens, in the transaction of that change: who has seen this number may go on with
-- what they knew at it. By triggers, so that nobody who writes can forget it. (PostgreSQL writes triggers otherwise.)

CREATE TABLE grants (
    epoch BIGINT NOT NULL
);

INSERT INTO grants (epoch) VALUES (1);

CREATE TRIGGER grants_key_made AFTER INSERT ON api_keys
BEGIN
    UPDATE grants SET epoch = epoch + 1;
END;

-- That a key was used changes nothing.
CREATE TRIGGER grants_key_changed AFTER UPDATE ON api_keys WHEN NEW.last_used_at IS OLD.last_used_at
BEGIN
    UPDATE grants SET epoch = epoch + 1;
END;

CREATE TRIGGER grants_key_ended AFTER DELETE ON api_keys
BEGIN
    UPDATE grants SET epoch = epoch + 1;
END;

CREATE TRIGGER grants_key_widened AFTER INSERT ON api_key_workspaces
BEGIN
    UPDATE grants SET epoch = epoch + 1;
END;

CREATE TRIGGER grants_key_narrowed AFTER DELETE ON api_key_workspaces
BEGIN
    UPDATE grants SET epoch = epoch + 1;
END;

CREATE TRIGGER grants_user_changed AFTER UPDATE ON users
BEGIN
    UPDATE grants SET epoch = epoch + 1;
END;

CREATE TRIGGER grants_user_ended AFTER DELETE ON users
BEGIN
    UPDATE grants SET epoch = epoch + 1;
END;
