//! The form of the configuration's file: everything has a default, and a typo is an error that names the line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::Result;
use rigbox_core::plans::Plans;
use secrecy::SecretString;
use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    /// State folder.
    pub(super) state: PathBuf,
    /// Folder for sockets, mounts and namespaces; emptied by a reboot of the host.
    pub(super) run: PathBuf,
    /// First of the uids that roles and VMs run as; without it, a range that follows from the state folder's path.
    pub(super) uid_base: Option<u32>,
    pub(super) api: Api,
    pub(super) apps: Apps,
    /// How letters are sent; without it, sign-in links are in the log.
    pub(super) mail: Option<Mail>,
    pub(super) node: Node,
    /// `[plans.free]` and so on: numbers of a plan that are not the default.
    pub(super) plans: Plans,
    pub(super) secrets: Secrets,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Api {
    pub(super) listen: SocketAddr,
    /// How clients reach it; without it, `http://localhost:<port of listen>`.
    pub(super) url: Option<String>,
    /// Where people sign in; without it, `console.localhost` where the API is on `localhost`, else the API's own host.
    pub(super) console_url: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Apps {
    pub(super) listen: SocketAddr,
    /// Apps are at `<app>.<domain>`; not the domain that the console is below.
    pub(super) domain: String,
    /// With it, clients come in there, and `listen` sends them there.
    pub(super) tls: Option<AppsTls>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AppsTls {
    pub(super) listen: SocketAddr,
    /// Each is used for the names that stand in it.
    pub(super) certificates: Vec<Certificate>,
}

/// Files in PEM; what root may read will do.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Certificate {
    /// With the chain that leads to it.
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mail {
    /// E.g. `smtps://user:password@smtp.example.org`.
    pub(super) smtp_url: SecretString,
    /// E.g. `Rigbox <rigbox@example.org>`.
    pub(super) from: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Node {
    /// `veth`: by the host's own network, masqueraded; `none`: nothing leaves a VM's network.
    pub(super) uplink: Uplink,
    /// Resolvers for VMs' names; without them, those of the host's `/etc/resolv.conf`.
    pub(super) dns: Option<Vec<IpAddr>>,
    pub(super) image_cache: Option<PathBuf>,
    pub(super) guest_dir: Option<PathBuf>,
    pub(super) qemu: PathBuf,
    pub(super) disk_reserve: f64,
    pub(super) boot_timeout_s: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Secrets {
    /// Where the master keys come from; without it, `master.key` in control's part of the state folder.
    pub(super) master_key: Option<MasterKey>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum MasterKey {
    /// A file of control's own user, in a folder that it may write for a rotation.
    File(PathBuf),
    Env(String),
    /// Program and arguments, run as control's user.
    Command(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Uplink {
    Veth,
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
            mail: None,
            node: Node::default(),
            plans: Plans::default(),
            secrets: Secrets::default(),
        }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 7070)), url: None, console_url: None }
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
            image_cache: None,
            guest_dir: None,
            qemu: "/usr/bin/qemu-system-x86_64".into(),
            disk_reserve: 1.0,
            boot_timeout_s: 120,
        }
    }
}

/// What stands in a file.
pub(super) fn parse(text: &str) -> Result<File> {
    let document = toml::Deserializer::parse(text)?;
    Ok(serde_path_to_error::deserialize(document)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_is_an_error_that_names_the_line() {
        let error = parse("state = \"/tmp/x\"\n[api]\nlisten_on = \"127.0.0.1:1\"\n").unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("line 3") && text.contains("listen_on"), "{text}");
    }

    #[test]
    fn a_plan_is_set_by_its_name_and_no_rate_is_zero() {
        let plans = |text: &str| parse(text).map(|file| file.plans);
        let set = plans("[plans.free]\nmax_vms = 3\nworkspaces_per_min = 600\n").unwrap();
        assert_eq!((set.free.max_vms, set.pro.max_vms), (Some(3), None));
        for (bad, says) in [
            ("[plans.fre]\nmax_vms = 3\n", "fre"),
            ("[plans.free]\nmax_vm = 3\n", "line 2"),
            ("[plans.pro]\nmax_vms = 3\napps_per_min = 0\n", "line 3"),
            ("[plans.pro]\nmax_vms = \"many\"\n", "line 2"),
        ] {
            let text = format!("{:#}", plans(bad).unwrap_err());
            assert!(text.contains(says), "{bad}: {text}");
        }
    }

    #[test]
    fn a_mail_servers_password_is_not_shown() {
        let file = parse("[mail]\nsmtp_url = \"smtps://u:hunter2@x\"\nfrom = \"a@b.example\"\n").unwrap();
        assert!(!format!("{file:?}").contains("hunter2"));
    }
}
