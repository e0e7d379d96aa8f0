//! Secrets at rest: environment values in envelopes, rotation of the master key, workspace keys.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rigbox_core::environment::VariableName;
use secrecy::{ExposeSecret, SecretString};

use super::*;
use crate::tokens::WorkspaceKey;

const CANARY: &str = "canary-4f1d9c-value";

fn key_file(f: &Fixture) -> PathBuf {
    f.folder.path().join("master.key")
}

fn source(f: &Fixture) -> KeySource {
    KeySource::File(key_file(f))
}

async fn open(f: &Fixture) -> Result<Store, Error> {
    let store = Store::open(&f.folder.path().join("rigbox.db"), &f.token_key).await?;
    store.unlock(source(f), now()).await
}

/// Returns a fixture with its master key and one workspace.
pub(super) async fn unlocked() -> (Fixture, WorkspaceId) {
    let mut f = fixture().await;
    f.store = f.store.unlock(KeySource::File(f.folder.path().join("master.key")), now()).await.unwrap();
    let made = new(&f.user, 1, "one");
    f.store.create_workspace(&made, QUOTA, None, &event()).await.unwrap();
    (f, made.id)
}

fn variables(of: &[(&str, &str)]) -> BTreeMap<VariableName, SecretString> {
    of.iter().map(|(name, value)| (name.parse().unwrap(), SecretString::from(*value))).collect()
}

async fn set(
    store: &Store,
    id: &WorkspaceId,
    of: &[(&str, &str)],
) -> Result<Option<EnvironmentNames>, Error> {
    store.set_variables(id, &variables(of), &event(), now()).await
}

async fn values(store: &Store, id: &WorkspaceId) -> Vec<(String, String)> {
    let environment = store.environment(id).await.unwrap().unwrap();
    let shown =
        |(name, value): (VariableName, SecretString)| (name.to_string(), value.expose_secret().to_owned());
    environment.variables.into_iter().map(shown).collect()
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

async fn keys_in_file(f: &Fixture) -> Vec<MasterKeyId> {
    let ring = source(f).read().await.unwrap();
    std::iter::once(ring.first()).chain(ring.others()).map(|key| key.id()).collect()
}

#[tokio::test]
async fn variables_are_merged_and_removed_and_only_their_names_are_with_the_workspace() {
    let (f, id) = unlocked().await;
    set(&f.store, &id, &[("B", "1"), ("A", CANARY)]).await.unwrap();
    let names = set(&f.store, &id, &[("B", "2 \n ä")]).await.unwrap().unwrap();
    assert_eq!(values(&f.store, &id).await, pairs(&[("A", CANARY), ("B", "2 \n ä")]));
    let workspace = f.store.workspace(&id).await.unwrap().unwrap();
    assert_eq!((&workspace.environment, names.revision), (&names, 2));
    assert_eq!(names.names.iter().map(VariableName::as_str).collect::<Vec<_>>(), ["A", "B"]);
    assert!(!format!("{:?}", f.store.environment(&id).await.unwrap()).contains(CANARY));

    let name = "A".parse().unwrap();
    assert_eq!(f.store.remove_variable(&id, &name, &event(), now()).await.unwrap().unwrap().revision, 3);
    assert_eq!(f.store.remove_variable(&id, &name, &event(), now()).await.unwrap(), None);
    assert_eq!(values(&f.store, &id).await, pairs(&[("B", "2 \n ä")]));
    assert_eq!(set(&f.store, &WorkspaceId::from_random([9; 5]), &[("A", "x")]).await.unwrap(), None);
    // Three changes, each recorded in its transaction, after the workspace, the user and the key.
    assert_eq!(f.store.verify_audit().await.unwrap(), Ok(6));
}

#[tokio::test]
async fn oversized_environment_changes_nothing() {
    let (f, id) = unlocked().await;
    let half = "x".repeat(32 * 1024);
    set(&f.store, &id, &[("A", &half)]).await.unwrap();
    let refused = set(&f.store, &id, &[("B", &half), ("C", "c")]).await;
    assert!(
        matches!(refused, Err(Error::Quota { limit_name: "max_env_bytes", limit: 65_536, .. })),
        "{refused:?}"
    );
    let many: Vec<String> = (0..512).map(|n| format!("V{n}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "")).collect();
    let refused = set(&f.store, &id, &many).await;
    assert!(
        matches!(refused, Err(Error::Quota { limit_name: "max_env_vars", limit: 512, .. })),
        "{refused:?}"
    );
    assert_eq!(values(&f.store, &id).await.len(), 1);
    assert_eq!(f.store.workspace(&id).await.unwrap().unwrap().environment.revision, 1);
}

#[tokio::test]
async fn database_contains_no_plaintext_value_or_master_key() {
    let (f, id) = unlocked().await;
    set(&f.store, &id, &[("A", CANARY)]).await.unwrap();
    let key = source(&f).read().await.unwrap();
    let (raw, text) = (key.first().bytes().to_vec(), std::fs::read(key_file(&f)).unwrap());
    f.store.close().await;
    let mut searched = 0;
    for entry in std::fs::read_dir(f.folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("rigbox.db") {
            let bytes = std::fs::read(&path).unwrap();
            for secret in [CANARY.as_bytes(), &raw, text.trim_ascii()] {
                assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{}", path.display());
            }
            searched += bytes.len();
        }
    }
    assert!(searched > 10_000);
}

#[tokio::test]
async fn value_moved_to_another_row_does_not_open() {
    let (f, id) = unlocked().await;
    let other = new(&f.user, 2, "two");
    f.store.create_workspace(&other, QUOTA, None, &event()).await.unwrap();
    set(&f.store, &id, &[("A", "a"), ("B", "b")]).await.unwrap();
    set(&f.store, &other.id, &[("A", "other")]).await.unwrap();
    let copy = |from: &str, name: &str| {
        let sql = format!(
            "UPDATE workspace_env SET value = (SELECT value FROM workspace_env WHERE workspace_id = '{from}' \
             AND name = '{name}') WHERE workspace_id = '{id}' AND name = 'A'"
        );
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&f.store.writer)
    };
    for (from, name) in [(&id, "B"), (&other.id, "A")] {
        copy(from.as_str(), name).await.unwrap();
        let moved = f.store.environment(&id).await;
        assert!(matches!(moved, Err(Error::DecryptFailed { table: "workspace_env", .. })), "{from} {name}");
    }
}

#[tokio::test]
async fn wrong_master_key_is_an_error_and_loses_nothing() {
    let (f, id) = unlocked().await;
    set(&f.store, &id, &[("A", CANARY)]).await.unwrap();
    let kept = std::fs::read(key_file(&f)).unwrap();
    std::fs::remove_file(key_file(&f)).unwrap();
    // A lost file is not recreated.
    assert!(matches!(open(&f).await, Err(Error::MasterKeySource { .. })));
    assert!(!key_file(&f).exists());
    crate::secrets::master_key::write(
        &key_file(&f),
        &[&crate::secrets::master_key::MasterKey::generate().unwrap()],
    )
    .unwrap();
    let error = open(&f).await.unwrap_err();
    assert!(matches!(error, Error::WrongMasterKey { .. }) && error.to_string().contains("wrong master key"));
    std::fs::write(key_file(&f), kept).unwrap();
    assert_eq!(values(&open(&f).await.unwrap(), &id).await, pairs(&[("A", CANARY)]));
    // A handle without keys neither reads nor writes secrets.
    let locked = Store::open(&f.folder.path().join("rigbox.db"), &f.token_key).await.unwrap();
    assert!(matches!(set(&locked, &id, &[("A", "x")]).await, Err(Error::Locked)));
    assert!(matches!(locked.environment(&id).await, Err(Error::Locked)));
}

#[tokio::test]
async fn master_key_rotates_while_another_handle_writes() {
    let (f, id) = unlocked().await;
    let many: Vec<String> = (0..250).map(|n| format!("V{n}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), CANARY)).collect();
    set(&f.store, &id, &many).await.unwrap();
    let before = keys_in_file(&f).await;
    let writer = open(&f).await.unwrap();
    let (end, ended) = tokio::sync::watch::channel(false);
    let (writing, of) = (writer.clone(), id.clone());
    let task = tokio::spawn(async move {
        let mut written = 0;
        while !*ended.borrow() {
            written += 1;
            set(&writing, &of, &[("W", &written.to_string()), ("V7", &written.to_string())]).await.unwrap();
            assert_eq!(values(&writing, &of).await.len(), 251);
        }
        written
    });
    let mut last = before.clone();
    for _ in 0..3 {
        let done = f.store.rotate_master_key(now()).await.unwrap();
        assert_eq!(keys_in_file(&f).await, [done.to]);
        // Except for records written meanwhile.
        assert!(!done.resumed && done.records >= 240 && done.to != last[0], "{done:?}");
        last = vec![done.to];
    }
    end.send(true).unwrap();
    let written = task.await.unwrap();
    // What was written meanwhile uses the new key too: another process opens all of it.
    let opened = values(&open(&f).await.unwrap(), &id).await;
    assert_eq!((opened.len(), opened.last().unwrap().1.clone()), (251, written.to_string()));
    let keys: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM master_keys").fetch_one(&f.store.pool).await.unwrap();
    assert_eq!(keys, 1);
}

#[tokio::test]
async fn killed_rotation_is_finished_by_the_next() {
    for steps in 0..4 {
        let (f, id) = unlocked().await;
        let many: Vec<String> = (0..150).map(|n| format!("V{n}")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), CANARY)).collect();
        set(&f.store, &id, &many).await.unwrap();
        let old = keys_in_file(&f).await;
        let (to, resumed) = f.store.start_rotation().await.unwrap();
        assert!(!resumed);
        if steps > 0 {
            f.store.activate(to, now()).await.unwrap();
        }
        for _ in 1..steps {
            assert!(f.store.rewrap_batch(to).await.unwrap() > 0);
        }
        f.store.close().await;
        assert_eq!(keys_in_file(&f).await, [to, old[0]], "both keys are kept until the end");

        let store = open(&f).await.unwrap();
        assert_eq!(values(&store, &id).await.len(), 150);
        let done = store.rotate_master_key(now()).await.unwrap();
        assert_eq!((done.to, done.resumed), (to, true), "killed after {steps} steps");
        assert_eq!(keys_in_file(&f).await, [to]);
        assert_eq!(values(&open(&f).await.unwrap(), &id).await.len(), 150);
    }
}

#[tokio::test]
async fn concurrent_rotations_are_refused() {
    let (f, _) = unlocked().await;
    let lock = f.store.lock_rotation().unwrap();
    assert!(matches!(f.store.rotate_master_key(now()).await, Err(Error::Rotation(_))));
    drop(lock);
    f.store.rotate_master_key(now()).await.unwrap();
}

#[tokio::test]
async fn rotation_encrypts_under_the_operators_first_key() {
    let (f, id) = unlocked().await;
    set(&f.store, &id, &[("A", CANARY)]).await.unwrap();
    let cat = KeySource::Command(vec!["cat".into(), key_file(&f).to_str().unwrap().into()]);
    let path = f.folder.path().join("rigbox.db");
    let store = Store::open(&path, &f.token_key).await.unwrap().unlock(cat, now()).await.unwrap();
    let refused = store.rotate_master_key(now()).await.unwrap_err();
    assert!(refused.to_string().contains("put a new key before it"), "{refused}");
    let (old, new) = (
        std::fs::read_to_string(key_file(&f)).unwrap(),
        crate::secrets::master_key::MasterKey::generate().unwrap(),
    );
    crate::secrets::master_key::write(&key_file(&f), &[&new]).unwrap();
    let both = std::fs::read_to_string(key_file(&f)).unwrap() + &old;
    std::fs::write(key_file(&f), &both).unwrap();
    let done = store.rotate_master_key(now()).await.unwrap();
    assert_eq!((done.to, done.records, done.resumed), (new.id(), 1, false));
    assert_eq!(
        std::fs::read_to_string(key_file(&f)).unwrap(),
        both,
        "the operator's source is the operator's"
    );
    assert!(store.rotate_master_key(now()).await.is_err());
    // The first handle reloads its file when it meets the new key.
    assert_eq!(values(&f.store, &id).await, pairs(&[("A", CANARY)]));
}

#[tokio::test]
async fn rotation_covers_every_envelope_column() {
    let (f, _) = unlocked().await;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT m.name FROM sqlite_master m JOIN pragma_table_info(m.name) c ON c.name = 'master_key' \
         WHERE m.type = 'table'",
    )
    .fetch_all(&f.store.pool)
    .await
    .unwrap();
    let known: Vec<&str> =
        crate::secrets::rotation::SEALED_COLUMNS.iter().map(|column| column.table).collect();
    assert_eq!(tables, known);
}

#[tokio::test]
async fn workspace_key_ends_with_its_boot() {
    let (f, id) = unlocked().await;
    let row = || async { f.store.workspace(&id).await.unwrap().unwrap() };
    let live = |next: Lifecycle| {
        let (store, id) = (f.store.clone(), id.clone());
        async move {
            let previous = store.workspace(&id).await.unwrap().unwrap();
            assert!(store.update_lifecycle(&previous, &next, None, None, None, now()).await.unwrap());
        }
    };
    let good = |key: &WorkspaceKey| {
        let (store, hash) = (f.store.clone(), f.token_key.hash(key.reveal()));
        async move { store.workspace_key_principal(&hash).await.unwrap() }
    };
    let give = |boot: &'static str| {
        let (store, id, token_key) = (f.store.clone(), id.clone(), f.token_key.clone());
        async move {
            let key = WorkspaceKey::mint().unwrap();
            let given = store.set_workspace_key(&id, boot, &token_key.hash(key.reveal())).await.unwrap();
            (key, given)
        }
    };
    let starting = ready(&row().await.lifecycle).request(Request::Start, now()).unwrap();
    live(starting.clone()).await;
    assert!(!give("boot-1").await.1, "an unknown boot has no key");
    let booting = report(&starting, 2, Some(vm("boot-1", &starting, VmPhase::Booting)));
    live(starting.observe(&booting, now()).unwrap()).await;
    let (key, given) = give("boot-1").await;
    assert!(given && good(&key).await.is_some() && !f.store.has_workspace_key(&id, "boot-1").await.unwrap());
    let (again, _) = give("boot-1").await;
    assert!(good(&key).await.is_none() && good(&again).await.is_some(), "one at a time");

    let answered = report(&starting, 3, Some(vm("boot-1", &starting, answering())));
    let answered = row().await.lifecycle.observe(&answered, now()).unwrap();
    live(answered.clone()).await;
    assert!(!f.store.has_workspace_key(&id, "boot-1").await.unwrap());
    let running = answered.delivered(delivered("boot-1", 0), now());
    live(running.clone()).await;
    assert!(f.store.has_workspace_key(&id, "boot-1").await.unwrap());
    let principal = good(&again).await.unwrap();
    assert_eq!(
        (principal.credential, principal.scope),
        (Credential::Workspace(id.clone()), Scope::OwnWorkspace(id.clone()))
    );

    // The guest reboots.
    let rebooted = running.observe(&report(&running, 4, None), now()).unwrap();
    live(rebooted.clone()).await;
    assert!(good(&again).await.is_none());
    let booting = report(&rebooted, 5, Some(vm("boot-2", &rebooted, VmPhase::Booting)));
    let second = rebooted.observe(&booting, now()).unwrap();
    live(second.clone()).await;
    let (key, _) = give("boot-2").await;
    assert!(good(&key).await.is_some());
    live(second.request(Request::Cancel, now()).unwrap()).await;
    assert!(good(&key).await.is_none(), "a requested stop ends it");
    assert!(!give("boot-2").await.1);
}

fn delivered(boot: &str, revision: i64) -> Delivered {
    Delivered { boot: boot.to_owned(), revision }
}

#[tokio::test]
async fn running_boot_whose_key_was_lost_gets_another() {
    let (f, id) = unlocked().await;
    let workspace = f.store.workspace(&id).await.unwrap().unwrap();
    let starting = ready(&workspace.lifecycle).request(Request::Start, now()).unwrap();
    let answered = report(&starting, 2, Some(vm("boot-1", &starting, answering())));
    let running = starting.observe(&answered, now()).unwrap().delivered(delivered("boot-1", 0), now());
    assert!(f.store.update_lifecycle(&workspace, &running, None, None, None, now()).await.unwrap());
    // The key ends with a restore, and the workspace runs on.
    f.store.end_sign_ins(now()).await.unwrap();
    let workspace = f.store.workspace(&id).await.unwrap().unwrap();
    assert_eq!(workspace.lifecycle.status, Status::Running);
    assert_ne!(
        workspace.lifecycle.delivered,
        Some(delivered("boot-1", 0)),
        "it has to get its secrets again"
    );
    let key = WorkspaceKey::mint().unwrap();
    assert!(f.store.set_workspace_key(&id, "boot-1", &f.token_key.hash(key.reveal())).await.unwrap());
    assert!(!f.store.has_workspace_key(&id, "boot-1").await.unwrap());
    let running = workspace.lifecycle.delivered(delivered("boot-1", 0), now());
    assert!(f.store.update_lifecycle(&workspace, &running, None, None, None, now()).await.unwrap());
    assert!(f.store.has_workspace_key(&id, "boot-1").await.unwrap());
}

#[test]
fn workspace_key_looks_like_one_and_does_not_print() {
    let key = WorkspaceKey::mint().unwrap();
    assert_eq!((format!("{key:?}").as_str(), key.reveal().len()), ("WorkspaceKey(..)", 49));
    assert!(WorkspaceKey::parse(key.reveal()).is_some() && ApiKey::parse(key.reveal()).is_none());
    assert!(WorkspaceKey::parse(ApiKey::mint().unwrap().reveal()).is_none());
}
