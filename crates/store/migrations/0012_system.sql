-- State of the system in a running workspace, in systemd's words.

ALTER TABLE workspaces ADD COLUMN system_state TEXT NOT NULL DEFAULT 'starting';
