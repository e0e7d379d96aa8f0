//! Tests of users' SSH keys: who has registered which, how many, and that what was removed stays removed.

use rigbox_core::ids::GatewayId;

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

fn gateway(n: u8) -> GatewayId {
    GatewayId::from_random([n; 5])
}

impl Fixture {
    pub(super) async fn add_ssh_key(&self, user: &UserId, n: u8) -> SshKey {
        match self.store.add_ssh_key(user, &key(n), 9, None, event(), now()).await.unwrap() {
            Replay::Fresh(added) => added,
            Replay::Repeated(id) => panic!("{id} was added before"),
        }
    }

    /// Opens a session with the id `n`, by a client whose address is known.
    async fn open_ssh_session(&self, n: u8, gateway: &GatewayId, key: &SshKeyId, at: Timestamp) -> bool {
        let (id, workspace) = ([n; 32], WorkspaceId::from_random([7; 5]));
        let owner = self.store.ssh_key_principal(key).await.unwrap().unwrap();
        let principal = &Principal { from: Some([192, 0, 2, 1].into()), ..owner };
        let session = NewSshSession { id: &id, gateway, workspace: &workspace, principal, key };
        let event = AuditEvent::by(principal, "ssh.open", &workspace);
        self.store.open_ssh_session(session, &event, at).await.unwrap()
    }

    /// Returns actions and targets of sessions in the audit log, the oldest first.
    async fn ssh_audit(&self) -> Vec<String> {
        let mut entries = self.store.audit_of(&self.user, None, 1_000).await.unwrap();
        entries.retain(|entry| entry.action.starts_with("ssh."));
        assert!(entries.iter().all(|entry| entry.address.as_deref() == Some("192.0.2.1")));
        entries.iter().rev().map(|entry| format!("{} {}", entry.action, entry.target)).collect()
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
    assert!(f.open_ssh_session(1, &gateway(1), &added[0].id, used_at).await);
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

#[tokio::test]
async fn session_is_opened_once_and_ended_once_in_the_audit_log() {
    let f = fixture().await;
    let key = f.add_ssh_key(&f.user, 1).await.id;
    let workspace = WorkspaceId::from_random([7; 5]);
    assert!(f.open_ssh_session(1, &gateway(1), &key, now()).await);
    assert!(!f.open_ssh_session(1, &gateway(1), &key, now()).await);
    // The end of a session outlives its key.
    assert!(f.store.remove_ssh_key(&f.user, &key, event(), now()).await.unwrap());
    assert!(f.store.end_ssh_session(&[1; 32], "5 bytes", now()).await.unwrap());
    assert!(!f.store.end_ssh_session(&[1; 32], "6 bytes", now()).await.unwrap());
    assert!(!f.store.end_ssh_session(&[2; 32], "7 bytes", now()).await.unwrap());
    let expected = [format!("ssh.open {workspace}"), format!("ssh.close {workspace} 5 bytes")];
    assert_eq!(f.ssh_audit().await, expected);
    assert_eq!(f.store.gateways_with_ssh_sessions().await.unwrap(), []);
}

#[tokio::test]
async fn all_sessions_of_a_gateway_end_and_no_others() {
    const SESSIONS: u8 = 200;
    let f = fixture().await;
    let key = f.add_ssh_key(&f.user, 1).await.id;
    for n in 0..SESSIONS {
        assert!(f.open_ssh_session(n, &gateway(n % 2), &key, now()).await);
    }
    let half = usize::from(SESSIONS / 2);
    assert_eq!(f.store.end_ssh_sessions_of(&gateway(0), "gone", now()).await.unwrap(), half);
    assert_eq!(f.store.end_ssh_sessions_of(&gateway(0), "gone", now()).await.unwrap(), 0);
    assert_eq!(f.store.gateways_with_ssh_sessions().await.unwrap(), [gateway(1)]);
    let log = f.ssh_audit().await;
    assert_eq!(log.iter().filter(|entry| entry.ends_with(" gone")).count(), half);
    assert_eq!(log.len(), half + usize::from(SESSIONS));
}
