//! Apps: creation, changes, sharing, domains and deletion. A method that changes an app returns once every
//! gateway has applied the change.

use std::collections::BTreeMap;
use std::sync::Arc;

use rigbox_core::app_access::{Visibility, widens_visibility};
use rigbox_core::apps::{AppKind, AppName};
use rigbox_core::authz::{Action, Denied, ListApps, ManageApp, Permit, Principal, Scope, Target, authorize};
use rigbox_core::ids::{AppId, InvalidId, WorkspaceId};
use rigbox_core::plans::Plans;
use rigbox_store::{App, AppPage, AppWithWorkspace, AuditEvent, IdempotencyKey, Replay, Store};

use crate::apps::domain_verification::DomainVerifier;
use crate::apps::fields::{addresses, apply_params, description, invalid, metadata, origins, protocol};
use crate::apps::sharing::SharingEmails;
use crate::apps::site::AppsSite;
use crate::apps::urls::AppUrls;
use crate::clock;
use crate::error::{ServiceError, id_of, random_id};
use crate::gateways::Gateways;
use crate::identity::email::Mailer;
use crate::network::NetworkPolicies;

pub mod domain_checks;
pub mod domain_verification;
mod error;
mod fields;
pub mod services;
mod sharing;
pub mod site;
pub mod tokens;
pub mod urls;
pub mod visitors;

pub use error::AppError;
pub use fields::MAX_PARAM_LEN;

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
    sharing_emails: SharingEmails,
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

impl Apps {
    /// Creates the service.
    pub fn new(
        store: Store,
        gateways: Gateways,
        networks: NetworkPolicies,
        urls: AppUrls,
        domain_verifier: DomainVerifier,
        mailer: Arc<Mailer>,
        plans: Plans,
    ) -> Self {
        let sharing_emails = SharingEmails::new(store.clone(), mailer);
        Self { store, gateways, networks, urls, domain_verifier, sharing_emails, plans }
    }

    /// Returns the relation of the apps to each other in a browser.
    pub fn site(&self) -> AppsSite {
        AppsSite::of(self.urls.host())
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
        let idempotency_key = idempotency_key.map(|key| key.of(&owner.credential));
        for _ in 0..MAX_ATTEMPTS {
            match self.store.add_app(&new, max, idempotency_key.as_ref(), &event).await {
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
                Err(rigbox_store::Error::NameTaken)
                    if self.store.has_app_name(&new.name, &new.user_id, now)? =>
                {
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
                Ok(Some(displaced)) => {
                    self.propagate(&previous.workspace_id).await?;
                    for workspace in &displaced {
                        self.gateways.apps_changed(workspace).await;
                    }
                    let url = self.urls.origin(&next);
                    self.sharing_emails.send(permit.principal(), &previous, &next, &url);
                    return self.load(id);
                }
                Ok(None) => {}
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

    /// Returns the addresses on an app's list that have no account, if the caller is the administrator.
    pub async fn shared_without_account(
        &self,
        permit: &Permit<ManageApp>,
        app: &App,
    ) -> Result<Vec<String>, AppError> {
        Ok(sharing::without_account(&self.store, permit.principal(), app).await?)
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
