//! `rig ssh config`: a file for `ssh` with a stanza for each workspace, which `~/.ssh/config` includes.

use std::fs;
use std::io;
use std::path::Path;

use super::gateway::Gateway;
use super::user;
use crate::api::Api;
use crate::failure::Failure;
use crate::output::Output;
use crate::private_file;

const FILE: &str = ".rigbox/ssh_config";
const INCLUDE: &str = "Include ~/.rigbox/ssh_config";

pub(super) async fn write(api: &Api, out: &Output, stdio: bool) -> Result<(), Failure> {
    let (gateway, workspaces) = (Gateway::find(api).await?, api.workspaces().await?);
    let known_hosts = gateway.save()?;
    let home =
        std::env::home_dir().ok_or_else(|| Failure::new("no_home", "there is no home folder".to_owned()))?;
    let own = || std::env::current_exe().map_err(|error| Failure::new("file", error.to_string()));
    let rig = stdio.then(own).transpose()?;
    let mut text = "# Written by `rig ssh config`, which replaces it.\n".to_owned();
    for vm in &workspaces {
        text.push('\n');
        text.push_str(&stanza(&vm.name, &user(vm), &gateway, Some(&known_hosts), rig.as_deref()));
    }
    let path = home.join(FILE);
    let written = private_file::replace(&path, &text).and_then(|()| include(&home.join(".ssh")));
    written.map_err(|error| Failure::new("file", format!("cannot write {}: {error}", path.display())))?;
    let fields = [
        ("file".to_owned(), path.display().to_string().into()),
        ("workspaces".to_owned(), workspaces.len().into()),
    ];
    out.response("ssh_config", fields.into_iter().collect())?;
    let count = workspaces.len();
    let noun = if count == 1 { "workspace" } else { "workspaces" };
    out.line(&format!("{count} {noun} in {}, which ~/.ssh/config includes", path.display()))?;
    match workspaces.first() {
        Some(vm) => out.line(&format!("Try: ssh {}.rigbox", vm.name)),
        None => Ok(()),
    }
}

/// Returns a workspace's stanza of `ssh_config`. With the path of `rig`, the connection goes over the API.
pub(super) fn stanza(
    name: &str,
    user: &str,
    gateway: &Gateway,
    known_hosts: Option<&Path>,
    rig: Option<&Path>,
) -> String {
    let mut stanza = format!(
        "Host {name}.rigbox\n    HostName {}\n    Port {}\n    User {user}\n",
        gateway.host, gateway.port
    );
    if let Some(path) = known_hosts {
        stanza.push_str(&format!("    UserKnownHostsFile \"{}\"\n    UpdateHostKeys yes\n", path.display()));
    }
    if let Some(rig) = rig {
        // For a shell, which `ssh` has execute it; a percent sign is ssh's own.
        let rig = rig.display().to_string().replace('\'', "'\\''").replace('%', "%%");
        stanza.push_str(&format!("    ProxyCommand '{rig}' ssh --stdio -- {name}\n"));
    }
    stanza
}

/// Includes the file at the top of `~/.ssh/config`: further down, it would belong to the stanza before it.
fn include(folder: &Path) -> io::Result<()> {
    let path = folder.join("config");
    let before = match fs::read_to_string(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        text => text.unwrap_or_default(),
    };
    let is_stanza = |line: &&str| {
        let word = line.split([' ', '\t', '=']).next().unwrap_or_default();
        word.eq_ignore_ascii_case("host") || word.eq_ignore_ascii_case("match")
    };
    if before.lines().map(str::trim).take_while(|line| !is_stanza(line)).any(|line| line == INCLUDE) {
        return Ok(());
    }
    // Where a link leads, which is where its owner keeps it.
    let path = path.canonicalize().unwrap_or(path);
    private_file::replace(&path, &format!("{INCLUDE}\n\n{before}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_over_the_api_is_made_by_rig() {
        let gateway = Gateway { host: "h".to_owned(), port: 7022, known_hosts: String::new() };
        let stanza = stanza("web", "web-abc", &gateway, None, Some(Path::new("/o'brien/100%/rig")));
        assert!(
            stanza.ends_with("    ProxyCommand '/o'\\''brien/100%%/rig' ssh --stdio -- web\n"),
            "{stanza}"
        );
    }

    #[test]
    fn own_configuration_stays_below_the_include() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(".ssh");
        include(&folder).unwrap();
        fs::write(folder.join("config"), "Host own\n    Port 1\n").unwrap();
        include(&folder).unwrap();
        include(&folder).unwrap();
        let text = fs::read_to_string(folder.join("config")).unwrap();
        assert_eq!(text, format!("{INCLUDE}\n\nHost own\n    Port 1\n"));
        // In a stanza it is for that host alone.
        let elsewhere = format!("host=other\n    {INCLUDE}\n");
        fs::write(folder.join("config"), &elsewhere).unwrap();
        include(&folder).unwrap();
        let text = fs::read_to_string(folder.join("config")).unwrap();
        assert_eq!(text, format!("{INCLUDE}\n\n{elsewhere}"));
    }
}
