//! The HTTP API: handlers that parse, call one service and render. One file per noun; the way of a request through
//! guards, authentication and routes is here and in `routes`.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::routing::get;
use axum::{Extension, middleware};
use rigbox_core::authz::{Credential, ListWorkspaces, Principal, Scope};
use rigbox_core::ids::{KeyId, UserId};
use rigbox_core::plans::{LimitOverrides, Plan};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::auth::Auth;
use crate::console::Console;
use crate::gateways::Gateways;
use crate::rates::RateLimiter;
use crate::service::api_keys::ApiKeys;
use crate::service::app_services::AppServices;
use crate::service::apps::Apps;
use crate::service::audit::Audit;
use crate::service::devices::Devices;
use crate::service::environment::Environments;
use crate::service::guests::Guests;
use crate::service::health::Health;
use crate::service::machine::Machine;
use crate::service::networks::Networks;
use crate::service::quick_deploy::QuickDeploy;
use crate::service::sign_in::SignIn;
use crate::service::users::Users;
use crate::service::visitors::Visitors;
use crate::service::workspace_logs::WorkspaceLogs;
use crate::service::workspaces::Workspaces;

mod api_keys;
mod app_services;
mod apps;
mod audit;
mod auth;
pub(crate) mod bridge;
mod connections;
mod doctor;
mod document;
mod environment;
mod error;
mod exec;
mod exec_socket;
mod extract;
mod files;
mod guard;
mod health;
mod limits;
mod machine;
mod networks;
mod pages;
mod quick_deploy;
mod routes;
mod shapes;
mod templates;
mod users;
mod workspace_logs;
mod workspaces;

use extract::Caller;
pub(crate) use guard::AllowedHosts;

/// What handlers work with.
pub(crate) struct Parts {
    pub(crate) auth: Auth,
    pub(crate) rates: Arc<RateLimiter>,
    pub(crate) apps: Apps,
    pub(crate) app_services: AppServices,
    pub(crate) gateways: Gateways,
    pub(crate) audit: Audit,
    pub(crate) console: Console,
    pub(crate) devices: Devices,
    pub(crate) environments: Environments,
    pub(crate) keys: ApiKeys,
    pub(crate) networks: Networks,
    pub(crate) quick_deploy: QuickDeploy,
    pub(crate) sign_in: SignIn,
    pub(crate) users: Users,
    pub(crate) visitors: Visitors,
    pub(crate) workspace_logs: WorkspaceLogs,
    pub(crate) workspaces: Workspaces,
    pub(crate) guests: Guests,
    pub(crate) machine: Machine,
    pub(crate) health: Health,
    pub(crate) hosts: AllowedHosts,
}

#[derive(Clone)]
pub(crate) struct App(pub(crate) Arc<Parts>);

impl std::ops::Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// Serves until `ended` is true and the requests under way are answered.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    ended: watch::Receiver<bool>,
) -> std::io::Result<()> {
    connections::serve(listener, router, connections::BOUNDS, ended).await
}

/// Every route, guarded.
pub(crate) fn router(app: App) -> Router {
    let (api, root) = routes::all(&app);
    Router::new()
        .nest("/api/v1", api.clone())
        .nest("/v1", api)
        .merge(root)
        .fallback(|request: Request| async move { error::no_route(request.uri().path()) })
        .method_not_allowed_fallback(error::no_method)
        .layer(middleware::from_fn_with_state(app.clone(), guard::settle))
        .layer(middleware::from_fn_with_state(app.clone(), guard::check))
        .with_state(app)
}

/// The list of `user`'s workspaces for anybody: what the bench compares the guarded one with.
pub(crate) fn bare_router(app: App, user: UserId) -> Router {
    let principal = Principal {
        user,
        plan: Plan::Owner,
        limits: LimitOverrides::default(),
        credential: Credential::Key(KeyId::from_random([0; 5])),
        scope: Scope::Account,
        from: None,
    };
    Router::new()
        .route("/api/v1/workspaces", get(workspaces::list))
        .layer(Extension(Caller::<ListWorkspaces>::new(principal)))
        .with_state(app)
}
