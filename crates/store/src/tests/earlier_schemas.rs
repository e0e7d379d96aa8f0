//! Databases of earlier versions: each schema that there was, with rows in all of its tables, is opened, and what it has is there.

use std::collections::BTreeMap;
use std::path::Path;

use secrecy::ExposeSecret;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};
use sqlx::{Connection, SqliteConnection};

use super::*;

/// Rows of each table, as the version that added the table wrote them. `{user}` and `{hash}` are those of the fixture, and `made` is its
/// database: what is sealed or chained by keys comes from there.
const ROWS: &[(i64, &str)] = &[
    (
        1,
        "INSERT INTO users (id, email, plan, created_at) VALUES ('{user}', 'a@example.com', 'owner', 1), \
         ('us-bbbbbbbb', 'b@example.com', 'pro', 2); \
         INSERT INTO api_keys (id, user_id, name, hash, preview, created_at) \
         VALUES ('ak-aaaaaaaa', '{user}', 'first', '{hash}', 'rb_aaaa', 1); \
         INSERT INTO workspaces (id, user_id, node_id, name, template_id, image, ram_mb, vcpu_count, disk_size_mb, \
         revision, status, status_since, desired, generation, has_disk, boot_id, last_boot_id, agent_lost, attempts, \
         created_at, updated_at) VALUES \
         ('ws-aaaaaaaa', '{user}', 'node-aaaaaaaa', 'web', 'dev', 'base', 1024, 2, 10240, \
         5, 'running', 3, 'running', 2, TRUE, 'boot-1', 'boot-1', FALSE, 0, 1, 3), \
         ('ws-bbbbbbbb', 'us-bbbbbbbb', 'node-aaaaaaaa', 'db', 'base', 'base', 512, 1, 4096, \
         5, 'stopped', 4, 'stopped', 3, TRUE, NULL, 'boot-2', FALSE, 0, 2, 4), \
         ('ws-cccccccc', '{user}', 'node-aaaaaaaa', 'old', 'base', 'base', 512, 1, 4096, \
         7, 'deleting', 5, 'deleted', 4, TRUE, NULL, 'boot-3', FALSE, 0, 2, 5); \
         INSERT INTO idempotency_keys (user_id, key, request, answer, created_at) VALUES ('{user}', 'k', 'r', '{}', 1);",
    ),
    (
        2,
        "INSERT INTO api_keys (id, user_id, name, hash, preview, created_at, role) \
         VALUES ('ak-bbbbbbbb', '{user}', 'reader', 'x', 'rb_bbbb', 2, 'read'); \
         INSERT INTO api_key_workspaces (key_id, workspace_id) VALUES ('ak-bbbbbbbb', 'ws-aaaaaaaa');",
    ),
    (
        3,
        "INSERT INTO audit_log SELECT * FROM made.audit_log; \
         INSERT INTO api_key_addresses (key_id, address) VALUES ('ak-aaaaaaaa', '192.0.2.1');",
    ),
    (
        4,
        "INSERT INTO login_links (hash, user_id, expires_at) VALUES ('l', '{user}', 9); \
         INSERT INTO sessions (id, user_id, hash, created_at, idle_at, ends_at) \
         VALUES ('se-aaaaaaaa', '{user}', 's', 1, 9, 99); \
         INSERT INTO device_logins (hash, code_hash, machine, address, created_at, expires_at) \
         VALUES ('d', 'c', 'laptop', '192.0.2.1', 1, 9);",
    ),
    (
        5,
        "INSERT INTO master_keys SELECT * FROM made.master_keys; \
         INSERT INTO workspace_env SELECT * FROM made.workspace_env; \
         UPDATE workspaces SET env_names = 'TOKEN', env_revision = 1 WHERE id = 'ws-aaaaaaaa'; \
         INSERT INTO workspace_keys (workspace_id, boot_id, hash, delivered) VALUES ('ws-aaaaaaaa', 'boot-1', 'w', TRUE);",
    ),
    (6, "UPDATE users SET limits = '{\"max_vms\":7}' WHERE id = 'us-bbbbbbbb';"),
    (
        10,
        "INSERT INTO apps (id, workspace_id, user_id, name, kind, port, protocol, visibility, shared_with, cors_origins, \
         params, metadata, stopped, created_at, updated_at) VALUES ('ap-aaaaaaaa', 'ws-aaaaaaaa', '{user}', 'shop', \
         'service', 8000, 'http', 'privileged', '[\"c@example.com\"]', '[]', '{}', 'null', FALSE, 1, 1); \
         INSERT INTO app_codes (hash, app_id, session_id, state, expires_at) \
         VALUES ('a', 'ap-aaaaaaaa', 'se-aaaaaaaa', 'x', 9);",
    ),
    (
        11,
        "INSERT INTO workspace_log (workspace_id, seq, at, message) VALUES ('ws-aaaaaaaa', 1, 1, 'created');",
    ),
    (15, "INSERT INTO released_app_names (name, user_id, released_at) VALUES ('gone', '{user}', 1);"),
    (
        16,
        "INSERT INTO database_identity (id) VALUES ('db-aaaaaaaa'); \
         INSERT INTO tombstones (workspace_id, node_id, deleted_at) VALUES ('ws-dddddddd', 'node-aaaaaaaa', 1); \
         INSERT INTO orphans (workspace_id, node_id, disk_size_mb, generation, found_at) \
         VALUES ('ws-eeeeeeee', 'node-aaaaaaaa', 4096, 1, 1);",
    ),
    (
        21,
        "INSERT INTO ssh_keys (id, user_id, name, public_key, blob, fingerprint, no_touch_required, created_at) \
         VALUES ('sh-aaaaaaaa', '{user}', 'laptop', 'ssh-ed25519 AAAA', x'00', 'SHA256:x', FALSE, 1);",
    ),
    (
        22,
        "INSERT INTO ssh_secrets SELECT * FROM made.ssh_secrets; \
         INSERT INTO ssh_log_ins (session_id, at) VALUES (x'01', 1);",
    ),
    (
        24,
        "INSERT INTO ai_accounts (user_id, granted, spent, reserved, allowance, month) \
         VALUES ('{user}', 9, 2, 1, 9, '2026-11'); \
         INSERT INTO ai_budgets (kind, subject, amount) VALUES ('user', '{user}', 9); \
         INSERT INTO ai_months (kind, subject, month, spent, reserved) VALUES ('user', '{user}', '2026-11', 2, 1); \
         INSERT INTO ai_allowed_models (kind, subject, model) VALUES ('user', '{user}', 'model'); \
         INSERT INTO ai_calls (id, run, user_id, workspace_id, workspace_name, provider, upstream, operation, model, prices, \
         began_at, month, reserved, output_limit, lowered) VALUES ('call', 'run', '{user}', 'ws-aaaaaaaa', 'web', 'openai', \
         'openai', 'chat', 'model', '{}', 1, '2026-11', 1, 1, FALSE); \
         INSERT INTO ai_provider_keys (id, upstream, label, organization, secret, master_key, created_at) \
         SELECT 'key', 'openai', 'first', 'own', x'00', id, 1 FROM master_keys;",
    ),
    (
        25,
        "INSERT INTO ssh_sessions (session_id, gateway, workspace_id, user_id, key_id, address, opened_at) \
         VALUES (x'01', 'gw-aaaaaaaa', 'ws-aaaaaaaa', '{user}', 'sh-aaaaaaaa', '192.0.2.1', 1);",
    ),
    (
        26,
        "INSERT INTO ai_configs (subject, user_id, provider, model, updated_at) VALUES ('{user}', '{user}', 'openai', 'model', 1); \
         INSERT INTO ai_own_keys (subject, provider, secret, master_key) SELECT '{user}', 'openai', x'00', id FROM master_keys;",
    ),
    (
        27,
        "INSERT INTO proxied_secrets (user_id, name, host, header, format, secret, master_key, updated_at) \
         SELECT '{user}', 'github', 'api.example.org', 'authorization', 'Bearer {}', x'00', id, 1 FROM master_keys;",
    ),
];

/// Tables without a row of a test: sqlx's own, and one that needs a log whose beginning was deleted.
const WITHOUT_ROWS: [&str; 2] = ["_sqlx_migrations", "audit_start"];

/// Makes a database of this schema with its rows.
async fn make(path: &Path, version: i64, f: &Fixture) {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true).foreign_keys(true);
    let options = options.synchronous(SqliteSynchronous::Off);
    let mut database = SqliteConnection::connect_with(&options).await.unwrap();
    let attach = format!("ATTACH '{}' AS made", f.folder.path().join("rigbox.db").display());
    sqlx::raw_sql(sqlx::AssertSqlSafe(attach)).execute(&mut database).await.unwrap();
    let all = migrations::migrator();
    let until = |end: i64| {
        let some = all.iter().filter(|migration| migration.version <= end).cloned();
        Migrator::with_migrations(some.collect())
    };
    for migration in all.iter().filter(|migration| migration.version <= version) {
        until(migration.version).run(&mut database).await.unwrap();
        for (_, rows) in ROWS.iter().filter(|(of, _)| *of == migration.version) {
            let hash = f.token_key.hash(f.key.reveal());
            let rows = rows.replace("{user}", f.user.as_str()).replace("{hash}", hash.as_str());
            sqlx::raw_sql(sqlx::AssertSqlSafe(rows)).execute(&mut database).await.unwrap();
        }
    }
    database.close().await.unwrap();
}

/// Returns the number of rows of each table.
async fn counts(path: &Path) -> BTreeMap<String, i64> {
    let options = SqliteConnectOptions::new().filename(path);
    let mut database = SqliteConnection::connect_with(&options).await.unwrap();
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
    )
    .fetch_all(&mut database)
    .await
    .unwrap();
    let mut counts = BTreeMap::new();
    for table in tables.into_iter().filter(|table| !WITHOUT_ROWS.contains(&table.as_str())) {
        let count = sqlx::AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"));
        let count = sqlx::query_scalar(count).fetch_one(&mut database).await.unwrap();
        counts.insert(table, count);
    }
    counts
}

/// Returns a fixture with what is sealed or chained by keys.
async fn made() -> Fixture {
    let mut f = fixture().await;
    f.store = f.store.unlock(KeySource::File(f.folder.path().join("master.key")), now()).await.unwrap();
    let web = new(&f.user, 0, "web");
    f.store.create_workspace(&web, QUOTA, None, &event()).await.unwrap();
    let variables = [("TOKEN".parse().unwrap(), "secret".to_owned().into())].into();
    f.store.set_variables(&web.id, &variables, &event(), now()).await.unwrap();
    f.store.ssh_secret(SshSecret::HostKey, now()).await.unwrap();
    f
}

/// Checks what users have, which is what schemas up to `version` could hold.
async fn check(f: &Fixture, version: i64) {
    let store = &f.store;
    let emails: Vec<_> = store.users().await.unwrap().into_iter().map(|user| user.email).collect();
    assert_eq!(emails, ["a@example.com", "b@example.com"]);
    assert_eq!(f.principal().await.user, f.user);
    let web = store.workspace(&WorkspaceId::from_random([0; 5])).await.unwrap().unwrap();
    assert_eq!(
        (web.name.to_string(), web.resources),
        ("web".to_owned(), Resources::new(1024, 2, 10240).unwrap())
    );
    assert_eq!((web.lifecycle.status, web.lifecycle.was_started, web.revision), (Status::Running, true, 5));
    let db: WorkspaceId = "ws-bbbbbbbb".parse().unwrap();
    let db = store.workspace(&db).await.unwrap().unwrap();
    assert_eq!((db.lifecycle.status, db.lifecycle.has_disk), (Status::Stopped, true));
    // What it has can be worked with.
    let starting = db.lifecycle.request(Request::Start, now()).unwrap();
    assert!(store.update_lifecycle(&db, &starting, None, None, None, now()).await.unwrap());
    if version >= 3 {
        assert!(matches!(store.verify_audit().await.unwrap(), Ok(2..)));
    }
    if version >= 5 {
        let environment = store.environment(&web.id).await.unwrap().unwrap().variables;
        let values: Vec<_> = environment.values().map(ExposeSecret::expose_secret).collect();
        assert_eq!(values, ["secret"]);
    }
    if version >= 10 {
        let app = store.app_at(&AppHost::Name("shop".parse().unwrap())).unwrap().unwrap().app;
        assert_eq!((app.port, &app.shared_with[..]), (Some(8000), &["c@example.com".to_owned()][..]));
    }
    if version >= 21 {
        assert_eq!(store.ssh_keys_of(&f.user).await.unwrap()[0].name, "laptop");
    }
    if version >= 22 {
        assert!(store.stored_ssh_secret(SshSecret::HostKey).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn database_of_each_earlier_schema_opens_with_all_that_it_has() {
    let made = made().await;
    for version in migrations::migrator().iter().map(|migration| migration.version) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rigbox.db");
        make(&path, version, &made).await;
        let before = counts(&path).await;
        let empty: Vec<_> = before.iter().filter(|(_, count)| **count == 0).collect();
        assert!(empty.is_empty(), "schema {version} has tables without a row of this test: {empty:?}");
        let store = Store::open(&path, &made.token_key).await.unwrap();
        let key = KeySource::File(made.folder.path().join("master.key"));
        let store = store.unlock(key, now()).await.unwrap();
        let after = counts(&path).await;
        for (table, count) in &before {
            assert!(after.get(table) >= Some(count), "{table} of schema {version}: {count}, then {after:?}");
        }
        let (user, token_key) = (made.user.clone(), made.token_key.clone());
        let upgraded = Fixture { folder, store, user, key: made.key.clone(), token_key };
        check(&upgraded, version).await;
        let tombstones: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM tombstones WHERE workspace_id = 'ws-cccccccc'")
                .fetch_one(&upgraded.store.pool)
                .await
                .unwrap();
        assert_eq!(tombstones, 1, "schema {version}: a deletion that was acknowledged");
        upgraded.store.close().await;
    }
}
