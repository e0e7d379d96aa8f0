//! Reference of the configuration: the keys with their types, defaults and meanings. Tests compare it with the types of the configuration
//! file, and generate `docs/configuration.md` and `examples/rigbox.toml` from it. With `RIGBOX_BLESS=1` they write these two files.

use std::fmt::Write;
use std::num::NonZeroU32;
use std::path::Path;

use rigbox_core::plans::Plans;
use serde::de::DeserializeOwned;

use super::file::{
    Ai, Api, ApiTls, Apps, AppsTls, Audit, Certificate, File, Mail, NetworkLimits, Node, Secrets, Ssh, parse,
};

/// A table of the file.
struct Section {
    /// Name, empty for the keys before the first table.
    name: &'static str,
    meaning: &'static str,
    /// Names of the keys in the types.
    fields: fn() -> Vec<String>,
    keys: &'static [Key],
}

struct Key {
    name: &'static str,
    kind: &'static str,
    default: Default,
    meaning: &'static str,
    /// A value for the example, in TOML.
    example: &'static str,
}

enum Default {
    /// A value, in TOML, which is also the example.
    Value,
    /// A description.
    Described(&'static str),
}

use Default::{Described, Value};

const fn key(
    name: &'static str,
    kind: &'static str,
    default: Default,
    example: &'static str,
    meaning: &'static str,
) -> Key {
    Key { name, kind, default, meaning, example }
}

const SECTIONS: &[Section] = &[
    Section {
        name: "",
        meaning: "The installation.",
        fields: fields_of::<File>,
        keys: &[
            key(
                "state",
                "path",
                Value,
                "\"/var/lib/rigbox\"",
                "State folder. Its path identifies the installation, so that several can run on one machine.",
            ),
            key(
                "run",
                "path",
                Value,
                "\"/run/rigbox\"",
                "Folder for sockets, mounts and namespaces. A reboot of the host empties it.",
            ),
            key(
                "uid_base",
                "integer",
                Described("derived from the path of the state folder"),
                "1879048192",
                "First of the 65,536 uids that roles and VMs run as.",
            ),
        ],
    },
    Section {
        name: "api",
        meaning: "The HTTP API and the console.",
        fields: fields_of::<Api>,
        keys: &[
            key("listen", "address", Value, "\"127.0.0.1:7070\"", "Address and port of the API."),
            key(
                "url",
                "URL",
                Described("`http://localhost:<port>`, with TLS `https://localhost:<port>`"),
                "\"https://rigbox.example.org\"",
                "URL at which clients reach the API.",
            ),
            key(
                "console_url",
                "URL",
                Described(
                    "`http://console.localhost:<port>` beside an API on `localhost`, else the origin of the API",
                ),
                "\"https://rigbox.example.org\"",
                "URL at which people sign in. With `https`, the session cookie is bound to this host, and browsers are told to use TLS only.",
            ),
            key(
                "trusted_proxies",
                "list of networks",
                Described("none"),
                "[\"192.0.2.0/28\"]",
                "Proxies in front of the API. Of the addresses in their `X-Forwarded-For`, the rightmost that is none of theirs is the client's, \
                 for rate limits, bounds and the audit log. `Forwarded` is not read.",
            ),
        ],
    },
    Section {
        name: "api.tls",
        meaning: "TLS for the API and the console. Without this table, they are served over HTTP.",
        fields: fields_of::<ApiTls>,
        keys: &[key(
            "certificates",
            "list of tables",
            Described("none, required in this table"),
            "[{ certificate = \"/etc/rigbox/api.crt\", key = \"/etc/rigbox/api.key\" }]",
            "PEM files that root can read: `certificate` with its chain, and its private `key`. Each pair serves the names in its \
             certificate. Changed files are loaded within seconds.",
        )],
    },
    Section {
        name: "apps",
        meaning: "The reverse proxy of apps.",
        fields: fields_of::<Apps>,
        keys: &[
            key(
                "listen",
                "address",
                Value,
                "\"127.0.0.1:7080\"",
                "Address and port of apps over HTTP. With TLS, it only redirects to HTTPS.",
            ),
            key(
                "domain",
                "domain",
                Value,
                "\"rigbox.localhost\"",
                "Apps are at `<app>.<domain>`. It needs a domain of its own: the console must not be below it.",
            ),
        ],
    },
    Section {
        name: "apps.tls",
        meaning: "TLS for apps. Without this table, apps are served over HTTP.",
        fields: fields_of::<AppsTls>,
        keys: &[
            key(
                "listen",
                "address",
                Described("none, required in this table"),
                "\"0.0.0.0:443\"",
                "Address and port of apps over HTTPS.",
            ),
            key(
                "certificates",
                "list of tables",
                Described("none, required in this table"),
                "[{ certificate = \"/etc/rigbox/apps.crt\", key = \"/etc/rigbox/apps.key\" }]",
                "PEM files that root can read: `certificate` with its chain, and its private `key`. Each pair serves the names in its \
                 certificate, such as `*.<domain>` for all apps. Changed files are loaded within seconds.",
            ),
        ],
    },
    Section {
        name: "ssh",
        meaning: "The SSH gateway.",
        fields: fields_of::<Ssh>,
        keys: &[
            key("listen", "address", Value, "\"127.0.0.1:7022\"", "Address and port of the gateway."),
            key(
                "host",
                "host name",
                Described("that of `api.url`"),
                "\"rigbox.example.org\"",
                "Host name at which clients reach the gateway, for `rig` and `known_hosts`.",
            ),
            key(
                "port",
                "number",
                Described("that of `listen`"),
                "22",
                "Port at which clients reach the gateway, if something in front of it forwards another one.",
            ),
        ],
    },
    Section {
        name: "ai",
        meaning: "The AI proxy. `rigboxd admin provider-key set` stores the keys of its upstreams.",
        fields: fields_of::<Ai>,
        keys: &[
            key("enabled", "boolean", Value, "true", "Workspaces may call AI providers through the proxy."),
            key(
                "upstreams",
                "table of tables",
                Described("`anthropic`, `openai` and `google`, at the providers' own addresses"),
                "{ openrouter = { provider = \"openrouter\", base_url = \"https://openrouter.ai/api\" } }",
                "Upstreams by name, beside or in place of those of the default: `provider` is `anthropic`, `openai` (also for others that \
                 speak its dialect), `google` or `openrouter`; `base_url` comes before the provider's own paths; with \
                 `stops_billing_on_abort = true` a call is aborted when its client hangs up.",
            ),
            key(
                "authorities",
                "path",
                Described("none"),
                "\"/etc/rigbox/authorities.pem\"",
                "Certificates (PEM) of authorities that are trusted beside those of the system, for upstreams of one's own. Hosts of \
                 proxied secrets are trusted by them too.",
            ),
            key(
                "proxy",
                "URL",
                Described("none"),
                "\"http://proxy.example.org:3128\"",
                "Proxy through which providers are reached, by tunnels (`CONNECT`) in which it sees TLS only: all upstreams have to be \
                 https. It resolves their names. No proxy is taken from the environment, and nothing else uses this one.",
            ),
            key(
                "proxy_credentials",
                "table",
                Described("none"),
                "{ file = \"/etc/rigbox/keys/proxy\" }",
                "User and password for the proxy, as `user:password`: `{ file = \"PATH\" }`, a file that root can read, or \
                 `{ env = \"NAME\" }`, an environment variable. They are read when the AI proxy starts.",
            ),
            key("calls_per_workspace", "integer", Value, "256", "AI calls of one workspace at once."),
            key(
                "free_calls_per_minute",
                "integer",
                Value,
                "120",
                "AI calls per minute of one workspace that use nothing, such as counts of tokens and calls that a provider refuses, after \
                 a burst of ten times as many.",
            ),
            key(
                "prices",
                "path",
                Described("the built-in table"),
                "\"/etc/rigbox/ai-prices.json\"",
                "Table of models and prices in place of the built-in one, readable for control. It is read anew when it changes; one that \
                 is broken is refused, and the previous prices stay.",
            ),
            key(
                "more_prices",
                "path",
                Described("none"),
                "\"/etc/rigbox/more-ai-prices.json\"",
                "Table with more models, in the same format. They replace those of the same id.",
            ),
            key(
                "tables",
                "path",
                Described("the built-in tables"),
                "\"/etc/rigbox/ai-tables\"",
                "Folder with tables of the fields that AI calls may have, each in place of the built-in one of its name \
                 (`anthropic.toml`, `openai_chat.toml`, ...), readable for control. They are read anew when they change; one that is \
                 broken is refused, and the previous tables stay.",
            ),
            key(
                "user_budget_usd",
                "US dollars",
                Described("none"),
                "100",
                "Budget of each user for a month, beside their credits. `rigboxd admin ai budget` sets another one.",
            ),
            key(
                "workspace_budget_usd",
                "US dollars",
                Described("none"),
                "20",
                "Budget of each workspace for a month. `rigboxd admin ai budget` sets another one.",
            ),
            key(
                "retention_days",
                "days",
                Value,
                "365",
                "Age at which records of AI calls are deleted. What is spent of credits and budgets stays as it is.",
            ),
        ],
    },
    Section {
        name: "mail",
        meaning: "Email with sign-in links. Without this table, `rigboxd admin login-link` prints the links.",
        fields: fields_of::<Mail>,
        keys: &[
            key(
                "smtp_url",
                "URL",
                Described("none, required in this table"),
                "\"smtps://user:password@smtp.example.org\"",
                "SMTP server, with its password. Protect the configuration file accordingly.",
            ),
            key(
                "from",
                "email address",
                Described("none, required in this table"),
                "\"Rigbox <rigbox@example.org>\"",
                "Sender of the emails.",
            ),
        ],
    },
    Section {
        name: "node",
        meaning: "VMs on this machine.",
        fields: fields_of::<Node>,
        keys: &[
            key(
                "uplink",
                "`veth` or `none`",
                Value,
                "\"veth\"",
                "Network access of VMs: `veth` goes through the host's network, masqueraded; `none` blocks all of it.",
            ),
            key(
                "dns",
                "list of IP addresses",
                Described("the resolvers in the host's `/etc/resolv.conf`"),
                "[\"9.9.9.9\"]",
                "DNS resolvers for VMs, at most three.",
            ),
            key(
                "blocked_networks",
                "list of IPv4 networks",
                Value,
                "[]",
                "Public networks that no VM reaches, whatever the policy of its workspace, such as other machines of yours. Networks that \
                 are not public, and the platform addresses of clouds, are always blocked.",
            ),
            key(
                "internal_zones",
                "list of domains",
                Value,
                "[]",
                "Domains that the resolvers know for your own network, with the names below them. VMs get no record of them. Zones such as \
                 `local`, `internal`, `corp` and `home.arpa`, and names of blocked addresses, are always internal.",
            ),
            key(
                "image_cache",
                "path",
                Described("`~/.cache/rigbox`"),
                "\"/var/cache/rigbox\"",
                "Folder of built images.",
            ),
            key(
                "guest_dir",
                "path",
                Described("`guest/` beside the `rigboxd` program"),
                "\"/usr/lib/rigbox/guest\"",
                "Folder with the agent and `rig` for VMs.",
            ),
            key(
                "qemu",
                "path",
                Value,
                "\"/usr/bin/qemu-system-x86_64\"",
                "QEMU, the virtual machine monitor.",
            ),
            key(
                "firecracker",
                "path",
                Described("the one that `rigboxd admin firecracker install` has installed"),
                "\"/usr/local/bin/firecracker\"",
                "Firecracker, the virtual machine monitor wherever KVM works in it. 1.15.1, or one after 1.16.1; others are refused.",
            ),
            key(
                "allow_emulation",
                "boolean",
                Value,
                "false",
                "Start workspaces also where there is no KVM, in software emulation. QEMU does not promise isolation there: only to try \
                 Rigbox out, with code that you trust.",
            ),
            key(
                "kvm_probe_timeout_s",
                "seconds",
                Value,
                "15",
                "Limit for the guest's kernel to start on KVM, which is tried when Rigbox starts. Working KVM takes less than a second; one \
                 that is nested in other virtual machines may take longer.",
            ),
            key(
                "disk_mb_per_s",
                "MB per second",
                Value,
                "500",
                "Maximum disk traffic of one workspace, reads and writes together, up to 10000.",
            ),
            key(
                "disk_iops",
                "operations per second",
                Value,
                "20000",
                "Maximum number of disk operations of one workspace.",
            ),
            key(
                "disk_reserve",
                "number from 0.0 to 1.0",
                Value,
                "1.0",
                "Share of a disk's size that is reserved when it is created. Less than 1.0 overcommits the machine's disk.",
            ),
            key(
                "max_concurrent_boots",
                "integer",
                Described("as many as the machine has CPUs, at least 4"),
                "4",
                "VMs that boot at once. More wait in a queue, in which owners take turns.",
            ),
            key(
                "boot_timeout_s",
                "seconds",
                Value,
                "120",
                "Limit from the start of a VM to its agent's first message.",
            ),
        ],
    },
    Section {
        name: "node.limits",
        meaning: "Limits of each VM's network, which protect its neighbors. They apply to VMs that are running as well. A plan may lower them \
                  (`[plans.free.limits]`). Other rates follow: packets to the resolver, ten for each of `dns_queries_per_s`; packets to the \
                  bridge and to the checks of names, 160 for each of `bandwidth_mb_per_s`, but at least 1,000 a second; answers to refused \
                  packets, a quarter of `new_connections_per_s`, but at least ten a second.",
        fields: fields_of::<NetworkLimits>,
        keys: &[
            key("connections", "integer", Value, "4096", "Outward connections at once."),
            key(
                "new_connections_per_s",
                "integer",
                Value,
                "200",
                "New connections per second, after a burst of twice as many.",
            ),
            key("bandwidth_mb_per_s", "MB/s", Value, "125", "Bandwidth in each direction, up to 10000."),
            key("bridge_connections", "integer", Value, "128", "Connections to the bridge at once."),
            key("dns_queries", "integer", Value, "64", "DNS queries in flight."),
            key(
                "dns_queries_per_s",
                "integer",
                Value,
                "50",
                "DNS queries per second that the VM's cache does not answer, after a burst of ten times as many.",
            ),
            key(
                "total_connections",
                "integer",
                Described("half of the host's `net.netfilter.nf_conntrack_max`"),
                "131072",
                "Outward connections of all VMs together.",
            ),
        ],
    },
    Section {
        name: "audit",
        meaning: "The audit log.",
        fields: fields_of::<Audit>,
        keys: &[key(
            "retention_days",
            "days",
            Value,
            "365",
            "Age at which entries of the audit log are deleted.",
        )],
    },
    Section {
        name: "secrets",
        meaning: "Encryption of secrets in the database.",
        fields: fields_of::<Secrets>,
        keys: &[key(
            "master_key",
            "table",
            Described("`{ file = \"<state>/control/master.key\" }`"),
            "{ file = \"/etc/rigbox/keys/master.key\" }",
            "Source of the master key: `{ file = \"PATH\" }`, a file of control's user in a folder that it can write; \
             `{ env = \"NAME\" }`, an environment variable; or `{ command = [\"PROGRAM\", \"ARGUMENT\"] }`, which prints it.",
        )],
    },
    Section {
        name: "plans.free",
        meaning: "Limits that differ from the defaults of a plan. The tables `plans.owner` (the administrator), `plans.free`, `plans.pro` and \
                  `plans.anonymous` have the same keys; only rates apply to `plans.anonymous`, the clients without an account. \
                  `rigboxd admin user set-limits` overrides them for one user.",
        fields: fields_of::<rigbox_core::plans::LimitOverrides>,
        keys: &[
            key("max_vms", "integer", PLAN, "5", "Maximum number of workspaces."),
            key("max_ram_per_vm_mb", "MiB", PLAN, "2048", "Maximum memory of one workspace."),
            key("max_vcpu_per_vm", "integer", PLAN, "2", "Maximum virtual CPUs of one workspace."),
            key("max_disk_per_vm_mb", "MiB", PLAN, "20480", "Maximum disk of one workspace."),
            key("max_apps_per_vm", "integer", PLAN, "10", "Maximum number of apps of one workspace."),
            key(
                "max_ssh_keys",
                "integer",
                PLAN,
                "10",
                "Maximum number of SSH keys. A number above 64 counts as 64.",
            ),
            key(
                "ai_credits_usd",
                "US dollars",
                Described("0"),
                "20",
                "Credits for AI calls that each month brings. What is left of them ends with the month; what `rigboxd admin ai grant` \
                 grants stays.",
            ),
            key(
                "authentication_per_min",
                "integer",
                PLAN,
                "60",
                "Requests per minute for API keys and the account.",
            ),
            key(
                "workspaces_per_min",
                "integer",
                PLAN,
                "600",
                "Requests per minute for workspaces and what is in them.",
            ),
            key("apps_per_min", "integer", PLAN, "120", "Requests per minute for apps."),
        ],
    },
    Section {
        name: "plans.free.limits",
        meaning: "Limits of each workspace's network and disk that are lower than those of `[node.limits]` and `[node]`. The node's are also \
                  the ceiling: of two numbers, the lower one counts. There is such a table for `plans.owner`, `plans.free` and `plans.pro`. \
                  A changed limit applies to running workspaces within seconds, and does not end what is open; that of a disk applies from \
                  the next start.",
        fields: fields_of::<rigbox_core::vm_limits::VmLimits>,
        keys: &[
            key("connections", "integer", NODE, "512", "Outward connections at once."),
            key(
                "new_connections_per_s",
                "integer",
                NODE,
                "50",
                "New connections per second, after a burst of twice as many.",
            ),
            key("bandwidth_mb_per_s", "MB/s", NODE, "20", "Bandwidth in each direction, up to 10000."),
            key("bridge_connections", "integer", NODE, "32", "Connections to the bridge at once."),
            key("dns_queries", "integer", NODE, "16", "DNS queries in flight."),
            key(
                "dns_queries_per_s",
                "integer",
                NODE,
                "20",
                "DNS queries per second that the VM's cache does not answer, after a burst of ten times as many.",
            ),
            key(
                "disk_mb_per_s",
                "MB per second",
                NODE,
                "100",
                "Disk traffic, reads and writes together, up to 10000.",
            ),
            key("disk_iops", "operations per second", NODE, "2000", "Disk operations."),
        ],
    },
];

/// Name of the table that documents those of all plans.
const PLANS: &str = "plans.free";
const NODE: Default = Described("that of the node");

const PLAN: Default = Described("that of the plan");

/// Returns the names of a type's fields, from serde's error about an unknown one.
fn fields_of<T: DeserializeOwned>() -> Vec<String> {
    let error = toml::from_str::<T>("_ = 0").err().unwrap().message().to_owned();
    let names = error.split('`').skip(1).step_by(2).map(str::to_owned);
    names.filter(|name| name != "_").collect()
}

fn documentation() -> String {
    let mut text = "# Configuration\n\n\
        The configuration file is `/etc/rigbox/rigbox.toml`, or the one given with `--config`. It is in TOML.\n\
        Every key has a default, and an unknown key is an error that names its line.\n\
        [`examples/rigbox.toml`](../examples/rigbox.toml) has all keys.\n\n\
        This page is generated from `crates/rigboxd/src/config/reference.rs`. Write it anew with\n\
        `RIGBOX_BLESS=1 cargo test --release -p rigboxd`.\n"
        .to_owned();
    for section in SECTIONS {
        match section.name {
            "" => writeln!(text, "\n## Top level\n").unwrap(),
            name => writeln!(text, "\n## `[{name}]`\n").unwrap(),
        }
        writeln!(
            text,
            "{}\n\n| key | type | default | meaning |\n| --- | --- | --- | --- |",
            section.meaning
        )
        .unwrap();
        for Key { name, kind, default, meaning, example } in section.keys {
            let default = match default {
                Value => format!("`{example}`"),
                Described(description) => (*description).to_owned(),
            };
            writeln!(text, "| `{name}` | {kind} | {default} | {meaning} |").unwrap();
        }
    }
    text
}

fn example() -> String {
    let mut text = "# Example of /etc/rigbox/rigbox.toml with all keys. Each is commented out and shows its default where there is one.\n\
        # See docs/configuration.md.\n"
        .to_owned();
    for section in SECTIONS {
        writeln!(text, "\n# {}", section.meaning).unwrap();
        if !section.name.is_empty() {
            writeln!(text, "#[{}]", section.name).unwrap();
        }
        for Key { name, default, meaning, example, .. } in section.keys {
            writeln!(text, "\n# {meaning}").unwrap();
            if let Described(description) = default {
                writeln!(text, "# Default: {description}.").unwrap();
            }
            writeln!(text, "#{name} = {example}").unwrap();
        }
    }
    text
}

/// Compares a file of the checkout with what it should contain, or writes it.
fn check(path: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    if std::env::var_os("RIGBOX_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, expected).unwrap();
    }
    let current = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        current == expected,
        "{} is not up to date; run `RIGBOX_BLESS=1 cargo test --release -p rigboxd`",
        path.display()
    );
}

#[test]
fn every_key_of_the_types_is_documented() {
    let mut documented_plans = Vec::new();
    for section in SECTIONS {
        let keys = section.keys.iter().map(|key| key.name);
        let tables = SECTIONS.iter().filter_map(|other| match (section.name, other.name.rsplit_once('.')) {
            ("", None) if !other.name.is_empty() => Some(other.name),
            ("", Some(("plans", plan))) => {
                documented_plans.push(plan);
                Some("plans")
            }
            (parent, Some((before, name))) if parent == before => Some(name),
            _ => None,
        });
        let mut documented: Vec<_> = keys.chain(tables).map(str::to_owned).collect();
        let mut fields = (section.fields)();
        documented.sort();
        fields.sort();
        assert_eq!(documented, fields, "[{}]", section.name);
    }
    let plans = SECTIONS.iter().find(|section| section.name == PLANS).unwrap();
    for plan in fields_of::<Plans>() {
        assert!(plans.meaning.contains(&format!("`plans.{plan}`")), "{plan}");
    }
    assert_eq!(
        (documented_plans, fields_of::<Certificate>()),
        (vec!["free"], vec!["certificate".into(), "key".into()])
    );
}

#[test]
fn documented_defaults_are_those_of_the_types() {
    let mut defaults = String::new();
    for section in SECTIONS {
        let keys: Vec<_> = section.keys.iter().filter(|key| matches!(key.default, Value)).collect();
        if !section.name.is_empty() && !keys.is_empty() {
            writeln!(defaults, "[{}]", section.name).unwrap();
        }
        for key in keys {
            writeln!(defaults, "{} = {}", key.name, key.example).unwrap();
        }
    }
    assert_eq!(format!("{:?}", parse(&defaults).unwrap()), format!("{:?}", parse("").unwrap()));
}

#[test]
fn documentation_is_up_to_date() {
    check("docs/configuration.md", &documentation());
}

#[test]
fn example_is_up_to_date_and_valid_with_and_without_its_comments() {
    let example = example();
    check("examples/rigbox.toml", &example);
    parse(&example).unwrap();
    let uncommented: String = example
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let file = parse(&uncommented).unwrap();
    assert!(file.mail.is_some() && file.apps.tls.is_some() && file.plans.free.max_vms == Some(5));
    assert_eq!(file.plans.free.limits.connections, NonZeroU32::new(512));
}
