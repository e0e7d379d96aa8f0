-- What is set for one user otherwise than for the plan, as JSON; null: nothing.

ALTER TABLE users ADD COLUMN limits TEXT;
