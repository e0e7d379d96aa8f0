//! Configuration of the control role.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use rigbox_core::lifecycle::Timeouts;
use rigbox_core::plans::Plans;
use rigbox_service::ai::ledger::DefaultBudgets;
use rigbox_service::ai::models::{PriceFiles, Upstream};
use rigbox_service::database::KeySource;
use rigbox_service::identity::email::MailConfig;

/// Configuration of the control role.
#[derive(Debug, Clone)]
pub struct Config {
    /// SQLite database; created if missing.
    pub database: PathBuf,
    /// File of the key for token hashes; created if missing.
    pub token_key: PathBuf,
    /// Source of the master keys that encrypt secrets in the database.
    pub master_key: KeySource,
    /// Address the HTTP API listens on.
    pub api_listen: SocketAddr,
    /// Folder with the certificates of the API and the console; `None` for plain HTTP.
    pub api_tls: Option<PathBuf>,
    /// Networks of proxies in front of the API, whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// URL of the API for clients, e.g. `http://localhost:7070`.
    pub public_api_url: String,
    /// Origin where people sign in, e.g. `http://console.localhost:7070`.
    pub console_url: String,
    /// Outgoing email; without it, the operator prints sign-in links.
    pub mail: Option<MailConfig>,
    /// Socket of the node.
    pub node_socket: PathBuf,
    /// Socket of guestio.
    pub guestio_socket: PathBuf,
    /// Origin of the apps domain, e.g. `http://rigbox.localhost:7080`.
    pub apps_url: String,
    /// DNS servers that verify custom domains; if empty, the system's.
    pub dns: Vec<SocketAddr>,
    /// Socket for gateways of apps; `None` if there are none.
    pub gateways: Option<GatewaysConfig>,
    /// SSH gateway; `None` if there is none.
    pub ssh: Option<SshConfig>,
    /// AI proxy; `None` if there is none.
    pub ai: Option<AiConfig>,
    /// Socket on which the AI proxy hands over what VMs ask of the API; `None` if there is none.
    pub bridge: Option<BridgeConfig>,
    /// Timeouts of transient states.
    pub timeouts: Timeouts,
    /// Limits of the plans that differ from the defaults.
    pub plans: Plans,
    /// Time for which entries of the audit log are kept.
    pub audit_retention: Duration,
}

/// Socket on which the AI proxy hands over what VMs ask of the API.
#[derive(Debug, Clone)]
pub struct BridgeConfig {
    /// Path of the socket.
    pub socket: PathBuf,
    /// Uid of the AI proxy.
    pub uid: u32,
    /// Packed `rig` for use in VMs.
    pub rig: PathBuf,
}

/// AI proxy.
#[derive(Debug, Clone)]
pub struct AiConfig {
    /// Socket on which the proxy asks.
    pub proxy: GatewaysConfig,
    /// Socket on which the proxy takes the operator's commands.
    pub operator: PathBuf,
    /// Upstreams.
    pub upstreams: Vec<Upstream>,
    /// Files with prices.
    pub prices: PriceFiles,
    /// Folder with tables of fields.
    pub tables: Option<PathBuf>,
    /// Bounds of a month's calls where none is set.
    pub budgets: DefaultBudgets,
    /// Age at which records of calls are deleted.
    pub retention: Duration,
}

/// SSH gateway.
#[derive(Debug, Clone)]
pub struct SshConfig {
    /// Socket on which the gateway asks.
    pub gateway: GatewaysConfig,
    /// Socket on which the gateway takes connections from the API.
    pub streams: PathBuf,
    /// Host name at which clients reach the gateway.
    pub host: String,
    /// Port at which clients reach the gateway.
    pub port: u16,
}

/// Socket for gateways.
#[derive(Debug, Clone)]
pub struct GatewaysConfig {
    /// Path of the socket.
    pub socket: PathBuf,
    /// Uids of the gateways' roles.
    pub uids: Vec<u32>,
}
