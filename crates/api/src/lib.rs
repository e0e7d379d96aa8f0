//! HTTP of the control role: the API (`v1`), the console's pages (`console`), and the bridge of workspaces
//! (`bridge`). A request passes the `middleware`, then the handler that `routes` names for it; handlers parse,
//! call one service and render.

use std::sync::Arc;

use axum::routing::get;
use axum::{Extension, Router};
use rigbox_core::authz::{Credential, ListWorkspaces, Principal, Scope};
use rigbox_core::ids::{KeyId, UserId};
use rigbox_core::plans::{LimitOverrides, Plan};
use rigbox_tls::Certificates;
use tokio::net::TcpListener;
use tokio::sync::watch;

mod allowed_hosts;
pub mod bridge;
mod console;
mod context;
mod error;
mod extract;
mod health;
mod middleware;
mod openapi;
mod routes;
mod schema;
mod server;
mod ssh_known_hosts;
mod trusted_proxies;
mod v1;

pub use allowed_hosts::AllowedHosts;
pub use context::{ApiContext, Services};
pub use trusted_proxies::TrustedProxies;

use extract::Caller;
use middleware::{finish, host_guard, hsts, in_force};
use server::Transport;

/// Serves the API, with TLS if there are certificates, until `shutdown` is true and requests in flight have finished.
///
/// # Errors
/// Failures of the runtime and of the TLS library.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Certificates>>,
    proxies: TrustedProxies,
    router: Router,
    shutdown: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let tls = tls.map(|certificates| rigbox_tls::acceptor(certificates, &["http/1.1"]));
    let tls = tls.transpose().map_err(std::io::Error::other)?;
    server::serve(listener, Transport { tls, proxies }, router, server::CONNECTION_LIMITS, shutdown).await
}

/// Returns all routes behind their middleware.
pub fn router(context: ApiContext) -> Router {
    let (api, root) = routes::all(&context);
    Router::new()
        .nest("/api/v1", api.clone())
        .nest("/v1", api)
        .merge(root)
        .fallback(console::not_found)
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(axum::middleware::from_fn_with_state(context.clone(), in_force::await_gateways))
        .layer(axum::middleware::from_fn(finish::run))
        .layer(axum::middleware::from_fn_with_state(context.clone(), host_guard::check))
        .layer(axum::middleware::from_fn_with_state(context.clone(), hsts::add))
        .with_state(context)
}

/// Returns the list of `user`'s workspaces without any middleware: the baseline of the API benchmark.
pub fn bare_router(context: ApiContext, user: UserId) -> Router {
    let principal = Principal {
        user,
        plan: Plan::Owner,
        limits: LimitOverrides::default(),
        credential: Credential::Key(KeyId::from_random([0; 5])),
        scope: Scope::Account,
        from: None,
    };
    Router::new()
        .route("/api/v1/workspaces", get(v1::workspaces::list))
        .layer(Extension(Caller::<ListWorkspaces>::unobserved(principal)))
        .with_state(context)
}
