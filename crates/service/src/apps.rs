//! Apps: creation, changes, sharing, domains and deletion. A method that changes an app returns once every
//! gateway has applied the change.

use std::collections::BTreeMap;

use rigbox_core::app_access::{Visibility, widens_visibility};
use rigbox_core::apps::{AppKind, AppName, InvalidAppName, InvalidDomain};
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

/// Maximum number of email addresses in one app's list.
const MAX_SHARED_WITH: usize = 100;
const MAX_CORS_ORIGINS: usize = 20;
const MAX_PARAMS: usize = 100;
/// Maximum length of a parameter in characters.
pub const MAX_PARAM_LEN: usize = 4_096;
/// Maximum length of a description in characters.
const MAX_DESCRIPTION_LEN: usize = 1_000;
const MAX_METADATA_BYTES: usize = 16 * 1024;
/// Maximum number of attempts at a change while concurrent changes conflict with it.
const MAX_ATTEMPTS: usize = 8;

/// Service for apps.
#[derive(Clone)]
pub struct Apps {
    store: Store,
    gateways: Gateways,
    networks: NetworkPolicies,
    urls: AppUrls,
    domain_verifier: DomainVerifier,
    plans: Plans,
}

/// Specification of a new app.
pub struct NewApp {
    /// Name, unique in the installation.
    pub name: String,
    /// Port on which the app listens; required for a service.
    pub port: Option<u16>,
    /// Kind of the app.
    pub kind: AppKind,
    /// Protocol; `None` means `http`.
    pub protocol: Option<String>,
    /// Description.
    pub description: Option<String>,
    /// Free-form metadata, an object.
    pub metadata: serde_json::Value,
}

impl NewApp {
    /// Returns the specification of a service that listens on a port.
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

/// Change of an app. Fields that are `None` stay as they are.
#[derive(Debug, Default)]
pub struct AppChange {
    /// New name.
    pub name: Option<String>,
    /// New port.
    pub port: Option<u16>,
    /// New visibility.
    pub visibility: Option<Visibility>,
    /// New list of email addresses that may open the app.
    pub shared_with: Option<Vec<String>>,
    /// New list of origins allowed by CORS.
    pub cors_origins: Option<Vec<String>>,
    /// New description; an empty one removes it.
    pub description: Option<String>,
    /// New metadata.
    pub metadata: Option<serde_json::Value>,
    /// New custom domain; an empty one removes it.
    pub custom_domain: Option<String>,
    /// True if requests are refused.
    pub stopped: Option<bool>,
    /// Parameters to set, or to remove (`None`).
    pub params: BTreeMap<String, Option<String>>,
    /// Name of the systemd unit that runs the app.
    pub service: Option<String>,
    /// Custom domain that has been verified; ignored if the app's domain has changed since.
    pub verified: Option<String>,
}

/// Error of a call on an app.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The app does not exist, or the caller may not know of it.
    #[error("App `{0}` not found.")]
    NotFound(String),
    /// The text is not an id of an app: a name, for example.
    #[error("App `{0}` not found. Use its id, such as ap-abcdefgh, not its name.")]
    NotAnId(String),
    /// Errors that all workspace calls share.
    #[error(transparent)]
    Workspace(#[from] ServiceError),
    /// The name is invalid.
    #[error(transparent)]
    InvalidName(#[from] InvalidAppName),
    /// The custom domain is invalid.
    #[error("custom_domain: {0}")]
    InvalidDomain(#[from] InvalidDomain),
    /// The value of a field is invalid.
    #[error("{field}: {problem}")]
    InvalidValue {
        /// Name of the field.
        field: &'static str,
        /// The problem, and the remedy.
        problem: String,
    },
    /// Another app has the name.
    #[error("An app named `{0}` already exists. Names are unique in the installation; choose another name.")]
    NameTaken(String),
    /// Another app has the custom domain.
    #[error("The domain `{0}` is already used by another app.")]
    DomainTaken(String),
    /// The workspace has its maximum number of apps.
    #[error("The workspace has {used} of {limit} apps. Delete one that you do not need.")]
    Quota {
        /// Name of the limit.
        limit_name: &'static str,
        /// Value of the limit.
        limit: u64,
        /// Current usage.
        used: u64,
    },
    /// Code in the workspace tried to give more people access to its app.
    #[error(
        "An app cannot be shared more widely from inside its workspace. Change it from outside, or set apps_from_inside to `any`."
    )]
    WidensAccess,
    /// The app has no systemd unit.
    #[error("App `{0}` has no service. Give it a command, or wrap what listens on its port.")]
    NoService(String),
    /// Concurrent changes conflicted with every attempt.
    #[error("The app was changed by another request at the same time. Try again.")]
    ConcurrentChange,
    /// The custom domain cannot be verified.
    #[error("{0}")]
    DomainNotVerified(String),
    /// The workspace is not running.
    #[error("The workspace is `{0}`. Start it first.")]
    NotRunning(rigbox_core::status::Status),
    /// The call to the guest failed.
    #[error(transparent)]
    Guest(#[from] GuestError),
}

impl From<rigbox_store::Error> for AppError {
    fn from(error: rigbox_store::Error) -> Self {
        match error {
            rigbox_store::Error::Quota { limit_name, limit, used } => Self::Quota { limit_name, limit, used },
            other => Self::Workspace(other.into()),
        }
    }
}

fn invalid(field: &'static str, problem: impl Into<String>) -> AppError {
    AppError::InvalidValue { field, problem: problem.into() }
}

impl Apps {
    /// Creates the service.
    pub fn new(
        store: Store,
        gateways: Gateways,
        networks: NetworkPolicies,
        urls: AppUrls,
        domain_verifier: DomainVerifier,
        plans: Plans,
    ) -> Self {
        Self { store, gateways, networks, urls, domain_verifier, plans }
    }

    /// Authorizes `A` on the app with this id and returns the permit and the app. Callers without access get
    /// the same error as for an app that does not exist.
    pub fn authorize<A: Action>(
        &self,
        principal: &Principal,
        id: &str,
    ) -> Result<(Permit<A>, AppWithWorkspace), AppError> {
        let not_an_id = |_: InvalidId| AppError::NotAnId(id.chars().take(64).collect());
        let id: AppId = id.parse().map_err(not_an_id)?;
        let missing = || AppError::NotFound(id.to_string());
        let found = self.store.app(&id)?.ok_or_else(missing)?;
        let target =
            Target::Workspace { id: found.app.workspace_id.clone(), owner: found.app.user_id.clone() };
        match authorize(principal, target) {
            Err(Denied::NotFound) => Err(missing()),
            other => Ok((other.map_err(ServiceError::Denied)?, found)),
        }
    }

    /// Lists a page of the caller's apps.
    pub fn list(&self, permit: &Permit<ListApps>, page: &AppPage) -> Result<Vec<AppWithWorkspace>, AppError> {
        Ok(self.store.apps_of(permit.principal(), page)?)
    }

    fn load(&self, id: &AppId) -> Result<AppWithWorkspace, AppError> {
        self.store.app(id)?.ok_or_else(|| AppError::NotFound(id.to_string()))
    }

    /// Returns the URL of an app, if it has a port.
    pub fn url(&self, app: &App) -> Option<String> {
        app.port.map(|_| self.urls.origin(app))
    }

    /// Creates an app in the permit's workspace.
    pub async fn create(
        &self,
        permit: &Permit<ManageApp>,
        spec: NewApp,
        idempotency_key: Option<&IdempotencyKey>,
    ) -> Result<AppWithWorkspace, AppError> {
        let workspace = id_of(permit)?;
        let owner = permit.principal();
        let port = match (spec.kind, spec.port) {
            (AppKind::Service, None) => {
                return Err(invalid("port", "A service needs a port. Use 1 to 65535."));
            }
            (_, Some(0)) => return Err(invalid("port", "0 is not a valid port. Use 1 to 65535.")),
            (AppKind::Cli, Some(_)) => {
                return Err(invalid("port", "An app of kind `cli` has no port. Omit it."));
            }
            (_, port) => port,
        };
        let now = clock::now();
        let mut new = App {
            id: AppId::from_random(random_id()?),
            workspace_id: workspace.clone(),
            user_id: owner.user.clone(),
            name: AppName::for_new(&spec.name)?,
            kind: spec.kind,
            port,
            protocol: protocol(spec.protocol)?,
            visibility: Visibility::Private,
            shared_with: Vec::new(),
            cors_origins: Vec::new(),
            params: BTreeMap::new(),
            metadata: metadata(spec.metadata)?,
            description: spec.description.map(description).transpose()?.flatten(),
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
                    self.propagate(workspace).await?;
                    return self.load(&new.id);
                }
                Ok(Replay::Repeated(id)) => {
                    return self.load(
                        &id.parse().map_err(|error: InvalidId| ServiceError::Internal(error.to_string()))?,
                    );
                }
                // The name is taken or, very rarely, the id.
                Err(rigbox_store::Error::NameTaken) if self.store.has_app_name(&new.name)? => {
                    return Err(AppError::NameTaken(new.name.to_string()));
                }
                Err(rigbox_store::Error::NameTaken) => new.id = AppId::from_random(random_id()?),
                Err(other) => return Err(other.into()),
            }
        }
        Err(ServiceError::Internal("no free id".to_owned()).into())
    }

    /// Changes an app. `action` is the name of the change in the audit log.
    pub async fn change(
        &self,
        permit: &Permit<ManageApp>,
        id: &AppId,
        change: &AppChange,
        action: &str,
    ) -> Result<AppWithWorkspace, AppError> {
        let event = AuditEvent::by(permit.principal(), action, id);
        for _ in 0..MAX_ATTEMPTS {
            let previous = self.load(id)?.app;
            let next = self.apply(permit, &previous, change)?;
            match self.store.update_app(&previous, &next, &event).await {
                Ok(true) => {
                    self.propagate(&previous.workspace_id).await?;
                    return self.load(id);
                }
                Ok(false) => {}
                Err(rigbox_store::Error::NameTaken) => {
                    return Err(match (&next.custom_domain, next.name == previous.name) {
                        (Some(domain), true) => AppError::DomainTaken(domain.to_string()),
                        _ => AppError::NameTaken(next.name.to_string()),
                    });
                }
                Err(other) => return Err(other.into()),
            }
        }
        Err(AppError::ConcurrentChange)
    }

    /// Verifies the custom domain of an app by DNS. From then on it serves the app.
    pub async fn verify_domain(
        &self,
        permit: &Permit<ManageApp>,
        app: &App,
    ) -> Result<AppWithWorkspace, AppError> {
        let domain = app
            .custom_domain
            .as_ref()
            .ok_or_else(|| invalid("custom_domain", "The app has no custom domain. Set one first."))?;
        let challenge = self.domain_verifier.challenge(&app.id, domain);
        let remedy = format!(
            "Create a DNS record of type TXT at {} with the value {}, then try again.",
            challenge.name, challenge.value
        );
        match self.domain_verifier.is_fulfilled(&challenge).await {
            Ok(true) => {
                let change = AppChange { verified: Some(domain.to_string()), ..AppChange::default() };
                self.change(permit, &app.id, &change, "app.verify_domain").await
            }
            Ok(false) => {
                Err(AppError::DomainNotVerified(format!("The domain {domain} is not verified. {remedy}")))
            }
            Err(problem) => Err(AppError::DomainNotVerified(format!(
                "The domain {domain} could not be checked ({problem}). {remedy}"
            ))),
        }
    }

    /// Deletes an app.
    pub async fn delete(&self, permit: &Permit<ManageApp>, app: &App) -> Result<(), AppError> {
        let event =
            AuditEvent::by(permit.principal(), "app.delete", format!("{}/{}", app.workspace_id, app.name));
        if !self.store.delete_app(&app.id, &event, clock::now()).await? {
            return Err(AppError::NotFound(app.id.to_string()));
        }
        self.propagate(&app.workspace_id).await
    }

    /// Propagates the workspace's apps to the node and to every gateway, and waits until they are in force.
    async fn propagate(&self, workspace: &WorkspaceId) -> Result<(), AppError> {
        self.networks.push(workspace).await?;
        self.gateways.apps_changed(workspace).await;
        Ok(())
    }

    /// Returns the app after a change.
    fn apply(&self, permit: &Permit<ManageApp>, previous: &App, change: &AppChange) -> Result<App, AppError> {
        let mut app = previous.clone();
        if let Some(name) = &change.name {
            app.name = AppName::for_new(name)?;
        }
        if let Some(port) = change.port {
            if previous.kind == AppKind::Cli || port == 0 {
                return Err(invalid(
                    "port",
                    "The port is invalid. Use 1 to 65535, for an app of kind `service`.",
                ));
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
        self.check_widening(permit, previous, &app)?;
        app.updated_at = clock::now();
        Ok(app)
    }

    fn apply_domain(&self, app: &mut App, change: &AppChange) -> Result<(), AppError> {
        if let Some(text) = &change.custom_domain {
            let domain =
                if text.is_empty() { None } else { Some(text.parse::<rigbox_core::apps::CustomDomain>()?) };
            if domain.as_ref().is_some_and(|domain| domain.is_within(self.urls.host())) {
                return Err(invalid(
                    "custom_domain",
                    "The domain is below the installation's domain for apps. Rename the app instead.",
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

    /// Refuses changes from inside the VM that give more people access, unless the owner allows them.
    fn check_widening(&self, permit: &Permit<ManageApp>, previous: &App, app: &App) -> Result<(), AppError> {
        let inside = matches!(permit.principal().scope, Scope::OwnWorkspace(_));
        let wider = widens_visibility(
            (previous.visibility, &previous.shared_with),
            (app.visibility, &app.shared_with),
        ) || app.cors_origins.iter().any(|origin| !previous.cors_origins.contains(origin));
        if inside && wider && !self.networks.settings(&previous.workspace_id)?.apps_from_inside_any {
            return Err(AppError::WidensAccess);
        }
        Ok(())
    }
}

fn apply_params(app: &mut App, params: &BTreeMap<String, Option<String>>) -> Result<(), AppError> {
    for (name, value) in params {
        let name: rigbox_core::environment::VariableName =
            name.parse().map_err(|error: rigbox_core::environment::InvalidVariable| {
                invalid("params", error.to_string())
            })?;
        match value {
            None => drop(app.params.remove(name.as_str())),
            Some(value) if value.chars().count() > MAX_PARAM_LEN || value.chars().any(char::is_control) => {
                let problem = format!(
                    "The value of `{name}` is invalid. Use at most {MAX_PARAM_LEN} characters without control characters."
                );
                return Err(invalid("params", problem));
            }
            Some(value) => drop(app.params.insert(name.to_string(), value.clone())),
        }
    }
    if app.params.len() > MAX_PARAMS {
        return Err(invalid("params", format!("Too many parameters. Use at most {MAX_PARAMS}.")));
    }
    Ok(())
}

/// Returns each address once, in the normalized spelling used for comparison.
fn addresses(list: &[String]) -> Result<Vec<String>, AppError> {
    let mut checked = Vec::new();
    for text in list {
        let address = email::parse_address(text).ok_or_else(|| {
            let text: String = text.chars().take(64).collect();
            invalid(
                "allowed_emails",
                format!("`{text}` is not an email address. Expected for example ada@example.org."),
            )
        })?;
        if !checked.contains(&address) {
            checked.push(address);
        }
    }
    if checked.len() > MAX_SHARED_WITH {
        return Err(invalid("allowed_emails", format!("Too many addresses. Use at most {MAX_SHARED_WITH}.")));
    }
    Ok(checked)
}

fn origins(list: &[String]) -> Result<Vec<String>, AppError> {
    if list.len() > MAX_CORS_ORIGINS {
        return Err(invalid("cors_origins", format!("Too many origins. Use at most {MAX_CORS_ORIGINS}.")));
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
            invalid(
                "cors_origins",
                format!("`{text}` is not an origin. Expected for example https://app.example.org."),
            )
        })
    });
    checked.collect()
}

fn protocol(text: Option<String>) -> Result<String, AppError> {
    match text.as_deref() {
        None => Ok("http".to_owned()),
        Some(text @ ("http" | "https" | "ws" | "grpc" | "tcp")) => Ok(text.to_owned()),
        Some(_) => Err(invalid("protocol", "The protocol is not supported. Use http, ws or grpc.")),
    }
}

fn description(text: String) -> Result<Option<String>, AppError> {
    if text.chars().count() > MAX_DESCRIPTION_LEN {
        return Err(invalid(
            "description",
            format!("The text is too long. Use at most {MAX_DESCRIPTION_LEN} characters."),
        ));
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn metadata(value: serde_json::Value) -> Result<serde_json::Value, AppError> {
    match value {
        serde_json::Value::Null => Ok(serde_json::json!({})),
        value @ serde_json::Value::Object(_) if value.to_string().len() <= MAX_METADATA_BYTES => Ok(value),
        _ => Err(invalid(
            "metadata",
            format!("The value is invalid. Use an object of at most {MAX_METADATA_BYTES} bytes."),
        )),
    }
}
