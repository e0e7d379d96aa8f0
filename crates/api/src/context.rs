//! State of the handlers: the services they call, as one value that is cheap to clone.

use std::sync::Arc;

use rigbox_service::ai::settings::AiSettings;
use rigbox_service::ai::usage::AiUsageReports;
use rigbox_service::apps::Apps;
use rigbox_service::apps::services::AppServices;
use rigbox_service::apps::visitors::AppVisitors;
use rigbox_service::audit::{Audit, AuditRecorder};
use rigbox_service::environment::Environments;
use rigbox_service::gateways::Gateways;
use rigbox_service::guests::Guests;
use rigbox_service::health::Health;
use rigbox_service::identity::api_keys::ApiKeys;
use rigbox_service::identity::authenticate::Authenticator;
use rigbox_service::identity::console_origin::ConsoleOrigin;
use rigbox_service::identity::devices::Devices;
use rigbox_service::identity::open_requests::OpenRequests;
use rigbox_service::identity::sign_in::SignIn;
use rigbox_service::network::NetworkPolicies;
use rigbox_service::nodes::capacity::Capacity;
use rigbox_service::nodes::orphans::Orphans;
use rigbox_service::proxied_secrets::ProxiedSecrets;
use rigbox_service::quick_deploy::QuickDeploy;
use rigbox_service::rate_limits::RateLimiter;
use rigbox_service::ssh_keys::SshKeys;
use rigbox_service::ssh_known_hosts::KnownHosts;
use rigbox_service::ssh_settings::SshSettings;
use rigbox_service::ssh_streams::SshStreams;
use rigbox_service::users::Users;
use rigbox_service::workspace_log::WorkspaceLogs;
use rigbox_service::workspaces::Workspaces;

use crate::allowed_hosts::AllowedHosts;

/// Services and settings of the API.
#[allow(missing_docs)] // Each field is named after its type, which has the documentation.
pub struct Services {
    pub ai_settings: AiSettings,
    pub ai_usage: AiUsageReports,
    pub app_services: AppServices,
    pub apps: Apps,
    pub audit: Audit,
    pub audit_recorder: AuditRecorder,
    pub authenticator: Arc<Authenticator>,
    pub capacity: Capacity,
    pub console: ConsoleOrigin,
    pub devices: Devices,
    pub environments: Environments,
    pub gateways: Gateways,
    pub guests: Guests,
    pub health: Health,
    pub hosts: AllowedHosts,
    pub keys: ApiKeys,
    pub known_hosts: Option<KnownHosts>,
    pub networks: NetworkPolicies,
    pub open_requests: OpenRequests,
    pub orphans: Orphans,
    pub proxied_secrets: ProxiedSecrets,
    pub quick_deploy: QuickDeploy,
    pub rates: Arc<RateLimiter>,
    pub sign_in: SignIn,
    pub ssh_keys: SshKeys,
    pub ssh_settings: SshSettings,
    pub ssh_streams: Option<SshStreams>,
    pub users: Users,
    pub visitors: AppVisitors,
    pub workspace_logs: WorkspaceLogs,
    pub workspaces: Workspaces,
}

/// State of every handler.
#[derive(Clone)]
pub struct ApiContext(pub Arc<Services>);

impl std::ops::Deref for ApiContext {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.0
    }
}
