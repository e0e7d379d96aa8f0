//! Users of the benchmark `ssh`, in its own namespaces.

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::namespaces;

/// Users: sshd needs its own one, and the gateway logs in as the other.
const USERS: &str = "root:*:0:0::/root:/bin/sh\n\
                     sshd:*:110:65534::/run/sshd:/usr/sbin/nologin\n\
                     developer:*:1000:1000::/run/bench:/bin/sh\n";

/// Puts them in place of the host's.
pub(super) fn add(folder: &Path) -> Result<()> {
    // sshd checks that it is there.
    fs::create_dir("/run/sshd")?;
    let users = folder.join("passwd");
    fs::write(&users, USERS)?;
    namespaces::bind(&users, Path::new("/etc/passwd"))
}
