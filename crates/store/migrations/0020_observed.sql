-- What is wanted of a workspace and what was observed become two records: its node's last report is kept whole.

ALTER TABLE workspaces ADD COLUMN was_started BOOLEAN NOT NULL DEFAULT FALSE;

-- JSON. Empty: nothing was reported yet.
ALTER TABLE workspaces ADD COLUMN observed TEXT NOT NULL DEFAULT '';

-- Generation of the target in `observed`, for queries.
ALTER TABLE workspaces ADD COLUMN acknowledged_generation BIGINT NOT NULL DEFAULT 0;

-- Boot that has its secrets, and the revision of the environment that it has. -1: it gets them again.
ALTER TABLE workspaces ADD COLUMN delivered_boot TEXT;
ALTER TABLE workspaces ADD COLUMN delivered_revision BIGINT NOT NULL DEFAULT -1;

UPDATE workspaces SET was_started = TRUE
WHERE status NOT IN ('provisioning', 'provisioned') OR boot_id IS NOT NULL OR last_boot_id IS NOT NULL;

UPDATE workspaces SET delivered_boot = boot_id WHERE status = 'running';

ALTER TABLE workspaces DROP COLUMN last_boot_id;
ALTER TABLE workspaces DROP COLUMN agent_lost;
ALTER TABLE workspaces DROP COLUMN system_state;

CREATE INDEX workspaces_by_pending_target ON workspaces (id) WHERE acknowledged_generation < generation;
CREATE INDEX workspaces_by_pending_secrets ON workspaces (id) WHERE status = 'running' AND delivered_revision < env_revision;
CREATE INDEX workspaces_by_deletion ON workspaces (id) WHERE desired = 'deleted';
