-- Whether a stopped workspace is started when its owner connects by SSH.
ALTER TABLE workspaces ADD COLUMN start_on_connect BOOLEAN NOT NULL DEFAULT FALSE;
