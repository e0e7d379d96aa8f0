//! Targets of workspaces: which of them something is to be done for, their removal, and rows of earlier versions.

use super::*;

async fn stored(f: &Fixture, made: &Workspace) -> Workspace {
    f.store.workspace(&made.id).await.unwrap().unwrap()
}

#[tokio::test]
async fn workspace_is_pending_until_its_node_holds_the_target() {
    let f = fixture().await;
    let made = new(&f.user, 1, "one");
    f.store.create_workspace(&made, QUOTA, None, &event()).await.unwrap();
    let pending = async || f.store.unsettled_workspaces().await.unwrap();
    let only = std::slice::from_ref(&made.id);
    assert_eq!(pending().await, only);
    let rests = ready(&made.lifecycle);
    assert!(f.store.update_lifecycle(&made, &rests, None, None, None, now()).await.unwrap());
    assert!(pending().await.is_empty());
    // It failed, and the node does not know that its start was given up.
    let starting = rests.request(Request::Start, now()).unwrap();
    let failed = starting.refused("node_full", "no room", now());
    assert_eq!(failed.status, Status::Failed);
    assert!(
        f.store.update_lifecycle(&stored(&f, &made).await, &failed, None, None, None, now()).await.unwrap()
    );
    assert_eq!(pending().await, only);
    assert_eq!(f.store.all_workspaces().await.unwrap(), only);
}

#[tokio::test]
async fn observations_are_stored_together_but_for_rows_that_have_changed() {
    let f = fixture().await;
    let mut changes = Vec::new();
    for (n, name) in [(1, "one"), (2, "two"), (3, "three")] {
        let made = new(&f.user, n, name);
        f.store.create_workspace(&made, QUOTA, None, &event()).await.unwrap();
        let rests = ready(&made.lifecycle);
        assert!(f.store.update_lifecycle(&made, &rests, None, None, None, now()).await.unwrap());
        let before = stored(&f, &made).await;
        let after = before.lifecycle.observe(&report(&before.lifecycle, 5, None), now()).unwrap();
        assert!(before.lifecycle.differs_in_record_only(&after));
        changes.push((before, after));
    }
    let changed = changes[1].0.clone();
    let starting = changed.lifecycle.request(Request::Start, now()).unwrap();
    assert!(!changed.lifecycle.differs_in_record_only(&starting));
    assert!(f.store.update_lifecycle(&changed, &starting, None, None, None, now()).await.unwrap());

    let later = Timestamp::from_unix_ms(2_000);
    let ids = f.store.update_observed(&changes, later).await.unwrap();
    let expected = BTreeSet::from([&changes[0].0.id, &changes[2].0.id]);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>(), expected);
    for (before, lifecycle) in [&changes[0], &changes[2]] {
        let revision = before.revision + 1;
        let after = Workspace { lifecycle: lifecycle.clone(), revision, updated_at: later, ..before.clone() };
        assert_eq!(stored(&f, before).await, after);
    }
    assert_eq!(stored(&f, &changed).await.lifecycle, starting);
    assert_eq!(f.store.update_observed(&changes, later).await.unwrap(), []);
    assert_eq!(f.store.update_observed(&[], later).await.unwrap(), []);
}

#[tokio::test]
async fn running_workspace_is_pending_until_it_has_its_latest_environment() {
    let f = fixture().await;
    let made = new(&f.user, 1, "one");
    f.store.create_workspace(&made, QUOTA, None, &event()).await.unwrap();
    let starting = ready(&made.lifecycle).request(Request::Start, now()).unwrap();
    let answered = report(&starting, 9, Some(vm("boot-1", &starting, answering())));
    let answered = starting.observe(&answered, now()).unwrap();
    for (revision, is_pending) in [(-1, true), (0, false)] {
        let running = answered.delivered(Delivered { boot: "boot-1".into(), revision }, now());
        assert_eq!(running.status, Status::Running);
        let stored = stored(&f, &made).await;
        assert!(f.store.update_lifecycle(&stored, &running, None, None, None, now()).await.unwrap());
        assert_eq!(!f.store.unsettled_workspaces().await.unwrap().is_empty(), is_pending);
    }
}

#[tokio::test]
async fn workspace_is_removed_only_while_its_deletion_is_wanted() {
    let f = fixture().await;
    let made = new(&f.user, 1, "one");
    f.store.create_workspace(&made, QUOTA, None, &event()).await.unwrap();
    assert!(!f.store.remove_workspace(&made).await.unwrap());
    let deleting = made.lifecycle.request(Request::Cancel, now()).unwrap();
    assert!(f.store.update_lifecycle(&made, &deleting, None, None, None, now()).await.unwrap());
    let deleting = stored(&f, &made).await;
    let failed = deleting.lifecycle.time_out(Duration::MAX, now(), &Timeouts::default()).unwrap();
    assert!(f.store.update_lifecycle(&deleting, &failed, None, None, None, now()).await.unwrap());
    assert!(f.store.remove_workspace(&deleting).await.unwrap(), "a deletion that is late is wanted on");
}

#[tokio::test]
async fn later_revision_of_the_node_makes_the_wanted_policy_later_still() {
    let f = fixture().await;
    let made = new(&f.user, 1, "one");
    f.store.create_workspace(&made, QUOTA, None, &event()).await.unwrap();
    let revisions = || f.store.network_revisions(&made.id).unwrap().unwrap();
    f.store.acknowledge_network(&made.id, 1).await.unwrap();
    assert_eq!(revisions(), NetworkRevisions { wanted: 1, acknowledged: 1 });
    f.store.acknowledge_network(&made.id, 9).await.unwrap();
    assert_eq!(revisions(), NetworkRevisions { wanted: 10, acknowledged: 9 });
    f.store.acknowledge_network(&made.id, 3).await.unwrap();
    assert_eq!(revisions(), NetworkRevisions { wanted: 10, acknowledged: 9 });
}

#[tokio::test]
async fn rows_of_an_earlier_version_get_their_secrets_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rigbox.db");
    {
        let pools = crate::sqlite::open(&path).await.unwrap();
        let mut all = crate::migrations::migrator();
        let earlier = all.migrations.to_mut();
        earlier.retain(|migration| migration.version < 20);
        crate::migrations::run(&all, &pools.writer).await.unwrap();
        sqlx::query("INSERT INTO users (id, email, plan, created_at) VALUES ('us-aaaaaaaa', 'a@example.com', 'free', 1)")
            .execute(&pools.writer)
            .await
            .unwrap();
        for (n, status, desired, boot) in [
            ("a", "provisioned", "stopped", None),
            ("b", "running", "running", Some("boot-b")),
            ("c", "stopped", "stopped", None),
        ] {
            sqlx::query(
                "INSERT INTO workspaces (id, user_id, node_id, name, template_id, image, ram_mb, vcpu_count, disk_size_mb, \
                 revision, status, status_since, desired, generation, has_disk, boot_id, agent_lost, attempts, created_at, updated_at) \
                 VALUES ('ws-aaaaaaa' || $1, 'us-aaaaaaaa', 'node-aaaaaaaa', $1, 'base', 'base', 512, 1, 4096, 1, $2, 1, $3, 4, TRUE, \
                 $4, FALSE, 0, 1, 1)",
            )
            .bind(n)
            .bind(status)
            .bind(desired)
            .bind(boot)
            .execute(&pools.writer)
            .await
            .unwrap();
        }
        pools.readers.close().await;
        pools.writer.close().await;
    }
    let token_key = TokenKey::load_or_create(&folder.path().join("token.key")).unwrap();
    let store = Store::open(&path, &token_key).await.unwrap();
    let lifecycle = async |n: &str| {
        store.workspace(&format!("ws-aaaaaaa{n}").parse().unwrap()).await.unwrap().unwrap().lifecycle
    };
    assert_eq!([lifecycle("a").await.was_started, lifecycle("c").await.was_started], [false, true]);
    let running = lifecycle("b").await;
    assert_eq!(
        (running.status, running.delivered.as_ref().unwrap().boot.as_str()),
        (Status::Running, "boot-b")
    );
    assert!(running.delivered.as_ref().unwrap().revision < 0);
    assert_eq!(running.observed, Observed::nothing());
    // Once the node reports it, it runs on.
    let observed = report(&running, 1, Some(vm("boot-b", &running, answering())));
    assert_eq!(running.observe(&observed, now()).unwrap().status, Status::Running);
    assert_eq!(store.unsettled_workspaces().await.unwrap().len(), 3);
}
