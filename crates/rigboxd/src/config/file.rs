//! Types of the configuration file. Every key has a default, and an unknown key is an error that names its line. `reference.rs` documents
//! the keys.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use anyhow::Result;
use http::Uri;
use ipnet::IpNet;
use rigbox_core::ai::provider::Provider;
use rigbox_core::egress::{Network, Zone};
use rigbox_core::plans::Plans;
use rigbox_core::vm_limits::{self, DiskLimits, MbPerS};
use secrecy::SecretString;
use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    /// State folder.
    pub(super) state: PathBuf,
    /// Folder for sockets, mounts and namespaces; a reboot of the host empties it.
    pub(super) run: PathBuf,
    /// First uid of roles and VMs; by default derived from the state folder's path.
    pub(super) uid_base: Option<u32>,
    pub(super) api: Api,
    pub(super) apps: Apps,
    pub(super) ssh: Ssh,
    pub(super) ai: Ai,
    /// SMTP server; without it, the operator prints sign-in links.
    pub(super) mail: Option<Mail>,
    pub(super) node: Node,
    /// Limits of plans that differ from the defaults.
    pub(super) plans: Plans,
    pub(super) secrets: Secrets,
    pub(super) audit: Audit,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Api {
    pub(super) listen: SocketAddr,
    /// URL at which clients reach the API; by default `http://localhost:<port>`.
    pub(super) url: Option<String>,
    /// URL of the console; by default on `console.localhost` beside an API on `localhost`, else the API's origin.
    pub(super) console_url: Option<String>,
    /// TLS; without it, `listen` is plain HTTP.
    pub(super) tls: Option<ApiTls>,
    /// Networks of proxies whose `X-Forwarded-For` is believed.
    pub(super) trusted_proxies: Vec<IpNet>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ApiTls {
    /// Certificates, each for the names in it.
    pub(super) certificates: Vec<Certificate>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Apps {
    pub(super) listen: SocketAddr,
    /// Apps are at `<app>.<domain>`. The console must not be below this domain.
    pub(super) domain: String,
    /// TLS; with it, `listen` only redirects.
    pub(super) tls: Option<AppsTls>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AppsTls {
    pub(super) listen: SocketAddr,
    /// Certificates, each for the names in it.
    pub(super) certificates: Vec<Certificate>,
}

/// SSH gateway.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Ssh {
    pub(super) listen: SocketAddr,
    /// Host name at which clients reach the gateway; by default that of the API.
    pub(super) host: Option<String>,
    /// Port at which clients reach the gateway; by default that of `listen`.
    pub(super) port: Option<u16>,
}

/// AI calls of one workspace at once.
const AI_CALLS_PER_WORKSPACE: NonZeroU16 = NonZeroU16::new(256).unwrap();

/// Age at which records of AI calls are deleted, in days.
const AI_RETENTION_DAYS: NonZeroU32 = NonZeroU32::new(365).unwrap();

/// AI proxy.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Ai {
    pub(super) enabled: bool,
    /// Upstreams beside or in place of the providers' own.
    pub(super) upstreams: BTreeMap<String, AiUpstream>,
    /// Certificates of authorities (PEM) that are trusted beside the system's.
    pub(super) authorities: Option<PathBuf>,
    /// Proxy between the AI proxy and the providers.
    pub(super) proxy: Option<ProxyUrl>,
    /// User and password for that one.
    pub(super) proxy_credentials: Option<Secret>,
    /// Calls of one workspace at once.
    pub(super) calls_per_workspace: NonZeroU16,
    /// Calls per minute of one workspace that use nothing, after a burst of ten times as many.
    pub(super) free_calls_per_minute: NonZeroU32,
    /// Age at which records of calls are deleted.
    pub(super) retention_days: NonZeroU32,
    /// Price table in place of the built-in one.
    pub(super) prices: Option<PathBuf>,
    /// Price table with more models.
    pub(super) more_prices: Option<PathBuf>,
    /// Folder with tables of fields in place of the built-in ones.
    pub(super) tables: Option<PathBuf>,
    /// Budget of a user for a month where none is set.
    pub(super) user_budget_usd: Option<u32>,
    /// Budget of a workspace for a month where none is set.
    pub(super) workspace_budget_usd: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AiUpstream {
    pub(super) provider: Provider,
    pub(super) base_url: BaseUrl,
    /// A call that is aborted is billed no further.
    #[serde(default)]
    pub(super) stops_billing_on_abort: bool,
}

/// Scheme (http), host and port.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct ProxyUrl(pub(super) Uri);

impl TryFrom<String> for ProxyUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_plain = |url: &Uri| {
            let has_user = url.authority().is_some_and(|authority| authority.as_str().contains('@'));
            url.scheme_str() == Some("http") && !has_user && url.path() == "/" && url.query().is_none()
        };
        text.parse().ok().filter(is_plain).map(Self).ok_or_else(|| {
            "this is not the URL of a proxy. Use one such as http://proxy.example.org:3128, and `proxy_credentials` for a password."
                .to_owned()
        })
    }
}

/// Source of a secret that the AI proxy alone reads.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Secret {
    /// File that root can read.
    File(PathBuf),
    /// Environment variable.
    Env(String),
}

impl Ai {
    /// Checks settings that depend on each other.
    fn check(&self) -> Result<()> {
        let plain = self.upstreams.iter().find(|(_, upstream)| upstream.base_url.0.starts_with("http://"));
        if let (Some(_), Some((name, _))) = (&self.proxy, plain) {
            anyhow::bail!(
                "ai.upstreams.{name} is not https, but ai.proxy is for https only. Remove one of them."
            );
        }
        anyhow::ensure!(
            self.proxy.is_some() || self.proxy_credentials.is_none(),
            "ai.proxy_credentials is set without ai.proxy. Name the proxy, or remove them."
        );
        Ok(())
    }
}

/// Scheme, host and port, and possibly a path.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct BaseUrl(pub(super) String);

impl TryFrom<String> for BaseUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or_default();
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'@');
        if rest.is_empty() || rest.starts_with('/') || rest.ends_with('/') || !rest.bytes().all(is_plain) {
            return Err(format!(
                "`{text}` is not a base URL. Use one such as https://api.example.org, without a final slash."
            ));
        }
        Ok(Self(text))
    }
}

/// A certificate and its key, in PEM files that root can read.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Certificate {
    /// Certificate with its chain.
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mail {
    /// URL of the SMTP server, e.g. `smtps://user:password@smtp.example.org`.
    pub(super) smtp_url: SecretString,
    /// Sender, e.g. `Rigbox <rigbox@example.org>`.
    pub(super) from: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Node {
    /// Network access of VMs.
    pub(super) uplink: Uplink,
    /// DNS resolvers for VMs; by default the host's.
    pub(super) dns: Option<Vec<IpAddr>>,
    /// Networks that no VM reaches, beside those that are not public.
    pub(super) blocked_networks: Vec<Network>,
    /// Zones of which no VM gets a record, beside those that are internal everywhere.
    pub(super) internal_zones: Vec<Zone>,
    /// Limits of each VM's network.
    pub(super) limits: NetworkLimits,
    pub(super) image_cache: Option<PathBuf>,
    pub(super) guest_dir: Option<PathBuf>,
    pub(super) qemu: PathBuf,
    pub(super) firecracker: Option<PathBuf>,
    pub(super) allow_emulation: bool,
    pub(super) kvm_probe_timeout_s: u64,
    pub(super) disk_mb_per_s: MbPerS,
    pub(super) disk_iops: NonZeroU32,
    pub(super) disk_reserve: f64,
    /// By default as many as the machine has CPUs, and at least four.
    pub(super) max_concurrent_boots: Option<NonZeroUsize>,
    pub(super) boot_timeout_s: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct NetworkLimits {
    /// Outward connections at once.
    pub(super) connections: NonZeroU32,
    /// New connections per second, after a burst of twice as many.
    pub(super) new_connections_per_s: NonZeroU32,
    /// Bandwidth in each direction.
    pub(super) bandwidth_mb_per_s: MbPerS,
    /// Connections to the bridge at once.
    pub(super) bridge_connections: NonZeroU16,
    /// DNS queries in flight.
    pub(super) dns_queries: NonZeroU16,
    /// DNS queries per second that its cache does not answer, after a burst of ten times as many.
    pub(super) dns_queries_per_s: NonZeroU32,
    /// Outward connections of all VMs; by default half of what the host's table holds.
    pub(super) total_connections: Option<NonZeroU32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Audit {
    /// Age at which entries of the audit log are deleted.
    pub(super) retention_days: u32,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Secrets {
    /// Source of the master keys; by default `master.key` in control's part of the state folder.
    pub(super) master_key: Option<MasterKey>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum MasterKey {
    /// File of control's user, in a folder that it can write for a rotation.
    File(PathBuf),
    /// Environment variable.
    Env(String),
    /// Program and its arguments, run as control's user.
    Command(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Uplink {
    /// Through the host's network, masqueraded.
    Veth,
    /// No network access.
    None,
}

impl Default for File {
    fn default() -> Self {
        Self {
            state: "/var/lib/rigbox".into(),
            run: "/run/rigbox".into(),
            uid_base: None,
            api: Api::default(),
            apps: Apps::default(),
            ssh: Ssh::default(),
            ai: Ai::default(),
            mail: None,
            node: Node::default(),
            plans: Plans::default(),
            secrets: Secrets::default(),
            audit: Audit::default(),
        }
    }
}

impl Default for Audit {
    fn default() -> Self {
        Self { retention_days: 365 }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7070)),
            url: None,
            console_url: None,
            tls: None,
            trusted_proxies: Vec::new(),
        }
    }
}

impl Default for Ssh {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 7022)), host: None, port: None }
    }
}

impl Default for Ai {
    fn default() -> Self {
        Self {
            enabled: true,
            upstreams: BTreeMap::new(),
            authorities: None,
            proxy: None,
            proxy_credentials: None,
            calls_per_workspace: AI_CALLS_PER_WORKSPACE,
            free_calls_per_minute: rigbox_ai::FREE_CALLS_PER_MINUTE,
            retention_days: AI_RETENTION_DAYS,
            prices: None,
            more_prices: None,
            tables: None,
            user_budget_usd: None,
            workspace_budget_usd: None,
        }
    }
}

impl Default for Apps {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7080)),
            domain: "rigbox.localhost".to_owned(),
            tls: None,
        }
    }
}

impl Default for Node {
    fn default() -> Self {
        Self {
            uplink: Uplink::Veth,
            dns: None,
            blocked_networks: Vec::new(),
            internal_zones: Vec::new(),
            limits: NetworkLimits::default(),
            image_cache: None,
            guest_dir: None,
            qemu: "/usr/bin/qemu-system-x86_64".into(),
            firecracker: None,
            allow_emulation: false,
            kvm_probe_timeout_s: 15,
            disk_mb_per_s: DiskLimits::DEFAULT.mb_per_s,
            disk_iops: DiskLimits::DEFAULT.iops,
            disk_reserve: 1.0,
            max_concurrent_boots: None,
            boot_timeout_s: 120,
        }
    }
}

impl Default for NetworkLimits {
    fn default() -> Self {
        let vm_limits::NetworkLimits {
            connections,
            new_connections_per_s,
            bandwidth_mb_per_s,
            bridge_connections,
            dns_queries,
            dns_queries_per_s,
        } = vm_limits::NetworkLimits::DEFAULT;
        Self {
            connections,
            new_connections_per_s,
            bandwidth_mb_per_s,
            bridge_connections,
            dns_queries,
            dns_queries_per_s,
            total_connections: None,
        }
    }
}

/// Parses a configuration file.
pub(super) fn parse(text: &str) -> Result<File> {
    let document = toml::Deserializer::parse(text)?;
    let file: File = serde_path_to_error::deserialize(document)?;
    file.ai.check()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_key_is_an_error_that_names_the_line() {
        let error = parse("state = \"/tmp/x\"\n[api]\nlisten_on = \"127.0.0.1:1\"\n").unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("line 3") && text.contains("listen_on"), "{text}");
    }

    #[test]
    fn plans_are_set_by_name_and_a_rate_of_zero_is_refused() {
        let plans = |text: &str| parse(text).map(|file| file.plans);
        let set = plans("[plans.free]\nmax_vms = 3\nworkspaces_per_min = 600\n").unwrap();
        assert_eq!((set.free.max_vms, set.pro.max_vms), (Some(3), None));
        for (bad, expected) in [
            ("[plans.fre]\nmax_vms = 3\n", "fre"),
            ("[plans.free]\nmax_vm = 3\n", "line 2"),
            ("[plans.pro]\nmax_vms = 3\napps_per_min = 0\n", "line 3"),
            ("[plans.pro]\nmax_vms = \"many\"\n", "line 2"),
            ("[plans.pro.limits]\nconnections = 0\n", "line 2"),
            ("[plans.pro.limits]\nbandwidth_mb_per_s = 16000\n", "1 to 10000 MB/s"),
            ("[plans.pro.limits]\ntotal_connections = 9\n", "total_connections"),
            ("[plans.anonymous.limits]\nconnections = 9\n", "have no workspaces"),
        ] {
            let text = format!("{:#}", plans(bad).unwrap_err());
            assert!(text.contains(expected), "{bad}: {text}");
        }
    }

    #[test]
    fn limits_and_blocked_networks_of_vms_are_checked() {
        let node = |text: &str| parse(&format!("[node]\n{text}")).map(|file| file.node);
        let set = node("blocked_networks = [\"8.8.8.0/24\"]\nlimits = { connections = 9 }").unwrap();
        assert_eq!((set.blocked_networks.len(), set.limits.connections.get()), (1, 9));
        for (bad, expected) in [
            ("blocked_networks = [\"8.8.8.8/24\"]", "8.8.8.0/24"),
            ("blocked_networks = [\"example.org\"]", "line 2"),
            ("limits = { connections = 0 }", "line 2"),
            ("limits = { conections = 1 }", "conections"),
            ("limits = { bandwidth_mb_per_s = 16000 }", "1 to 10000 MB/s"),
            ("disk_mb_per_s = 0", "line 2"),
        ] {
            let text = format!("{:#}", node(bad).unwrap_err());
            assert!(text.contains(expected), "{bad}: {text}");
        }
    }

    #[test]
    fn upstreams_of_ai_calls_have_a_provider_and_a_base_url() {
        let upstream = |url: &str, provider: &str| {
            let text = format!("[ai.upstreams.x]\nprovider = \"{provider}\"\nbase_url = \"{url}\"\n");
            parse(&text).map(|file| file.ai.upstreams["x"].base_url.0.clone())
        };
        for good in ["https://api.example.org", "http://127.0.0.1:9999", "https://openrouter.ai/api"] {
            assert_eq!(upstream(good, "openrouter").unwrap(), good);
        }
        for bad in [
            "api.example.org",
            "ftp://x",
            "https://",
            "https://x/",
            "https://u@x",
            "https://x?y",
            "https://x y",
        ] {
            let text = format!("{:#}", upstream(bad, "openai").unwrap_err());
            assert!(text.contains("is not a base URL"), "{bad}: {text}");
        }
        assert!(upstream("https://x", "mistral").is_err());
    }

    #[test]
    fn proxy_of_ai_calls_is_plain_and_its_upstreams_are_not() {
        let ai = |text: &str| parse(&format!("[ai]\n{text}")).map(|file| file.ai);
        let set =
            ai("proxy = \"http://proxy.example.org:3128\"\nproxy_credentials = { env = \"P\" }").unwrap();
        assert_eq!(set.proxy.unwrap().0.authority().unwrap(), "proxy.example.org:3128");
        for bad in [
            "https://p:1",
            "p:1",
            "socks5://p:1",
            "http://ada:hunter2@p:1",
            "http://p:1/x",
            "http://p:1?x",
            "http://",
        ] {
            let text = format!("{:#}", ai(&format!("proxy = {bad:?}")).unwrap_err());
            assert!(text.contains("is not the URL of a proxy") && text.contains("line 2"), "{bad}: {text}");
        }
        let local = "[ai.upstreams.local]\nprovider = \"openai\"\nbase_url = \"http://127.0.0.1:8000\"";
        for (bad, expected) in [
            (format!("proxy = \"http://p:1\"\n{local}"), "ai.upstreams.local is not https"),
            ("proxy_credentials = { file = \"/p\" }".to_owned(), "without ai.proxy"),
        ] {
            let text = format!("{:#}", ai(&bad).unwrap_err());
            assert!(text.contains(expected), "{bad}: {text}");
        }
        assert!(ai(local).is_ok());
    }

    #[test]
    fn password_of_the_mail_server_is_not_shown() {
        let file = parse("[mail]\nsmtp_url = \"smtps://u:hunter2@x\"\nfrom = \"a@b.example\"\n").unwrap();
        assert!(!format!("{file:?}").contains("hunter2"));
    }
}
