//! SSH gateway of the server: where it is, and by which keys it is known. The server tells both in the form of `known_hosts`.

use std::fs;
use std::path::PathBuf;

use crate::api::Api;
use crate::failure::Failure;

/// Port that `known_hosts` does not name.
const DEFAULT_PORT: u16 = 22;

pub(super) struct Gateway {
    pub(super) host: String,
    pub(super) port: u16,
    /// Lines of `known_hosts`.
    pub(super) known_hosts: String,
}

impl Gateway {
    pub(super) async fn find(api: &Api) -> Result<Self, Failure> {
        let known_hosts = api.ssh_known_hosts().await?;
        Self::parse(known_hosts).ok_or_else(|| {
            Failure::new(
                "unexpected_response",
                "the server's answer about its SSH gateway is no known_hosts".to_owned(),
            )
        })
    }

    fn parse(known_hosts: String) -> Option<Self> {
        let is_plain = known_hosts.chars().all(|character| character == '\n' || !character.is_control());
        let pattern = known_hosts.split_whitespace().next().filter(|_| is_plain)?;
        let (host, port) = match pattern.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.rsplit_once("]:")?;
                (host.to_owned(), port.parse().ok()?)
            }
            None => (pattern.to_owned(), DEFAULT_PORT),
        };
        // The host is a word of a command line.
        (!host.is_empty() && !host.starts_with('-')).then_some(Self { host, port, known_hosts })
    }

    /// Saves the lines for `ssh`. Returns the path of the file.
    pub(super) fn save(&self) -> Result<PathBuf, Failure> {
        let folder = std::env::home_dir().map(|home| home.join(".rigbox"));
        let folder = folder.ok_or_else(|| Failure::new("no_home", "there is no home folder".to_owned()))?;
        let path = folder.join("ssh_known_hosts");
        let is_saved = fs::read_to_string(&path).is_ok_and(|saved| saved == self.known_hosts);
        let save = || {
            fs::create_dir_all(&folder)?;
            fs::write(&path, &self.known_hosts)
        };
        if !is_saved {
            let failed = |error| Failure::new("file", format!("cannot write {}: {error}", path.display()));
            save().map_err(failed)?;
        }
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_of_the_gateway_is_read_from_its_known_hosts() {
        let place = |text: &str| {
            let gateway = Gateway::parse(text.to_owned())?;
            Some((gateway.host, gateway.port))
        };
        assert_eq!(
            place("[rigbox.example]:7022 ssh-ed25519 AAAA\n"),
            Some(("rigbox.example".to_owned(), 7022))
        );
        assert_eq!(place("rigbox.example ssh-ed25519 AAAA\n"), Some(("rigbox.example".to_owned(), 22)));
        for bad in
            ["", "\n", "-oProxyCommand=x ssh-ed25519 AAAA\n", "[a]:x ssh-ed25519\n", "a\u{1b}[0m b c\n"]
        {
            assert_eq!(place(bad), None, "{bad:?}");
        }
    }
}
