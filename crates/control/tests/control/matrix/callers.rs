//! Callers of the matrix, and their fixture: an owner with two running workspaces and one credential of each
//! kind, and another user.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use rigbox_control::{Timeouts, admin};
use rigbox_core::app_access::Visibility;
use rigbox_core::apps::AppKind;
use rigbox_core::authz::{Credential, Principal, Role, Scope};
use rigbox_core::ids::{AppId, KeyId, SessionId, UserId};
use rigbox_core::plans::{LimitOverrides, Plan, Plans};
use rigbox_core::time::Timestamp;
use rigbox_proto::guest::ListeningPort;
use rigbox_store::tokens::{ApiKey, LinkToken, SessionToken, TokenKey};
use rigbox_store::{
    App, AppPage, AppWithWorkspace, AuditEvent, NewKey, NewSession, NewSshKey, Replay, Store,
};

use super::table::{Route, Target};
use crate::support::TestControl;

/// Kind of caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    Anonymous,
    /// Key for the whole account.
    Owner,
    /// Browser of the owner, on a page of the console.
    Session,
    /// The same browser, on a page of another site.
    CrossSite,
    OtherUser,
    /// The workspace's own key.
    OwnWorkspace,
    /// The own key of another workspace of the owner.
    OtherWorkspace,
    /// Key limited to the workspace.
    Read,
    Operate,
    /// Key limited to the other workspace.
    ScopedElsewhere,
    Revoked,
    Expired,
    ExpiredSession,
    KeyInUrl,
}

pub(crate) const ALL: &[Caller] = &[
    Caller::Anonymous,
    Caller::Revoked,
    Caller::Expired,
    Caller::ExpiredSession,
    Caller::KeyInUrl,
    Caller::CrossSite,
    Caller::OtherUser,
    Caller::OtherWorkspace,
    Caller::OwnWorkspace,
    Caller::ScopedElsewhere,
    Caller::Read,
    Caller::Operate,
    Caller::Owner,
    // Last, because one route ends it.
    Caller::Session,
];

impl Caller {
    pub(crate) fn is_browser(self) -> bool {
        matches!(self, Self::Session | Self::CrossSite | Self::ExpiredSession)
    }

    /// Returns whether the caller acts on the owner's account.
    pub(crate) fn acts_for_owner(self) -> bool {
        !matches!(
            self,
            Self::Anonymous | Self::OtherUser | Self::Revoked | Self::Expired | Self::ExpiredSession
        )
    }
}

pub(crate) struct Fixture {
    pub(crate) rig: TestControl,
    store: Store,
    owner: UserId,
    /// Workspace that the routes act on.
    pub(crate) mine: String,
    /// Key that the routes act on.
    key: String,
    /// SSH key that the routes act on.
    ssh_key: String,
    /// App that the routes act on.
    app: String,
    other_user: ApiKey,
    workspace_keys: [String; 2],
    read: ApiKey,
    operate: ApiKey,
    elsewhere: ApiKey,
    revoked: ApiKey,
    expired: ApiKey,
    session: SessionToken,
    expired_session: SessionToken,
}

/// Returns rate limits that no test reaches.
fn unlimited() -> Plans {
    let many = NonZeroU32::new(1_000_000);
    let rates = LimitOverrides {
        authentication_per_min: many,
        workspaces_per_min: many,
        apps_per_min: many,
        ..Default::default()
    };
    Plans { owner: rates, free: rates, pro: rates, anonymous: rates }
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp::from_unix_ms(since.as_millis().try_into().unwrap())
}

/// Adds a key directly to the database.
async fn add(store: &Store, token_key: &TokenKey, user: &UserId, scope: Scope) -> (KeyId, ApiKey) {
    let key = ApiKey::mint().unwrap();
    let new = NewKey { scope, ..NewKey::of(&key, "matrix", token_key) };
    let event = AuditEvent::by_operator(user, "key.create", "");
    let Replay::Fresh(record) = store.add_key(user, &new, 99, None, event, now()).await.unwrap() else {
        panic!()
    };
    (record.id, key)
}

/// Adds an SSH key directly to the database.
async fn ssh_key(store: &Store, owner: &UserId) -> String {
    let new = NewSshKey {
        name: "matrix".to_owned(),
        public_key: "ssh-ed25519 AAAA".to_owned(),
        blob: Vec::new(),
        fingerprint: "SHA256:matrix".to_owned(),
        no_touch_required: false,
    };
    let event = AuditEvent::by_operator(owner, "ssh_key.add", "");
    let Replay::Fresh(added) = store.add_ssh_key(owner, &new, 9, None, event, now()).await.unwrap() else {
        panic!()
    };
    added.id.to_string()
}

/// Adds an app directly to the database.
async fn app(store: &Store, owner: &UserId, workspace: &str) -> String {
    let id = AppId::from_random([7; 5]);
    let new = App {
        id: id.clone(),
        workspace_id: workspace.parse().unwrap(),
        user_id: owner.clone(),
        name: "web".parse().unwrap(),
        kind: AppKind::Service,
        port: Some(8000),
        protocol: "http".to_owned(),
        visibility: Visibility::Private,
        shared_with: Vec::new(),
        cors_origins: Vec::new(),
        params: BTreeMap::new(),
        metadata: serde_json::json!({}),
        description: None,
        stopped: false,
        service: Some("rigbox-svc-web.service".to_owned()),
        custom_domain: None,
        domain_verified_at: None,
        created_at: now(),
        updated_at: now(),
    };
    store.add_app(&new, 9, None, &AuditEvent::by_operator(owner, "app.create", &id)).await.unwrap();
    id.to_string()
}

async fn session(store: &Store, token_key: &TokenKey, user: &UserId, longest: Duration) -> SessionToken {
    let (link, token) = (LinkToken::mint().unwrap(), SessionToken::mint().unwrap());
    store.add_link(user, &link, token_key, now().after(Duration::from_mins(1)), now()).await.unwrap();
    let new = NewSession { token: &token, idle: Duration::from_hours(1), max_lifetime: longest };
    store.sign_in(&link, new, token_key, None, now()).await.unwrap().unwrap();
    token
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let rig = TestControl::with_plans(Timeouts::default(), unlimited()).await;
        let (mine, other) = (rig.running("mine").await, rig.running("other").await);
        let config = rig.config();
        let token_key = TokenKey::load_or_create(&config.token_key).unwrap();
        let store = Store::open(&config.database, &token_key).await.unwrap();
        let owner = store.first_user().await.unwrap().unwrap().id;
        let other_user = admin::add_user(&config, "b@example.com", Plan::Free).await.unwrap();
        let limited = |id: &str, role| Scope::Workspaces { ids: BTreeSet::from([id.parse().unwrap()]), role };
        let account = async |user: &UserId| add(&store, &token_key, user, Scope::Account).await;
        let (key, _) = account(&owner).await;
        let (revoked_id, revoked) = account(&owner).await;
        let event = AuditEvent::by_operator(&owner, "key.revoke", &revoked_id);
        assert!(store.revoke_key(&owner, &revoked_id, &event, now()).await.unwrap());
        let expired = ApiKey::mint().unwrap();
        let ended = NewKey { expires_at: Some(now()), ..NewKey::of(&expired, "ended", &token_key) };
        let event = AuditEvent::by_operator(&owner, "key.create", "");
        store.add_key(&owner, &ended, 99, None, event, now()).await.unwrap();
        let (app, ssh_key) = (app(&store, &owner, &mine).await, ssh_key(&store, &owner).await);
        let port = ListeningPort { port: 8000, address: "0.0.0.0".to_owned(), ..ListeningPort::default() };
        rig.guests.ports.lock().unwrap().push(port);
        rig.guests.files.lock().unwrap().insert("/there".to_owned(), b"content".to_vec());
        Self {
            other_user: account(&other_user).await.1,
            workspace_keys: [&mine, &other].map(|id| rig.guests.delivered_to(id).2),
            read: add(&store, &token_key, &owner, limited(&mine, Role::Read)).await.1,
            operate: add(&store, &token_key, &owner, limited(&mine, Role::Operate)).await.1,
            elsewhere: add(&store, &token_key, &owner, limited(&other, Role::Operate)).await.1,
            session: session(&store, &token_key, &owner, Duration::from_hours(1)).await,
            expired_session: session(&store, &token_key, &owner, Duration::ZERO).await,
            key: key.to_string(),
            ssh_key,
            app,
            revoked,
            expired,
            rig,
            store,
            owner,
            mine,
        }
    }

    /// Returns the route's path for a workspace, key or app.
    pub(crate) fn path(&self, route: &Route, about: &str) -> String {
        let about = match route.target {
            Target::Key if about == self.mine => &self.key,
            Target::SshKey if about == self.mine => &self.ssh_key,
            Target::App if about == self.mine => &self.app,
            _ => about,
        };
        let path = route
            .path
            .replace("{id}", about)
            .replace("{key}", "A")
            .replace("{name}", "github")
            .replace("{app}", &self.app)
            .replace("{process}", "pr-aaaaaaaa");
        match route.target {
            // The fragment is not sent: it is the workspace for the body.
            Target::NewApp => format!("{path}#{about}"),
            Target::Page if path.starts_with("/open/") => format!("{path}?state={}", "s".repeat(43)),
            _ if path.contains("/files") && route.method != "POST" => format!("{path}?path=/there"),
            _ => path,
        }
    }

    /// Returns an existing id of the route's kind, and a missing one.
    pub(crate) fn with_and_without(&self, route: &Route) -> (String, String) {
        match route.target {
            Target::Key => (self.key.clone(), "ak-aaaaaaaa".to_owned()),
            Target::SshKey => (self.ssh_key.clone(), "sh-aaaaaaaa".to_owned()),
            Target::App => (self.app.clone(), "ap-aaaaaaaa".to_owned()),
            _ => (self.mine.clone(), "ws-aaaaaaaa".to_owned()),
        }
    }

    pub(crate) fn request(&self, route: &Route, path: &str, caller: Caller) -> RequestBuilder {
        let method: Method = route.method.parse().unwrap();
        let host = if caller.is_browser() { self.rig.console() } else { self.rig.url("") };
        let (path, workspace) = path.split_once('#').map_or((path, None), |(path, id)| (path, Some(id)));
        let mut url = format!("{host}{path}");
        if caller == Caller::KeyInUrl {
            url = format!("{url}{}key={}", if url.contains('?') { '&' } else { '?' }, self.rig.key);
        }
        let mut request = self.rig.client.request(method, url);
        if let Some(id) = workspace {
            request = request.json(&serde_json::json!({"name": "another", "workspace_id": id, "port": 80}));
        }
        if let Some(body) = route.body {
            let form = route.target == Target::Page;
            let kind = if form { "application/x-www-form-urlencoded" } else { "application/json" };
            request = request.header("content-type", kind).body(body);
        }
        let cookie = |request: RequestBuilder, token: &SessionToken, origin: &str| {
            request.header("cookie", format!("rigbox_session={}", token.reveal())).header("origin", origin)
        };
        let console = self.rig.console();
        match caller {
            Caller::Anonymous | Caller::KeyInUrl => request,
            Caller::Owner => request.bearer_auth(&self.rig.key),
            Caller::Session => cookie(request, &self.session, &console),
            Caller::CrossSite => cookie(request, &self.session, "http://web.rigbox.localhost:7080"),
            Caller::ExpiredSession => cookie(request, &self.expired_session, &console),
            Caller::OtherUser => request.bearer_auth(self.other_user.reveal()),
            Caller::OwnWorkspace => request.bearer_auth(&self.workspace_keys[0]),
            Caller::OtherWorkspace => request.bearer_auth(&self.workspace_keys[1]),
            Caller::Read => request.bearer_auth(self.read.reveal()),
            Caller::Operate => request.bearer_auth(self.operate.reveal()),
            Caller::ScopedElsewhere => request.bearer_auth(self.elsewhere.reveal()),
            Caller::Revoked => request.bearer_auth(self.revoked.reveal()),
            Caller::Expired => request.bearer_auth(self.expired.reveal()),
        }
    }

    /// Returns everything of the owner, except what every use of a key leaves behind.
    pub(crate) async fn owner_state(&self) -> String {
        let mut rows = Vec::new();
        for id in self.store.all_workspaces().await.unwrap() {
            let row = self.store.workspace(&id).await.unwrap();
            rows.extend(row.filter(|row| row.user_id == self.owner));
        }
        let mut keys = self.store.keys_of(&self.owner).await.unwrap();
        for key in &mut keys {
            key.last_used_at = None;
        }
        let mut log = self.store.audit_of(&self.owner, None, 1_000).await.unwrap();
        // Recorded beside the requests, some of them later.
        let beside = ["exec.", "file.", "key.first_use", "process.", "terminal."];
        log.retain(|entry| !beside.iter().any(|action| entry.action.starts_with(action)));
        log.retain(|entry| !entry.action.ends_with(".refused"));
        let (apps, ssh_keys) = (self.apps(), self.store.ssh_keys_of(&self.owner).await.unwrap());
        let limits = self.store.user_limits(&self.owner).await.unwrap();
        format!("{rows:#?}{keys:#?}{ssh_keys:#?}{apps:#?}{log:#?}{limits:#?}")
    }

    fn apps(&self) -> Vec<AppWithWorkspace> {
        let owner = Principal {
            user: self.owner.clone(),
            plan: Plan::Owner,
            limits: LimitOverrides::default(),
            credential: Credential::Session(SessionId::from_random([0; 5])),
            scope: Scope::Account,
            from: None,
        };
        self.store.apps_of(&owner, &AppPage { limit: 1_000, ..AppPage::default() }).unwrap()
    }
}
