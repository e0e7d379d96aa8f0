//! An installation: its configuration file, the id, folders and uids that derive from it, and the configuration of each role.

mod file;
#[cfg(test)]
mod reference;

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rigbox_control::KeySource;
use rigbox_core::ai::money::Money;
use rigbox_core::ai::provider::Provider;
use rigbox_core::egress::{BlockedNetworks, InternalZones};
use rigbox_core::vm_limits::{self, DiskLimits};

use file::{Apps, Certificate, File, MasterKey, NetworkLimits, Secret, Uplink, parse};

/// Default path of the configuration file.
pub(crate) const DEFAULT_PATH: &str = "/etc/rigbox/rigbox.toml";

/// First uid for installations: systemd's UID_COUNT-GIDS leaves 1879048192 to 2147352575 unused.
const FIRST_UID: u32 = 1_879_048_192;
/// Number of uids per installation, for its roles and then its VMs.
const UID_COUNT: u32 = 65_536;
/// Number of uid ranges.
const UID_RANGES: u32 = 4_090;
/// Socket in the run folder on which the AI proxy accepts the connections of VMs from the node.
const BRIDGE_SOCKET: &str = "ai/bridge.sock";
/// Socket in the run folder on which control accepts from the AI proxy what is for the API.
const API_BRIDGE_SOCKET: &str = "control/bridge.sock";
/// Socket in the run folder on which control listens for gateways.
const GATEWAY_SOCKET: &str = "control/gateway.sock";
/// The same for the SSH gateway.
const SSH_GATEWAY_SOCKET: &str = "control/ssh.sock";
/// The same for the AI proxy.
const AI_SOCKET: &str = "control/ai.sock";
/// Socket in the run folder on which the AI proxy takes the operator's commands, which run as control.
const AI_OPERATOR_SOCKET: &str = "ai/operator.sock";
/// Socket in the run folder on which the SSH gateway takes connections from control.
const SSH_STREAMS_SOCKET: &str = "ssh/streams.sock";
/// Folder in the run folder with copies of certificates and keys for edge.
const EDGE_TLS_FOLDER: &str = "edge/tls";
/// The same for control.
const CONTROL_TLS_FOLDER: &str = "control/tls";
/// Socket in the run folder on which the node listens for edge.
const DIAL_SOCKET: &str = "node/dial.sock";
/// The same for the SSH gateway.
const SSH_DIAL_SOCKET: &str = "node/ssh-dial.sock";
/// Number of uids reserved for roles.
const ROLE_UID_COUNT: u32 = 16;
/// Uids of an installation that are for VMMs.
const VM_UID_COUNT: u32 = UID_COUNT - ROLE_UID_COUNT;
/// Time of a start beside the boot itself: disk, namespace, delivery of secrets.
const START_MARGIN: Duration = Duration::from_secs(60);
/// Boots at once on a machine with few CPUs.
const MIN_CONCURRENT_BOOTS: NonZeroUsize = NonZeroUsize::new(4).unwrap();

/// Upstreams of AI calls without a setting: name, provider and base URL.
const AI_PROVIDERS: [(&str, Provider, &str); 3] = [
    ("anthropic", Provider::Anthropic, "https://api.anthropic.com"),
    ("openai", Provider::OpenAi, "https://api.openai.com"),
    ("google", Provider::Google, "https://generativelanguage.googleapis.com"),
];

/// Certificates of a role, each with its key.
#[derive(Debug)]
pub(crate) struct RoleCertificates {
    pub(crate) role: Role,
    /// Folder for the copies that the role can read.
    pub(crate) folder: PathBuf,
    /// Paths of certificates and keys, which root can read.
    pub(crate) pairs: Vec<(PathBuf, PathBuf)>,
}

/// An installation and its configuration.
#[derive(Debug, Clone)]
pub(crate) struct Installation {
    file: File,
    /// Id: 8 lower-case base32 characters of a hash of the state folder's path.
    pub(crate) id: String,
    /// DNS resolvers for VMs. Read early, because a confined role cannot see the host's files.
    resolvers: Vec<SocketAddr>,
}

impl Installation {
    /// Reads the configuration at `path`. Without a file at the default path, defaults apply. Creates the state folder.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let file = read(path)?;
        std::fs::create_dir_all(&file.state)
            .with_context(|| format!("cannot create the state folder {}", file.state.display()))?;
        let state = file.state.canonicalize().context("cannot resolve the path of the state folder")?;
        let hash = blake3::hash(state.as_os_str().as_encoded_bytes());
        let id = data_encoding::BASE32_NOPAD.encode(hash.as_bytes()).to_lowercase();
        let id = id.get(..8).unwrap_or_default().to_owned();
        let resolvers = resolvers(file.node.dns.clone());
        Ok(Self { file: File { state, ..file }, id, resolvers })
    }

    /// Returns the state folder that the configuration at `path` names, which may not exist.
    pub(crate) fn state_folder(path: &Path) -> Result<PathBuf> {
        Ok(read(path)?.state)
    }

    pub(crate) fn state(&self) -> &Path {
        &self.file.state
    }

    /// Returns this installation's part of the run folder.
    pub(crate) fn run(&self) -> PathBuf {
        self.file.run.join(&self.id)
    }

    fn vm_uid_base(&self) -> u32 {
        self.uid_base() + ROLE_UID_COUNT
    }

    fn uid_base(&self) -> u32 {
        self.file.uid_base.unwrap_or_else(|| {
            let hash = blake3::hash(self.id.as_bytes());
            let number = hash.as_bytes().iter().take(4).fold(0u32, |n, byte| n << 8 | u32::from(*byte));
            FIRST_UID + number % UID_RANGES * UID_COUNT
        })
    }

    /// Returns the uid (and gid) of a role.
    pub(crate) fn uid(&self, role: Role) -> u32 {
        match role {
            Role::Node => 0,
            Role::Control => self.uid_base(),
            Role::Guestio => self.uid_base() + 1,
            Role::Edge => self.uid_base() + 2,
            Role::Ssh => self.uid_base() + 3,
            Role::Ai => self.uid_base() + 4,
        }
    }

    /// Returns the socket on which the node listens for edge.
    fn dial_socket(&self) -> PathBuf {
        self.run().join(DIAL_SOCKET)
    }

    /// Returns the configuration of the node.
    pub(crate) fn node(&self) -> Result<rigbox_node::Config> {
        let settings = &self.file.node;
        let sockets = self.run().join("node");
        let image_cache = match &settings.image_cache {
            Some(dir) => dir.clone(),
            None => rigbox_image::default_cache_dir()?,
        };
        anyhow::ensure!(
            (0.0..=1.0).contains(&settings.disk_reserve),
            "node.disk_reserve is {}; expected a number between 0.0 and 1.0",
            settings.disk_reserve
        );
        Ok(rigbox_node::Config {
            installation: self.id.clone(),
            state_dir: self.state().join("node"),
            run_dir: sockets.join("own"),
            control_socket: sockets.join("control.sock"),
            guestio_socket: sockets.join("guestio.sock"),
            fd_socket: sockets.join("fds.sock"),
            dial_socket: self.dial_socket(),
            ssh_dial_socket: self.run().join(SSH_DIAL_SOCKET),
            bridge_socket: self.run().join(BRIDGE_SOCKET),
            control_uid: self.uid(Role::Control),
            guestio_uid: self.uid(Role::Guestio),
            edge_uid: self.uid(Role::Edge),
            ssh_uid: self.uid(Role::Ssh),
            resolvers: self.resolvers.iter().map(SocketAddr::ip).collect(),
            vm_uid_base: self.vm_uid_base(),
            vm_uid_count: VM_UID_COUNT,
            image_cache,
            guest_dir: self.guest_dir()?,
            vmm: rigbox_node::VmmConfig {
                qemu: settings.qemu.clone(),
                firecracker: self.firecracker(),
                allow_emulation: settings.allow_emulation,
                kvm_probe_timeout: Duration::from_secs(settings.kvm_probe_timeout_s),
                disk: DiskLimits { mb_per_s: settings.disk_mb_per_s, iops: settings.disk_iops },
            },
            uplink: match settings.uplink {
                Uplink::Veth => rigbox_node::UplinkMode::Veth,
                Uplink::None => rigbox_node::UplinkMode::None,
            },
            network: self.network(),
            disk_reserve: settings.disk_reserve,
            max_concurrent_boots: settings.max_concurrent_boots.unwrap_or_else(default_concurrent_boots),
            boot_timeout: Duration::from_secs(settings.boot_timeout_s),
        })
    }

    /// Returns the path of Firecracker's release, where an operator's command puts it.
    pub(crate) fn firecracker_release(&self) -> PathBuf {
        self.state().join("firecracker/firecracker")
    }

    /// Returns the path of Firecracker: the one that is configured, or else the release if it is there.
    fn firecracker(&self) -> Option<PathBuf> {
        let release = self.firecracker_release();
        self.file.node.firecracker.clone().or_else(|| release.exists().then_some(release))
    }

    /// Returns the folder of the programs for VMs.
    pub(crate) fn guest_dir(&self) -> Result<PathBuf> {
        match &self.file.node.guest_dir {
            Some(dir) => Ok(dir.clone()),
            None => Ok(std::env::current_exe()?.with_file_name("guest")),
        }
    }

    /// Returns the path of the packed `rig` for VMs.
    pub(crate) fn packed_rig(&self) -> PathBuf {
        self.run().join("guest/rig.lz4")
    }

    fn network(&self) -> rigbox_node::NetworkConfig {
        let NetworkLimits {
            connections,
            new_connections_per_s,
            bandwidth_mb_per_s,
            bridge_connections,
            dns_queries,
            dns_queries_per_s,
            total_connections,
        } = self.file.node.limits;
        rigbox_node::NetworkConfig {
            blocked: self.blocked_networks(),
            vmm_uids: Some((self.vm_uid_base(), self.vm_uid_base() + VM_UID_COUNT - 1)),
            limits: vm_limits::NetworkLimits {
                connections,
                new_connections_per_s,
                bandwidth_mb_per_s,
                bridge_connections,
                dns_queries,
                dns_queries_per_s,
            },
            total_connections: total_connections.map(NonZeroU32::get),
        }
    }

    fn blocked_networks(&self) -> BlockedNetworks {
        BlockedNetworks::new(&self.file.node.blocked_networks)
    }

    /// Returns the configuration of guestio, whose root is the run folder.
    pub(crate) fn guestio(&self) -> rigbox_guestio::Config {
        rigbox_guestio::Config {
            node_socket: "/node/guestio.sock".into(),
            fd_socket: "/node/fds.sock".into(),
            guest_socket: "/guestio/guest.sock".into(),
            control_uid: self.uid(Role::Control),
            resolvers: self.resolvers.clone(),
            blocked_networks: self.blocked_networks(),
            internal_zones: InternalZones::new(&self.file.node.internal_zones),
            dns: rigbox_guestio::DnsLimits {
                queries: self.file.node.limits.dns_queries,
                queries_per_s: self.file.node.limits.dns_queries_per_s,
            },
        }
    }

    /// Returns the configuration of edge, whose root is the run folder.
    pub(crate) fn edge(&self) -> Result<rigbox_edge::Config> {
        let Apps { listen, domain, tls } = &self.file.apps;
        let is_name = |label: &str| {
            !label.is_empty() && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        };
        anyhow::ensure!(
            domain.split('.').all(is_name),
            "apps.domain is `{domain}`; expected a domain in lower case, such as `apps.example.org`"
        );
        anyhow::ensure!(
            tls.as_ref().is_none_or(|tls| !tls.certificates.is_empty()),
            "apps.tls.certificates is empty; add at least one, as {{ certificate = \"...\", key = \"...\" }}"
        );
        Ok(rigbox_edge::Config {
            listen: *listen,
            domain: domain.clone(),
            gateway_socket: Path::new("/").join(GATEWAY_SOCKET),
            dial_socket: Path::new("/").join(DIAL_SOCKET),
            workers: None,
            limits: rigbox_edge::Limits::default(),
            tls: tls.as_ref().map(|tls| rigbox_edge::Tls {
                listen: tls.listen,
                folder: Path::new("/").join(EDGE_TLS_FOLDER),
            }),
        })
    }

    /// Returns the configuration of the SSH gateway, whose root is the run folder.
    pub(crate) fn ssh(&self) -> rigbox_ssh::Config {
        rigbox_ssh::Config {
            listen: self.file.ssh.listen,
            control_socket: Path::new("/").join(SSH_GATEWAY_SOCKET),
            dial_socket: Path::new("/").join(SSH_DIAL_SOCKET),
            // Bound before the role changes its root.
            streams: Some(rigbox_ssh::Streams {
                socket: self.run().join(SSH_STREAMS_SOCKET),
                owner: self.uid(Role::Control),
            }),
            limits: rigbox_ssh::Limits::default(),
        }
    }

    /// Returns the configuration of the AI proxy, whose root is the run folder.
    pub(crate) fn ai(&self) -> rigbox_ai::Config {
        let own = |socket: &str| Path::new("/").join(socket);
        rigbox_ai::Config {
            bridge: rigbox_ai::Peer { socket: own(BRIDGE_SOCKET), uid: self.uid(Role::Node) },
            operator: rigbox_ai::Peer { socket: own(AI_OPERATOR_SOCKET), uid: self.uid(Role::Control) },
            control_socket: own(AI_SOCKET),
            api_socket: own(API_BRIDGE_SOCKET),
            extra_authorities: self.file.ai.authorities.clone(),
            proxy: self.file.ai.proxy.as_ref().map(|url| rigbox_ai::Proxy {
                url: url.0.clone(),
                credentials: self.file.ai.proxy_credentials.as_ref().map(|source| match source {
                    Secret::File(path) => rigbox_ai::SecretSource::File(path.clone()),
                    Secret::Env(name) => rigbox_ai::SecretSource::Env(name.clone()),
                }),
            }),
            dns: self.resolvers.clone(),
            blocked_networks: self.blocked_networks().iter().copied().collect(),
            limits: rigbox_ai::Limits {
                calls_per_workspace: self.file.ai.calls_per_workspace.get().into(),
                free_calls_per_minute: self.file.ai.free_calls_per_minute,
                ..rigbox_ai::Limits::default()
            },
        }
    }

    /// Returns the host at which clients reach the SSH gateway, by default that of the API.
    fn ssh_host(&self) -> String {
        let url = self.api_url();
        let host = || {
            let authority = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
            let host = authority.split(['/', '?']).next().unwrap_or_default();
            // The port is what follows the last colon, unless that is within an IPv6 address.
            let end = host.rfind(':').filter(|colon| !host.get(*colon..).unwrap_or_default().contains(']'));
            host.get(..end.unwrap_or(host.len())).unwrap_or_default().trim_matches(['[', ']']).to_owned()
        };
        self.file.ssh.host.clone().unwrap_or_else(host)
    }

    /// Returns the URL that apps are subdomains of.
    fn apps_url(&self) -> String {
        let Apps { listen, domain, tls } = &self.file.apps;
        let (scheme, port) = tls.as_ref().map_or(("http", listen.port()), |tls| ("https", tls.listen.port()));
        match (scheme, port) {
            ("http", 80) | ("https", 443) => format!("{scheme}://{domain}"),
            _ => format!("{scheme}://{domain}:{port}"),
        }
    }

    /// Returns the certificates and keys that each role needs a copy of.
    pub(crate) fn certificates(&self) -> [RoleCertificates; 2] {
        let pairs = |certificates: Option<&Vec<Certificate>>| -> Vec<(PathBuf, PathBuf)> {
            let all = certificates.into_iter().flatten();
            all.map(|pair| (pair.certificate.clone(), pair.key.clone())).collect()
        };
        [
            RoleCertificates {
                role: Role::Edge,
                folder: self.run().join(EDGE_TLS_FOLDER),
                pairs: pairs(self.file.apps.tls.as_ref().map(|tls| &tls.certificates)),
            },
            RoleCertificates {
                role: Role::Control,
                folder: self.run().join(CONTROL_TLS_FOLDER),
                pairs: pairs(self.file.api.tls.as_ref().map(|tls| &tls.certificates)),
            },
        ]
    }

    /// Returns the socket on which control listens for gateways.
    fn gateway_socket(&self) -> PathBuf {
        self.run().join(GATEWAY_SOCKET)
    }

    /// Returns the configuration of control, which sees its part of the state at `state`.
    pub(crate) fn control(&self, state: &Path) -> rigbox_control::Config {
        let api = &self.file.api;
        rigbox_control::Config {
            database: state.join("rigbox.db"),
            token_key: state.join("token.key"),
            master_key: match &self.file.secrets.master_key {
                None => KeySource::File(state.join("master.key")),
                Some(MasterKey::File(path)) => KeySource::File(path.clone()),
                Some(MasterKey::Env(name)) => KeySource::Env(name.clone()),
                Some(MasterKey::Command(words)) => KeySource::Command(words.clone()),
            },
            api_listen: api.listen,
            api_tls: api.tls.as_ref().map(|_| self.run().join(CONTROL_TLS_FOLDER)),
            trusted_proxies: api.trusted_proxies.clone(),
            public_api_url: self.api_url(),
            console_url: self.console_url(),
            mail: self.file.mail.as_ref().map(|mail| rigbox_control::MailConfig {
                smtp_url: mail.smtp_url.clone(),
                from: mail.from.clone(),
            }),
            node_socket: self.run().join("node/control.sock"),
            guestio_socket: self.run().join("guestio/guest.sock"),
            dns: vec![],
            apps_url: self.apps_url(),
            bridge: Some(rigbox_control::BridgeConfig {
                socket: self.run().join(API_BRIDGE_SOCKET),
                uid: self.uid(Role::Ai),
                rig: self.packed_rig(),
            }),
            gateways: Some(rigbox_control::GatewaysConfig {
                socket: self.gateway_socket(),
                uids: vec![self.uid(Role::Edge)],
            }),
            ssh: Some(rigbox_control::SshConfig {
                gateway: rigbox_control::GatewaysConfig {
                    socket: self.run().join(SSH_GATEWAY_SOCKET),
                    uids: vec![self.uid(Role::Ssh)],
                },
                streams: self.run().join(SSH_STREAMS_SOCKET),
                host: self.ssh_host(),
                port: self.file.ssh.port.unwrap_or_else(|| self.file.ssh.listen.port()),
            }),
            ai: self.file.ai.enabled.then(|| self.ai_of_control()),
            timeouts: rigbox_control::Timeouts {
                starting: Duration::from_secs(self.file.node.boot_timeout_s) + START_MARGIN,
                ..rigbox_control::Timeouts::default()
            },
            plans: self.file.plans,
            audit_retention: Duration::from_hours(24) * self.file.audit.retention_days,
        }
    }

    /// Returns control's part of the AI proxy.
    fn ai_of_control(&self) -> rigbox_control::AiConfig {
        let ai = &self.file.ai;
        rigbox_control::AiConfig {
            proxy: rigbox_control::GatewaysConfig {
                socket: self.run().join(AI_SOCKET),
                uids: vec![self.uid(Role::Ai)],
            },
            operator: self.run().join(AI_OPERATOR_SOCKET),
            upstreams: self.ai_upstreams(),
            prices: rigbox_control::PriceFiles { table: ai.prices.clone(), more: ai.more_prices.clone() },
            tables: ai.tables.clone(),
            budgets: rigbox_control::DefaultBudgets {
                user: ai.user_budget_usd.map(Money::from_dollars),
                workspace: ai.workspace_budget_usd.map(Money::from_dollars),
            },
            retention: Duration::from_hours(24) * ai.retention_days.get(),
        }
    }

    /// Returns the upstreams of AI calls: the providers' own, and those of the file.
    fn ai_upstreams(&self) -> Vec<rigbox_control::Upstream> {
        let upstream = |name: &str, provider, base_url: &str, stops_billing_on_abort| {
            let (name, base_url) = (name.to_owned(), base_url.to_owned());
            rigbox_control::Upstream { name, provider, base_url, stops_billing_on_abort }
        };
        let own = AI_PROVIDERS.iter().filter(|(name, ..)| !self.file.ai.upstreams.contains_key(*name));
        let own = own.map(|(name, provider, base_url)| upstream(name, *provider, base_url, false));
        let of_file = self.file.ai.upstreams.iter().map(|(name, of_file)| {
            upstream(name, of_file.provider, &of_file.base_url.0, of_file.stops_billing_on_abort)
        });
        own.chain(of_file).collect()
    }

    /// Returns the URL of the console.
    fn console_url(&self) -> String {
        self.file.api.console_url.clone().unwrap_or_else(|| default_console_url(&self.api_url()))
    }

    /// Returns the environment variables with secrets that `role` must not see.
    pub(crate) fn hidden_variables(&self, role: Role) -> Vec<String> {
        let master_key = match &self.file.secrets.master_key {
            Some(MasterKey::Env(name)) => Some((Role::Control, name)),
            _ => None,
        };
        let proxy = match &self.file.ai.proxy_credentials {
            Some(Secret::Env(name)) => Some((Role::Ai, name)),
            _ => None,
        };
        let all = [master_key, proxy].into_iter().flatten();
        all.filter(|(owner, _)| *owner != role).map(|(_, name)| name.clone()).collect()
    }

    /// Returns the URL at which clients reach the API.
    pub(crate) fn api_url(&self) -> String {
        let api = &self.file.api;
        let scheme = if api.tls.is_some() { "https" } else { "http" };
        api.url.clone().unwrap_or_else(|| format!("{scheme}://localhost:{}", api.listen.port()))
    }
}

/// Reads the configuration at `path`.
fn read(path: &Path) -> Result<File> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && path == Path::new(DEFAULT_PATH) => {
            String::new()
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    parse(&text).with_context(|| format!("{} is not valid", path.display()))
}

/// Returns the configured resolvers, by default the host's.
fn resolvers(configured: Option<Vec<IpAddr>>) -> Vec<SocketAddr> {
    let addresses = configured.unwrap_or_else(|| {
        let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let address = |line: &str| line.trim().strip_prefix("nameserver")?.trim().parse().ok();
        text.lines().filter_map(address).collect()
    });
    addresses.into_iter().take(3).map(|address| SocketAddr::new(address, 53)).collect()
}

/// Returns the default URL of the console. On `localhost` it has a host name of its own, which needs no DNS, so that other services on
/// `localhost` do not receive its cookie.
fn default_concurrent_boots() -> NonZeroUsize {
    std::thread::available_parallelism().map_or(MIN_CONCURRENT_BOOTS, |cpus| cpus.max(MIN_CONCURRENT_BOOTS))
}

fn default_console_url(api_url: &str) -> String {
    let origin = match api_url.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", rest.split('/').next().unwrap_or_default()),
        None => api_url.to_owned(),
    };
    origin.replacen("://localhost", "://console.localhost", 1)
}

/// A process with only the privileges that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    /// Database, policy and API
    Control,
    /// VMs; runs as root
    Node,
    /// Communication with guests
    Guestio,
    /// Reverse proxy of apps
    Edge,
    /// SSH gateway
    Ssh,
    /// AI proxy, and the bridge of VMs
    Ai,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn console_is_beside_the_api() {
        for (api, console) in [
            ("http://localhost:7070", "http://console.localhost:7070"),
            ("https://rigbox.example", "https://rigbox.example"),
            ("https://rigbox.example:8443/", "https://rigbox.example:8443"),
        ] {
            assert_eq!(default_console_url(api), console);
        }
    }

    #[test]
    fn api_with_certificates_is_at_an_https_url() {
        let text = "[api]\ntrusted_proxies = [\"10.0.0.0/8\"]\n\
                    [api.tls]\ncertificates = [{ certificate = \"/c\", key = \"/k\" }]";
        let file = parse(text).unwrap();
        let installation = Installation { file, id: "id".to_owned(), resolvers: Vec::new() };
        let control = installation.control(Path::new("/private"));
        assert_eq!(control.public_api_url, "https://localhost:7070");
        assert_eq!(control.console_url, "https://console.localhost:7070");
        let [edge, own] = installation.certificates();
        assert!(edge.pairs.is_empty());
        assert_eq!(own.pairs, [(PathBuf::from("/c"), PathBuf::from("/k"))]);
        assert_eq!(control.api_tls, Some(own.folder));
        assert_eq!(control.trusted_proxies.len(), 1);
        assert!(parse("[api]\ntrusted_proxies = [\"proxy\"]").is_err());
    }

    #[test]
    fn invalid_domain_of_apps_is_refused() {
        let edge = |domain: &str| {
            let file = parse(&format!("[apps]\ndomain = {domain:?}")).unwrap();
            Installation { file, id: "id".to_owned(), resolvers: Vec::new() }.edge().map(|edge| edge.domain)
        };
        assert_eq!(edge("apps.example.org").unwrap(), "apps.example.org");
        for bad in ["", ".example", "Example.org", "a..b", "example.org/", "a:80"] {
            assert!(edge(bad).unwrap_err().to_string().contains("apps.domain"), "{bad}");
        }
    }

    #[test]
    fn master_key_comes_from_a_file_a_variable_or_a_command() {
        let source = |text: &str| {
            let file = parse(text).unwrap();
            let installation = Installation { file, id: "id".to_owned(), resolvers: Vec::new() };
            installation.control(Path::new("/private")).master_key
        };
        for (text, wanted) in [
            ("", KeySource::File("/private/master.key".into())),
            ("[secrets]\nmaster_key = { file = \"/k\" }", KeySource::File("/k".into())),
            ("[secrets]\nmaster_key = { env = \"K\" }", KeySource::Env("K".into())),
            (
                "[secrets]\nmaster_key = { command = [\"kms\", \"get\"] }",
                KeySource::Command(vec!["kms".into(), "get".into()]),
            ),
        ] {
            assert_eq!(source(text), wanted, "{text}");
        }
        assert!(parse("[secrets]\nmaster_key = { fiel = \"/k\" }").is_err());
    }

    #[test]
    fn secret_in_a_variable_is_seen_by_its_role_only() {
        let text = "[secrets]\nmaster_key = { env = \"K\" }\n\
                    [ai]\nproxy = \"http://p:1\"\nproxy_credentials = { env = \"P\" }";
        let file = parse(text).unwrap();
        let installation = Installation { file, id: "id".to_owned(), resolvers: Vec::new() };
        let hidden = [Role::Control, Role::Ai, Role::Edge].map(|role| installation.hidden_variables(role));
        assert_eq!(hidden, [vec!["P"], vec!["K"], vec!["K", "P"]]);
    }

    #[test]
    fn two_installations_share_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let load = |name: &str| {
            let path = dir.path().join(format!("{name}.toml"));
            let state = dir.path().join(name);
            std::fs::write(&path, format!("state = {:?}", state.display().to_string())).unwrap();
            Installation::load(&path).unwrap()
        };
        let (one, two) = (load("one"), load("two"));
        assert_ne!(one.id, two.id);
        assert_ne!(one.run(), two.run());
        assert_ne!(one.uid(Role::Control), two.uid(Role::Control));
        assert!(one.node().unwrap().guestio_socket.as_os_str().len() < 100);
    }
}
