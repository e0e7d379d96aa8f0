-- AI ledger. Amounts are millionths of a US dollar. Nothing here ends with a user or a workspace: the sums need the records.

CREATE TABLE ai_accounts (
    user_id TEXT NOT NULL PRIMARY KEY,
    granted BIGINT NOT NULL,
    spent BIGINT NOT NULL,
    reserved BIGINT NOT NULL,
    -- Amount in the log of revocations, from which `spent` is raised after a backup was put back.
    spent_logged BIGINT NOT NULL DEFAULT 0,
    -- Part of `granted` that the plan grants for the month, such as `2026-11`.
    allowance BIGINT NOT NULL,
    month TEXT NOT NULL,
    -- `managed` or `byok`: the mode of workspaces without one of their own.
    mode TEXT NOT NULL DEFAULT 'managed',
    CHECK (spent >= 0 AND reserved >= 0 AND spent + reserved <= granted)
);

ALTER TABLE workspaces ADD COLUMN ai_mode TEXT;

-- Bound of each month's calls. A row without an amount: none, whatever the configuration says.
CREATE TABLE ai_budgets (
    -- `user` or `workspace`.
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    amount BIGINT,
    PRIMARY KEY (kind, subject)
);

-- Sums of the calls that began in a month, in UTC.
CREATE TABLE ai_months (
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    month TEXT NOT NULL,
    spent BIGINT NOT NULL,
    reserved BIGINT NOT NULL,
    PRIMARY KEY (kind, subject, month),
    CHECK (spent >= 0 AND reserved >= 0)
);

-- Models that a user or a workspace may use. Without a row, all.
CREATE TABLE ai_allowed_models (
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    model TEXT NOT NULL,
    PRIMARY KEY (kind, subject, model)
);

-- Calls: a reservation while `ended_at` is null, then the record of what was used.
CREATE TABLE ai_calls (
    -- As the proxy has made it.
    id TEXT NOT NULL PRIMARY KEY,
    -- Run of the proxy.
    run TEXT NOT NULL,
    user_id TEXT NOT NULL,
    workspace_id TEXT NOT NULL,
    workspace_name TEXT NOT NULL,
    provider TEXT NOT NULL,
    upstream TEXT NOT NULL,
    operation TEXT NOT NULL,
    model TEXT NOT NULL,
    -- Prices of the call with its options, as JSON: it is settled at what it was reserved at.
    prices TEXT NOT NULL,
    began_at BIGINT NOT NULL,
    month TEXT NOT NULL,
    reserved BIGINT NOT NULL,
    output_limit BIGINT NOT NULL,
    lowered BOOLEAN NOT NULL,
    ended_at BIGINT,
    cost BIGINT NOT NULL DEFAULT 0,
    input_tokens BIGINT NOT NULL DEFAULT 0,
    cache_read_tokens BIGINT NOT NULL DEFAULT 0,
    cache_write_5m_tokens BIGINT NOT NULL DEFAULT 0,
    cache_write_1h_tokens BIGINT NOT NULL DEFAULT 0,
    output_tokens BIGINT NOT NULL DEFAULT 0,
    reasoning_tokens BIGINT NOT NULL DEFAULT 0,
    estimated BOOLEAN NOT NULL DEFAULT FALSE,
    at_bound BOOLEAN NOT NULL DEFAULT FALSE,
    status BIGINT NOT NULL DEFAULT 0,
    ending TEXT,
    key_id TEXT,
    provider_request_id TEXT,
    duration_ms BIGINT NOT NULL DEFAULT 0,
    CHECK (reserved >= 0 AND cost >= 0 AND cost <= reserved)
);

CREATE INDEX ai_calls_by_user ON ai_calls (user_id, began_at);
CREATE INDEX ai_calls_by_day ON ai_calls (provider, began_at);
CREATE INDEX ai_calls_open ON ai_calls (workspace_id) WHERE ended_at IS NULL;

-- Operator's keys at providers, each in an envelope (store/envelope.rs).
CREATE TABLE ai_provider_keys (
    id TEXT NOT NULL PRIMARY KEY,
    -- Name in the configuration.
    upstream TEXT NOT NULL,
    label TEXT NOT NULL,
    -- Keys of one organization may replace each other within a conversation.
    organization TEXT NOT NULL,
    secret BLOB NOT NULL,
    master_key TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    last_used_at BIGINT
);

CREATE INDEX ai_provider_keys_by_master_key ON ai_provider_keys (master_key);

-- State of the proxy: one row. `revision` counts changes that it has to be told.
CREATE TABLE ai_proxy (
    stopped BOOLEAN NOT NULL,
    -- Run whose calls are open; empty: none yet.
    run TEXT NOT NULL,
    revision BIGINT NOT NULL
);

INSERT INTO ai_proxy (stopped, run, revision) VALUES (FALSE, '', 1);
