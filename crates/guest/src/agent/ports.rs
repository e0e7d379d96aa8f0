//! What listens in the guest: the kernel's tables of TCP sockets, and the processes that hold them.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use rigbox_proto::guest::ListeningPort;

/// More are not reported.
const MOST: usize = 256;
/// Of command lines and names of variables.
const MOST_WORDS: usize = 64;
const LONGEST: usize = 512;
/// State of a listening socket (include/net/tcp_states.h).
const LISTEN: &str = "0A";

/// Every listening port, or all about one, lowest first.
pub(super) fn list(only: u32) -> io::Result<Vec<ListeningPort>> {
    let mut sockets = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        match fs::read_to_string(table) {
            Ok(text) => sockets.extend(text.lines().skip(1).filter_map(listening)),
            // A guest without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    sockets.retain(|socket| only == 0 || u32::from(socket.port) == only);
    sockets.sort_by_key(|socket| (socket.port, socket.address));
    sockets.dedup_by_key(|socket| (socket.port, socket.address));
    sockets.truncate(MOST);
    let holders = holders(&sockets);
    Ok(sockets
        .iter()
        .map(|socket| describe(socket, holders.get(&socket.inode).copied(), only != 0))
        .collect())
}

struct Socket {
    address: IpAddr,
    port: u16,
    uid: u32,
    inode: u64,
}

/// A line of proc_net_tcp(5), if the socket listens.
fn listening(line: &str) -> Option<Socket> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (local, state) = (words.next()?, words.nth(1)?);
    let uid = words.nth(3)?.parse().ok()?;
    let inode = words.nth(1)?.parse().ok()?;
    let (address, port) = local.split_once(':')?;
    let socket = Socket { address: parse(address)?, port: u16::from_str_radix(port, 16).ok()?, uid, inode };
    (state == LISTEN).then_some(socket)
}

/// Words of 32 bits, each in the byte order of the machine.
fn parse(address: &str) -> Option<IpAddr> {
    let word =
        |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    match address.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let bytes = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
        }
        _ => None,
    }
}

/// Which process holds each socket; where several do, the one that was there first.
fn holders(sockets: &[Socket]) -> HashMap<u64, u32> {
    let mut found = HashMap::new();
    let Ok(processes) = fs::read_dir("/proc") else { return found };
    let mut pids: Vec<u32> =
        processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    for pid in pids {
        // One that has just ended holds nothing.
        let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for target in open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()) {
            let inode = target
                .to_str()
                .and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            if let Some(inode) = inode.filter(|inode| sockets.iter().any(|socket| socket.inode == *inode)) {
                found.entry(inode).or_insert(pid);
            }
        }
    }
    found
}

fn describe(socket: &Socket, pid: Option<u32>, whole: bool) -> ListeningPort {
    let mut port = ListeningPort {
        port: socket.port.into(),
        address: socket.address.to_string(),
        uid: socket.uid,
        ..ListeningPort::default()
    };
    let Some(pid) = pid else { return port };
    let of = |name: &str| format!("/proc/{pid}/{name}");
    port.pid = pid;
    port.process = fs::read_to_string(of("comm")).map(|name| short(name.trim_end())).unwrap_or_default();
    port.unit = fs::read_to_string(of("cgroup")).ok().and_then(|text| unit(&text)).unwrap_or_default();
    if whole {
        port.command = words(&of("cmdline")).collect();
        port.cwd = fs::read_link(of("cwd")).map(|path| short(&path.to_string_lossy())).unwrap_or_default();
        let names = words(&of("environ")).filter_map(|pair| Some(pair.split_once('=')?.0.to_owned()));
        port.env_names = names.collect();
    }
    port
}

/// The words of a file that has a NUL after each.
fn words(path: &str) -> impl Iterator<Item = String> + use<> {
    let bytes = fs::read(Path::new(path)).unwrap_or_default();
    let words: Vec<String> = bytes
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .take(MOST_WORDS)
        .map(|word| short(&String::from_utf8_lossy(word)))
        .collect();
    words.into_iter()
}

fn short(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

/// The service whose control group a process is in (cgroups(7), /proc/PID/cgroup).
fn unit(cgroup: &str) -> Option<String> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    path.rsplit('/').find(|part| part.ends_with(".service")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_socket_is_read_from_the_kernels_table() {
        let line = "   0: 00000000:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100 0 0 10 0";
        let socket = listening(line).unwrap();
        assert_eq!((socket.address.to_string().as_str(), socket.port), ("0.0.0.0", 8000));
        assert_eq!((socket.uid, socket.inode), (1000, 4711));
        assert!(listening(&line.replace(" 0A ", " 01 ")).is_none());
        assert!(listening("").is_none() && listening("a b c").is_none());
        assert_eq!(parse("0100007F").unwrap().to_string(), "127.0.0.1");
        assert_eq!(parse("00000000000000000000000001000000").unwrap().to_string(), "::1");
    }

    #[test]
    fn what_this_process_listens_on_is_found_with_all_about_it() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = list(port.into()).unwrap();
        let [found] = &found[..] else { panic!("{found:?}") };
        assert_eq!((found.port, found.address.as_str()), (port.into(), "127.0.0.1"));
        assert_eq!(found.pid, std::process::id());
        assert!(!found.command.is_empty() && !found.cwd.is_empty());
        assert!(found.env_names.iter().any(|name| name == "PATH"), "{found:?}");
        assert!(list(0).unwrap().iter().all(|port| port.command.is_empty()));
    }

    #[test]
    fn a_service_is_known_by_its_control_group() {
        let unit_of = |text: &str| unit(text);
        assert_eq!(
            unit_of("0::/system.slice/rigbox-svc-web.service\n").as_deref(),
            Some("rigbox-svc-web.service")
        );
        assert_eq!(unit_of("0::/rigbox/exec/7\n"), None);
    }
}
