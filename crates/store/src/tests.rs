//! Tests of the store: what is written is read, conditions hold under concurrency, and secrets stay secret.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use rigbox_core::authz::{Credential, Principal, Role, Scope};
use rigbox_core::ids::{AppId, NodeId, UserId, WorkspaceId};
use rigbox_core::lifecycle::{
    Delivered, Disk, End, EndCause, Lifecycle, Observed, ReportOrder, Timeouts, Vm, VmPhase,
};
use rigbox_core::resources::Resources;
use rigbox_core::status::{Request, Status};
use rigbox_core::system::SystemState;
use rigbox_core::time::Timestamp;
use tempfile::TempDir;

use super::*;
use crate::tokens::{ApiKey, DeviceSecret, LinkToken, SessionToken, TokenKey, UserCode};

mod ai;
mod ai_batches;
mod ai_configs;
mod backup;
mod earlier_schemas;
mod full_disk;
mod grants;
mod orphans;
mod revocations;
mod secrets;
mod ssh_keys;
mod targets;

const QUOTA: Quota = Quota { max_vms: 3, max_ram_total_mb: 10_000, max_disk_total_mb: 100_000 };

fn now() -> Timestamp {
    Timestamp::from_unix_ms(1_000)
}

/// Returns an arbitrary event.
fn event() -> AuditEvent {
    AuditEvent::by_operator(&UserId::from_random([1; 5]), "test", "")
}

struct Fixture {
    folder: TempDir,
    store: Store,
    user: UserId,
    key: ApiKey,
    token_key: TokenKey,
}

async fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let token_key = TokenKey::load_or_create(&folder.path().join("token.key")).unwrap();
    let store = Store::open(&folder.path().join("rigbox.db"), &token_key).await.unwrap();
    let key = ApiKey::mint().unwrap();
    let user = store
        .create_first_user("a@example.com", &NewKey::of(&key, "first", &token_key), now())
        .await
        .unwrap();
    Fixture { folder, store, user, key, token_key }
}

impl Fixture {
    async fn holder(&self, key: &ApiKey, at: Timestamp) -> Option<KeyHolder> {
        self.store.key_holder(&self.token_key.hash(key.reveal()), at).await.unwrap()
    }

    async fn principal(&self) -> Principal {
        self.holder(&self.key, now()).await.unwrap().principal
    }

    /// Adds a key of the first user.
    async fn add(&self, scope: Scope, expires_at: Option<Timestamp>) -> (KeyRecord, ApiKey) {
        let key = ApiKey::mint().unwrap();
        let new = NewKey { scope, expires_at, ..NewKey::of(&key, "another", &self.token_key) };
        let Replay::Fresh(record) =
            self.store.add_key(&self.user, &new, 9, None, event(), now()).await.unwrap()
        else {
            panic!("created before")
        };
        (record, key)
    }
}

/// Report of a node that holds what is wanted and has the disk.
fn report(lifecycle: &Lifecycle, sequence: u64, vm: Option<Vm>) -> Observed {
    let order = ReportOrder { session: 1, sequence };
    Observed { order, target: lifecycle.wanted, disk: Disk::Complete, vm, end: None }
}

fn vm(boot: &str, lifecycle: &Lifecycle, phase: VmPhase) -> Vm {
    Vm { boot: boot.to_owned(), generation: lifecycle.wanted.generation, phase }
}

fn answering() -> VmPhase {
    VmPhase::Running { agent_lost: false, system: SystemState::Running }
}

/// A new workspace's state once the node has its disk.
fn ready(created: &Lifecycle) -> Lifecycle {
    created.observe(&report(created, 1, None), now()).unwrap()
}

fn new(user: &UserId, n: u8, name: &str) -> Workspace {
    Workspace {
        id: WorkspaceId::from_random([n; 5]),
        user_id: user.clone(),
        node_id: NodeId::from_random([0; 5]),
        name: name.parse().unwrap(),
        template_id: "base".into(),
        image: "base".into(),
        resources: Resources::new(512, 1, 4096).unwrap(),
        revision: 1,
        lifecycle: Lifecycle::created(now()),
        environment: EnvironmentNames::default(),
        created_at: now(),
        updated_at: now(),
    }
}

#[tokio::test]
async fn workspace_is_read_as_it_was_written() {
    let f = fixture().await;
    let mut made = new(&f.user, 1, "one");
    f.store.create_workspace(&made, QUOTA, None, &event()).await.unwrap();
    assert_eq!(f.store.workspace(&made.id).await.unwrap(), Some(made.clone()));

    let failed = made.lifecycle.refused("disk_full", "no room", now());
    let starting = ready(&made.lifecycle).request(Request::Start, now()).unwrap();
    let mut rebooting = report(&starting, 2, Some(vm("boot-1", &starting, VmPhase::Booting)));
    let (code, detail) = (String::new(), "again".to_owned());
    let generation = starting.wanted.generation;
    rebooting.end = Some(End { generation, boot: "boot-0".into(), cause: EndCause::Reboot, code, detail });
    let booting = starting.observe(&rebooting, now()).unwrap();
    let answered =
        starting.observe(&report(&starting, 3, Some(vm("boot-1", &starting, answering()))), now()).unwrap();
    let running = answered.delivered(Delivered { boot: "boot-1".into(), revision: 7 }, now());
    for lifecycle in [failed, starting, booting, answered, running] {
        assert!(f.store.update_lifecycle(&made, &lifecycle, None, None, None, now()).await.unwrap());
        made.lifecycle = lifecycle;
        made.revision += 1;
        assert_eq!(f.store.workspace(&made.id).await.unwrap(), Some(made.clone()));
    }
}

#[tokio::test]
async fn stale_write_is_refused() {
    let f = fixture().await;
    let made = new(&f.user, 1, "one");
    f.store.create_workspace(&made, QUOTA, None, &event()).await.unwrap();
    let ready = ready(&made.lifecycle);
    assert!(f.store.update_lifecycle(&made, &ready, None, None, None, now()).await.unwrap());
    let cancelled = made.lifecycle.request(Request::Cancel, now()).unwrap();
    assert!(!f.store.update_lifecycle(&made, &cancelled, None, None, None, now()).await.unwrap());
    assert_eq!(f.store.workspace(&made.id).await.unwrap().unwrap().lifecycle.status, Status::Provisioned);
}

#[tokio::test]
async fn names_are_unique_per_user_and_quotas_hold_under_concurrency() {
    let f = fixture().await;
    f.store.create_workspace(&new(&f.user, 1, "one"), QUOTA, None, &event()).await.unwrap();
    let again = f.store.create_workspace(&new(&f.user, 2, "one"), QUOTA, None, &event()).await;
    assert!(matches!(again, Err(Error::NameTaken)));

    let tasks: Vec<_> = (3..11)
        .map(|n| {
            let (store, new) = (f.store.clone(), new(&f.user, n, &format!("w{n}")));
            tokio::spawn(async move { store.create_workspace(&new, QUOTA, None, &event()).await })
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => made += 1,
            Err(Error::Quota { limit_name: "max_vms", limit: 3, used: 3 }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((made, f.store.usage(&f.user).await.unwrap().workspaces), (2, 3));
}

#[tokio::test]
async fn repeated_create_is_replayed_and_a_changed_one_refused() {
    let f = fixture().await;
    let idempotency_key = IdempotencyKey::new("k1", b"one");
    let first = new(&f.user, 1, "one");
    assert_eq!(
        f.store.create_workspace(&first, QUOTA, Some((&idempotency_key, "answer")), &event()).await.unwrap(),
        Replay::Fresh(())
    );
    let second = new(&f.user, 2, "one");
    assert_eq!(
        f.store.create_workspace(&second, QUOTA, Some((&idempotency_key, "other")), &event()).await.unwrap(),
        Replay::Repeated("answer".into())
    );
    let changed = IdempotencyKey::new("k1", b"two");
    let third =
        f.store.create_workspace(&new(&f.user, 3, "two"), QUOTA, Some((&changed, "")), &event()).await;
    assert!(matches!(third, Err(Error::KeyReused)));
}

#[tokio::test]
async fn pages_cover_every_workspace_once() {
    let f = fixture().await;
    for n in 1..4 {
        f.store.create_workspace(&new(&f.user, n, &format!("w{n}")), QUOTA, None, &event()).await.unwrap();
    }
    let (mut page, mut names) = (Page { limit: 2, ..Page::default() }, Vec::new());
    loop {
        let some = f.store.workspaces_of(&f.principal().await, &page).await.unwrap();
        let Some(last) = some.last() else { break };
        page.after = Some((last.created_at.unix_ms(), last.id.to_string()));
        names.extend(some.iter().map(|w| w.name.to_string()));
    }
    assert_eq!(names, ["w1", "w2", "w3"]);
}

#[tokio::test]
async fn key_authenticates_its_user_and_is_stored_as_a_hash() {
    let f = fixture().await;
    assert_eq!(f.principal().await.user, f.user);
    assert_eq!(f.holder(&ApiKey::mint().unwrap(), now()).await, None);

    f.store.close().await;
    let secret = f.key.reveal().as_bytes();
    for entry in std::fs::read_dir(f.folder.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    }
}

#[tokio::test]
async fn key_ends_on_expiry_or_revocation() {
    let f = fixture().await;
    let end = now().after(Duration::from_secs(60));
    let (record, key) = f.add(Scope::Account, Some(end)).await;
    assert!(f.holder(&key, now()).await.is_some());
    assert_eq!(f.holder(&key, end).await, None);
    assert!(f.store.revoke_key(&f.user, &record.id, &event(), now()).await.unwrap());
    assert_eq!(f.holder(&key, now()).await, None);
    assert!(!f.store.revoke_key(&f.user, &record.id, &event(), now()).await.unwrap());
    // Users cannot revoke each other's keys.
    let Credential::Key(first) = f.principal().await.credential else { panic!() };
    assert!(!f.store.revoke_key(&UserId::from_random([9; 5]), &first, &event(), now()).await.unwrap());
    assert!(f.holder(&f.key, now()).await.is_some());
}

#[tokio::test]
async fn rotated_secret_is_valid_only_during_its_grace_period() {
    let f = fixture().await;
    let (record, old) = f.add(Scope::Account, None).await;
    let rotate = async |until: Timestamp| {
        let key = ApiKey::mint().unwrap();
        let secret = NewSecret::of(&key, &f.token_key);
        f.store.rotate_key(&f.user, &record.id, &secret, until, &event(), now()).await.unwrap().unwrap();
        key
    };
    let until = now().after(Duration::from_secs(10));
    let second = rotate(until).await;
    assert!(f.holder(&old, now()).await.is_some() && f.holder(&second, now()).await.is_some());
    assert!(f.holder(&old, until).await.is_none() && f.holder(&second, until).await.is_some());
    // The secret before the last rotation is revoked at once, despite its grace period.
    let third = rotate(until).await;
    assert!(f.holder(&old, now()).await.is_none() && f.holder(&second, now()).await.is_some());
    assert!(f.holder(&third, now()).await.is_some());
}

#[tokio::test]
async fn scoped_key_covers_only_named_workspaces_of_its_user() {
    let f = fixture().await;
    for (n, name) in [(1, "w1"), (2, "w2")] {
        f.store.create_workspace(&new(&f.user, n, name), QUOTA, None, &event()).await.unwrap();
    }
    let id = WorkspaceId::from_random([2; 5]);
    let scope = Scope::Workspaces { ids: BTreeSet::from([id.clone()]), role: Role::Operate };
    let (_, key) = f.add(scope.clone(), None).await;
    let principal = f.holder(&key, now()).await.unwrap().principal;
    assert_eq!(principal.scope, scope);
    let page = Page { limit: 9, ..Page::default() };
    let names = |found: Vec<Workspace>| found.iter().map(|w| w.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(f.store.workspaces_of(&principal, &page).await.unwrap()), ["w2"]);
    assert_eq!(names(f.store.workspaces_of(&f.principal().await, &page).await.unwrap()), ["w1", "w2"]);

    let strange =
        Scope::Workspaces { ids: BTreeSet::from([WorkspaceId::from_random([7; 5])]), role: Role::Read };
    let new = NewKey { scope: strange, ..NewKey::of(&ApiKey::mint().unwrap(), "x", &f.token_key) };
    let refused = f.store.add_key(&f.user, &new, 9, None, event(), now()).await;
    assert!(matches!(refused, Err(Error::NoWorkspace(_))), "{refused:?}");
    assert_eq!(f.store.keys_of(&f.user).await.unwrap().len(), 2, "nothing of it is left");
}

#[tokio::test]
async fn first_user_is_created_once() {
    let f = fixture().await;
    let key = NewKey::of(&ApiKey::mint().unwrap(), "x", &f.token_key);
    let second = f.store.create_first_user("b@example.com", &key, now()).await;
    assert!(matches!(second, Err(Error::UserExists)));
}

#[tokio::test]
async fn newer_schema_is_refused_with_the_reason() {
    let f = fixture().await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'later', TRUE, x'00', 0)",
    )
    .execute(&f.store.writer)
    .await
    .unwrap();
    f.store.close().await;
    let error = Store::open(&f.folder.path().join("rigbox.db"), &f.token_key).await.unwrap_err().to_string();
    assert!(error.contains("9999") && error.contains("newer than this rigboxd"), "{error}");
}

#[test]
fn secrets_do_not_print_and_their_file_is_private() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token.key");
    let key = TokenKey::load_or_create(&path).unwrap();
    assert_eq!(format!("{key:?}"), "TokenKey(..)");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(TokenKey::load_or_create(&path).unwrap().hash("x"), key.hash("x"));

    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(TokenKey::load_or_create(&path).unwrap_err().to_string().contains("chmod 600"));

    let secret = ApiKey::mint().unwrap();
    assert_eq!(format!("{secret:?}"), "ApiKey(..)");
    assert_eq!(secret.reveal().len(), 46);
    assert!(ApiKey::parse(secret.reveal()).is_some());
    assert!(ApiKey::parse("rb_short").is_none());
}

/// Returns an app of this user's workspace.
fn app(user: &UserId, workspace: &WorkspaceId, n: u8, name: &str) -> App {
    App {
        id: AppId::from_random([n; 5]),
        workspace_id: workspace.clone(),
        user_id: user.clone(),
        name: name.parse().unwrap(),
        kind: rigbox_core::apps::AppKind::Service,
        port: Some(80),
        protocol: "http".to_owned(),
        visibility: rigbox_core::app_access::Visibility::Private,
        shared_with: Vec::new(),
        cors_origins: Vec::new(),
        params: Default::default(),
        metadata: serde_json::Value::Null,
        description: None,
        stopped: false,
        service: None,
        custom_domain: None,
        domain_verified_at: None,
        created_at: now(),
        updated_at: now(),
    }
}

#[tokio::test]
async fn released_name_stays_its_last_owners_for_a_while() {
    let f = fixture().await;
    let other = f.store.add_user("b@example.com", rigbox_core::plans::Plan::Pro, now()).await.unwrap();
    for (user, n) in [(&f.user, 1), (&other, 2)] {
        f.store.create_workspace(&new(user, n, "w"), QUOTA, None, &event()).await.unwrap();
    }
    let (mine, theirs) = (new(&f.user, 1, "w").id, new(&other, 2, "w").id);
    let released =
        Timestamp::from_unix_ms(i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap());
    let take = async |user: &UserId, workspace: &WorkspaceId, n: u8, at: Timestamp| {
        let app = App { created_at: at, ..app(user, workspace, n, "shop") };
        f.store.add_app(&app, 9, None, &event()).await.map(|_| app)
    };
    let first = take(&f.user, &mine, 1, released).await.unwrap();
    f.store.delete_app(&first.id, &event(), released).await.unwrap();
    assert!(matches!(take(&other, &theirs, 2, released).await, Err(Error::NameTaken)));
    assert!(f.store.has_app_name(&first.name, &other, released).unwrap());
    assert!(!f.store.has_app_name(&first.name, &f.user, released).unwrap());
    // The last owner may have it at once; giving it up by a new name counts too.
    let again = take(&f.user, &mine, 3, released).await.unwrap();
    let renamed = App { name: "else".parse().unwrap(), ..again.clone() };
    assert!(f.store.update_app(&again, &renamed, &event()).await.unwrap().is_some());
    assert!(matches!(take(&other, &theirs, 4, released).await, Err(Error::NameTaken)));
    let later = released.after(Duration::from_hours(24 * 91));
    take(&other, &theirs, 5, later).await.unwrap();
}

#[tokio::test]
async fn newer_proof_of_a_domain_displaces_the_older_holder() {
    let f = fixture().await;
    f.store.create_workspace(&new(&f.user, 1, "w"), QUOTA, None, &event()).await.unwrap();
    let workspace = new(&f.user, 1, "w").id;
    let verify = async |n: u8, name: &str| {
        let plain = app(&f.user, &workspace, n, name);
        f.store.add_app(&plain, 9, None, &event()).await.unwrap();
        let domain = Some("shop.example.org".parse().unwrap());
        let verified = App { custom_domain: domain, domain_verified_at: Some(now()), ..plain.clone() };
        f.store.update_app(&plain, &verified, &event()).await.unwrap().unwrap()
    };
    assert!(verify(1, "older").await.is_empty());
    assert_eq!(verify(2, "newer").await, std::slice::from_ref(&workspace));
    let host = AppHost::Domain("shop.example.org".parse().unwrap());
    assert_eq!(f.store.app_at(&host).unwrap().unwrap().app.name.to_string(), "newer");
    let newest = &f.store.audit_of(&f.user, None, 2).await.unwrap();
    assert!(newest.iter().any(|entry| entry.action == "app.domain_lost"), "{newest:?}");
}

#[tokio::test]
async fn tampering_with_the_audit_log_is_detected() {
    let f = fixture().await;
    for (n, name) in [(1, "w1"), (2, "w2"), (3, "w3")] {
        let event = AuditEvent::by(&f.principal().await, "workspace.create", name);
        f.store.create_workspace(&new(&f.user, n, name), QUOTA, None, &event).await.unwrap();
    }
    // The user, the first key and three workspaces, newest first.
    let entries = f.store.audit_of(&f.user, None, 9).await.unwrap();
    let told: Vec<_> = entries.iter().map(|entry| (entry.seq, entry.action.as_str())).collect();
    let made = "workspace.create";
    assert_eq!(told, [(5, made), (4, made), (3, made), (2, "key.create"), (1, "user.create")]);
    assert_eq!(f.store.audit_of(&f.user, Some(3), 1).await.unwrap(), entries[3..4]);
    assert_eq!(f.store.verify_audit().await.unwrap(), Ok(5));

    for (change, back, first) in [
        (
            "UPDATE audit_log SET target = 'w9' WHERE seq = 4",
            "UPDATE audit_log SET target = 'w2' WHERE seq = 4",
            4,
        ),
        ("UPDATE audit_log SET seq = 9 WHERE seq = 3", "UPDATE audit_log SET seq = 3 WHERE seq = 9", 4),
        ("UPDATE audit_log SET hash = 'x' WHERE seq = 1", "SELECT 1", 1),
    ] {
        sqlx::query(change).execute(&f.store.writer).await.unwrap();
        assert_eq!(f.store.verify_audit().await.unwrap(), Err(first), "{change}");
        sqlx::query(back).execute(&f.store.writer).await.unwrap();
    }
}

#[tokio::test]
async fn old_entries_are_deleted_and_the_rest_still_verifies() {
    let f = fixture().await;
    let at = |seconds| now().after(Duration::from_secs(seconds));
    let events: Vec<_> = (1..=9).map(|seconds| (event(), at(seconds))).collect();
    f.store.add_audit_events(&events).await.unwrap();
    assert_eq!(f.store.verify_audit().await.unwrap(), Ok(11));
    // No more than the maximum at once, and nothing newer.
    assert_eq!(f.store.delete_audit_before(at(5), 3).await.unwrap(), 3);
    assert_eq!(f.store.delete_audit_before(at(5), 100).await.unwrap(), 3);
    assert_eq!(f.store.delete_audit_before(at(5), 100).await.unwrap(), 0);
    assert_eq!(f.store.verify_audit().await.unwrap(), Ok(5));
    // The chain goes on where everything was deleted.
    assert_eq!(f.store.delete_audit_before(at(60), 100).await.unwrap(), 5);
    f.store.add_audit_events(&[(event(), at(70)), (event(), at(71))]).await.unwrap();
    assert_eq!(f.store.verify_audit().await.unwrap(), Ok(2));
    // Only who knows the key of the chain can cut off a beginning.
    let cut = "UPDATE audit_start SET seq = 12, hash = (SELECT hash FROM audit_log WHERE seq = 12)";
    sqlx::query(cut).execute(&f.store.writer).await.unwrap();
    sqlx::query("DELETE FROM audit_log WHERE seq = 12").execute(&f.store.writer).await.unwrap();
    assert_eq!(f.store.verify_audit().await.unwrap(), Err(12));
}

#[tokio::test]
async fn first_use_of_a_key_from_an_address_is_reported_once() {
    let f = fixture().await;
    for (address, entries) in [("192.0.2.1", 3), ("192.0.2.1", 3), ("2001:db8::1", 4), ("192.0.2.1", 4)] {
        let principal = Principal { from: Some(address.parse().unwrap()), ..f.principal().await };
        f.store.key_used_from(&principal, now()).await.unwrap();
        assert_eq!(f.store.audit_of(&f.user, None, 9).await.unwrap().len(), entries, "{address}");
    }
    let newest = &f.store.audit_of(&f.user, None, 1).await.unwrap()[0];
    assert_eq!((newest.action.as_str(), newest.address.as_deref()), ("key.first_use", Some("2001:db8::1")));
    assert_eq!(f.store.verify_audit().await.unwrap(), Ok(4));
}

#[tokio::test]
async fn use_before_a_revocation_is_still_recorded() {
    let f = fixture().await;
    let (record, key) = f.add(Scope::Account, None).await;
    let used = f.holder(&key, now()).await.unwrap().principal;
    f.store.revoke_key(&f.user, &record.id, &event(), now()).await.unwrap();
    let from = Some("192.0.2.1".parse().unwrap());
    f.store.key_used_from(&Principal { from, ..used }, now()).await.unwrap();
    let newest = &f.store.audit_of(&f.user, None, 1).await.unwrap()[0];
    assert_eq!((newest.action.as_str(), newest.target.as_str()), ("key.first_use", record.id.as_str()));
}

#[tokio::test]
async fn sign_in_link_works_once_and_expires() {
    let f = fixture().await;
    let until = now().after(Duration::from_secs(60));
    let token = || SessionToken::mint().unwrap();
    let sign_in = async |link: &LinkToken, at: Timestamp| {
        let session = NewSession { token: &token(), idle: IDLE, max_lifetime: MAX_LIFETIME };
        f.store.sign_in(link, session, &f.token_key, None, at).await.unwrap().is_some()
    };
    let link = LinkToken::mint().unwrap();
    f.store.add_link(&f.user, &link, &f.token_key, until, now()).await.unwrap();
    assert!(f.store.user_of_link(&link, &f.token_key, now()).await.unwrap().is_some());
    assert!(sign_in(&link, now()).await && !sign_in(&link, now()).await);
    let late = LinkToken::mint().unwrap();
    f.store.add_link(&f.user, &late, &f.token_key, until, now()).await.unwrap();
    assert!(f.store.user_of_link(&late, &f.token_key, until).await.unwrap().is_none());
    assert!(!sign_in(&late, until).await);
    // A link followed too late does not come back.
    assert!(!sign_in(&late, now()).await);
}

const IDLE: Duration = Duration::from_secs(100);
const MAX_LIFETIME: Duration = Duration::from_secs(250);

#[tokio::test]
async fn session_has_an_idle_and_an_absolute_timeout() {
    let f = fixture().await;
    let (link, token) = (LinkToken::mint().unwrap(), SessionToken::mint().unwrap());
    let at = |seconds| now().after(Duration::from_secs(seconds));
    f.store.add_link(&f.user, &link, &f.token_key, at(60), now()).await.unwrap();
    let session = NewSession { token: &token, idle: IDLE, max_lifetime: MAX_LIFETIME };
    let begun = f.store.sign_in(&link, session, &f.token_key, None, now()).await.unwrap().unwrap();
    let is_good = async |seconds| {
        f.store.session_principal(&token, &f.token_key, IDLE, at(seconds)).await.unwrap().is_some()
    };
    assert!(is_good(99).await && !is_good(100).await);
    f.store.session_used(&begun.session, IDLE, at(99)).await.unwrap();
    assert!(is_good(198).await && !is_good(199).await);
    f.store.session_used(&begun.session, IDLE, at(198)).await.unwrap();
    assert!(is_good(249).await && !is_good(250).await);
    f.store.end_session(&begun.session, &event(), at(249)).await.unwrap();
    assert!(!is_good(0).await);
}

#[tokio::test]
async fn one_client_leaves_device_logins_to_others() {
    let f = fixture().await;
    let until = now().after(Duration::from_secs(60));
    let ask = async |client: &str, at: Timestamp| {
        let (secret, code) = (DeviceSecret::mint().unwrap(), UserCode::mint().unwrap());
        let tokens = (&secret, &code, &f.token_key);
        let from = "2001:db8::1".parse().unwrap();
        f.store.add_device_login(tokens, "laptop", (from, client), until, at).await.unwrap()
    };
    for number in 0..25 {
        let expected = if number < 20 { StartedLogin::Pending } else { StartedLogin::ClientHasMaximum };
        assert_eq!(ask("2001:db8::/64", now()).await, expected, "{number}");
    }
    assert_eq!(ask("192.0.2.1", now()).await, StartedLogin::Pending);
    assert_eq!(ask("2001:db8::/64", until).await, StartedLogin::Pending, "expired ones count");
}

#[tokio::test]
async fn device_login_expires_and_is_collected_once() {
    let f = fixture().await;
    let by = f.principal().await;
    let until = now().after(Duration::from_secs(60));
    let from = "192.0.2.1".parse().unwrap();
    let ask = async || {
        let (secret, code) = (DeviceSecret::mint().unwrap(), UserCode::mint().unwrap());
        let tokens = (&secret, &code, &f.token_key);
        f.store.add_device_login(tokens, "laptop", (from, "192.0.2.1"), until, now()).await.unwrap();
        (secret, code)
    };
    let poll = async |secret: &DeviceSecret, at: Timestamp| {
        let key = NewKey::of(&ApiKey::mint().unwrap(), "", &f.token_key);
        f.store.poll_device_login(secret, key, &f.token_key, at).await.unwrap()
    };
    let (secret, code) = ask().await;
    assert_eq!(poll(&secret, now()).await, Poll::Pending);
    let decided = f.store.decide_device_login(&by, &code, &f.token_key, true, until).await.unwrap();
    assert_eq!(decided, None, "approved after expiry");
    let decided = f.store.decide_device_login(&by, &code, &f.token_key, true, now()).await.unwrap();
    assert_eq!(decided.as_deref(), Some("laptop"));
    assert_eq!(poll(&secret, until).await, Poll::Unknown, "collected after expiry");
    assert!(matches!(poll(&secret, now()).await, Poll::Approved(user) if user.id == f.user));
    assert_eq!(poll(&secret, now()).await, Poll::Unknown, "collected twice");
    let created = &f.store.audit_of(&f.user, None, 1).await.unwrap()[0];
    assert_eq!((created.action.as_str(), created.address.as_deref()), ("key.create", Some("192.0.2.1")));
    // A user disabled between approval and collection gets nothing.
    let (secret, code) = ask().await;
    f.store.decide_device_login(&by, &code, &f.token_key, true, now()).await.unwrap();
    f.store.set_disabled(&f.user, true, now()).await.unwrap();
    assert_eq!(poll(&secret, now()).await, Poll::Unknown);
}

#[tokio::test]
async fn readers_do_not_wait_behind_writers() {
    let f = fixture().await;
    let held = f.store.begin_write().await.unwrap();
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let store = f.store.clone();
            tokio::spawn(async move { store.begin_write().await.unwrap().commit().await })
        })
        .collect();
    // They wait by now.
    tokio::task::yield_now().await;
    let read = f.store.usage(&f.user);
    tokio::time::timeout(std::time::Duration::from_secs(2), read).await.unwrap().unwrap();
    drop(held);
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
}
