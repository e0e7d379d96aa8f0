//! File systems of tests, mounted in a namespace of each test's own, which takes them along when it ends.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::{MIB, volume};
use crate::command::run;

/// Runs the rest of the test of this path in a mount namespace of its own. Returns `false` where it is not to go on.
pub(crate) fn in_own_namespace(test: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: mounting needs root");
        return false;
    }
    if !rigbox_testkit::in_own_process(test) {
        return false;
    }
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    true
}

/// Mounts a new file system below `folder` whose files can share blocks, with project quotas if the kernel has them. Returns its root.
pub(crate) fn mount_xfs(folder: &Path, size_mb: u64) -> PathBuf {
    let (file, root) = (folder.join("xfs"), folder.join("root"));
    fs::create_dir(&root).unwrap();
    File::create(&file).unwrap().set_len(size_mb * MIB).unwrap();
    let text = |path: &Path| path.display().to_string();
    run("mkfs.xfs", &["-q", "-m", "reflink=1", &text(&file)]).unwrap();
    volume::mount(&file, &root).unwrap();
    root
}
