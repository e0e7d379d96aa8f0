//! Start-up of the control role: builds the services, starts the background tasks, serves, and drains.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use rigbox_api::{AllowedHosts, ApiContext, Services};
use rigbox_core::ids::UserId;
use rigbox_core::plans::Plans;
use rigbox_proto::handover;
use rigbox_service::ai::field_tables::FieldTables;
use rigbox_service::ai::ledger::Ledger;
use rigbox_service::ai::models::Models;
use rigbox_service::ai::own_calls::OwnCalls;
use rigbox_service::ai::settings::AiSettings;
use rigbox_service::ai::setup::SetupSource;
use rigbox_service::ai::usage::AiUsageReports;
use rigbox_service::apps::Apps;
use rigbox_service::apps::domain_checks::DomainChecks;
use rigbox_service::apps::domain_verification::DomainVerifier;
use rigbox_service::apps::services::AppServices;
use rigbox_service::apps::tokens::AppTokens;
use rigbox_service::apps::urls::AppUrls;
use rigbox_service::apps::visitors::AppVisitors;
use rigbox_service::audit::{Audit, AuditRecorder};
use rigbox_service::clock;
use rigbox_service::database::{Store, TokenKey};
use rigbox_service::environment::Environments;
use rigbox_service::gateways::Gateways;
use rigbox_service::guests::Guests;
use rigbox_service::guests::client::GuestClient;
use rigbox_service::guests::secret_delivery::SecretDelivery;
use rigbox_service::health::Health;
use rigbox_service::identity::api_keys::ApiKeys;
use rigbox_service::identity::authenticate::Authenticator;
use rigbox_service::identity::console_origin::ConsoleOrigin;
use rigbox_service::identity::devices::Devices;
use rigbox_service::identity::email::Mailer;
use rigbox_service::identity::open_requests::OpenRequests;
use rigbox_service::identity::sign_in::SignIn;
use rigbox_service::network::NetworkPolicies;
use rigbox_service::nodes::capacity::Capacity;
use rigbox_service::nodes::client::NodeClient;
use rigbox_service::nodes::orphans::Orphans;
use rigbox_service::proxied_secrets::ProxiedSecrets;
use rigbox_service::quick_deploy::QuickDeploy;
use rigbox_service::rate_limits::RateLimiter;
use rigbox_service::reconciler::Reconciler;
use rigbox_service::ssh_key_sync::SshKeySync;
use rigbox_service::ssh_keys::SshKeys;
use rigbox_service::ssh_known_hosts::KnownHosts;
use rigbox_service::ssh_log_ins::SshLogIns;
use rigbox_service::ssh_sessions::SshSessions;
use rigbox_service::ssh_settings::SshSettings;
use rigbox_service::ssh_streams::SshStreams;
use rigbox_service::targets::Targets;
use rigbox_service::transitions::WorkspaceTransitions;
use rigbox_service::users::Users;
use rigbox_service::vm_limits::OwnerLimits;
use rigbox_service::workspaces::Workspaces;
use rigbox_sys::kill_points::KillPoints;
use rigbox_tls::Certificates;
use tokio::sync::watch;
use tracing::info;

use crate::{AiConfig, Config, Error, ai_rpc, gateway_rpc, ssh_rpc};

/// Time that requests in flight get after the signal to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// Interval at which changed certificates are looked for.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

/// Serves until `shutdown` completes, then drains.
///
/// # Errors
/// [`Error`]
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), Error> {
    // It is large, and there is one.
    Box::pin(serve(config, rigbox_api::router, shutdown)).await
}

/// Serves the baseline of the API benchmark, which no installation runs: the list of `user`'s workspaces for anyone, by the same handler
/// without middleware (key, rate limit, host).
///
/// # Errors
/// [`Error`]
pub async fn run_bare(
    config: Config,
    user: UserId,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    Box::pin(serve(config, |context| rigbox_api::bare_router(context, user), shutdown)).await
}

/// Returns the console's origin.
pub(crate) fn console_origin(config: &Config) -> Result<ConsoleOrigin, Error> {
    ConsoleOrigin::new(&config.console_url).ok_or_else(|| Error::ConsoleUrl(config.console_url.clone()))
}

async fn serve(
    config: Config,
    router: impl FnOnce(ApiContext) -> Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let console = console_origin(&config)?;
    let mailer = Arc::new(Mailer::new(config.mail.as_ref())?);
    let hosts = AllowedHosts::new(&config.public_api_url, console.host(), config.api_listen)
        .ok_or_else(|| Error::PublicUrl(config.public_api_url.clone()))?;
    let token_key = TokenKey::load_or_create(&config.token_key)?;
    let kill_points = config.database.parent().map(KillPoints::open).unwrap_or_default();
    let store = Store::open(&config.database, &token_key).await?.with_kill_points(kill_points);
    let store = store.unlock(config.master_key, clock::now()).await?;
    let certificates = config.api_tls.as_deref().map(Certificates::load).transpose()?;
    let listener = tokio::net::TcpListener::bind(config.api_listen)
        .await
        .map_err(|problem| Error::Listen { address: config.api_listen, problem })?;

    let transitions = WorkspaceTransitions::new(store.clone());
    let node = NodeClient::new(&config.node_socket, &store.database_id().await?);
    let guests = GuestClient::new(&config.guestio_socket);
    let urls = AppUrls::new(&config.apps_url).ok_or_else(|| Error::AppsUrl(config.apps_url.clone()))?;
    let agents = Arc::new(guests.clone());
    let upstreams = config.ai.iter().flat_map(|ai| &ai.upstreams);
    let ai_providers = upstreams.map(|upstream| upstream.provider).collect();
    let secret_delivery =
        SecretDelivery::new(store.clone(), token_key.clone(), agents, urls.host(), ai_providers);
    let tokens = AppTokens::new(&token_key, &config.public_api_url).map_err(Error::Assertions)?;
    let gateways =
        Gateways::new(store.clone(), tokens.key_set(), config.gateways.is_some() || config.ssh.is_some())?;
    let limits = OwnerLimits::new(store.clone(), config.plans);
    let targets = Targets::new(store.clone(), limits, config.public_api_url.clone());
    let networks = NetworkPolicies::new(store.clone(), node.clone(), targets.clone());
    let reconciler = Reconciler::new(
        transitions.clone(),
        node.clone(),
        secret_delivery,
        networks.clone(),
        targets,
        config.timeouts,
    );
    let rates = Arc::new(RateLimiter::new(config.plans));
    let domains = DomainVerifier::new(&token_key, &config.dns).map_err(Error::Dns)?;
    let domain_checks = DomainChecks::new(store.clone(), domains.clone(), gateways.clone());
    let authenticator = Arc::new(Authenticator::new(store.clone(), token_key.clone()));
    let visitors = AppVisitors::new(
        store.clone(),
        token_key.clone(),
        tokens,
        urls.clone(),
        console.clone(),
        domain_checks.clone(),
        authenticator.clone(),
    );
    let apps = Apps::new(
        store.clone(),
        gateways.clone(),
        networks.clone(),
        urls,
        domains,
        mailer.clone(),
        config.plans,
    );
    let (audit_recorder, audit_writer) = AuditRecorder::new(store.clone(), config.audit_retention);
    let ssh_key_sync = SshKeySync::new(store.clone(), guests.clone());
    let workspaces = Workspaces::new(transitions.clone(), node.clone(), config.plans);
    let ssh_log_ins =
        SshLogIns::new(store.clone(), guests.clone(), audit_recorder.clone(), workspaces.clone());
    let ssh_sessions = SshSessions::new(store.clone());
    let known_hosts =
        config.ssh.as_ref().map(|ssh| KnownHosts::new(ssh_log_ins.clone(), &ssh.host, ssh.port));
    let open_requests = OpenRequests::new(store.clone());
    let environments = Environments::new(transitions.clone());
    let context = ApiContext(Arc::new(Services {
        ai_settings: AiSettings::new(transitions.clone(), config.plans),
        ai_usage: AiUsageReports::new(store.clone()),
        app_services: AppServices::new(store.clone(), guests.clone(), apps.clone()),
        audit: Audit::new(store.clone()),
        authenticator,
        capacity: Capacity::new(node.clone()),
        devices: Devices::new(store.clone(), token_key.clone()),
        gateways: gateways.clone(),
        guests: Guests::new(transitions.clone(), guests, audit_recorder.clone()),
        audit_recorder,
        health: Health::new(store.clone(), reconciler.synced()),
        hosts,
        keys: ApiKeys::new(store.clone(), token_key.clone()),
        known_hosts,
        networks: networks.clone(),
        open_requests: open_requests.clone(),
        orphans: Orphans::new(store.clone()),
        proxied_secrets: ProxiedSecrets::new(store.clone()),
        quick_deploy: QuickDeploy::new(workspaces.clone(), environments.clone(), apps.clone()),
        rates: rates.clone(),
        sign_in: SignIn::new(store.clone(), token_key, mailer, console.clone()),
        ssh_settings: SshSettings::new(store.clone()),
        ssh_streams: config.ssh.as_ref().map(|ssh| SshStreams::new(ssh.streams.clone())),
        ssh_keys: SshKeys::new(store.clone(), config.plans, ssh_key_sync.clone()),
        users: Users::new(store.clone(), node, config.plans),
        visitors: visitors.clone(),
        workspace_logs: transitions.logs().clone(),
        apps,
        console,
        environments,
        workspaces,
    }));

    let (stop, stopped) = watch::channel(false);
    let gateway_server = match &config.gateways {
        Some(config) => Some(gateway_rpc::listen(config, gateways.clone(), visitors)?),
        None => None,
    };
    let ssh_server = match &config.ssh {
        Some(config) => {
            Some(ssh_rpc::listen(&config.gateway, gateways.clone(), ssh_log_ins, ssh_sessions.clone())?)
        }
        None => None,
    };
    let ai = config.ai.map(|ai| ai_role(ai, &store, config.plans)).transpose()?;
    let bridge = match &config.bridge {
        Some(config) => {
            let connections = handover::listen(&config.socket, config.uid)
                .map_err(|problem| Error::Socket { path: config.socket.clone(), problem })?;
            Some((connections, rigbox_api::bridge::router(context.clone(), config.rig.clone())))
        }
        None => None,
    };
    let bridge_stopped = stopped.clone();
    let synced = reconciler.synced();
    let served_certificates = certificates.clone();
    let background = tokio::spawn(async move {
        tokio::join!(
            reconciler.run(),
            networks.run(synced),
            gateways.run(&transitions),
            ssh_key_sync.run(&transitions),
            ssh_sessions.run(),
            open_requests.run(&transitions),
            audit_writer.run(),
            domain_checks.run(),
            reload(certificates),
            async {
                if let Some(server) = gateway_server {
                    server.await;
                }
            },
            async {
                if let Some(server) = ssh_server {
                    server.await;
                }
            },
            async {
                if let Some(ai) = ai {
                    ai.await;
                }
            },
            async {
                if let Some((connections, router)) = bridge {
                    let _ = rigbox_api::bridge::serve(connections, router, bridge_stopped).await;
                }
            },
            rates.run_cleanup(),
        )
    });
    let serving = rigbox_api::serve(
        listener,
        served_certificates,
        config.trusted_proxies.into(),
        router(context),
        stopped,
    );
    let server = tokio::spawn(serving);
    info!(address = %config.api_listen, url = config.public_api_url, "listening");
    // The API's document, prices and migrations took memory that nothing needs again.
    rigbox_sys::allocator::trim();
    let abort = server.abort_handle();
    tokio::pin!(server, background);
    let outcome = tokio::select! {
        outcome = &mut server => outcome,
        // Only a panic ends it. The supervisor starts the role again.
        ended = &mut background => {
            abort.abort();
            store.close().await;
            return Err(Error::Background(ended.err().map_or_else(String::new, |error| error.to_string())));
        }
        () = shutdown => {
            let _ = stop.send(true);
            match tokio::time::timeout(DRAIN_TIMEOUT, &mut server).await {
                Ok(outcome) => outcome,
                Err(_) => Ok(Ok(())),
            }
        }
    };
    abort.abort();
    background.abort();
    let _ = background.await;
    store.close().await;
    match outcome {
        Ok(served) => served.map_err(Error::Serve),
        Err(join) => Err(Error::Serve(std::io::Error::other(join))),
    }
}

/// Serves the AI proxy, and keeps its ledger and its prices, for as long as the future is polled.
fn ai_role(
    config: AiConfig,
    store: &Store,
    plans: Plans,
) -> Result<impl Future<Output = ()> + Send + use<>, Error> {
    let models = Models::new(config.upstreams, config.prices);
    let tables = FieldTables::new(config.tables.as_deref());
    let setups = SetupSource::new(store.clone(), models.clone(), tables.clone());
    let (ledger, writer) =
        Ledger::new(store.clone(), models.clone(), plans, config.budgets, config.retention);
    let (own_calls, secrets) =
        (OwnCalls::new(store.clone(), models.clone()), ProxiedSecrets::new(store.clone()));
    let server = ai_rpc::listen(
        &config.proxy,
        ai_rpc::Service { ledger: Arc::new(ledger), own_calls, secrets, setups },
    )?;
    Ok(async move {
        tokio::join!(server, writer.run(), models.run(), tables.run());
    })
}

/// Loads changed certificates, if there are any, for as long as it is polled.
async fn reload(certificates: Option<Arc<Certificates>>) {
    let Some(certificates) = certificates else { return };
    loop {
        tokio::time::sleep(RELOAD_INTERVAL).await;
        certificates.reload_if_changed();
    }
}
