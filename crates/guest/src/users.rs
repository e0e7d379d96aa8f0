//! User lookup in the disk's `/etc/passwd` and `/etc/group`. Only these files are read: a static binary has no name service switch, and the
//! agent must work even if the guest's services do not.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use rigbox_sys::spawn::Credentials;

/// User of all commands and files, unless the request names another.
pub(crate) const DEFAULT_USER: &str = "developer";
/// PATH of all processes in a VM: the image's `/etc/environment`. It is the same for both users, as `sudo` has it too.
const LOGIN_PATH: &str = "/home/developer/.local/bin:/opt/python/bin:/opt/node/bin:\
    /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// User of the guest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) credentials: Credentials,
    pub(crate) home: PathBuf,
    pub(crate) shell: String,
}

impl User {
    /// Finds `developer` (also for the empty name) or `root`.
    pub(crate) fn find(name: &str) -> Result<Self, String> {
        let name = if name.is_empty() { DEFAULT_USER } else { name };
        if name != DEFAULT_USER && name != "root" {
            return Err(format!("User `{name}` is not supported. Use `{DEFAULT_USER}` or `root`."));
        }
        let passwd = fs::read_to_string("/etc/passwd")
            .map_err(|error| format!("Failed to read the VM's /etc/passwd: {error}."))?;
        let group = fs::read_to_string("/etc/group").unwrap_or_default();
        parse(name, &passwd, &group)
            .ok_or_else(|| format!("The VM's /etc/passwd has no valid line for `{name}`."))
    }

    /// Returns the environment that login(1) would set.
    pub(crate) fn environment(&self) -> BTreeMap<String, String> {
        let home = self.home.to_string_lossy().into_owned();
        [
            ("HOME", home),
            ("USER", self.name.clone()),
            ("LOGNAME", self.name.clone()),
            ("SHELL", self.shell.clone()),
            ("PATH", LOGIN_PATH.to_owned()),
            ("LANG", "C.UTF-8".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

fn parse(name: &str, passwd: &str, group: &str) -> Option<User> {
    let fields: Vec<&str> =
        passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|f| f.first() == Some(&name))?;
    let [_, _, uid, gid, _, home, shell] = fields.as_slice() else { return None };
    let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
    let mut groups = vec![gid];
    for line in group.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if let [_, _, id, members] = fields.as_slice()
            && members.split(',').any(|member| member == name)
            && let Ok(id) = id.parse()
            && !groups.contains(&id)
        {
            groups.push(id);
        }
    }
    let shell = if shell.is_empty() { "/bin/sh" } else { shell };
    let credentials = Credentials { uid, gid, groups };
    Some(User { name: name.to_owned(), credentials, home: PathBuf::from(home), shell: shell.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_has_its_supplementary_groups() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\ndeveloper:x:1000:1000::/home/developer:/bin/bash\n";
        let group = "root:x:0:\nsudo:x:27:developer\ndocker:x:101:alice,developer\ndeveloper:x:1000:\n";
        let user = parse("developer", passwd, group).unwrap();
        assert_eq!(user.credentials, Credentials { uid: 1000, gid: 1000, groups: vec![1000, 27, 101] });
        assert_eq!(user.home, PathBuf::from("/home/developer"));
        assert_eq!(parse("nobody", passwd, group), None);
        assert_eq!(parse("developer", "developer:x:oops:1::/:", ""), None);
    }
}
