//! A VM's network: a namespace of its own with one tap device. The same addresses in each, so there is nothing to allocate; two VMs
//! have no common wire. Nothing leaves it yet: there is no way out of the namespace.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::error::Error;

const TAP: &str = "tap0";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 252);

/// Makes the namespace, kept by a mount at `path`, and the tap in it, which lives as long as its descriptor.
pub(crate) fn create(path: &Path) -> Result<OwnedFd, Error> {
    remove(path)?;
    File::create(path).map_err(Error::at("cannot be made", path))?;
    let target = path.to_owned();
    // A thread of its own, because a thread that has left the host's namespace must not come back to the runtime.
    let made = std::thread::Builder::new().name("netns".into()).spawn(move || -> io::Result<OwnedFd> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let own = Some("/proc/thread-self/ns/net");
        mount(own, &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        let tap = rigbox_sys::network::tap(TAP)?;
        rigbox_sys::network::up("lo")?;
        rigbox_sys::network::configure(TAP, ADDRESS, NETMASK)?;
        Ok(tap)
    });
    let made = made.map_err(Error::system("a thread for the network namespace"))?;
    made.join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread for the network namespace panicked")))
        .map_err(Error::at("the network namespace cannot be made", path))
}

/// Removes the namespace; one that is not there is fine.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(errno) => return Err(Error::at("cannot be unmounted", path)(errno.into())),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::at("cannot be removed", path)(error)),
        _ => Ok(()),
    }
}
