//! Bounds of our own roles in the host's network: a guestio or a gateway that was taken over reaches no service of the host and nothing
//! behind it. The rules are in `roles.nft`.

use std::fmt::Write;

use super::rules;
use crate::config::Config;
use crate::error::Error;

const RULES: &str = include_str!("roles.nft");

/// Loads the rules, in place of those of an earlier node.
pub(crate) fn confine(config: &Config) -> Result<(), Error> {
    rules::apply(&document(config)).map_err(Error::system("load the rules for the roles"))
}

/// Removes the rules, if there are any.
pub(crate) fn release(config: &Config) -> Result<(), Error> {
    let table = table(config);
    rules::apply(&format!("table inet {table}\ndelete table inet {table}\n"))
        .map_err(Error::system("remove the rules for the roles"))
}

fn table(config: &Config) -> String {
    format!("rigbox_roles_{}", config.installation)
}

fn document(config: &Config) -> String {
    let table = table(config);
    let mut document = RULES
        .replace("TABLE", &table)
        .replace("GUESTIO", &config.guestio_uid.to_string())
        .replace("EDGE", &config.edge_uid.to_string())
        .replace("SSH_GATEWAY", &config.ssh_uid.to_string());
    for resolver in &config.resolvers {
        let set = if resolver.is_ipv4() { "resolvers" } else { "resolvers6" };
        // Writing to a string cannot fail.
        let _ = writeln!(document, "add element inet {table} {set} {{ {} }}", resolver.to_canonical());
    }
    document
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use nix::sched::{CloneFlags, unshare};
    use nix::unistd::{Gid, Uid};

    use super::*;

    const GUESTIO: u32 = 1_900_000_001;
    const EDGE: u32 = 1_900_000_002;
    const SSH: u32 = 1_900_000_003;
    const OTHER: u32 = 1_900_000_004;

    /// Opens a TCP connection as `uid` in the calling thread's network.
    fn connects(uid: u32, port: u16) -> bool {
        let mut bash = Command::new("timeout");
        bash.args(["5", "bash", "-c", &format!("exec 3<>/dev/tcp/127.0.0.1/{port}")]);
        bash.uid(uid).gid(uid).stderr(std::process::Stdio::null()).status().unwrap().success()
    }

    #[test]
    fn roles_open_no_connection_to_the_host() {
        if !Uid::effective().is_root() {
            eprintln!("skipped: network namespaces need root");
            return;
        }
        let network = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            rigbox_sys::network::bring_up("lo").unwrap();
            let config = Config {
                guestio_uid: GUESTIO,
                edge_uid: EDGE,
                ssh_uid: SSH,
                resolvers: vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
                ..Config::for_tests()
            };
            let resolver = TcpListener::bind("127.0.0.1:53").unwrap();
            let database = TcpListener::bind("127.0.0.1:5432").unwrap();
            let reached = |port| [GUESTIO, EDGE, SSH, OTHER].map(|uid| connects(uid, port));
            assert_eq!(reached(53), [true; 4]);
            confine(&config).unwrap();
            confine(&config).unwrap();
            assert_eq!(reached(53), [true, false, false, true]);
            assert_eq!(reached(5432), [false, false, false, true]);
            // What edge accepts works as before.
            let own = TcpListener::bind("127.0.0.1:7080").unwrap();
            nix::unistd::fchown(&own, Some(Uid::from_raw(EDGE)), Some(Gid::from_raw(EDGE))).unwrap();
            let mut client = TcpStream::connect("127.0.0.1:7080").unwrap();
            let (mut accepted, _) = own.accept().unwrap();
            accepted.write_all(b"hello").unwrap();
            drop(accepted);
            let mut text = String::new();
            client.read_to_string(&mut text).unwrap();
            assert_eq!(text, "hello");
            release(&config).unwrap();
            assert_eq!(reached(5432), [true; 4]);
            drop((resolver, database));
        });
        network.join().unwrap();
    }
}
