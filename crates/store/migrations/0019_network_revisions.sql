-- Revision of a workspace's network policy, raised by whatever changes the policy, and the one that its node has acknowledged. The policy is
-- in force when these are equal.
ALTER TABLE workspaces ADD COLUMN network_revision BIGINT NOT NULL DEFAULT 1;
ALTER TABLE workspaces ADD COLUMN network_acknowledged BIGINT NOT NULL DEFAULT 1;

CREATE INDEX workspaces_by_pending_network ON workspaces (id) WHERE network_acknowledged < network_revision;

CREATE TRIGGER network_settings_changed AFTER UPDATE OF network ON workspaces
BEGIN
    UPDATE workspaces SET network_revision = network_revision + 1 WHERE id = NEW.id;
END;

CREATE TRIGGER network_app_made AFTER INSERT ON apps
BEGIN
    UPDATE workspaces SET network_revision = network_revision + 1 WHERE id = NEW.workspace_id;
END;

CREATE TRIGGER network_app_changed AFTER UPDATE OF workspace_id, port ON apps
BEGIN
    UPDATE workspaces SET network_revision = network_revision + 1 WHERE id IN (OLD.workspace_id, NEW.workspace_id);
END;

CREATE TRIGGER network_app_ended AFTER DELETE ON apps
BEGIN
    UPDATE workspaces SET network_revision = network_revision + 1 WHERE id = OLD.workspace_id;
END;

CREATE TRIGGER network_limits_changed AFTER UPDATE OF plan, limits ON users
BEGIN
    UPDATE workspaces SET network_revision = network_revision + 1 WHERE user_id = NEW.id;
END;
