//! Apps: made, read, changed, shown to others, stopped and deleted. What is answered is in force: every gateway knows of it.

use std::collections::BTreeMap;

use rigbox_core::app_access::{Visibility, widens_visibility};
use rigbox_core::apps::{AppKind, InvalidAppName, InvalidDomain};
use rigbox_core::authz::{Action, Denied, ListApps, ManageApp, Permit, Principal, Scope, Target, authorize};
use rigbox_core::ids::{AppId, InvalidId, WorkspaceId};
use rigbox_core::plans::Plans;
use rigbox_store::{App, AppPage, AppWithWorkspace, AuditEvent, IdempotencyKey, Replay, Store};

use super::networks::Networks;
use super::workspaces::{Problem, id_of, random};
use crate::apps_domain::AppsDomain;
use crate::domains::Domains;
use crate::gateways::Gateways;
use crate::guest_client::GuestError;
use crate::{clock, mail};

/// E-mail addresses on one app's list.
const MOST_SHARED: usize = 100;
const MOST_ORIGINS: usize = 20;
const MOST_PARAMS: usize = 100;
const LONGEST_PARAM: usize = 4_096;
const LONGEST_DESCRIPTION: usize = 1_000;
const LARGEST_METADATA: usize = 16 * 1024;
/// How often a change is tried again that others' changes cross.
const TRIES: usize = 8;

#[derive(Clone)]
pub(crate) struct Apps {
    store: Store,
    gateways: Gateways,
    networks: Networks,
    domain: AppsDomain,
    domains: Domains,
    plans: Plans,
}

/// What a new app is to be.
pub(crate) struct WantedApp {
    pub(crate) name: String,
    pub(crate) port: Option<u16>,
    pub(crate) kind: AppKind,
    pub(crate) protocol: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) metadata: serde_json::Value,
}

impl WantedApp {
    /// Something that listens on a port.
    pub(crate) fn service(name: String, port: u16) -> Self {
        Self {
            name,
            port: Some(port),
            kind: AppKind::Service,
            protocol: None,
            description: None,
            metadata: serde_json::Value::Null,
        }
    }
}

/// What is to become of an app: what is none stays.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub(crate) name: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) visibility: Option<Visibility>,
    pub(crate) shared_with: Option<Vec<String>>,
    pub(crate) cors_origins: Option<Vec<String>>,
    /// An empty one takes it away.
    pub(crate) description: Option<String>,
    pub(crate) metadata: Option<serde_json::Value>,
    /// An empty one takes it away.
    pub(crate) custom_domain: Option<String>,
    pub(crate) stopped: Option<bool>,
    /// Those without a value are removed.
    pub(crate) params: BTreeMap<String, Option<String>>,
    pub(crate) service: Option<String>,
    /// The custom domain has been seen to be the owner's, if it is still this one.
    pub(crate) verified: Option<String>,
}

/// Why not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppProblem {
    #[error("no app `{0}`: not found")]
    NoApp(String),
    /// What can go wrong with any workspace.
    #[error(transparent)]
    Workspace(#[from] Problem),
    #[error(transparent)]
    InvalidName(#[from] InvalidAppName),
    #[error("custom_domain: {0}")]
    InvalidDomain(#[from] InvalidDomain),
    #[error("{field}: {problem}")]
    InvalidValue { field: &'static str, problem: String },
    #[error("there is an app named `{0}` already: names are unique in the installation; choose another")]
    NameTaken(String),
    #[error("the domain `{0}` is another app's already")]
    DomainTaken(String),
    #[error("the limit {limit_name} of {limit} would be exceeded: delete an app that is not needed")]
    Quota { limit_name: &'static str, limit: u64 },
    #[error(
        "not allowed: from inside a workspace an app can be shown to fewer people, not to more; its owner can, from outside, or by setting apps_from_inside to `any`"
    )]
    Widens,
    #[error("the app `{0}` has no service: expose its port with step `wrap` first, which makes one")]
    NoService(String),
    #[error("the app was changed by somebody else at the same time: try again")]
    Crossed,
    #[error("{0}")]
    Unverifiable(String),
    #[error("the workspace is `{0}`: this needs `running`")]
    NotRunning(rigbox_core::status::Status),
    #[error(transparent)]
    Guest(#[from] GuestError),
}

impl From<rigbox_store::Error> for AppProblem {
    fn from(error: rigbox_store::Error) -> Self {
        match error {
            rigbox_store::Error::Quota { limit_name, limit } => Self::Quota { limit_name, limit },
            other => Self::Workspace(other.into()),
        }
    }
}

fn bad(field: &'static str, problem: impl Into<String>) -> AppProblem {
    AppProblem::InvalidValue { field, problem: problem.into() }
}

impl Apps {
    pub(crate) fn new(
        store: Store,
        gateways: Gateways,
        networks: Networks,
        domain: AppsDomain,
        domains: Domains,
        plans: Plans,
    ) -> Self {
        Self { store, gateways, networks, domain, domains, plans }
    }

    /// The permit for `A` on the app that a path names, by id or by name, and the app; whose it is not may not learn that it exists.
    pub(crate) fn permit<A: Action>(
        &self,
        principal: &Principal,
        id: &str,
    ) -> Result<(Permit<A>, AppWithWorkspace), AppProblem> {
        let missing = || AppProblem::NoApp(id.chars().take(64).collect());
        let id: AppId = id.parse().map_err(|_: InvalidId| missing())?;
        let found = self.store.app(&id)?.ok_or_else(missing)?;
        let target =
            Target::Workspace { id: found.app.workspace_id.clone(), owner: found.app.user_id.clone() };
        match authorize(principal, target) {
            Err(Denied::NotFound) => Err(missing()),
            other => Ok((other.map_err(Problem::Denied)?, found)),
        }
    }

    pub(crate) fn list(
        &self,
        permit: &Permit<ListApps>,
        page: &AppPage,
    ) -> Result<Vec<AppWithWorkspace>, AppProblem> {
        Ok(self.store.apps_of(permit.principal(), page)?)
    }

    fn load(&self, id: &AppId) -> Result<AppWithWorkspace, AppProblem> {
        self.store.app(id)?.ok_or_else(|| AppProblem::NoApp(id.to_string()))
    }

    /// Where an app answers.
    pub(crate) fn url(&self, app: &App) -> Option<String> {
        app.port.map(|_| self.domain.origin(app))
    }

    /// Makes an app in the permit's workspace.
    pub(crate) async fn create(
        &self,
        permit: &Permit<ManageApp>,
        wanted: WantedApp,
        once: Option<&IdempotencyKey>,
    ) -> Result<AppWithWorkspace, AppProblem> {
        let workspace = id_of(permit)?;
        let owner = permit.principal();
        let port = match (wanted.kind, wanted.port) {
            (AppKind::Service, None) => return Err(bad("port", "a service has a port, 1 to 65535")),
            (_, Some(0)) => return Err(bad("port", "0 is no port: expected 1 to 65535")),
            (AppKind::Cli, Some(_)) => return Err(bad("port", "an app of kind `cli` has none")),
            (_, port) => port,
        };
        let now = clock::now();
        let mut new = App {
            id: AppId::from_random(random()?),
            workspace_id: workspace.clone(),
            user_id: owner.user.clone(),
            name: wanted.name.parse()?,
            kind: wanted.kind,
            port,
            protocol: protocol(wanted.protocol)?,
            visibility: Visibility::Private,
            shared_with: Vec::new(),
            cors_origins: Vec::new(),
            params: BTreeMap::new(),
            metadata: metadata(wanted.metadata)?,
            description: wanted.description.map(description).transpose()?.flatten(),
            stopped: false,
            service: None,
            custom_domain: None,
            domain_verified_at: None,
            created_at: now,
            updated_at: now,
        };
        let most = self.plans.entitlements(owner.plan, owner.limits).max_apps_per_vm();
        let event = AuditEvent::by(owner, "app.create", format!("{workspace}/{}", new.name));
        for _ in 0..TRIES {
            match self.store.add_app(&new, most, once, &event).await {
                Ok(Replay::Fresh(())) => {
                    self.changed(workspace).await?;
                    return self.load(&new.id);
                }
                Ok(Replay::Repeated(id)) => {
                    return self
                        .load(&id.parse().map_err(|error: InvalidId| Problem::Internal(error.to_string()))?);
                }
                // The name's or, once in a blue moon, the id's.
                Err(rigbox_store::Error::NameTaken) if self.store.has_app_name(&new.name)? => {
                    return Err(AppProblem::NameTaken(new.name.to_string()));
                }
                Err(rigbox_store::Error::NameTaken) => new.id = AppId::from_random(random()?),
                Err(other) => return Err(other.into()),
            }
        }
        Err(Problem::Internal("no free id".to_owned()).into())
    }

    /// Changes an app; `action` is what the audit log calls it.
    pub(crate) async fn change(
        &self,
        permit: &Permit<ManageApp>,
        id: &AppId,
        change: &Change,
        action: &str,
    ) -> Result<AppWithWorkspace, AppProblem> {
        let event = AuditEvent::by(permit.principal(), action, id);
        for _ in 0..TRIES {
            let seen = self.load(id)?.app;
            let next = self.apply(permit, &seen, change)?;
            match self.store.update_app(&seen, &next, &event).await {
                Ok(true) => {
                    self.changed(&seen.workspace_id).await?;
                    return self.load(id);
                }
                Ok(false) => {}
                Err(rigbox_store::Error::NameTaken) => {
                    return Err(match (&next.custom_domain, next.name == seen.name) {
                        (Some(domain), true) => AppProblem::DomainTaken(domain.to_string()),
                        _ => AppProblem::NameTaken(next.name.to_string()),
                    });
                }
                Err(other) => return Err(other.into()),
            }
        }
        Err(AppProblem::Crossed)
    }

    /// Looks whether an app's own domain is its owner's, and has it lead to the app then.
    pub(crate) async fn verify_domain(
        &self,
        permit: &Permit<ManageApp>,
        app: &App,
    ) -> Result<AppWithWorkspace, AppProblem> {
        let domain = app
            .custom_domain
            .as_ref()
            .ok_or_else(|| bad("custom_domain", "the app has none: set one first"))?;
        let challenge = self.domains.challenge(&app.id, domain);
        let wanted =
            format!("put a DNS record of type TXT at {} with the text {}", challenge.name, challenge.value);
        match self.domains.is_met(&challenge).await {
            Ok(true) => {
                let change = Change { verified: Some(domain.to_string()), ..Change::default() };
                self.change(permit, &app.id, &change, "app.verify_domain").await
            }
            Ok(false) => Err(AppProblem::Unverifiable(format!(
                "nothing shows that {domain} is yours: {wanted}, and try again"
            ))),
            Err(problem) => Err(AppProblem::Unverifiable(format!(
                "whose {domain} is cannot be requested ({problem}): {wanted}, and try again"
            ))),
        }
    }

    pub(crate) async fn delete(&self, permit: &Permit<ManageApp>, app: &App) -> Result<(), AppProblem> {
        let event =
            AuditEvent::by(permit.principal(), "app.delete", format!("{}/{}", app.workspace_id, app.name));
        if !self.store.delete_app(&app.id, &event, clock::now()).await? {
            return Err(AppProblem::NoApp(app.id.to_string()));
        }
        self.changed(&app.workspace_id).await
    }

    /// Has the node and every gateway know what the workspace's apps are now.
    async fn changed(&self, workspace: &WorkspaceId) -> Result<(), AppProblem> {
        self.networks.push(workspace).await?;
        self.gateways.apps_changed(workspace).await;
        Ok(())
    }

    /// What a change makes of an app.
    fn apply(&self, permit: &Permit<ManageApp>, seen: &App, change: &Change) -> Result<App, AppProblem> {
        let mut app = seen.clone();
        if let Some(name) = &change.name {
            app.name = name.parse()?;
        }
        if let Some(port) = change.port {
            if seen.kind == AppKind::Cli || port == 0 {
                return Err(bad("port", "expected 1 to 65535, for an app of kind `service`"));
            }
            app.port = Some(port);
        }
        if let Some(visibility) = change.visibility {
            app.visibility = visibility;
        }
        if let Some(list) = &change.shared_with {
            app.shared_with = addresses(list)?;
        }
        if let Some(list) = &change.cors_origins {
            app.cors_origins = origins(list)?;
        }
        if let Some(text) = &change.description {
            app.description = description(text.clone())?;
        }
        if let Some(value) = &change.metadata {
            app.metadata = metadata(value.clone())?;
        }
        self.apply_domain(&mut app, change)?;
        if let Some(stopped) = change.stopped {
            app.stopped = stopped;
        }
        if let Some(service) = &change.service {
            app.service = Some(service.clone());
        }
        apply_params(&mut app, &change.params)?;
        self.check_widening(permit, seen, &app)?;
        app.updated_at = clock::now();
        Ok(app)
    }

    fn apply_domain(&self, app: &mut App, change: &Change) -> Result<(), AppProblem> {
        if let Some(text) = &change.custom_domain {
            let domain =
                if text.is_empty() { None } else { Some(text.parse::<rigbox_core::apps::CustomDomain>()?) };
            if domain.as_ref().is_some_and(|domain| domain.is_within(self.domain.host())) {
                return Err(bad(
                    "custom_domain",
                    "it lies in the apps' own domain: an app's name is for that",
                ));
            }
            if domain != app.custom_domain {
                app.domain_verified_at = None;
            }
            app.custom_domain = domain;
        }
        if let Some(verified) = &change.verified
            && app.custom_domain.as_ref().is_some_and(|domain| domain.as_str() == verified)
        {
            app.domain_verified_at = Some(clock::now());
        }
        Ok(())
    }

    /// Code in a VM shows nothing to more people than its owner has decided.
    fn check_widening(&self, permit: &Permit<ManageApp>, seen: &App, app: &App) -> Result<(), AppProblem> {
        let inside = matches!(permit.principal().scope, Scope::OwnWorkspace(_));
        let wider =
            widens_visibility((seen.visibility, &seen.shared_with), (app.visibility, &app.shared_with))
                || app.cors_origins.iter().any(|origin| !seen.cors_origins.contains(origin));
        if inside && wider && !self.networks.settings(&seen.workspace_id)?.apps_from_inside_any {
            return Err(AppProblem::Widens);
        }
        Ok(())
    }
}

fn apply_params(app: &mut App, params: &BTreeMap<String, Option<String>>) -> Result<(), AppProblem> {
    for (name, value) in params {
        let name: rigbox_core::environment::VariableName = name
            .parse()
            .map_err(|error: rigbox_core::environment::InvalidVariable| bad("params", error.to_string()))?;
        match value {
            None => drop(app.params.remove(name.as_str())),
            Some(value) if value.len() > LONGEST_PARAM || value.chars().any(char::is_control) => {
                let problem =
                    format!("`{name}`: expected at most {LONGEST_PARAM} bytes without control characters");
                return Err(bad("params", problem));
            }
            Some(value) => drop(app.params.insert(name.to_string(), value.clone())),
        }
    }
    if app.params.len() > MOST_PARAMS {
        return Err(bad("params", format!("at most {MOST_PARAMS}")));
    }
    Ok(())
}

/// Each address once, in the one spelling that is compared.
fn addresses(list: &[String]) -> Result<Vec<String>, AppProblem> {
    let mut checked = Vec::new();
    for text in list {
        let address = mail::address(text).ok_or_else(|| {
            let text: String = text.chars().take(64).collect();
            bad("allowed_emails", format!("`{text}` is no e-mail address: expected e.g. ada@example.org"))
        })?;
        if !checked.contains(&address) {
            checked.push(address);
        }
    }
    if checked.len() > MOST_SHARED {
        return Err(bad("allowed_emails", format!("at most {MOST_SHARED}")));
    }
    Ok(checked)
}

fn origins(list: &[String]) -> Result<Vec<String>, AppProblem> {
    if list.len() > MOST_ORIGINS {
        return Err(bad("cors_origins", format!("at most {MOST_ORIGINS}")));
    }
    let origin = |text: &String| {
        let uri: http::Uri = text.parse().ok()?;
        let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"))?;
        let bare = text == &format!("{scheme}://{}", uri.authority()?) && !text.contains('@');
        bare.then(|| text.to_ascii_lowercase())
    };
    let checked = list.iter().map(|text| {
        origin(text).ok_or_else(|| {
            let text: String = text.chars().take(64).collect();
            bad("cors_origins", format!("`{text}` is no origin: expected e.g. https://app.example.org"))
        })
    });
    checked.collect()
}

fn protocol(text: Option<String>) -> Result<String, AppProblem> {
    match text.as_deref() {
        None => Ok("http".to_owned()),
        Some(text @ ("http" | "https" | "ws" | "grpc" | "tcp")) => Ok(text.to_owned()),
        Some(_) => Err(bad("protocol", "expected http, ws or grpc")),
    }
}

fn description(text: String) -> Result<Option<String>, AppProblem> {
    if text.len() > LONGEST_DESCRIPTION {
        return Err(bad("description", format!("longer than {LONGEST_DESCRIPTION} bytes")));
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn metadata(value: serde_json::Value) -> Result<serde_json::Value, AppProblem> {
    match value {
        serde_json::Value::Null => Ok(serde_json::json!({})),
        value @ serde_json::Value::Object(_) if value.to_string().len() <= LARGEST_METADATA => Ok(value),
        _ => Err(bad("metadata", format!("expected an object of at most {LARGEST_METADATA} bytes"))),
    }
}
