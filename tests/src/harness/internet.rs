//! Simulated internet of the host under test: a network namespace at the other end of the host's `eth0`, with a few servers (threads of this
//! program) on public addresses, a DNS resolver, and recorders of all frames in a namespace.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, TXT};
use hickory_proto::rr::{RData, Record, RecordType};
use nix::sched::{CloneFlags, setns, unshare};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

const PATH: &str = "/run/internet";
/// Public address of the host under test.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 2);
const ROUTER: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 1);
/// A public server, and another one.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(1, 2, 3, 4);
pub(crate) const OTHER: Ipv4Addr = Ipv4Addr::new(5, 6, 7, 8);
pub(crate) const RESOLVER: Ipv4Addr = Ipv4Addr::new(9, 9, 9, 9);
/// Body of the servers' responses.
pub(crate) const GREETING: &str = "hello from the internet";
/// Port on which the servers send without end.
pub(crate) const STREAM: u16 = 9999;
/// Port on which `server.example` speaks TLS, and says what it was asked and if it got a credential. `/echo` has the whole request.
pub(crate) const API: u16 = 8443;
/// Certificate of `server.example`, in the scratch folder.
pub(crate) const CERTIFICATE: &str = "internet.pem";

/// The internet, as tests see it.
pub(crate) struct Internet {
    /// Log of the names that the resolver was asked for, one per line.
    queries: PathBuf,
}

impl Internet {
    /// Creates it and serves it on threads of this process. The host gets `eth0` and a default route.
    pub(crate) fn serve(scratch: &Path) -> Result<()> {
        File::create(PATH)?;
        let created = std::thread::spawn(|| -> io::Result<()> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let own = Some("/proc/thread-self/ns/net");
            nix::mount::mount(own, PATH, None::<&str>, nix::mount::MsFlags::MS_BIND, None::<&str>)?;
            rigbox_sys::network::bring_up("lo")
        });
        created.join().map_err(|_| anyhow::anyhow!("the internet"))??;
        let mask = Ipv4Addr::new(255, 255, 255, 0);
        ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", PATH])?;
        rigbox_sys::network::set_address("eth0", HOST, mask)?;
        inside(Path::new(PATH), move || {
            rigbox_sys::network::set_address("eth0", ROUTER, mask)?;
            for address in [SERVER, OTHER, RESOLVER] {
                ip(&["address", "add", &format!("{address}/32"), "dev", "lo"]).map_err(io::Error::other)?;
            }
            Ok(())
        })?;
        rigbox_sys::network::add_default_route(ROUTER)?;
        for address in [SERVER, OTHER] {
            for port in [25, 80, 443, 8080] {
                serve(address, port, |stream| {
                    let mut request = [0; 4096];
                    let _ = stream.read(&mut request);
                    let _ = write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: 23\r\n\r\n{GREETING}");
                })?;
            }
            serve(address, STREAM, |stream| {
                while stream.write_all(b"tick\n").is_ok() {
                    std::thread::sleep(Duration::from_millis(50));
                }
            })?;
        }
        serve_api(scratch)?;
        resolve(&File::options().create(true).append(true).open(queries(scratch))?)
    }

    /// Returns the internet that another process serves.
    pub(crate) fn new(scratch: &Path) -> Self {
        Self { queries: queries(scratch) }
    }

    /// Returns how often the resolver was asked for a name.
    pub(crate) fn asked_for(&self, name: &str) -> Result<usize> {
        Ok(std::fs::read_to_string(&self.queries)?.lines().filter(|asked| *asked == name).count())
    }

    /// Records frames that enter or leave the internet.
    pub(crate) fn record(&self) -> Result<Recorder> {
        Recorder::start(Path::new(PATH))
    }
}

fn queries(scratch: &Path) -> PathBuf {
    scratch.join("resolver.log")
}

fn ip(arguments: &[&str]) -> Result<()> {
    run("ip", arguments)
}

/// Runs a program, which must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{program} {arguments:?}: {said}");
    Ok(())
}

/// Runs `work` on a thread in the namespace at `path`.
pub(crate) fn inside<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let path = path.to_owned();
    let thread = std::thread::spawn(move || {
        setns(File::open(&path)?, CloneFlags::CLONE_NEWNET)?;
        work()
    });
    let done = thread.join().map_err(|_| anyhow::anyhow!("a thread in a namespace"))?;
    done.context("in a namespace")
}

/// Starts a server in the internet.
fn serve(address: Ipv4Addr, port: u16, talk: fn(&mut std::net::TcpStream)) -> Result<()> {
    let listener = inside(Path::new(PATH), move || TcpListener::bind((address, port)))?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || talk(&mut stream));
        }
    });
    Ok(())
}

/// Serves [`API`].
fn serve_api(scratch: &Path) -> Result<()> {
    let names = ["server.example", "inside.example", "metadata.example"].map(str::to_owned).to_vec();
    let certificate = rcgen::generate_simple_self_signed(names)?;
    std::fs::write(scratch.join(CERTIFICATE), certificate.cert.pem())?;
    let key = PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let config = ServerConfig::builder_with_provider(default_provider().into())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key)?;
    let config = Arc::new(config);
    let listener = inside(Path::new(PATH), || TcpListener::bind((SERVER, API)))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let Ok(session) = ServerConnection::new(config.clone()) else { continue };
            std::thread::spawn(move || {
                let mut stream = StreamOwned::new(session, stream);
                let mut request = [0; 4096];
                let Ok(length) = stream.read(&mut request) else { return };
                let request = String::from_utf8_lossy(&request[..length]);
                let line = request.lines().next().unwrap_or_default();
                let has_credential = request.to_ascii_lowercase().contains("\nauthorization: bearer ");
                let body = if line.contains(" /echo ") {
                    request.into_owned()
                } else {
                    format!("{line}: {has_credential}")
                };
                let head =
                    format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
                let _ = stream.write_all((head + &body).as_bytes());
                stream.conn.send_close_notify();
                let _ = stream.flush();
            });
        }
    });
    Ok(())
}

/// Returns records of the resolver's zone.
fn records(name: &str, kind: RecordType) -> Option<Vec<RData>> {
    let address = |address: Ipv4Addr| vec![RData::A(A(address))];
    Some(match (name, kind) {
        ("server.example.", RecordType::A) => address(SERVER),
        ("other.example.", RecordType::A) => address(OTHER),
        ("inside.example.", RecordType::A) => [address(SERVER), address([10, 0, 0, 1].into())].concat(),
        ("metadata.example.", RecordType::A) => address([169, 254, 169, 254].into()),
        ("server.example.", RecordType::AAAA) => {
            vec![RData::AAAA(AAAA([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into()))]
        }
        ("long.example.", RecordType::TXT) => vec![RData::TXT(TXT::new(vec!["x".repeat(250); 8]))],
        _ => return None,
    })
}

fn reply(bytes: &[u8], mut queries: &File, longest: usize) -> Option<Vec<u8>> {
    let request = Message::from_vec(bytes).ok()?;
    let query = request.queries.first()?.clone();
    let name = query.name().to_ascii().to_ascii_lowercase();
    queries.write_all(format!("{}\n", name.trim_end_matches('.')).as_bytes()).ok()?;
    let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
    reply.add_query(query.clone());
    match records(&name, query.query_type()) {
        Some(found) => {
            reply.add_answers(
                found.into_iter().map(|data| Record::from_rdata(query.name().clone(), 60, data)),
            );
        }
        None => reply.metadata.response_code = ResponseCode::NXDomain,
    }
    let bytes = reply.to_vec().ok()?;
    if bytes.len() > longest { reply.truncate().to_vec().ok() } else { Some(bytes) }
}

fn resolve(queries: &File) -> Result<()> {
    let udp = inside(Path::new(PATH), || UdpSocket::bind((RESOLVER, 53)))?;
    let tcp = inside(Path::new(PATH), || TcpListener::bind((RESOLVER, 53)))?;
    let (by_datagram, by_connection) = (queries.try_clone()?, queries.try_clone()?);
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            if let Some(reply) = reply(&buffer[..length], &by_datagram, 1232) {
                let _ = udp.send_to(&reply, from);
            }
        }
    });
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let mut length = [0; 2];
            if stream.read_exact(&mut length).is_err() {
                continue;
            }
            let mut bytes = vec![0; u16::from_be_bytes(length).into()];
            if stream.read_exact(&mut bytes).is_ok()
                && let Some(reply) = reply(&bytes, &by_connection, usize::MAX)
            {
                let length = u16::try_from(reply.len()).unwrap_or(0).to_be_bytes();
                let _ = stream.write_all(&[length.as_slice(), &reply].concat());
            }
        }
    });
    Ok(())
}

/// Records every frame on every device of a namespace.
pub(crate) struct Recorder {
    frames: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Recorder {
    /// Starts in the namespace at `path`.
    pub(crate) fn start(path: &Path) -> Result<Self> {
        use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};
        // ETH_P_ALL, in network order.
        let all = Protocol::from_raw(std::num::NonZeroU32::new(u32::from(3u16.to_be())).context("a number")?);
        let socket: OwnedFd = inside(path, move || {
            let flags = SocketFlags::CLOEXEC;
            Ok(socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(all))?)
        })?;
        let frames: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let record = Arc::clone(&frames);
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, _)) =
                rustix::net::recv(&socket, &mut buffer, rustix::net::RecvFlags::empty())
            {
                // The recorder was dropped.
                if Arc::strong_count(&record) == 1 {
                    return;
                }
                record.lock().unwrap_or_else(PoisonError::into_inner).push(buffer[..length].to_vec());
            }
        });
        Ok(Self { frames })
    }

    /// Counts packets with which a POST request begins.
    pub(crate) fn http_posts(&self) -> usize {
        let frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        frames
            .iter()
            .filter(|frame| tcp_payload(frame).is_some_and(|data| data.starts_with(b"POST /")))
            .count()
    }

    /// Counts frames that contain `mark`, by description.
    pub(crate) fn marked(&self, mark: &[u8]) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for frame in self.frames.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if frame.windows(mark.len()).any(|window| window == mark) {
                *found.entry(describe(frame)).or_default() += 1;
            }
        }
        found
    }

    /// Returns the data after `mark` in each UDP packet to `to`.
    pub(crate) fn datagrams(&self, to: Ipv4Addr, mark: &[u8]) -> Vec<Vec<u8>> {
        let frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted =
            frames.iter().filter(|frame| frame.get(23) == Some(&17) && destination(frame) == Some(to));
        wanted
            .filter_map(|frame| {
                let at = frame.windows(mark.len()).position(|window| window == mark)?;
                Some(frame.get(at + mark.len()..)?.to_vec())
            })
            .collect()
    }

    /// Counts IPv4 packets to addresses for which `is` holds.
    pub(crate) fn sent_to(&self, is: impl Fn(Ipv4Addr) -> bool) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for frame in self.frames.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if destination(frame).is_some_and(&is) {
                *found.entry(describe(frame)).or_default() += 1;
            }
        }
        found
    }
}

/// Returns the data of a TCP segment in an IPv4 packet.
fn tcp_payload(frame: &[u8]) -> Option<&[u8]> {
    let packet = frame.get(14..).filter(|packet| packet.get(9) == Some(&6))?;
    let segment = packet.get(usize::from(packet.first()? & 0x0f) * 4..)?;
    segment.get(usize::from(segment.get(12)? >> 4) * 4..)
}

/// Returns the destination of an IPv4 packet.
fn destination(frame: &[u8]) -> Option<Ipv4Addr> {
    match (frame.get(12..14)?, frame.get(30..34)?) {
        ([8, 0], [a, b, c, d]) => Some(Ipv4Addr::new(*a, *b, *c, *d)),
        _ => None,
    }
}

fn describe(frame: &[u8]) -> String {
    let address = |at: usize| {
        let bytes: [u8; 4] =
            frame.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
        IpAddr::from(bytes)
    };
    let kind = u16::from_be_bytes([frame[12], frame[13]]);
    match kind {
        0x0800 => format!("IPv4 protocol {} {} -> {}", frame.get(23).unwrap_or(&0), address(26), address(30)),
        _ => format!("frame of type {kind:#06x}"),
    }
}

/// Returns the path of the internet's network namespace.
pub(crate) fn outside() -> PathBuf {
    PathBuf::from(PATH)
}

/// Returns the path of the network namespace of the host under test.
pub(crate) fn host() -> PathBuf {
    PathBuf::from(format!("/proc/{}/ns/net", std::process::id()))
}
