//! Tests of what is kept: nothing counts as deleted without its tombstone.

use super::*;
use rigbox_core::ids::DatabaseId;

fn orphan(id: &WorkspaceId, generation: u64) -> Orphan {
    Orphan {
        id: id.clone(),
        node_id: NodeId::from_random([0; 5]),
        disk_size_mb: 4096,
        generation,
        found_at: now(),
        is_removed: false,
    }
}

#[tokio::test]
async fn deletion_leaves_its_evidence_in_the_same_transaction() {
    let f = fixture().await;
    let made = new(&f.user, 1, "one");
    f.store.create_workspace(&made, QUOTA, None, &event()).await.unwrap();
    // Known workspaces are no orphans.
    assert_eq!(f.store.record_orphan(&orphan(&made.id, 1)).await.unwrap(), None);
    let deleting = made.lifecycle.request(Request::Cancel, now()).unwrap();
    assert!(f.store.update_lifecycle(&made, &deleting, None, None, None, now()).await.unwrap());
    let made = f.store.workspace(&made.id).await.unwrap().unwrap();
    assert!(f.store.remove_workspace(&made).await.unwrap());
    let back = f.store.record_orphan(&orphan(&made.id, 1)).await.unwrap().unwrap();
    assert!(back.is_removed);
    // Another one was never deleted.
    let other = f.store.record_orphan(&orphan(&WorkspaceId::from_random([2; 5]), 1)).await.unwrap().unwrap();
    assert!(!other.is_removed);
}

#[tokio::test]
async fn orphan_is_adopted_or_removed_but_not_both() {
    let f = fixture().await;
    let (one, two) = (new(&f.user, 1, "one"), new(&f.user, 2, "two"));
    assert!(!f.store.adopt_orphan(&one).await.unwrap());
    for workspace in [&one, &two] {
        f.store.record_orphan(&orphan(&workspace.id, 3)).await.unwrap();
    }
    assert!(f.store.adopt_orphan(&one).await.unwrap());
    assert!(!f.store.remove_orphan(&one.id, &f.user, now()).await.unwrap());
    assert!(f.store.remove_orphan(&two.id, &f.user, now()).await.unwrap());
    assert!(!f.store.adopt_orphan(&two).await.unwrap());
    let left = f.store.orphans().await.unwrap();
    assert_eq!(left, [Orphan { is_removed: true, ..orphan(&two.id, 3) }]);
    f.store.forget_orphan(&two.id).await.unwrap();
    assert!(f.store.orphans().await.unwrap().is_empty());
}

#[tokio::test]
async fn database_has_one_id_for_good() {
    let f = fixture().await;
    let id = f.store.database_id().await.unwrap();
    assert_eq!(f.store.database_id().await.unwrap(), id);
    let other = DatabaseId::from_random([9; 5]);
    f.store.set_database_id(&other, now()).await.unwrap();
    assert_eq!(f.store.database_id().await.unwrap(), other);
}
