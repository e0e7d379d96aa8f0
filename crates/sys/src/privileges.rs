//! Permanent privilege drop, for every role that does not need root and for every VMM.

use std::io;

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

/// Switches to user and group `id`, without capabilities, supplementary groups or a way to gain privileges again. The process must
/// have a single thread: glibc changes the ids of all threads, but the bounding set is per thread.
///
/// # Errors
/// Fails if the caller is not root.
pub fn drop_to(id: u32) -> io::Result<()> {
    for capability in CapabilitySet::all().iter() {
        match remove_capability_from_bounding_set(capability) {
            // `EINVAL`: this kernel does not have the capability.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    setgroups(&[])?;
    setresgid(Gid::from_raw(id), Gid::from_raw(id), Gid::from_raw(id))?;
    setresuid(Uid::from_raw(id), Uid::from_raw(id), Uid::from_raw(id))?;
    nix::sys::prctl::set_no_new_privs()?;
    Ok(())
}
