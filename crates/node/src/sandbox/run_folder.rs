//! Folders of a VMM: one in which it makes its own sockets, and one for an image of its memory. Each is a small file system of its own, which
//! ends with the boot. The VMM may put anything there, so the node follows no link in them, and connects to nothing but a socket that the VMM's
//! uid owns.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::error::Error;

/// Names of the folders in that of the VM.
const NAME: &str = "vmm";
const MEMORY_NAME: &str = "memory";
/// Space beside the memory for the state of a VM's devices, KiB.
const DEVICES_KB: u64 = 16 * 1024;

/// Creates the folder in `vm_dir`, for the VMM of `uid`, and opens it.
pub(crate) fn create(vm_dir: &Path, uid: u32) -> Result<OwnedFd, Error> {
    create_named(vm_dir, NAME, uid, 64)
}

/// Creates the folder for an image of `ram_mb` MiB of memory in `vm_dir`, and opens it. It takes no space until there is one.
pub(crate) fn create_for_memory(vm_dir: &Path, uid: u32, ram_mb: u32) -> Result<OwnedFd, Error> {
    create_named(vm_dir, MEMORY_NAME, uid, u64::from(ram_mb) * 1024 + DEVICES_KB)
}

/// Opens the folder for an image of a VM's memory. `None` if it has none.
pub(crate) fn open_for_memory(vm_dir: &Path) -> Result<Option<OwnedFd>, Error> {
    let path = vm_dir.join(MEMORY_NAME);
    match open(&path) {
        Ok(folder) => Ok(Some(folder)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::at("open", &path)(error)),
    }
}

fn create_named(vm_dir: &Path, name: &str, uid: u32, size_kb: u64) -> Result<OwnedFd, Error> {
    let path = vm_dir.join(name);
    fs::create_dir_all(&path).map_err(Error::at("create", &path))?;
    let options = format!("size={size_kb}k,nr_inodes=16,mode=0700,uid={uid},gid={uid}");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), &path, Some("tmpfs"), flags, Some(options.as_str()))
        .map_err(|errno| Error::at("mount", &path)(errno.into()))?;
    open(&path).map_err(Error::at("open", &path))
}

/// Removes a VM's folder with these in it, if they exist.
pub(crate) fn remove_vm_dir(vm_dir: &Path) -> Result<(), Error> {
    for name in [NAME, MEMORY_NAME] {
        let path = vm_dir.join(name);
        match umount2(&path, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(errno) => return Err(Error::at("unmount", &path)(errno.into())),
        }
    }
    remove_dir(vm_dir)
}

/// Removes a folder with all that is in it, if it exists.
pub(crate) fn remove_dir(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::at("remove", dir)(error)),
        _ => Ok(()),
    }
}

/// Connects to a socket that the VMM of `uid` has made.
pub(crate) fn connect_to(vm_dir: &Path, socket: &str, uid: u32) -> io::Result<OwnedFd> {
    let folder = open(&vm_dir.join(NAME))?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let found = openat2(folder, socket, flags, Mode::empty(), resolve)?;
    let stat = fstat(&found)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket || stat.st_uid != uid {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("`{socket}` is no socket of the VMM")));
    }
    connect_without_waiting(Path::new(&format!("/proc/self/fd/{}", found.as_raw_fd())))
}

/// Connects to a socket, without blocking: a VMM that does not accept must not block the node.
pub(crate) fn connect_without_waiting(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let connection = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&connection, &SocketAddrUnix::new(path)?)?;
    Ok(connection)
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};
    use std::os::unix::net::UnixListener;

    use nix::sched::{CloneFlags, unshare};
    use rigbox_testkit::in_own_process;

    use super::*;

    const UID: u32 = 65_534;

    #[test]
    fn only_a_socket_of_the_vmm_is_connected_to() {
        if !in_own_process("sandbox::run_folder::tests::only_a_socket_of_the_vmm_is_connected_to") {
            return;
        }
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let vm_dir = tempfile::tempdir().unwrap();
        let folder = create(vm_dir.path(), UID).unwrap();
        assert_eq!(fstat(&folder).unwrap().st_uid, UID);
        let path = |name: &str| vm_dir.path().join(NAME).join(name);
        let foreign = UnixListener::bind(vm_dir.path().join("foreign.sock")).unwrap();
        chown(vm_dir.path().join("foreign.sock"), Some(UID), None).unwrap();
        let own = UnixListener::bind(path("own.sock")).unwrap();
        chown(path("own.sock"), Some(UID), None).unwrap();
        connect_to(vm_dir.path(), "own.sock", UID).unwrap();
        own.accept().unwrap();

        symlink("own.sock", path("link")).unwrap();
        symlink(vm_dir.path(), path("outside")).unwrap();
        fs::write(path("file"), "").unwrap();
        chown(path("file"), Some(UID), None).unwrap();
        let _other = UnixListener::bind(path("other.sock")).unwrap();
        for name in ["link", "outside/foreign.sock", "../foreign.sock", "file", "other.sock", "missing"] {
            connect_to(vm_dir.path(), name, UID).unwrap_err();
        }
        foreign.set_nonblocking(true).unwrap();
        assert_eq!(foreign.accept().unwrap_err().kind(), ErrorKind::WouldBlock);

        // The VMM fills its own folder, and nothing else.
        let full = fs::write(path("large"), vec![0; 1 << 20]).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::StorageFull);
        for _ in 0..2 {
            remove_vm_dir(vm_dir.path()).unwrap();
        }
        assert!(!path("own.sock").exists());
    }
}
