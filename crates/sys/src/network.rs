//! Network interface setup, with the ioctls of netdevice(7) where they do, for both ends of a VM's link. Everything acts on the network namespace of
//! the calling thread.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netdevice, recv, send, socket_with,
};

mod request {
    use nix::libc;
    // linux/if_tun.h: TUNSETIFF is _IOW('T', 202, int), although it takes a `struct ifreq`.
    nix::ioctl_write_ptr_bad!(
        tunsetiff,
        nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
        libc::ifreq
    );
    nix::ioctl_write_int_bad!(tunsetpersist, nix::request_code_write!(b'T', 203, size_of::<libc::c_int>()));
    nix::ioctl_write_int_bad!(tunsetowner, nix::request_code_write!(b'T', 204, size_of::<libc::c_int>()));
    nix::ioctl_read_bad!(siocgifflags, libc::SIOCGIFFLAGS, libc::ifreq);
    nix::ioctl_write_ptr_bad!(siocsifflags, libc::SIOCSIFFLAGS, libc::ifreq);
    nix::ioctl_write_ptr_bad!(siocaddrt, libc::SIOCADDRT, libc::rtentry);
    nix::ioctl_write_ptr_bad!(siocsifhwaddr, libc::SIOCSIFHWADDR, libc::ifreq);
    nix::ioctl_write_ptr_bad!(siocsarp, libc::SIOCSARP, libc::arpreq);
}

/// Creates the tap device `name` and returns the descriptor that carries its frames, each with a `virtio_net_hdr`. The kernel
/// removes the device when the last copy of the descriptor is closed.
///
/// # Errors
/// Fails without `/dev/net/tun` or permission, or if a device of that name exists.
pub fn create_tap(name: &str) -> io::Result<OwnedFd> {
    let file: File = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mut ifreq = ifreq(name)?;
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    ifreq.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: `ifreq` is a valid `struct ifreq` that lives through the call.
    unsafe { request::tunsetiff(file.as_raw_fd(), &ifreq) }?;
    Ok(file.into())
}

/// Lets a process of `uid` attach to a tap device by its name, now that nobody holds its descriptor. The device then exists as long as its
/// network namespace.
///
/// # Errors
/// Fails if `tap` is no descriptor of a tap device.
pub fn hand_over_tap(tap: OwnedFd, uid: u32) -> io::Result<()> {
    let owner = i32::try_from(uid).map_err(io::Error::other)?;
    // SAFETY: `tap` is open through both calls, whose argument is a number.
    unsafe {
        request::tunsetowner(tap.as_raw_fd(), owner)?;
        request::tunsetpersist(tap.as_raw_fd(), 1)?;
    }
    Ok(())
}

/// Sets the address of `interface` and brings it up.
///
/// # Errors
/// Fails if there is no such interface, or without permission.
pub fn set_address(interface: &str, address: Ipv4Addr, netmask: Ipv4Addr) -> io::Result<()> {
    let index = netdevice::name_to_index(control_socket()?, interface)?;
    add_address(index, address, u32::from(netmask).count_ones() as u8)?;
    bring_up(interface)
}

/// Adds an address with its prefix, in one message (rtnetlink(7)). The ioctls would change the mask after the address, for which the kernel
/// takes the address away; a moment later, netfilter forgets all connections that are masqueraded with it.
fn add_address(index: u32, address: Ipv4Addr, prefix_len: u8) -> io::Result<()> {
    // linux/netlink.h and linux/if_addr.h
    const FLAGS: u16 =
        (libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
    let mut body = vec![libc::AF_INET as u8, prefix_len, 0, libc::RT_SCOPE_UNIVERSE];
    body.extend(index.to_ne_bytes());
    for kind in [libc::IFA_LOCAL, libc::IFA_ADDRESS] {
        body.extend(8_u16.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(address.octets());
    }
    let mut message = Vec::new();
    message.extend((16 + body.len() as u32).to_ne_bytes());
    message.extend(libc::RTM_NEWADDR.to_ne_bytes());
    message.extend(FLAGS.to_ne_bytes());
    // Sequence number and port id.
    message.extend([0; 8]);
    message.extend(body);
    // Protocol 0 is that of routes and addresses.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0; 256];
    let (len, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    // A header, and the error as a negative number.
    let code = answer.get(..len).and_then(|answer| answer.get(16..20)).and_then(|code| code.try_into().ok());
    match code.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::Error::other("the kernel's answer is too short")),
    }
}

/// Brings `interface` up.
///
/// # Errors
/// Fails if there is no such interface, or without permission.
pub fn bring_up(interface: &str) -> io::Result<()> {
    let socket = control_socket()?;
    let mut ifreq = ifreq(interface)?;
    // SAFETY: the kernel fills in the flags of a valid `struct ifreq` that lives through the call.
    unsafe { request::siocgifflags(socket.as_raw_fd(), &mut ifreq) }?;
    // SAFETY: the call above has set this member of the union.
    unsafe { ifreq.ifr_ifru.ifru_flags |= (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short };
    // SAFETY: `ifreq` is a valid `struct ifreq` that lives through the call.
    unsafe { request::siocsifflags(socket.as_raw_fd(), &ifreq) }?;
    Ok(())
}

/// Sets the MAC address of `interface`, which must be down.
///
/// # Errors
/// Fails if there is no such interface, or without permission.
pub fn set_mac(interface: &str, mac: [u8; 6]) -> io::Result<()> {
    let socket = control_socket()?;
    let mut ifreq = ifreq(interface)?;
    ifreq.ifr_ifru.ifru_hwaddr = hardware_sockaddr(mac);
    // SAFETY: `ifreq` is a valid `struct ifreq` with an Ethernet address, and lives through the call.
    unsafe { request::siocsifhwaddr(socket.as_raw_fd(), &ifreq) }?;
    Ok(())
}

/// Adds a permanent ARP entry: `address` is at `mac` on `interface`. The kernel sends no ARP request for it and accepts no update.
///
/// # Errors
/// Fails if there is no such interface, or without permission.
pub fn add_permanent_neighbor(interface: &str, address: Ipv4Addr, mac: [u8; 6]) -> io::Result<()> {
    let socket = control_socket()?;
    // SAFETY: `arpreq` is plain data for which all zeroes is a valid value.
    let mut arpreq: libc::arpreq = unsafe { std::mem::zeroed() };
    arpreq.arp_pa = sockaddr(address);
    arpreq.arp_ha = hardware_sockaddr(mac);
    arpreq.arp_flags = libc::ATF_COM | libc::ATF_PERM;
    arpreq.arp_dev = ifreq(interface)?.ifr_name;
    // SAFETY: `arpreq` is a valid `struct arpreq` that lives through the call.
    unsafe { request::siocsarp(socket.as_raw_fd(), &arpreq) }?;
    Ok(())
}

/// Adds a default route through `gateway`.
///
/// # Errors
/// Fails if the gateway is not on a connected network, or without permission.
pub fn add_default_route(gateway: Ipv4Addr) -> io::Result<()> {
    let socket = control_socket()?;
    // SAFETY: `rtentry` is plain data for which all zeroes is a valid value.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = sockaddr(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = sockaddr(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = sockaddr(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    // SAFETY: `route` is a valid `struct rtentry` whose device pointer is null, and lives through the call.
    unsafe { request::siocaddrt(socket.as_raw_fd(), &route) }?;
    Ok(())
}

fn control_socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

fn ifreq(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: `ifreq` is plain data for which all zeroes is a valid value.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= ifreq.ifr_name.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("`{name}` is not an interface name"),
        ));
    }
    for (to, from) in ifreq.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(ifreq)
}

fn hardware_sockaddr(mac: [u8; 6]) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data.iter_mut().zip(mac) {
        *to = from as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: data }
}

fn sockaddr(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    // Layout of `sockaddr_in`: two bytes of port, then the address in network order.
    for (to, from) in data.iter_mut().skip(2).zip(address.octets()) {
        *to = from as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}
