//! Apps: made, read, changed, shown to others, stopped and deleted. What is answered is in force: every gateway knows of it.

use std::collections::BTreeMap;

use rigbox_core::app_access::{Visibility, widens_visibility};
use rigbox_core::apps::{AppKind, InvalidAppName, InvalidDomain};
use rigbox_core::authz::{Action, Denied, ListApps, ManageApp, Permit, Principal, Scope, Target, authorize};
use rigbox_core::ids::{AppId, InvalidId, WorkspaceId};
use rigbox_core::plans::Plans;
use rigbox_store::{App, AppPage, AppWithWorkspace, AuditEvent, IdempotencyKey, Replay, Store};

use crate::apps::domain_verification::DomainVerifier;
use crate::apps::urls::AppUrls;
use crate::clock;
use crate::error::{ServiceError, id_of, random_id};
use crate::gateways::Gateways;
use crate::guests::client::GuestError;
use crate::identity::email;
use crate::network::NetworkPolicies;

pub mod domain_verification;
pub mod services;
pub mod tokens;
pub mod urls;
pub mod visitors;

/// E-mail addresses on one app's list.
const MAX_SHARED_WITH: usize = 100;
const MAX_CORS_ORIGINS: usize = 20;
const MAX_PARAMS: usize = 100;
const MAX_PARAM_LEN: usize = 4_096;
const MAX_DESCRIPTION_LEN: usize = 1_000;
const MAX_METADATA_BYTES: usize = 16 * 1024;
/// How often a change is tried again that others' changes cross.
const MAX_ATTEMPTS: usize = 8;

#[derive(Clone)]
pub struct Apps {
    store: Store,
    gateways: Gateways,
    networks: NetworkPolicies,
    domain: AppUrls,
    domains: DomainVerifier,
    plans: Plans,
}

/// What a new app is to be.
pub struct NewApp {
    pub name: String,
    pub port: Option<u16>,
    pub kind: AppKind,
    pub protocol: Option<String>,
    pub description: Option<String>,
    pub metadata: serde_json::Value,
}

impl NewApp {
    /// Something that listens on a port.
    pub fn service(name: String, port: u16) -> Self {
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
pub struct Change {
    pub name: Option<String>,
    pub port: Option<u16>,
    pub visibility: Option<Visibility>,
    pub shared_with: Option<Vec<String>>,
    pub cors_origins: Option<Vec<String>>,
    /// An empty one takes it away.
    pub description: Option<String>,
    pub metadata: Option<serde_json::Value>,
    /// An empty one takes it away.
    pub custom_domain: Option<String>,
    pub stopped: Option<bool>,
    /// Those without a value are removed.
    pub params: BTreeMap<String, Option<String>>,
    pub service: Option<String>,
    /// The custom domain has been seen to be the owner's, if it is still this one.
    pub verified: Option<String>,
}

/// Why not.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("no app `{0}`: not found")]
    NoApp(String),
    /// What can go wrong with any workspace.
    #[error(transparent)]
    Workspace(#[from] ServiceError),
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

impl From<rigbox_store::Error> for AppError {
    fn from(error: rigbox_store::Error) -> Self {
        match error {
            rigbox_store::Error::Quota { limit_name, limit } => Self::Quota { limit_name, limit },
            other => Self::Workspace(other.into()),
        }
    }
}

fn bad(field: &'static str, problem: impl Into<String>) -> AppError {
    AppError::InvalidValue { field, problem: problem.into() }
}

impl Apps {
    pub fn new(
        store: Store,
        gateways: Gateways,
        networks: NetworkPolicies,
        domain: AppUrls,
        domains: DomainVerifier,
        plans: Plans,
    ) -> Self {
        Self { store, gateways, networks, domain, domains, plans }
    }

    /// The permit for `A` on the app that a path names, by id or by name, and the app; whose it is not may not learn that it exists.
    pub fn authorize<A: Action>(
        &self,
        principal: &Principal,
        id: &str,
    ) -> Result<(Permit<A>, AppWithWorkspace), AppError> {
        let missing = || AppError::NoApp(id.chars().take(64).collect());
        let id: AppId = id.parse().map_err(|_: InvalidId| missing())?;
        let found = self.store.app(&id)?.ok_or_else(missing)?;
        let target =
            Target::Workspace { id: found.app.workspace_id.clone(), owner: found.app.user_id.clone() };
        match authorize(principal, target) {
            Err(Denied::NotFound) => Err(missing()),
            other => Ok((other.map_err(ServiceError::Denied)?, found)),
        }
    }

    pub fn list(&self, permit: &Permit<ListApps>, page: &AppPage) -> Result<Vec<AppWithWorkspace>, AppError> {
        Ok(self.store.apps_of(permit.principal(), page)?)
    }

    fn load(&self, id: &AppId) -> Result<AppWithWorkspace, AppError> {
        self.store.app(id)?.ok_or_else(|| AppError::NoApp(id.to_string()))
    }

    /// Where an app answers.
    pub fn url(&self, app: &App) -> Option<String> {
        app.port.map(|_| self.domain.origin(app))
    }

    /// Makes an app in the permit's workspace.
    pub async fn create(
        &self,
        permit: &Permit<ManageApp>,
        wanted: NewApp,
        idempotency_key: Option<&IdempotencyKey>,
    ) -> Result<AppWithWorkspace, AppError> {
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
            id: AppId::from_random(random_id()?),
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
        let max = self.plans.entitlements(owner.plan, owner.limits).max_apps_per_vm();
        let event = AuditEvent::by(owner, "app.create", format!("{workspace}/{}", new.name));
        for _ in 0..MAX_ATTEMPTS {
            match self.store.add_app(&new, max, idempotency_key, &event).await {
                Ok(Replay::Fresh(())) => {
                    self.changed(workspace).await?;
                    return self.load(&new.id);
                }
                Ok(Replay::Repeated(id)) => {
                    return self.load(
                        &id.parse().map_err(|error: InvalidId| ServiceError::Internal(error.to_string()))?,
                    );
                }
                // The name's or, once in a blue moon, the id's.
                Err(rigbox_store::Error::NameTaken) if self.store.has_app_name(&new.name)? => {
                    return Err(AppError::NameTaken(new.name.to_string()));
                }
                Err(rigbox_store::Error::NameTaken) => new.id = AppId::from_random(random_id()?),
                Err(other) => return Err(other.into()),
            }
        }
        Err(ServiceError::Internal("no free id".to_owned()).into())
    }

    /// Changes an app; `action` is what the audit log calls it.
    pub async fn change(
        &self,
        permit: &Permit<ManageApp>,
        id: &AppId,
        change: &Change,
        action: &str,
    ) -> Result<AppWithWorkspace, AppError> {
        let event = AuditEvent::by(permit.principal(), action, id);
        for _ in 0..MAX_ATTEMPTS {
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
                        (Some(domain), true) => AppError::DomainTaken(domain.to_string()),
                        _ => AppError::NameTaken(next.name.to_string()),
                    });
                }
                Err(other) => return Err(other.into()),
            }
        }
        Err(AppError::Crossed)
    }

    /// Looks whether an app's own domain is its owner's, and has it lead to the app then.
    pub async fn verify_domain(
        &self,
        permit: &Permit<ManageApp>,
        app: &App,
    ) -> Result<AppWithWorkspace, AppError> {
        let domain = app
            .custom_domain
            .as_ref()
            .ok_or_else(|| bad("custom_domain", "the app has none: set one first"))?;
        let challenge = self.domains.challenge(&app.id, domain);
        let wanted =
            format!("put a DNS record of type TXT at {} with the text {}", challenge.name, challenge.value);
        match self.domains.is_fulfilled(&challenge).await {
            Ok(true) => {
                let change = Change { verified: Some(domain.to_string()), ..Change::default() };
                self.change(permit, &app.id, &change, "app.verify_domain").await
            }
            Ok(false) => Err(AppError::Unverifiable(format!(
                "nothing shows that {domain} is yours: {wanted}, and try again"
            ))),
            Err(problem) => Err(AppError::Unverifiable(format!(
                "whose {domain} is cannot be requested ({problem}): {wanted}, and try again"
            ))),
        }
    }

    pub async fn delete(&self, permit: &Permit<ManageApp>, app: &App) -> Result<(), AppError> {
        let event =
            AuditEvent::by(permit.principal(), "app.delete", format!("{}/{}", app.workspace_id, app.name));
        if !self.store.delete_app(&app.id, &event, clock::now()).await? {
            return Err(AppError::NoApp(app.id.to_string()));
        }
        self.changed(&app.workspace_id).await
    }

    /// Has the node and every gateway know what the workspace's apps are now.
    async fn changed(&self, workspace: &WorkspaceId) -> Result<(), AppError> {
        self.networks.push(workspace).await?;
        self.gateways.apps_changed(workspace).await;
        Ok(())
    }

    /// What a change makes of an app.
    fn apply(&self, permit: &Permit<ManageApp>, seen: &App, change: &Change) -> Result<App, AppError> {
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

    fn apply_domain(&self, app: &mut App, change: &Change) -> Result<(), AppError> {
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
    fn check_widening(&self, permit: &Permit<ManageApp>, seen: &App, app: &App) -> Result<(), AppError> {
        let inside = matches!(permit.principal().scope, Scope::OwnWorkspace(_));
        let wider =
            widens_visibility((seen.visibility, &seen.shared_with), (app.visibility, &app.shared_with))
                || app.cors_origins.iter().any(|origin| !seen.cors_origins.contains(origin));
        if inside && wider && !self.networks.settings(&seen.workspace_id)?.apps_from_inside_any {
            return Err(AppError::Widens);
        }
        Ok(())
    }
}

fn apply_params(app: &mut App, params: &BTreeMap<String, Option<String>>) -> Result<(), AppError> {
    for (name, value) in params {
        let name: rigbox_core::environment::VariableName = name
            .parse()
            .map_err(|error: rigbox_core::environment::InvalidVariable| bad("params", error.to_string()))?;
        match value {
            None => drop(app.params.remove(name.as_str())),
            Some(value) if value.len() > MAX_PARAM_LEN || value.chars().any(char::is_control) => {
                let problem =
                    format!("`{name}`: expected at most {MAX_PARAM_LEN} bytes without control characters");
                return Err(bad("params", problem));
            }
            Some(value) => drop(app.params.insert(name.to_string(), value.clone())),
        }
    }
    if app.params.len() > MAX_PARAMS {
        return Err(bad("params", format!("at most {MAX_PARAMS}")));
    }
    Ok(())
}

/// Each address idempotency_key, in the one spelling that is compared.
fn addresses(list: &[String]) -> Result<Vec<String>, AppError> {
    let mut checked = Vec::new();
    for text in list {
        let address = email::parse_address(text).ok_or_else(|| {
            let text: String = text.chars().take(64).collect();
            bad("allowed_emails", format!("`{text}` is no e-mail address: expected e.g. ada@example.org"))
        })?;
        if !checked.contains(&address) {
            checked.push(address);
        }
    }
    if checked.len() > MAX_SHARED_WITH {
        return Err(bad("allowed_emails", format!("at most {MAX_SHARED_WITH}")));
    }
    Ok(checked)
}

fn origins(list: &[String]) -> Result<Vec<String>, AppError> {
    if list.len() > MAX_CORS_ORIGINS {
        return Err(bad("cors_origins", format!("at most {MAX_CORS_ORIGINS}")));
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

fn protocol(text: Option<String>) -> Result<String, AppError> {
    match text.as_deref() {
        None => Ok("http".to_owned()),
        Some(text @ ("http" | "https" | "ws" | "grpc" | "tcp")) => Ok(text.to_owned()),
        Some(_) => Err(bad("protocol", "expected http, ws or grpc")),
    }
}

fn description(text: String) -> Result<Option<String>, AppError> {
    if text.len() > MAX_DESCRIPTION_LEN {
        return Err(bad("description", format!("longer than {MAX_DESCRIPTION_LEN} bytes")));
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn metadata(value: serde_json::Value) -> Result<serde_json::Value, AppError> {
    match value {
        serde_json::Value::Null => Ok(serde_json::json!({})),
        value @ serde_json::Value::Object(_) if value.to_string().len() <= MAX_METADATA_BYTES => Ok(value),
        _ => Err(bad("metadata", format!("expected an object of at most {MAX_METADATA_BYTES} bytes"))),
    }
}
