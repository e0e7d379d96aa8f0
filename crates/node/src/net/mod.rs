//! A VM's network: a namespace of its own with one tap device. The same addresses in each, so there is nothing to allocate; two VMs
//! have no common wire. What may pass is in `vm.nft`, what control may change of it in [`policy`].

pub(crate) mod policy;
mod rules;

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::command;
use crate::error::Error;
use policy::Policy;

const TAP: &str = "tap0";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 252);
const MAC: [u8; 6] = *b"\x02rig\x00\x01";
/// The VM's address.
pub(crate) const VM_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);
const VM_MAC: [u8; 6] = *b"\x02rig\x00\x02";

/// The VM's network card, as a VMM is told.
pub(crate) fn vm_mac() -> String {
    VM_MAC.map(|byte| format!("{byte:02x}")).join(":")
}

/// Makes the namespace, kept by a mount at `path`, and the tap in it, which lives as long as its descriptor. Nothing passes before the
/// rules are there.
pub(crate) fn create(path: &Path, policy: &Policy) -> Result<OwnedFd, Error> {
    remove(path)?;
    File::create(path).map_err(Error::at("cannot be made", path))?;
    let (target, rules) = (path.to_owned(), rules::whole(policy));
    on_a_thread(path, move || -> io::Result<OwnedFd> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let own = Some("/proc/thread-self/ns/net");
        mount(own, &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        no_ipv6()?;
        let tap = rigbox_sys::network::tap(TAP)?;
        rules::apply(&rules)?;
        rigbox_sys::network::set_mac(TAP, MAC)?;
        rigbox_sys::network::up("lo")?;
        rigbox_sys::network::configure(TAP, ADDRESS, NETMASK)?;
        rigbox_sys::network::neighbour(TAP, VM_ADDRESS, VM_MAC)?;
        Ok(tap)
    })
}

/// Puts `policy` in force in a namespace; connections that it does not allow end.
pub(crate) fn set_policy(path: &Path, policy: &Policy) -> Result<(), Error> {
    let document = rules::of_policy(policy);
    let kept: Vec<String> = policy.app_ports().map(|port| format!("dport != :{port}")).collect();
    on_a_thread(
        path,
        in_namespace(path, move || {
            rules::apply(&document)?;
            // So that whoever holds a socket to a port that is no longer listed hears of it.
            let dialled = format!("dst {VM_ADDRESS}");
            let filter = [vec![dialled], kept].concat().join(" and ");
            destroy_sockets(&["-t", &filter])
        }),
    )
}

/// As [`set_policy`], for a namespace that an older node may have made: when its rules are others, all are loaded.
pub(crate) fn renew(path: &Path, policy: &Policy) -> Result<(), Error> {
    set_policy(path, policy).or_else(|_| {
        let document = rules::whole(policy);
        on_a_thread(path, in_namespace(path, move || rules::apply(&document)))
    })
}

/// Removes the namespace; one that is not there is fine. Sockets in it that somebody still holds end at once.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    if path.exists() {
        // What is no namespace (any more) has no sockets.
        let _ = on_a_thread(path, in_namespace(path, || destroy_sockets(&["-tua"])));
    }
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(errno) => return Err(Error::at("cannot be unmounted", path)(errno.into())),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::at("cannot be removed", path)(error)),
        _ => Ok(()),
    }
}

/// Moves the calling thread into the namespace at `path`.
pub(crate) fn enter(path: &Path) -> io::Result<()> {
    Ok(setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?)
}

/// `work`, in the namespace at `path`.
fn in_namespace<T>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> impl FnOnce() -> io::Result<T> + Send + 'static {
    let path = path.to_owned();
    move || {
        enter(&path)?;
        work()
    }
}

/// Runs on a thread of its own, because one that has left the host's namespace must not come back to the runtime. Programs that it
/// starts are in its namespace.
fn on_a_thread<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let thread = std::thread::Builder::new().name("netns".into()).spawn(work);
    let thread = thread.map_err(Error::system("a thread for a network namespace"))?;
    let done = thread.join();
    done.unwrap_or_else(|_| Err(io::Error::other("the thread for the network namespace panicked")))
        .map_err(Error::at("the network namespace", path))
}

/// Ends sockets of the calling thread's namespace, whoever holds them: they read an error at once.
fn destroy_sockets(which: &[&str]) -> io::Result<()> {
    let arguments = [&["-K", "-n", "-H"], which].concat();
    command::run("ss", &arguments).map(drop).map_err(io::Error::other)
}

/// No IPv6 in the calling thread's namespace, on any device. A kernel without it has no such files.
fn no_ipv6() -> io::Result<()> {
    for which in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
        match fs::write(path, "1") {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
