//! Tests of the log of revocations: an older database that is put back revives nothing.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use rigbox_core::app_access::Visibility;
use rigbox_core::apps::{AppName, CustomDomain};
use rigbox_core::egress::Egress;
use rigbox_core::ids::SessionId;
use rigbox_core::proxied_secret::{SecretHeader, SecretName};
use rusqlite::Connection;
use secrecy::SecretString;

use super::secrets::unlocked;
use super::*;
use crate::ProxiedSecret;

const FOREVER: Duration = Duration::from_hours(1);

impl Fixture {
    fn log(&self) -> PathBuf {
        self.folder.path().join("revocations.log")
    }

    fn log_text(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap()
    }

    /// Copies the database as it is now.
    pub(super) async fn copy(&self) {
        self.store.copy_to(&self.folder.path().join("copy.db")).await.unwrap();
    }

    /// Returns the path of the copy in a folder of its own, with or without the log.
    fn put_back(&self, with_log: bool) -> PathBuf {
        let folder = self.folder.path().join(format!("put-back-{with_log}"));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        std::fs::copy(self.folder.path().join("copy.db"), folder.join("rigbox.db")).unwrap();
        if with_log {
            std::fs::copy(self.log(), folder.join("revocations.log")).unwrap();
        }
        folder.join("rigbox.db")
    }

    /// Opens the copy without the log, and with it.
    pub(super) async fn without_and_with_log(&self) -> [Store; 2] {
        [
            Store::open(&self.put_back(false), &self.token_key).await.unwrap(),
            Store::open(&self.put_back(true), &self.token_key).await.unwrap(),
        ]
    }

    async fn opens(&self, store: &Store, key: &ApiKey, at: Timestamp) -> bool {
        store.key_holder(&self.token_key.hash(key.reveal()), at).await.unwrap().is_some()
    }

    async fn sign_in(&self, store: &Store) -> SessionId {
        let (link, token) = (LinkToken::mint().unwrap(), SessionToken::mint().unwrap());
        store.add_link(&self.user, &link, &self.token_key, now().after(FOREVER), now()).await.unwrap();
        let session = NewSession { token: &token, idle: FOREVER, max_lifetime: FOREVER };
        store.sign_in(&link, session, &self.token_key, None, now()).await.unwrap().unwrap().session
    }

    /// Adds a workspace with a public app that is also shared with two people.
    async fn add_app(&self) -> App {
        let workspace = new(&self.user, 1, "w1");
        self.store.create_workspace(&workspace, QUOTA, None, &event()).await.unwrap();
        let shared_with = vec!["x@example.com".to_owned(), "y@example.com".to_owned()];
        let cors_origins = vec!["https://one.example".to_owned(), "https://two.example".to_owned()];
        let app = App {
            visibility: Visibility::Public,
            shared_with,
            cors_origins,
            ..app(&self.user, &workspace.id, 1, "shop")
        };
        self.store.add_app(&app, 9, None, &event()).await.unwrap();
        app
    }

    async fn update(&self, change: impl FnOnce(&mut App)) {
        let before = only_app(&self.store);
        let mut after = before.clone();
        change(&mut after);
        assert!(self.store.update_app(&before, &after, &event()).await.unwrap().is_some());
    }

    /// Makes each further transaction that deletes a key or changes an app fail at its commit.
    fn fail_commits(&self) {
        let connection = Connection::open(self.folder.path().join("rigbox.db")).unwrap();
        let fail = "INSERT INTO unmet VALUES ('nobody')";
        let broken = format!(
            "CREATE TABLE unmet (id TEXT REFERENCES users (id) DEFERRABLE INITIALLY DEFERRED); \
             CREATE TRIGGER unmet_key AFTER DELETE ON api_keys BEGIN {fail}; END; \
             CREATE TRIGGER unmet_app AFTER UPDATE ON apps BEGIN {fail}; END;"
        );
        connection.execute_batch(&broken).unwrap();
    }

    fn repair_commits(&self) {
        let connection = Connection::open(self.folder.path().join("rigbox.db")).unwrap();
        connection
            .execute_batch("DROP TRIGGER unmet_key; DROP TRIGGER unmet_app; DROP TABLE unmet;")
            .unwrap();
    }

    fn append(&self, text: &str) {
        OpenOptions::new().append(true).open(self.log()).unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Opens the database a second time.
    async fn reopen(&self) -> Result<Store, Error> {
        Store::open(&self.folder.path().join("rigbox.db"), &self.token_key).await
    }
}

fn only_app(store: &Store) -> App {
    store.app(&AppId::from_random([1; 5])).unwrap().unwrap().app
}

#[tokio::test]
async fn revoked_key_stays_revoked() {
    let f = fixture().await;
    let (by_owner, one) = f.add(Scope::Account, None).await;
    let two = ApiKey::mint().unwrap();
    let by_login = NewKey { by_login: true, ..NewKey::of(&two, "machine", &f.token_key) };
    let Replay::Fresh(by_login) = f.store.add_key(&f.user, &by_login, 9, None, event(), now()).await.unwrap()
    else {
        panic!()
    };
    f.copy().await;
    assert!(f.store.revoke_key(&f.user, &by_owner.id, &event(), now()).await.unwrap());
    assert!(f.store.end_login_key(&by_login.id, &event(), now()).await.unwrap());
    let [without, with] = f.without_and_with_log().await;
    for key in [&one, &two] {
        assert!(f.opens(&without, key, now()).await);
        assert!(!f.opens(&with, key, now()).await);
    }
    assert!(f.opens(&with, &f.key, now()).await, "another key was revoked");
}

#[tokio::test]
async fn removed_or_replaced_proxied_secret_stays_gone() {
    let (f, _) = unlocked().await;
    let names = ["removed", "replaced", "kept"].map(|name| name.parse::<SecretName>().unwrap());
    let secret = |name: &SecretName, at| ProxiedSecret {
        name: name.clone(),
        workspace: None,
        host: "api.example.org".parse().unwrap(),
        header: SecretHeader::new("Authorization", None).unwrap(),
        updated_at: at,
    };
    let set = async |name: &SecretName, at| {
        let value = SecretString::from("0123456789");
        f.store.set_proxied_secret(&f.user, &secret(name, at), &value, &event()).await.unwrap();
    };
    for name in &names {
        set(name, now()).await;
    }
    f.copy().await;
    let later = now().after(Duration::from_secs(1));
    assert!(f.store.remove_proxied_secret(&f.user, &names[0], &event(), later).await.unwrap());
    set(&names[1], later).await;
    let listed = async |store: &Store| {
        let secrets = store.proxied_secrets(&f.user).await.unwrap();
        secrets.into_iter().map(|secret| secret.name.to_string()).collect::<Vec<_>>()
    };
    let [without, with] = f.without_and_with_log().await;
    assert_eq!(listed(&without).await, ["kept", "removed", "replaced"]);
    assert_eq!(listed(&with).await, ["kept"]);
    assert_eq!(listed(&f.store).await, ["kept", "replaced"]);
}

#[tokio::test]
async fn removed_ssh_key_stays_removed() {
    let f = fixture().await;
    let (removed, kept) = (f.add_ssh_key(&f.user, 1).await, f.add_ssh_key(&f.user, 2).await);
    f.copy().await;
    assert!(f.store.remove_ssh_key(&f.user, &removed.id, event(), now()).await.unwrap());
    // Whoever registers it again gets another id, which the log does not know.
    let again = f.add_ssh_key(&f.user, 1).await;
    assert_ne!(again.id, removed.id);
    let [without, with] = f.without_and_with_log().await;
    assert_eq!(without.ssh_key_owners(&removed.fingerprint).await.unwrap().len(), 1);
    assert_eq!(with.ssh_key_owners(&removed.fingerprint).await.unwrap(), []);
    assert_eq!(with.ssh_keys_of(&f.user).await.unwrap(), [kept]);
}

#[tokio::test]
async fn replaced_secret_ends_with_its_grace_period() {
    let f = fixture().await;
    let (record, first) = f.add(Scope::Account, None).await;
    f.copy().await;
    let [second, third] = [ApiKey::mint().unwrap(), ApiKey::mint().unwrap()];
    let until = now().after(Duration::from_mins(1));
    for (key, until) in [(&second, now()), (&third, until)] {
        let secret = NewSecret::of(key, &f.token_key);
        f.store.rotate_key(&f.user, &record.id, &secret, until, &event(), now()).await.unwrap().unwrap();
    }
    let [without, with] = f.without_and_with_log().await;
    assert!(f.opens(&without, &first, until).await);
    for (key, at, opens) in
        [(&first, now(), false), (&second, now(), true), (&second, until, false), (&third, until, true)]
    {
        assert_eq!(f.opens(&with, key, at).await, opens);
    }
}

#[tokio::test]
async fn user_is_disabled_or_enabled_as_last() {
    let f = fixture().await;
    f.copy().await;
    f.store.set_disabled(&f.user, true, now()).await.unwrap();
    let [without, with] = f.without_and_with_log().await;
    assert!(f.opens(&without, &f.key, now()).await);
    assert!(!f.opens(&with, &f.key, now()).await);
    f.store.set_disabled(&f.user, false, now()).await.unwrap();
    assert!(f.opens(&f.without_and_with_log().await[1], &f.key, now()).await);
}

#[tokio::test]
async fn ended_session_stays_ended_and_so_do_all_others() {
    let f = fixture().await;
    let (one, two) = (f.sign_in(&f.store).await, f.sign_in(&f.store).await);
    f.copy().await;
    f.store.end_session(&one, &event(), now()).await.unwrap();
    let [without, with] = f.without_and_with_log().await;
    for session in [&one, &two] {
        assert!(without.session_holder(session, now()).await.unwrap().is_some());
        assert_eq!(with.session_holder(session, now()).await.unwrap(), None);
    }
    // Once only: who has signed in again stays signed in.
    let again = f.sign_in(&with).await;
    with.close().await;
    let reopened = Store::open(&f.folder.path().join("put-back-true/rigbox.db"), &f.token_key).await.unwrap();
    assert!(reopened.session_holder(&again, now()).await.unwrap().is_some());
}

#[tokio::test]
async fn app_opens_for_nobody_whom_its_owner_has_excluded() {
    let f = fixture().await;
    f.add_app().await;
    f.update(|app| app.visibility = Visibility::Privileged).await;
    f.copy().await;
    f.update(|app| {
        app.shared_with = vec!["y@example.com".into(), "z@example.com".into()];
        app.cors_origins.truncate(1);
    })
    .await;
    let [without, with] = f.without_and_with_log().await;
    assert_eq!(only_app(&without).shared_with, ["x@example.com", "y@example.com"]);
    let narrowed = only_app(&with);
    // Whom the restored database does not have is not added.
    assert_eq!(narrowed.shared_with, ["y@example.com"]);
    assert_eq!(narrowed.cors_origins, ["https://one.example"]);
    assert_eq!(narrowed.visibility, Visibility::Privileged);

    f.update(|app| app.visibility = Visibility::Public).await;
    assert_eq!(only_app(&f.without_and_with_log().await[1]).visibility, Visibility::Privileged);
    f.update(|app| app.visibility = Visibility::Private).await;
    assert_eq!(only_app(&f.without_and_with_log().await[1]).visibility, Visibility::Private);
    assert!(!f.log_text().contains('@'), "{}", f.log_text());
}

#[tokio::test]
async fn app_that_was_opened_again_is_open_but_not_at_its_old_port() {
    let f = fixture().await;
    f.add_app().await;
    f.copy().await;
    f.update(|app| app.visibility = Visibility::Private).await;
    f.update(|app| app.visibility = Visibility::Public).await;
    f.update(|app| app.description = Some("no change of access".into())).await;
    assert_eq!(only_app(&f.without_and_with_log().await[1]).visibility, Visibility::Public);
    f.update(|app| app.port = Some(81)).await;
    let [without, with] = f.without_and_with_log().await.map(|store| only_app(&store));
    assert_eq!((without.visibility, with.visibility), (Visibility::Public, Visibility::Private));
}

#[tokio::test]
async fn deleted_app_and_lost_domain_do_not_come_back() {
    let f = fixture().await;
    f.add_app().await;
    let domain: CustomDomain = "shop.example.org".parse().unwrap();
    f.update(|app| {
        app.custom_domain = Some(domain.clone());
        app.domain_verified_at = Some(now());
    })
    .await;
    f.copy().await;
    let at_domain = |store: &Store| store.app_at(&AppHost::Domain(domain.clone())).unwrap().is_some();
    f.store.domain_lost(&only_app(&f.store), now()).await.unwrap();
    let [without, with] = f.without_and_with_log().await;
    assert!(at_domain(&without) && !at_domain(&with));
    f.store.delete_app(&only_app(&f.store).id, &event(), now()).await.unwrap();
    let name: AppName = "shop".parse().unwrap();
    let [without, with] = f.without_and_with_log().await;
    assert!(without.app_at(&AppHost::Name(name.clone())).unwrap().is_some());
    assert!(with.app_at(&AppHost::Name(name)).unwrap().is_none());
}

#[tokio::test]
async fn displaced_holder_of_a_domain_does_not_get_it_back() {
    let f = fixture().await;
    let workspace = f.add_app().await.workspace_id;
    let domain: CustomDomain = "shop.example.org".parse().unwrap();
    let verify = |app: &mut App| {
        app.custom_domain = Some("shop.example.org".parse().unwrap());
        app.domain_verified_at = Some(now());
    };
    f.update(verify).await;
    let other = app(&f.user, &workspace, 2, "other");
    f.store.add_app(&other, 9, None, &event()).await.unwrap();
    f.copy().await;
    let mut proved = other.clone();
    verify(&mut proved);
    proved.domain_verified_at = Some(now().after(FOREVER));
    f.store.update_app(&other, &proved, &event()).await.unwrap().unwrap();
    let [without, with] = f.without_and_with_log().await;
    let holder =
        |store: &Store| store.app_at(&AppHost::Domain(domain.clone())).unwrap().map(|found| found.app.name);
    assert_eq!(holder(&without).unwrap().as_str(), "shop");
    assert_eq!(holder(&with), None);
}

#[tokio::test]
async fn network_of_a_workspace_is_no_wider_than_it_was_last() {
    let f = fixture().await;
    let id = f.add_app().await.workspace_id;
    let list = |domains: &[&str]| Egress::list(domains.iter().copied(), [], false).unwrap();
    let set = async |egress: Egress, apps_from_inside_any| {
        let settings = NetworkSettings { egress, apps_from_inside_any };
        let change = |before: &mut NetworkSettings| *before = settings;
        assert!(f.store.change_network(&id, change, &event(), now()).await.unwrap().is_some());
    };
    set(list(&["a.org", "b.org"]), true).await;
    f.copy().await;
    set(list(&["b.org", "c.org"]), false).await;
    let [without, with] = f.without_and_with_log().await.map(|store| store.network(&id).unwrap().unwrap());
    assert_eq!(without, NetworkSettings { egress: list(&["a.org", "b.org"]), apps_from_inside_any: true });
    assert_eq!(with, NetworkSettings { egress: list(&["b.org"]), apps_from_inside_any: false });
}

#[tokio::test]
async fn deleted_workspace_is_deleted_again() {
    let f = fixture().await;
    let id = f.add_app().await.workspace_id;
    f.copy().await;
    let workspace = f.store.workspace(&id).await.unwrap().unwrap();
    let deleting = workspace.lifecycle.request(Request::Cancel, now()).unwrap();
    assert!(f.store.update_lifecycle(&workspace, &deleting, None, None, None, now()).await.unwrap());
    let [without, with] = f.without_and_with_log().await;
    assert!(without.workspace(&id).await.unwrap().is_some());
    assert!(with.workspace(&id).await.unwrap().is_none());
    // What the node still has of it is removed and not kept.
    let orphan = Orphan {
        id,
        node_id: workspace.node_id,
        disk_size_mb: 1,
        generation: 1,
        found_at: now(),
        is_removed: false,
    };
    assert!(with.record_orphan(&orphan).await.unwrap().unwrap().is_removed);
}

#[tokio::test]
async fn revocation_before_a_crash_is_completed() {
    let f = fixture().await;
    let (record, key) = f.add(Scope::Account, None).await;
    let session = f.sign_in(&f.store).await;
    f.copy().await;
    f.store.revoke_key(&f.user, &record.id, &event(), now()).await.unwrap();
    // As after a crash between append and commit: the log is ahead by one.
    let [_, with] = f.without_and_with_log().await;
    assert!(!f.opens(&with, &key, now()).await);
    assert_eq!(with.session_holder(&session, now()).await.unwrap(), None);
    // The number is raised: the next revocation is another one.
    with.set_disabled(&f.user, true, now()).await.unwrap();
    let log = std::fs::read_to_string(f.folder.path().join("put-back-true/revocations.log")).unwrap();
    let numbers: Vec<serde_json::Value> = log
        .lines()
        .skip(1)
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"].clone())
        .collect();
    assert_eq!(numbers, [1, 2]);
}

#[tokio::test]
async fn failed_revocation_is_not_done_later() {
    let f = fixture().await;
    f.add_app().await;
    let (record, key) = f.add(Scope::Account, None).await;
    f.fail_commits();
    assert!(f.store.revoke_key(&f.user, &record.id, &event(), now()).await.is_err());
    let app = only_app(&f.store);
    let private = App { visibility: Visibility::Private, ..app.clone() };
    assert!(f.store.update_app(&app, &private, &event()).await.is_err());
    f.repair_commits();
    // Written, but emptied.
    assert!(f.log_text().contains("revoked_key") && f.log_text().contains("private"));
    let session = f.sign_in(&f.store).await;
    let reopened = f.reopen().await.unwrap();
    assert!(f.opens(&reopened, &key, now()).await);
    assert_eq!(only_app(&reopened).visibility, Visibility::Public);
    assert!(reopened.session_holder(&session, now()).await.unwrap().is_some());
    assert!(f.store.revoke_key(&f.user, &record.id, &event(), now()).await.unwrap());
    assert!(!f.opens(&f.reopen().await.unwrap(), &key, now()).await);
}

#[tokio::test]
async fn torn_last_line_is_cut_off() {
    let f = fixture().await;
    f.copy().await;
    f.store.set_disabled(&f.user, true, now()).await.unwrap();
    let whole = f.log_text();
    // Longer than what comes next.
    f.append(&format!("{{\"seq\":2,\"at\":0,\"chan{}", "-".repeat(1000)));
    assert!(!f.opens(&f.without_and_with_log().await[1], &f.key, now()).await);
    f.store.set_disabled(&f.user, false, now()).await.unwrap();
    let after = f.log_text();
    assert!(after.starts_with(&whole) && after.lines().count() == 3 && !after.contains("--"), "{after}");
    assert!(f.reopen().await.is_ok());
}

#[tokio::test]
async fn damaged_line_is_named() {
    let f = fixture().await;
    f.store.set_disabled(&f.user, true, now()).await.unwrap();
    let whole = f.log_text();
    let lines: Vec<&str> = whole.lines().collect();
    for (text, line) in [
        (format!("{}\n{{\"seq\":1}}\n{}\n", lines[0], lines[1]), 2),
        (format!("{whole}{}\n", lines[1].replace("\"seq\":1", "\"seq\":0")), 3),
        (format!("{{}}\n{}\n", lines[1]), 1),
        (String::new(), 1),
    ] {
        std::fs::write(f.log(), text).unwrap();
        let refused = f.reopen().await.unwrap_err().to_string();
        assert!(
            refused.contains(&format!("line {line} is damaged")) && refused.contains("move it away"),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn log_of_another_database_is_refused() {
    let (f, other) = (fixture().await, fixture().await);
    std::fs::copy(other.log(), f.log()).unwrap();
    let refused = f.reopen().await.unwrap_err();
    let (own, foreign) = (f.store.database_id().await.unwrap(), other.store.database_id().await.unwrap());
    assert!(
        matches!(&refused, Error::ForeignLog { found, database, .. } if *found == foreign.as_str() && *database == own)
    );
    assert!(check_revocation_log(&f.folder.path().join("rigbox.db"), &own).is_err());
    // A database that takes over another one's nodes keeps its log.
    other.store.set_database_id(&own, now()).await.unwrap();
    assert!(other.reopen().await.is_ok());
}

#[tokio::test]
async fn missing_log_is_begun_anew_and_knows_what_it_lacks() {
    let f = fixture().await;
    f.copy().await;
    let session = f.sign_in(&f.store).await;
    f.store.set_disabled(&f.user, true, now()).await.unwrap();
    f.store.set_disabled(&f.user, false, now()).await.unwrap();
    std::fs::remove_file(f.log()).unwrap();
    // Also while the database is open.
    f.store.set_disabled(&f.user, true, now()).await.unwrap();
    assert!(f.log_text().contains("\"after\":2"));
    assert_eq!(std::fs::metadata(f.log()).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::remove_file(f.log()).unwrap();
    f.reopen().await.unwrap();
    assert!(f.log_text().contains("\"after\":3"));
    // An older database lacks entries that are nowhere: at least its sessions end.
    let with = Store::open(&f.put_back(true), &f.token_key).await.unwrap();
    assert_eq!(with.session_holder(&session, now()).await.unwrap(), None);
}

#[tokio::test]
async fn health_names_what_the_log_lacks() {
    use crate::RevocationLogHealth as Health;
    let f = fixture().await;
    let (path, health) =
        (f.log().display().to_string(), async || f.store.revocation_log_health().await.unwrap());
    assert_eq!(health().await, Health::Complete);
    for disabled in [true, false, true] {
        f.store.set_disabled(&f.user, disabled, now()).await.unwrap();
    }
    assert_eq!(health().await, Health::Complete);

    let text = f.log_text();
    let short: String = text.split_inclusive('\n').take(2).collect();
    std::fs::write(f.log(), short).unwrap();
    assert_eq!(health().await, Health::Short { path: path.clone(), last: 1, wanted: 3 });
    // What it lacks is still known after the next entry.
    f.reopen().await.unwrap().close().await;
    f.store.set_disabled(&f.user, false, now()).await.unwrap();
    assert_eq!(health().await, Health::Incomplete { path: path.clone(), up_to: 3 });
    assert_eq!(f.log_text().lines().count(), 3, "{}", f.log_text());

    std::fs::write(f.log(), "x\n").unwrap();
    assert!(matches!(health().await, Health::Unusable(text) if text.contains("line 1 is damaged")));
    std::fs::remove_file(f.log()).unwrap();
    assert_eq!(health().await, Health::Missing { path: path.clone() });
    f.reopen().await.unwrap();
    assert_eq!(health().await, Health::Incomplete { path, up_to: 4 });
}

#[tokio::test]
async fn entries_before_a_loss_are_applied() {
    let f = fixture().await;
    let (record, key) = f.add(Scope::Account, None).await;
    f.copy().await;
    f.store.revoke_key(&f.user, &record.id, &event(), now()).await.unwrap();
    let before_loss = f.log_text();
    f.store.set_disabled(&f.user, true, now()).await.unwrap();
    std::fs::write(f.log(), before_loss).unwrap();
    f.reopen().await.unwrap();
    assert!(!f.opens(&f.without_and_with_log().await[1], &key, now()).await);
}

#[tokio::test]
async fn large_log_is_rewritten_without_what_no_longer_counts() {
    let f = fixture().await;
    let (record, key) = f.add(Scope::Account, None).await;
    f.copy().await;
    f.store.revoke_key(&f.user, &record.id, &event(), now()).await.unwrap();
    let line = |seq: i64| {
        format!("{{\"seq\":{seq},\"at\":0,\"changes\":[{{\"of\":\"session\",\"session\":\"s\"}}]}}\n")
    };
    f.append(&(2..20_000).map(line).collect::<String>());
    let connection = Connection::open(f.folder.path().join("rigbox.db")).unwrap();
    connection.execute("UPDATE revocation_log SET seq = 19998", []).unwrap();
    f.store.set_disabled(&f.user, true, now()).await.unwrap();
    // The entry of 19999 has no committed transaction, and its number goes to the new one.
    let text = f.log_text();
    assert_eq!(text.lines().count(), 5, "{text}");
    assert!(text.contains("revoked_key") && text.ends_with("\n"));
    assert!(!f.opens(&f.without_and_with_log().await[1], &key, now()).await);
}

#[tokio::test]
async fn log_has_no_secret() {
    let f = fixture().await;
    let (record, old) = f.add(Scope::Account, None).await;
    let new = ApiKey::mint().unwrap();
    let secret = NewSecret::of(&new, &f.token_key);
    f.store.rotate_key(&f.user, &record.id, &secret, now(), &event(), now()).await.unwrap().unwrap();
    let text = f.log_text();
    assert!(text.contains("rotated_key"));
    // The preview is what lists show.
    for key in [&old, &new] {
        assert!(!text.contains(key.reveal()) && !text.contains(&key.reveal()[10..]));
    }
}
