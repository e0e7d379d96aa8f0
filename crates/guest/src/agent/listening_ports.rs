//! Listening TCP ports of the guest, from the kernel's socket tables, and the processes behind them.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use rigbox_proto::guest::ListeningPort;

const MAX_PORTS: usize = 256;
/// Arguments of a command line, or names of variables, that are reported.
const MAX_WORDS: usize = 64;
const MAX_WORD_CHARS: usize = 512;
/// State of a listening socket (include/net/tcp_states.h).
const TCP_LISTEN: &str = "0A";

/// Lists all listening ports in ascending order. With a nonzero `only`, describes that port in full.
pub(super) fn list(only: u32) -> io::Result<Vec<ListeningPort>> {
    let mut sockets = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        match fs::read_to_string(table) {
            Ok(text) => sockets.extend(text.lines().skip(1).filter_map(parse_listening)),
            // The guest has no IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    sockets.retain(|socket| only == 0 || u32::from(socket.port) == only);
    sockets.sort_by_key(|socket| (socket.port, socket.address));
    sockets.dedup_by_key(|socket| (socket.port, socket.address));
    sockets.truncate(MAX_PORTS);
    let owners = owners(&sockets);
    Ok(sockets.iter().map(|socket| describe(socket, owners.get(&socket.inode).copied(), only != 0)).collect())
}

/// Listening socket.
struct Socket {
    address: IpAddr,
    port: u16,
    uid: u32,
    inode: u64,
}

/// Parses a line of proc_net_tcp(5). Returns `None` unless the socket is listening.
fn parse_listening(line: &str) -> Option<Socket> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (local, state) = (words.next()?, words.nth(1)?);
    let uid = words.nth(3)?.parse().ok()?;
    let inode = words.nth(1)?.parse().ok()?;
    let (address, port) = local.split_once(':')?;
    let socket =
        Socket { address: parse_address(address)?, port: u16::from_str_radix(port, 16).ok()?, uid, inode };
    (state == TCP_LISTEN).then_some(socket)
}

/// Parses an address of 32-bit words, each in native byte order.
fn parse_address(address: &str) -> Option<IpAddr> {
    let word = |index: usize| {
        u32::from_str_radix(address.get(index * 8..index * 8 + 8)?, 16).ok().map(u32::to_ne_bytes)
    };
    match address.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let bytes = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
        }
        _ => None,
    }
}

/// Finds the process that owns each socket, by inode. If several processes share a socket, the one with the lowest pid.
fn owners(sockets: &[Socket]) -> HashMap<u64, u32> {
    let mut found = HashMap::new();
    let Ok(processes) = fs::read_dir("/proc") else { return found };
    let mut pids: Vec<u32> =
        processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    for pid in pids {
        // The process may have just exited.
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for target in descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()) {
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

fn describe(socket: &Socket, pid: Option<u32>, in_full: bool) -> ListeningPort {
    let mut port = ListeningPort {
        port: socket.port.into(),
        address: socket.address.to_string(),
        uid: socket.uid,
        ..ListeningPort::default()
    };
    let Some(pid) = pid else { return port };
    let proc_file = |name: &str| format!("/proc/{pid}/{name}");
    port.pid = pid;
    port.process =
        fs::read_to_string(proc_file("comm")).map(|name| truncate(name.trim_end())).unwrap_or_default();
    port.unit =
        fs::read_to_string(proc_file("cgroup")).ok().and_then(|text| unit_of(&text)).unwrap_or_default();
    if in_full {
        port.command = words(&proc_file("cmdline")).collect();
        port.cwd =
            fs::read_link(proc_file("cwd")).map(|path| truncate(&path.to_string_lossy())).unwrap_or_default();
        let names = words(&proc_file("environ")).filter_map(|pair| Some(pair.split_once('=')?.0.to_owned()));
        port.env_names = names.collect();
    }
    port
}

/// Reads the NUL-terminated words of a file.
fn words(path: &str) -> impl Iterator<Item = String> + use<> {
    let bytes = fs::read(Path::new(path)).unwrap_or_default();
    let words: Vec<String> = bytes
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .take(MAX_WORDS)
        .map(|word| truncate(&String::from_utf8_lossy(word)))
        .collect();
    words.into_iter()
}

fn truncate(text: &str) -> String {
    text.chars().take(MAX_WORD_CHARS).collect()
}

/// Returns the systemd service of a control group in `/proc/PID/cgroup` (cgroups(7)).
fn unit_of(cgroup: &str) -> Option<String> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    path.rsplit('/').find(|part| part.ends_with(".service")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_socket_is_parsed_from_the_kernels_table() {
        let line = "   0: 00000000:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100 0 0 10 0";
        let socket = parse_listening(line).unwrap();
        assert_eq!((socket.address.to_string().as_str(), socket.port), ("0.0.0.0", 8000));
        assert_eq!((socket.uid, socket.inode), (1000, 4711));
        assert!(parse_listening(&line.replace(" 0A ", " 01 ")).is_none());
        assert!(parse_listening("").is_none() && parse_listening("a b c").is_none());
        assert_eq!(parse_address("0100007F").unwrap().to_string(), "127.0.0.1");
        assert_eq!(parse_address("00000000000000000000000001000000").unwrap().to_string(), "::1");
    }

    #[test]
    fn port_of_this_process_is_described_in_full() {
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
    fn service_is_identified_by_its_control_group() {
        assert_eq!(
            unit_of("0::/system.slice/rigbox-svc-web.service\n").as_deref(),
            Some("rigbox-svc-web.service")
        );
        assert_eq!(unit_of("0::/rigbox/exec/7\n"), None);
    }
}
