//! The way from the VMs to the outside: a namespace in which their ways out meet (`egress`), and a veth pair from there to the host's own
//! network, which masquerades them. What may pass is in `egress.nft` and `host.nft`. Everything in the host's own network bears the installation's
//! id and goes with [`close`].

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};

use super::{in_namespace, mount_own, no_ipv6, on_a_thread, rules, unmount};
use crate::command;
use crate::config::{Config, UplinkMode};
use crate::error::Error;

const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 252);
/// Within the egress namespace: VMs are 169.254.0.1 and following, by their slots, and this is the end that they send to.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 255, 254);
/// The VM's end in its namespace.
const OUT: &str = "up0";

/// An uplink that is there.
#[derive(Debug, Clone)]
pub(crate) struct Uplink {
    egress: PathBuf,
}

/// Names of what an installation has in the host's own network.
struct Names {
    link: String,
    table: String,
    egress: PathBuf,
    /// Devices that forward because of this installation, one a line.
    switched: PathBuf,
}

impl Names {
    fn of(config: &Config) -> Self {
        Self {
            link: format!("rb-{}", config.installation),
            table: format!("rigbox_{}", config.installation),
            egress: config.run_dir.join("egress"),
            switched: config.run_dir.join("forwarding"),
        }
    }
}

/// Makes the uplink, or takes over the one that is there; removes it when the configuration wants none.
pub(crate) fn open(config: &Config) -> Result<Option<Uplink>, Error> {
    let names = Names::of(config);
    if config.uplink == UplinkMode::None {
        close(config)?;
        return Ok(None);
    }
    let there = on_a_thread(&names.egress, in_namespace(&names.egress, || Ok(exists("uplink"))));
    let address = match address_of(&names.link)? {
        Some(address) if matches!(there, Ok(true)) => address,
        _ => {
            close(config)?;
            let address = free_address(&config.installation)?;
            build(&names, address)?;
            address
        }
    };
    on_a_thread(&names.egress, in_namespace(&names.egress, || rules::apply(rules::EGRESS)))?;
    let switched = forward(&names)?;
    let document = rules::host(&names.table, &names.link, next(address), &switched);
    rules::apply(&document).map_err(Error::system("the host's rules for the uplink"))?;
    Ok(Some(Uplink { egress: names.egress }))
}

/// Removes everything of the uplink; what is not there is fine.
pub(crate) fn close(config: &Config) -> Result<(), Error> {
    let names = Names::of(config);
    let linked = exists(&names.link);
    if linked {
        command::run("ip", &["link", "delete", &names.link])?;
    }
    if linked || names.egress.exists() {
        rules::apply(&rules::no_host(&names.table))
            .map_err(Error::system("the host's rules for the uplink"))?;
    }
    for device in fs::read_to_string(&names.switched).unwrap_or_default().lines() {
        match fs::write(forwarding(device), "0") {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Error::at("cannot be set back", &forwarding(device))(error));
            }
            _ => {}
        }
    }
    match fs::remove_file(&names.switched) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(Error::at("cannot be removed", &names.switched)(error));
        }
        _ => {}
    }
    unmount(&names.egress)
}

impl Uplink {
    /// Gives the namespace at `netns`, of the VM in `slot`, its way out.
    pub(super) fn attach(&self, netns: &Path, slot: u32) -> Result<(), Error> {
        let device = format!("v{slot}");
        let [_, _, high, low] = slot.to_be_bytes();
        let address = Ipv4Addr::new(169, 254, high, low);
        let at = netns.display();
        // `ip` takes the path of a namespace for its name.
        let batch = format!(
            "link add {device} type veth peer name {OUT} netns {at}\n\
             address add {GATEWAY}/32 dev {device}\n\
             link set {device} up\n\
             route add {address}/32 dev {device}\n"
        );
        on_a_thread(
            &self.egress,
            in_namespace(&self.egress, move || {
                if exists(&device) {
                    command::run("ip", &["link", "delete", &device]).map_err(io::Error::other)?;
                }
                command::feed("ip", &["-batch", "-"], &batch).map(drop).map_err(io::Error::other)
            }),
        )?;
        on_a_thread(
            netns,
            in_namespace(netns, move || {
                rigbox_sys::network::set_address(OUT, address, Ipv4Addr::new(255, 255, 0, 0))?;
                rigbox_sys::network::add_default_route(GATEWAY)?;
                fs::write("/proc/sys/net/ipv4/ip_forward", "1")
            }),
        )
    }

    /// The same for one that may have it already.
    pub(super) fn ensure_attached(&self, netns: &Path, slot: u32) -> Result<(), Error> {
        match on_a_thread(netns, in_namespace(netns, || Ok(exists(OUT))))? {
            true => Ok(()),
            false => self.attach(netns, slot),
        }
    }
}

/// Takes the way out of the calling thread's namespace away, and with it its other end.
pub(super) fn detach() -> io::Result<()> {
    if exists(OUT) {
        command::run("ip", &["link", "delete", OUT]).map_err(io::Error::other)?;
    }
    Ok(())
}

fn build(names: &Names, address: Ipv4Addr) -> Result<(), Error> {
    let Names { link, egress, .. } = names;
    File::create(egress).map_err(Error::at("cannot be made", egress))?;
    let target = egress.clone();
    on_a_thread(egress, move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount_own(&target)?;
        no_ipv6()?;
        // A packet whose answer would go another way is not taken.
        for which in ["all", "default"] {
            fs::write(format!("/proc/sys/net/ipv4/conf/{which}/rp_filter"), "1")?;
        }
        rules::apply(rules::EGRESS)?;
        fs::write("/proc/sys/net/ipv4/ip_forward", "1")
    })?;
    let at = egress.display().to_string();
    command::run("ip", &["link", "add", link, "type", "veth", "peer", "name", "uplink", "netns", &at])?;
    let no_ipv6 = PathBuf::from(format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"));
    match fs::write(&no_ipv6, "1") {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(Error::at("IPv6 stays on", &no_ipv6)(error));
        }
        _ => {}
    }
    rigbox_sys::network::set_address(link, address, NETMASK)
        .map_err(Error::system("the uplink's address"))?;
    on_a_thread(
        egress,
        in_namespace(egress, move || {
            rigbox_sys::network::set_address("uplink", next(address), NETMASK)?;
            rigbox_sys::network::add_default_route(address)
        }),
    )
}

/// Makes the uplink and the devices with a default route forward, and no others. Returns those that did not before.
fn forward(names: &Names) -> Result<Vec<String>, Error> {
    let own = forwarding(&names.link);
    fs::write(&own, "1").map_err(Error::at("forwarding cannot be switched on", &own))?;
    let noted = fs::read_to_string(&names.switched).unwrap_or_default();
    let mut switched: Vec<String> = noted.lines().map(str::to_owned).collect();
    for device in outside()? {
        if forwards(&device) {
            continue;
        }
        let path = forwarding(&device);
        // Noted before it is done, so that it is undone.
        if !switched.contains(&device) {
            switched.push(device);
        }
        fs::write(&names.switched, switched.join("\n"))
            .map_err(Error::at("cannot be written", &names.switched))?;
        fs::write(&path, "1").map_err(Error::at("forwarding cannot be switched on", &path))?;
    }
    Ok(switched)
}

fn forwarding(device: &str) -> PathBuf {
    PathBuf::from(format!("/proc/sys/net/ipv4/conf/{device}/forwarding"))
}

fn forwards(device: &str) -> bool {
    fs::read_to_string(forwarding(device)).is_ok_and(|on| on.trim() == "1")
}

/// The first device on the way out, by those `outside`, that does not forward, though it was told to.
pub(super) fn not_forwarding(config: &Config, outside: &[String]) -> Option<String> {
    outside.iter().cloned().chain([Names::of(config).link]).find(|device| !forwards(device))
}

/// Devices of the host's default routes.
pub(crate) fn outside() -> Result<Vec<String>, Error> {
    let path = Path::new("/proc/net/route");
    let routes = fs::read_to_string(path).map_err(Error::at("cannot be read", path))?;
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

fn exists(device: &str) -> bool {
    if_nametoindex(device).is_ok()
}

/// The first address that a device of this network has.
fn address_of(device: &str) -> Result<Option<Ipv4Addr>, Error> {
    Ok(addresses()?.into_iter().find(|(name, _)| name == device).map(|(_, address)| address))
}

fn addresses() -> Result<Vec<(String, Ipv4Addr)>, Error> {
    let all = nix::ifaddrs::getifaddrs().map_err(Error::system("the host's addresses"))?;
    let of_inet = |entry: nix::ifaddrs::InterfaceAddress| {
        Some((entry.interface_name, entry.address?.as_sockaddr_in()?.ip()))
    };
    Ok(all.filter_map(of_inet).collect())
}

/// The host's end of a link-local /30 that nothing on this host is in; where it begins follows from the installation, so that it is the
/// same after a restart.
fn free_address(installation: &str) -> Result<Ipv4Addr, Error> {
    let hash = blake3::hash(installation.as_bytes());
    let [a, b, ..] = *hash.as_bytes();
    let start = u32::from(u16::from_be_bytes([a, b])) / 4;
    let taken = addresses()?;
    let candidates = (0..16_384u32).map(|offset| {
        let network = (start + offset) % 16_384 * 4;
        Ipv4Addr::from_bits(Ipv4Addr::new(169, 254, 0, 1).to_bits() + network)
    });
    // RFC 3927 keeps the first and the last 256 to itself; 169.254.169.* is where clouds tell machines who they are.
    let usable = |address: &Ipv4Addr| !matches!(address.octets(), [_, _, 0 | 169 | 255, _]);
    let free = |address: &Ipv4Addr| {
        !taken.iter().any(|(_, other)| (other.to_bits() ^ address.to_bits()) & NETMASK.to_bits() == 0)
    };
    let found = candidates.filter(usable).find(free);
    found.ok_or_else(|| Error::system("a free link-local network")(io::Error::from(ErrorKind::AddrInUse)))
}

/// The other end of a /30.
fn next(address: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from_bits(address.to_bits() + 1)
}
