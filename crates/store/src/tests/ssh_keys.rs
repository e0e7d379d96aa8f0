//! Tests of users' SSH keys: who has registered which, how many, and that what was removed stays removed.

use super::*;

/// Returns a key that differs by `n`.
fn key(n: u8) -> NewSshKey {
    NewSshKey {
        name: format!("key {n}"),
        public_key: format!("ssh-ed25519 AAAA{n}"),
        blob: vec![0, 0xff, n],
        fingerprint: format!("SHA256:{n}"),
        no_touch_required: n.is_multiple_of(2),
    }
}

impl Fixture {
    pub(super) async fn add_ssh_key(&self, user: &UserId, n: u8) -> SshKey {
        match self.store.add_ssh_key(user, &key(n), 9, None, event(), now()).await.unwrap() {
            Replay::Fresh(added) => added,
            Replay::Repeated(id) => panic!("{id} was added before"),
        }
    }

    async fn other_user(&self) -> UserId {
        self.store.add_user("b@example.com", rigbox_core::plans::Plan::Free, now()).await.unwrap()
    }

    async fn owners(&self, n: u8) -> Vec<UserId> {
        let owners = self.store.ssh_key_owners(&key(n).fingerprint).await.unwrap();
        owners.into_iter().map(|owner| owner.user).collect()
    }
}

#[tokio::test]
async fn key_is_read_as_it_was_written() {
    let f = fixture().await;
    let added = [f.add_ssh_key(&f.user, 1).await, f.add_ssh_key(&f.user, 2).await];
    let mut listed = f.store.ssh_keys_of(&f.user).await.unwrap();
    listed.sort_by(|one, other| one.name.cmp(&other.name));
    assert_eq!(listed, added);
    let [owner] = &f.store.ssh_key_owners("SHA256:2").await.unwrap()[..] else { panic!() };
    let wanted = SshKeyOwner {
        user: f.user.clone(),
        key: added[1].id.clone(),
        blob: vec![0, 0xff, 2],
        no_touch_required: true,
    };
    assert_eq!(*owner, wanted);

    let before = f.store.epoch().unwrap();
    let used_at = Timestamp::from_unix_ms(7);
    assert!(f.store.take_ssh_log_in(&[1; 32], &added[0].id, used_at).await.unwrap());
    assert_eq!(f.store.epoch().unwrap(), before, "a use changes nothing of what is granted");
    let used = f.store.ssh_key(&f.user, &added[0].id).await.unwrap().unwrap();
    assert_eq!(used, SshKey { last_used_at: Some(Timestamp::from_unix_ms(7)), ..added[0].clone() });
}

#[tokio::test]
async fn same_key_may_belong_to_several_users_and_to_each_once() {
    let f = fixture().await;
    let other = f.other_user().await;
    let (mine, theirs) = (f.add_ssh_key(&f.user, 1).await, f.add_ssh_key(&other, 1).await);
    let mut owners = f.owners(1).await;
    owners.sort();
    let mut both = [f.user.clone(), other.clone()];
    both.sort();
    assert_eq!(owners, both);
    let again = NewSshKey { name: "again".into(), ..key(1) };
    let again = f.store.add_ssh_key(&f.user, &again, 1, None, event(), now()).await;
    let Err(Error::SshKeyExists { id, name }) = again else { panic!("registered twice") };
    assert_eq!((id, name), (mine.id.clone(), "key 1".to_owned()));

    // Nobody removes, or reads, the key of somebody else.
    assert!(!f.store.remove_ssh_key(&f.user, &theirs.id, event(), now()).await.unwrap());
    assert_eq!(f.store.ssh_key(&f.user, &theirs.id).await.unwrap(), None);
    assert!(f.store.remove_ssh_key(&f.user, &mine.id, event(), now()).await.unwrap());
    assert!(!f.store.remove_ssh_key(&f.user, &mine.id, event(), now()).await.unwrap());
    assert_eq!(f.owners(1).await, std::slice::from_ref(&other));
    f.store.set_disabled(&other, true, now()).await.unwrap();
    assert_eq!(f.owners(1).await, []);
}

#[tokio::test]
async fn quota_holds_under_concurrent_additions() {
    let f = fixture().await;
    let tasks: Vec<_> = (1..=9)
        .map(|n| {
            let (store, user) = (f.store.clone(), f.user.clone());
            tokio::spawn(async move { store.add_ssh_key(&user, &key(n), 3, None, event(), now()).await })
        })
        .collect();
    let mut added = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => added += 1,
            Err(Error::Quota { limit_name: "max_ssh_keys", limit: 3, used: 3 }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((added, f.store.ssh_keys_of(&f.user).await.unwrap().len()), (3, 3));
}

#[tokio::test]
async fn repeated_addition_returns_the_id_of_the_first() {
    let f = fixture().await;
    let (idempotency_key, new) = (IdempotencyKey::new("k", b"one"), key(1));
    let add = || f.store.add_ssh_key(&f.user, &new, 9, Some(&idempotency_key), event(), now());
    let Replay::Fresh(added) = add().await.unwrap() else { panic!() };
    assert_eq!(add().await.unwrap(), Replay::Repeated(added.id.to_string()));
    assert_eq!(f.store.ssh_keys_of(&f.user).await.unwrap().len(), 1);
}

#[tokio::test]
async fn additions_and_removals_advance_the_epoch_of_grants_and_are_audited() {
    let f = fixture().await;
    let before = f.store.epoch().unwrap();
    let added = f.add_ssh_key(&f.user, 1).await;
    let between = f.store.epoch().unwrap();
    f.store.remove_ssh_key(&f.user, &added.id, event(), now()).await.unwrap();
    assert!(before < between && between < f.store.epoch().unwrap());
    let log = f.store.audit_of(&UserId::from_random([1; 5]), None, 9).await.unwrap();
    let target = format!("{} SHA256:1", added.id);
    assert_eq!(log.iter().filter(|entry| entry.target == target).count(), 2, "{log:?}");
}
