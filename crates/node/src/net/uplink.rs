//! Uplink of the VMs to the outside: the egress namespace, to which all VMs are attached, and a veth pair from there to the host's network,
//! which masquerades them. The rules are in `egress.nft` and `host.nft`. Everything in the host's network carries the installation's id
//! and is removed by [`close`].

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};

use super::{
    conntrack, disable_ipv6, in_namespace, limit_rules, mount_own_namespace, on_thread, rules, unmount,
};
use crate::command;
use crate::config::{Config, UplinkMode};
use crate::error::Error;

const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 252);
/// Gateway of the VMs within the egress namespace. The VMs themselves have the addresses from 198.18.0.1 on, by slot. They are of another
/// range than the link-local network to the host, which is in that namespace too.
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 255, 254);
/// Device of the link to the egress namespace, in a VM's namespace.
const VM_UPLINK_DEVICE: &str = "up0";

/// Open uplink.
#[derive(Debug, Clone)]
pub(crate) struct Uplink {
    egress_netns: PathBuf,
}

/// Names of an installation's resources in the host's network.
struct HostNames {
    link: String,
    table: String,
    egress_netns: PathBuf,
    /// File with the devices on which this installation has enabled forwarding, one per line.
    enabled_devices: PathBuf,
}

impl HostNames {
    fn new(config: &Config) -> Self {
        Self {
            link: format!("rb-{}", config.installation),
            table: format!("rigbox_{}", config.installation),
            egress_netns: config.run_dir.join("egress"),
            enabled_devices: config.run_dir.join("forwarding"),
        }
    }
}

/// Creates the uplink, or takes over an existing one. Removes it if the configuration wants none.
pub(crate) fn open(config: &Config) -> Result<Option<Uplink>, Error> {
    let names = HostNames::new(config);
    if config.uplink == UplinkMode::None {
        close(config)?;
        return Ok(None);
    }
    let has_egress =
        on_thread(&names.egress_netns, in_namespace(&names.egress_netns, || Ok(device_exists("uplink"))));
    let address = match address_of_device(&names.link)? {
        Some(address) if matches!(has_egress, Ok(true)) => address,
        _ => {
            close(config)?;
            let address = free_address(&config.installation)?;
            create(&names, address)?;
            address
        }
    };
    let total = match config.network.total_connections {
        Some(total) => total,
        None => half_of_connection_table()?,
    };
    let ruleset = rules::egress_ruleset(&config.network, total);
    on_thread(&names.egress_netns, in_namespace(&names.egress_netns, move || ruleset.load()))?;
    let enabled_devices = enable_forwarding(&names)?;
    let (table, link) = (&names.table, &names.link);
    let ruleset =
        rules::host_ruleset(&config.network, table, link, peer_of(address), total, &enabled_devices);
    ruleset.load().map_err(Error::system("load the host's rules for the uplink"))?;
    Ok(Some(Uplink { egress_netns: names.egress_netns }))
}

/// Removes the uplink, as far as it exists.
pub(crate) fn close(config: &Config) -> Result<(), Error> {
    let names = HostNames::new(config);
    let has_link = device_exists(&names.link);
    if has_link {
        command::run("ip", &["link", "delete", &names.link])?;
    }
    if has_link || names.egress_netns.exists() {
        rules::apply(&rules::remove_host_rules(&names.table))
            .map_err(Error::system("load the host's rules for the uplink"))?;
    }
    // Where forwarding is on for all devices by now, others need it.
    let recorded = fs::read_to_string(&names.enabled_devices).unwrap_or_default();
    for device in recorded.lines().filter(|_| !is_forwarding("all")) {
        match fs::write(forwarding_setting(device), "0") {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Error::at("reset", &forwarding_setting(device))(error));
            }
            _ => {}
        }
    }
    match fs::remove_file(&names.enabled_devices) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(Error::at("remove", &names.enabled_devices)(error));
        }
        _ => {}
    }
    unmount(&names.egress_netns)
}

impl Uplink {
    /// Attaches the namespace at `netns`, of the VM in `slot`.
    pub(super) fn attach(&self, netns: &Path, slot: u32) -> Result<(), Error> {
        let device = device_of(slot);
        let address = vm_address(slot);
        let netns_path = netns.display();
        // ip(8) accepts the path of a namespace as its name.
        let batch = format!(
            "link add {device} type veth peer name {VM_UPLINK_DEVICE} netns {netns_path}\n\
             address add {GATEWAY}/32 dev {device}\n\
             link set {device} up\n\
             route add {address}/32 dev {device}\n"
        );
        on_thread(
            &self.egress_netns,
            in_namespace(&self.egress_netns, move || {
                if device_exists(&device) {
                    command::run("ip", &["link", "delete", &device]).map_err(io::Error::other)?;
                }
                command::run_with_input("ip", &["-batch", "-"], &batch).map(drop).map_err(io::Error::other)
            }),
        )?;
        on_thread(
            netns,
            in_namespace(netns, move || {
                rigbox_sys::network::set_address(VM_UPLINK_DEVICE, address, Ipv4Addr::new(255, 255, 0, 0))?;
                rigbox_sys::network::add_default_route(GATEWAY)?;
                fs::write("/proc/sys/net/ipv4/ip_forward", "1")
            }),
        )
    }

    /// Attaches the namespace, unless it is attached already.
    pub(super) fn ensure_attached(&self, netns: &Path, slot: u32) -> Result<(), Error> {
        match on_thread(netns, in_namespace(netns, || Ok(device_exists(VM_UPLINK_DEVICE))))? {
            true => Ok(()),
            false => self.attach(netns, slot),
        }
    }

    /// Limits the connections of the VM in `slot`; `None` leaves the limit that all have.
    pub(super) fn limit_connections(&self, slot: u32, connections: Option<NonZeroU32>) -> Result<(), Error> {
        let limit = move || match limit_rules::connection_rules(&device_of(slot), connections) {
            Some(document) => rules::apply(&document),
            None => Ok(()),
        };
        on_thread(&self.egress_netns, in_namespace(&self.egress_netns, limit))
    }

    /// Removes the connections of a VM, which has been detached, from the tables of the egress namespace and of the host.
    pub(super) fn forget_connections(&self, address: Ipv4Addr) -> Result<(), Error> {
        let path = &self.egress_netns;
        let forget = move || {
            let connections = conntrack::opened_by(address)?;
            conntrack::remove(connections.iter().map(|connection| connection.original))?;
            Ok(connections)
        };
        let connections = on_thread(path, in_namespace(path, forget))?;
        // To the host, the egress namespace opened them, from where the replies to it go.
        conntrack::remove(connections.iter().map(|connection| connection.reply.reversed()))
            .map_err(Error::system("remove connections of a VM from the host's table"))
    }
}

/// Returns the name of a VM's uplink in the egress namespace.
fn device_of(slot: u32) -> String {
    format!("v{slot}")
}

/// Returns a VM's address within the egress namespace.
pub(super) fn vm_address(slot: u32) -> Ipv4Addr {
    let [_, _, high, low] = slot.to_be_bytes();
    Ipv4Addr::new(198, 18, high, low)
}

/// Removes the link of the calling thread's namespace, including its other end. Returns the address that it had.
pub(super) fn detach() -> io::Result<Option<Ipv4Addr>> {
    if !device_exists(VM_UPLINK_DEVICE) {
        return Ok(None);
    }
    let address = address_of_device(VM_UPLINK_DEVICE).map_err(io::Error::other)?;
    command::run("ip", &["link", "delete", VM_UPLINK_DEVICE]).map_err(io::Error::other)?;
    Ok(address)
}

/// Returns half of the number of connections that the host's table holds, so that the host keeps the other half.
fn half_of_connection_table() -> Result<u32, Error> {
    let path = Path::new("/proc/sys/net/netfilter/nf_conntrack_max");
    let text = fs::read_to_string(path).map_err(Error::at("read", path))?;
    let max: u32 = text.trim().parse().map_err(|error| Error::at("parse", path)(io::Error::other(error)))?;
    Ok((max / 2).max(1))
}

/// Creates the egress namespace and the veth pair.
fn create(names: &HostNames, address: Ipv4Addr) -> Result<(), Error> {
    let HostNames { link, egress_netns, .. } = names;
    File::create(egress_netns).map_err(Error::at("create", egress_netns))?;
    let target = egress_netns.clone();
    on_thread(egress_netns, move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount_own_namespace(&target)?;
        disable_ipv6()?;
        // Strict reverse path filtering: drops packets whose replies would take another route.
        for scope in ["all", "default"] {
            fs::write(format!("/proc/sys/net/ipv4/conf/{scope}/rp_filter"), "1")?;
        }
        fs::write("/proc/sys/net/ipv4/ip_forward", "1")
    })?;
    let netns_path = egress_netns.display().to_string();
    command::run(
        "ip",
        &["link", "add", link, "type", "veth", "peer", "name", "uplink", "netns", &netns_path],
    )?;
    let disable_ipv6 = PathBuf::from(format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"));
    match fs::write(&disable_ipv6, "1") {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(Error::at("disable IPv6 by", &disable_ipv6)(error));
        }
        _ => {}
    }
    rigbox_sys::network::set_address(link, address, NETMASK)
        .map_err(Error::system("set the uplink's address"))?;
    on_thread(
        egress_netns,
        in_namespace(egress_netns, move || {
            rigbox_sys::network::set_address("uplink", peer_of(address), NETMASK)?;
            rigbox_sys::network::add_default_route(address)
        }),
    )
}

/// Enables forwarding on the uplink and on the devices with a default route, and on no others. Returns those that did not forward before.
fn enable_forwarding(names: &HostNames) -> Result<Vec<String>, Error> {
    let link_setting = forwarding_setting(&names.link);
    fs::write(&link_setting, "1").map_err(Error::at("enable forwarding by", &link_setting))?;
    let recorded = fs::read_to_string(&names.enabled_devices).unwrap_or_default();
    let mut enabled: Vec<String> = recorded.lines().map(str::to_owned).collect();
    for device in default_route_devices()? {
        if is_forwarding(&device) {
            continue;
        }
        let setting = forwarding_setting(&device);
        // Recorded first, so that it is certainly undone later.
        if !enabled.contains(&device) {
            enabled.push(device);
        }
        fs::write(&names.enabled_devices, enabled.join("\n"))
            .map_err(Error::at("write", &names.enabled_devices))?;
        fs::write(&setting, "1").map_err(Error::at("enable forwarding by", &setting))?;
    }
    Ok(enabled)
}

fn forwarding_setting(device: &str) -> PathBuf {
    PathBuf::from(format!("/proc/sys/net/ipv4/conf/{device}/forwarding"))
}

fn is_forwarding(device: &str) -> bool {
    fs::read_to_string(forwarding_setting(device)).is_ok_and(|value| value.trim() == "1")
}

/// Returns the first of the `outside` devices and the uplink on which forwarding is disabled, although it was enabled at start-up.
pub(super) fn device_without_forwarding(config: &Config, outside: &[String]) -> Option<String> {
    outside.iter().cloned().chain([HostNames::new(config).link]).find(|device| !is_forwarding(device))
}

/// Returns the devices of the host's default routes.
pub(super) fn default_route_devices() -> Result<Vec<String>, Error> {
    let path = Path::new("/proc/thread-self/net/route");
    let routes = fs::read_to_string(path).map_err(Error::at("read", path))?;
    let mut devices: Vec<String> = routes
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            match fields.as_slice() {
                [device, "00000000", _, _, _, _, _, "00000000", ..] => Some((*device).to_owned()),
                _ => None,
            }
        })
        .collect();
    devices.sort();
    devices.dedup();
    Ok(devices)
}

fn device_exists(device: &str) -> bool {
    if_nametoindex(device).is_ok()
}

/// Returns the first address of a device in the current namespace.
fn address_of_device(device: &str) -> Result<Option<Ipv4Addr>, Error> {
    Ok(addresses()?.into_iter().find(|(name, _)| name == device).map(|(_, address)| address))
}

fn addresses() -> Result<Vec<(String, Ipv4Addr)>, Error> {
    let all = nix::ifaddrs::getifaddrs().map_err(Error::system("list the host's addresses"))?;
    let ipv4 = |entry: nix::ifaddrs::InterfaceAddress| {
        Some((entry.interface_name, entry.address?.as_sockaddr_in()?.ip()))
    };
    Ok(all.filter_map(ipv4).collect())
}

/// Returns the host's end of an unused link-local /30. The search starts at a hash of the installation's id, so that the result is the same
/// after a restart.
fn free_address(installation: &str) -> Result<Ipv4Addr, Error> {
    let hash = blake3::hash(installation.as_bytes());
    let [a, b, ..] = *hash.as_bytes();
    let start = u32::from(u16::from_be_bytes([a, b])) / 4;
    let taken = addresses()?;
    let candidates = (0..16_384u32).map(|offset| {
        let network = (start + offset) % 16_384 * 4;
        Ipv4Addr::from_bits(Ipv4Addr::new(169, 254, 0, 1).to_bits() + network)
    });
    // RFC 3927 reserves the first and the last 256 addresses. 169.254.169.* is the metadata service of clouds.
    let usable = |address: &Ipv4Addr| !matches!(address.octets(), [_, _, 0 | 169 | 255, _]);
    let free = |address: &Ipv4Addr| {
        !taken.iter().any(|(_, other)| (other.to_bits() ^ address.to_bits()) & NETMASK.to_bits() == 0)
    };
    let found = candidates.filter(usable).find(free);
    found
        .ok_or_else(|| Error::system("find a free link-local network")(io::Error::from(ErrorKind::AddrInUse)))
}

/// Returns the other end of the /30.
fn peer_of(address: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from_bits(address.to_bits() + 1)
}
