//! Network of a node for tests, without VMs: a host with an internet around it and a guest, each a network namespace, and the node's own
//! namespaces between them, as [`uplink::open`] and [`super::create`] make them. All of it ends with the test.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::admitted_names::AdmittedNames;
use super::policy::Policy;
use super::uplink::{self, Uplink};
use crate::command;
use crate::config::{Config, NetworkConfig, UplinkMode};

/// Address of the host, and of a server in the internet.
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 2);
pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(1, 2, 3, 4);
/// Private network of the host, and an address in it.
pub(super) const OFFICE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const TIMEOUT: Duration = Duration::from_secs(2);
const CONDITION_TIMEOUT: Duration = Duration::from_secs(10);
/// Slot of the guest's VM.
const SLOT: u32 = 7;

/// Network namespace, kept by its descriptor.
pub(super) struct Netns(File);

impl Netns {
    fn create() -> Self {
        let create = || -> io::Result<Self> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            rigbox_sys::network::bring_up("lo")?;
            Ok(Self(File::open("/proc/thread-self/ns/net")?))
        };
        std::thread::spawn(create).join().unwrap().unwrap()
    }

    pub(super) fn open(path: &std::path::Path) -> Self {
        Self(File::open(path).unwrap())
    }

    /// Runs `work` in the namespace.
    pub(super) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let netns = self.0.try_clone().unwrap();
        let run = move || {
            setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        std::thread::spawn(run).join().unwrap()
    }

    pub(super) fn ip(&self, arguments: &str) {
        let arguments = arguments.to_owned();
        self.run(move || command::run("ip", &arguments.split(' ').collect::<Vec<_>>()).unwrap());
    }

    pub(super) fn nft(&self, document: &str) -> String {
        let document = document.to_owned();
        self.run(move || command::run_with_input("nft", &["-f", "-"], &document).unwrap())
    }

    pub(super) fn listen(&self, address: impl Into<SocketAddr>) -> TcpListener {
        let address = address.into();
        self.run(move || TcpListener::bind(address).unwrap())
    }

    pub(super) fn udp(&self, address: impl Into<SocketAddr>) -> UdpSocket {
        let address = address.into();
        let socket = self.run(move || UdpSocket::bind(address).unwrap());
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        socket
    }

    pub(super) fn connect(&self, address: impl Into<SocketAddr>) -> io::Result<TcpStream> {
        let address = address.into();
        let stream = self.run(move || TcpStream::connect_timeout(&address, TIMEOUT))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(stream)
    }

    /// Returns the TCP connections in the namespace's table whose packets come from `source`, or all.
    pub(super) fn connections(&self, source: Option<Ipv4Addr>) -> Vec<String> {
        let table = self.run(|| std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap());
        let of_source =
            |line: &&str| source.is_none_or(|source| line.contains(&format!(" src={source} dst=")));
        table.lines().filter(|line| line.contains(" tcp ")).filter(of_source).map(str::to_owned).collect()
    }
}

/// The network. Its fields end with it.
pub(super) struct Testbed {
    pub(super) config: Config,
    pub(super) uplink: Uplink,
    pub(super) internet: Netns,
    pub(super) host: Netns,
    /// The VM's own side of its link.
    pub(super) guest: Netns,
    pub(super) vm: Netns,
    pub(super) egress: Netns,
    pub(super) netns_path: PathBuf,
    /// Private network of the host.
    pub(super) office: Netns,
    _folder: tempfile::TempDir,
}

impl Drop for Testbed {
    fn drop(&mut self) {
        // What is mounted cannot be removed with its folder.
        let _ = super::remove(&self.netns_path, Some(&self.uplink));
        let _ = uplink::close(&self.config);
    }
}

/// Runs `test` in a thread with namespaces of its own: its network is that of the host. Without root, it says so and passes.
pub(super) fn run(policy: Policy, limits: NetworkConfig, test: impl FnOnce(&Testbed) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        test(&Testbed::create(&policy, limits));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Testbed {
    fn create(policy: &Policy, limits: NetworkConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = folder.path().join("run");
        std::fs::create_dir_all(run_dir.join("netns")).unwrap();
        let config = config(&run_dir, limits);
        let host = Netns(File::open("/proc/thread-self/ns/net").unwrap());
        rigbox_sys::network::bring_up("lo").unwrap();
        let (internet, office) = (Netns::create(), Netns::create());
        attach(&host, &internet, "eth0", HOST, Ipv4Addr::new(93, 184, 216, 1));
        attach(&host, &office, "eth1", Ipv4Addr::new(10, 9, 0, 1), OFFICE);
        internet.ip(&format!("address add {SERVER}/32 dev lo"));
        host.ip("route add default via 93.184.216.1");
        office.ip("route add default via 10.9.0.1");

        // Off in the host's namespace, whatever this machine has.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        let uplink = uplink::open(&config).unwrap().unwrap();
        let netns_path = run_dir.join("netns/vm");
        let tap = super::create(&config, &netns_path, policy, Some((&uplink, SLOT))).unwrap();
        let guest = Netns::create();
        let own = guest.run(|| {
            let tap = rigbox_sys::network::create_tap("eth0").unwrap();
            rigbox_sys::network::set_mac("eth0", super::VM_MAC).unwrap();
            rigbox_sys::network::set_address("eth0", super::VM_ADDRESS, super::NETMASK).unwrap();
            rigbox_sys::network::add_default_route(super::HOST_ADDRESS).unwrap();
            tap
        });
        carry_frames(tap, own);
        let (vm, egress) = (Netns::open(&netns_path), Netns::open(&run_dir.join("egress")));
        Self { config, uplink, internet, host, guest, vm, egress, netns_path, office, _folder: folder }
    }

    /// Sets the policy of the guest's VM, which has admitted `names`.
    pub(super) fn set_policy(&self, policy: &Policy, names: &AdmittedNames) {
        let uplink = Some((&self.uplink, SLOT));
        super::set_policy(&self.config, &self.netns_path, policy, names, uplink).unwrap();
    }

    /// Restores the policy, as a node does that has started again.
    pub(super) fn restore(&self, policy: &Policy) {
        super::restore(&self.config, &self.netns_path, policy, Some((&self.uplink, SLOT))).unwrap();
    }
}

fn config(run_dir: &std::path::Path, network: NetworkConfig) -> Config {
    Config {
        installation: "testbed0".to_owned(),
        run_dir: run_dir.to_owned(),
        uplink: UplinkMode::Veth,
        network,
        ..Config::for_tests()
    }
}

/// Joins two namespaces by a device of the first.
fn attach(near: &Netns, far: &Netns, device: &str, address: Ipv4Addr, far_address: Ipv4Addr) {
    let file = far.0.try_clone().unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&file));
    near.ip(&format!("link add {device} type veth peer name eth0 netns {path}"));
    let mask = Ipv4Addr::new(255, 255, 255, 0);
    let device = device.to_owned();
    near.run(move || rigbox_sys::network::set_address(&device, address, mask).unwrap());
    far.run(move || rigbox_sys::network::set_address("eth0", far_address, mask).unwrap());
}

/// Carries frames between the two ends of the VM's link, as a VMM does. Ends with the devices.
fn carry_frames(one: OwnedFd, two: OwnedFd) {
    let (one, two) = (File::from(one), File::from(two));
    let carry = |mut from: File, mut to: File| -> JoinHandle<()> {
        std::thread::spawn(move || {
            let mut buffer = vec![0; 70_000];
            while let Ok(length) = from.read(&mut buffer) {
                // A device that is down takes no frame.
                let _ = to.write(&buffer[..length]);
            }
        })
    };
    carry(one.try_clone().unwrap(), two.try_clone().unwrap());
    carry(two, one);
}

/// Answers each connection with what it sends.
pub(super) fn echo(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut reader, mut writer) = (stream.try_clone().unwrap(), stream);
                let _ = io::copy(&mut reader, &mut writer);
            });
        }
    });
}

pub(super) fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

/// Waits until `condition` holds.
pub(super) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    rigbox_testkit::blocking::eventually(what, CONDITION_TIMEOUT, || Ok(condition().then_some(()))).unwrap();
}
