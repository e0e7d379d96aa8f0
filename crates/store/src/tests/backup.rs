//! Copies of the database are consistent and complete, whatever is written meanwhile.

use rusqlite::Connection;

use super::*;

#[tokio::test]
async fn copy_under_concurrent_writes_is_consistent() {
    let f = fixture().await;
    let path = f.folder.path().join("copy.db");
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let (store, user) = (f.store.clone(), f.user.clone());
            tokio::spawn(async move {
                for n in 0..40 {
                    store.set_disabled(&user, n % 2 == 0, now()).await.unwrap();
                }
            })
        })
        .collect();
    let mut entries = Vec::new();
    while writers.iter().any(|writer| !writer.is_finished()) || entries.is_empty() {
        let info = f.store.copy_to(&path).await.unwrap();
        assert_eq!(info, inspect_copy(&path).unwrap());
        assert_eq!(info.database, f.store.database_id().await.unwrap());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let opened = f.folder.path().join(format!("copy-{}", entries.len()));
        std::fs::create_dir(&opened).unwrap();
        let opened = opened.join("rigbox.db");
        std::fs::copy(&path, &opened).unwrap();
        let check: String = Connection::open(&opened)
            .unwrap()
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(check, "ok");
        let copy = Store::open(&opened, &f.token_key).await.unwrap();
        entries.push(copy.verify_audit().await.unwrap().unwrap());
        copy.close().await;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(entries.is_sorted() && f.store.verify_audit().await.unwrap().unwrap() >= 160, "{entries:?}");
}

#[tokio::test]
async fn copy_of_a_newer_version_or_a_damaged_one_is_refused() {
    let f = fixture().await;
    let path = f.folder.path().join("copy.db");
    f.store.copy_to(&path).await.unwrap();
    let connection = Connection::open(&path).unwrap();
    let newer = "INSERT INTO _sqlx_migrations SELECT 999, description, installed_on, success, checksum, execution_time \
                 FROM _sqlx_migrations WHERE version = 1";
    connection.execute(newer, []).unwrap();
    drop(connection);
    let refused = inspect_copy(&path).unwrap_err();
    assert!(matches!(refused, Error::NewerSchema(999)), "{refused}");
    std::fs::write(&path, "no database").unwrap();
    assert!(inspect_copy(&path).is_err());
}

#[test]
fn token_key_is_known_by_its_id() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    assert!(TokenKey::load(&path("one")).is_err() && !path("one").exists());
    let [one, two] = ["one", "two"].map(|name| TokenKey::load_or_create(&path(name)).unwrap());
    assert_eq!(TokenKey::load(&path("one")).unwrap().id(), one.id());
    assert_ne!(one.id(), two.id());
    assert_eq!(one.id().len(), 16);
}

#[tokio::test]
async fn restored_copy_delivers_all_secrets_again() {
    let f = fixture().await;
    let made = new(&f.user, 1, "one");
    f.store.create_workspace(&made, QUOTA, None, &event()).await.unwrap();
    let starting = ready(&made.lifecycle).request(Request::Start, now()).unwrap();
    let answered = report(&starting, 2, Some(vm("boot-1", &starting, answering())));
    let delivered = Delivered { boot: "boot-1".into(), revision: 0 };
    let running = starting.observe(&answered, now()).unwrap().delivered(delivered.clone(), now());
    assert!(f.store.update_lifecycle(&made, &running, None, None, None, now()).await.unwrap());
    let path = f.folder.path().join("copy.db");
    f.store.copy_to(&path).await.unwrap();
    let copy = Store::open(&path, &f.token_key).await.unwrap();
    let state = |workspace: Option<Workspace>| workspace.unwrap().lifecycle;
    let copied = state(copy.workspace(&made.id).await.unwrap());
    assert_eq!((copied.status, copied.boot()), (Status::Running, Some("boot-1")));
    assert!(copied.delivered.unwrap().revision < delivered.revision);
    assert_eq!(state(f.store.workspace(&made.id).await.unwrap()).delivered, Some(delivered));
}
