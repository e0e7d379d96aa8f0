//! Giving root up for good: used by every role that needs no root, and by every VMM.

use std::io;

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

/// Becomes user and group `id` without any capability, supplementary group, or way to new privileges. For a process with one thread
/// (glibc carries the ids to all threads, the bounding set is per thread).
///
/// # Errors
/// The caller is not root.
pub fn drop_to(id: u32) -> io::Result<()> {
    for capability in CapabilitySet::all().iter() {
        match remove_capability_from_bounding_set(capability) {
            // One that this kernel does not know.
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
