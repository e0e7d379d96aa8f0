//! Control groups: one per VM, on version 2 (a single hierarchy) or version 1 (one per controller). Leftover processes are found through
//! them, whatever their pids.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::durable;
use crate::error::Error;

const ROOT: &str = "/sys/fs/cgroup";
/// Controllers of version 1 in which each VM gets a group.
const V1_CONTROLLERS: [&str; 5] = ["cpu", "memory", "pids", "blkio", "freezer"];
/// Time from SIGKILL to an empty group, in which the kernel only has to tear down memory.
const KILL_TIMEOUT: Duration = Duration::from_secs(20);

/// Resource limits of a VMM.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) memory_bytes: u64,
    /// Thousandths of a CPU.
    pub(crate) millicpus: u64,
    pub(crate) pids: u32,
}

/// Groups, each with the controller of its hierarchy (version 1).
type Parents = Vec<(&'static str, PathBuf)>;

/// Control groups of this installation.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    version: Version,
    /// Maximum memory of all VMs together.
    max_memory_bytes: u64,
    /// The installation's group in each hierarchy.
    parents: Parents,
    /// Groups of earlier nodes. In version 1 the place depends on the session or unit that a node is started from.
    former_parents: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Cgroups {
    /// Finds the hierarchies. `name` is the installation's group, and `record` the file with the places of this group, now and before. The VMs
    /// leave an eighth of the machine's memory to the host.
    pub(crate) fn find(name: &str, record: &Path) -> Result<Self, Error> {
        let machine = nix::sys::sysinfo::sysinfo().map_err(Error::system("read the machine's memory"))?;
        let max_memory_bytes = machine.ram_total() / 8 * 7;
        let (version, parents) = current_parents(name)?;
        let current: Vec<&Path> = parents.iter().map(|(_, parent)| parent.as_path()).collect();
        let known = match fs::read_to_string(record) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            read => read.map_err(Error::at("read", record))?,
        };
        let former = known.lines().map(PathBuf::from).filter(|parent| !current.contains(&parent.as_path()));
        let former: Vec<PathBuf> = former.filter(|parent| parent.is_dir()).collect();
        let paths = current.into_iter().chain(former.iter().map(PathBuf::as_path));
        let text: String = paths.map(|path| format!("{}\n", path.display())).collect();
        // Before there is a group in any of them.
        durable::replace(record, text.as_bytes()).map_err(Error::at("write", record))?;
        Ok(Self { version, max_memory_bytes, parents, former_parents: former })
    }

    /// Returns all folders in which VMs may have groups.
    fn all_parents(&self) -> impl Iterator<Item = &Path> {
        let current = self.parents.iter().map(|(_, parent)| parent.as_path());
        current.chain(self.former_parents.iter().map(PathBuf::as_path))
    }

    /// Creates the group `vm` with its limits. Returns the files to which a process writes `0` to join it.
    pub(crate) fn create(&self, vm: &str, limits: Limits) -> Result<Vec<PathBuf>, Error> {
        let mut procs = Vec::new();
        for (controller, parent) in &self.parents {
            let group = parent.join(vm);
            fs::create_dir_all(&group).map_err(Error::at("create", &group))?;
            if self.version == Version::Two {
                enable_controllers(parent)?;
            }
            if let Some(file) = self.memory_limit_file(controller) {
                // A VM ends before the host's own processes do.
                write_setting(&parent.join(file), &self.max_memory_bytes.to_string())?;
            }
            for (file, value) in self.settings(controller, limits) {
                let path = group.join(file);
                // Without swap accounting the kernel has no such file, and nothing to limit.
                let is_swap = file.contains("swap.") || file.contains("memsw");
                if !is_swap || path.exists() {
                    write_setting(&path, &value)?;
                }
            }
            procs.push(group.join("cgroup.procs"));
        }
        Ok(procs)
    }

    /// Returns the file that limits the memory of a group and all groups below it, if `controller` is the one for memory.
    fn memory_limit_file(&self, controller: &str) -> Option<&'static str> {
        match (self.version, controller) {
            (Version::Two, _) => Some("memory.max"),
            (Version::One, "memory") => Some("memory.limit_in_bytes"),
            (Version::One, _) => None,
        }
    }

    fn settings(&self, controller: &str, limits: Limits) -> Vec<(&'static str, String)> {
        const PERIOD_US: u64 = 100_000;
        let quota = limits.millicpus * PERIOD_US / 1000;
        let memory = limits.memory_bytes.to_string();
        let pids = limits.pids.to_string();
        match (self.version, controller) {
            (Version::Two, _) => vec![
                ("memory.max", memory),
                ("memory.swap.max", "0".into()),
                ("cpu.max", format!("{quota} {PERIOD_US}")),
                ("pids.max", pids),
            ],
            (Version::One, "memory") => vec![
                ("memory.limit_in_bytes", memory.clone()),
                ("memory.memsw.limit_in_bytes", memory),
                ("memory.swappiness", "0".into()),
            ],
            (Version::One, "cpu") => {
                vec![("cpu.cfs_period_us", PERIOD_US.to_string()), ("cpu.cfs_quota_us", quota.to_string())]
            }
            (Version::One, "pids") => vec![("pids.max", pids)],
            (Version::One, _) => Vec::new(),
        }
    }

    /// Returns the names of the existing groups.
    pub(crate) fn list(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .all_parents()
            .filter_map(|parent| fs::read_dir(parent).ok())
            .flatten()
            .filter_map(|entry| entry.ok().filter(|entry| entry.path().is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Kills the processes in the group `vm` and removes it, in every hierarchy.
    pub(crate) fn remove(&self, vm: &str) -> Result<(), Error> {
        for parent in self.all_parents() {
            let group = parent.join(vm);
            let deadline = Instant::now() + KILL_TIMEOUT;
            loop {
                kill(&group);
                match fs::remove_dir(&group) {
                    Ok(()) => break,
                    Err(error) if error.kind() == ErrorKind::NotFound => break,
                    Err(error) if Instant::now() > deadline => {
                        return Err(Error::at("remove", &group)(error));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        }
        Ok(())
    }

    /// Removes the installation's groups if no VM has a group in them.
    pub(crate) fn remove_parents(&self) {
        for parent in self.all_parents() {
            // Fails while a VM still exists.
            let _ = fs::remove_dir(parent);
        }
    }
}

/// Returns the version of the hierarchies, and the installation's group in each.
fn current_parents(name: &str) -> Result<(Version, Parents), Error> {
    if Path::new(ROOT).join("cgroup.controllers").exists() {
        return Ok((Version::Two, vec![("", Path::new(ROOT).join(name))]));
    }
    let own = fs::read_to_string("/proc/self/cgroup").map_err(Error::system("read /proc/self/cgroup"))?;
    let mut parents = Vec::new();
    for controller in V1_CONTROLLERS {
        let group = group_of(&own, controller).ok_or_else(|| Error::System {
            action: "find the control groups",
            source: io::Error::other(format!("no hierarchy with the controller `{controller}` is mounted")),
        })?;
        let path = Path::new(ROOT).join(controller).join(group.trim_start_matches('/')).join(name);
        parents.push((controller, path));
    }
    Ok((Version::One, parents))
}

fn write_setting(path: &Path, value: &str) -> Result<(), Error> {
    fs::write(path, value).map_err(Error::at("write to", path))
}

/// Kills all processes in a group.
fn kill(group: &Path) {
    if fs::write(group.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    let procs = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for pid in procs.lines().filter_map(|line| line.parse().ok()).filter_map(rustix::process::Pid::from_raw) {
        // The list is a moment old, and all members are VMMs: their pids cannot be reused before they are reaped.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// Enables the controllers for the groups below `parent` (version 2).
fn enable_controllers(parent: &Path) -> Result<(), Error> {
    for dir in [Path::new(ROOT), parent] {
        let path = dir.join("cgroup.subtree_control");
        match fs::write(&path, "+cpu +memory +pids") {
            Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                let remedy = "it has processes of its own, as in a container: move them to a group below it, or run Rigbox on the host";
                return Err(Error::at("enable cpu, memory and pids in", &path)(io::Error::new(
                    error.kind(),
                    remedy,
                )));
            }
            result => result.map_err(Error::at("enable cpu, memory and pids in", &path))?,
        }
    }
    Ok(())
}

/// Returns the path of the calling process's group for a version 1 controller, from `/proc/self/cgroup` (cgroups(7)).
fn group_of<'a>(own: &'a str, controller: &str) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let controllers = fields.nth(1)?;
        controllers.split(',').any(|name| name == controller).then(|| fields.next()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Removes the groups of a test, also of one that fails.
    struct OwnGroups(Cgroups);

    impl Drop for OwnGroups {
        fn drop(&mut self) {
            let _ = self.0.remove("vm");
            self.0.remove_parents();
        }
    }

    #[test]
    fn vm_and_all_vms_together_have_limits_in_the_kernel() {
        let folder = tempfile::tempdir().unwrap();
        let name = format!("rigbox-test-{}", std::process::id());
        let groups = OwnGroups(Cgroups::find(&name, &folder.path().join("cgroups")).unwrap());
        let limits = Limits { memory_bytes: 256 << 20, millicpus: 1500, pids: 7 };
        let procs = match groups.0.create("vm", limits) {
            Err(error) if !nix::unistd::geteuid().is_root() => {
                eprintln!("skipped: control groups need root: {error}");
                return;
            }
            procs => procs.unwrap(),
        };
        let read = |file: &str| {
            let groups = procs.iter().map(|procs| procs.parent().unwrap());
            let found = groups.clone().find_map(|group| fs::read_to_string(group.join(file)).ok());
            let of_all =
                groups.clone().find_map(|group| fs::read_to_string(group.join("..").join(file)).ok());
            [found, of_all].map(|text| text.unwrap_or_default().trim().to_owned())
        };
        assert_eq!(read("pids.max")[0], "7");
        let file = groups.0.parents.iter().find_map(|(name, _)| groups.0.memory_limit_file(name)).unwrap();
        let [of_vm, of_all] = read(file);
        assert_eq!(of_vm, (256 << 20).to_string());
        let machine = fs::read_to_string("/proc/meminfo").unwrap();
        let total = machine.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
        let total: u64 = total.trim().trim_end_matches(" kB").parse().unwrap();
        // The kernel rounds to pages.
        let (of_all, expected) = (of_all.parse::<u64>().unwrap(), total * 1024 / 8 * 7);
        assert!(of_all <= expected && of_all + 8192 > expected, "{of_all} of {expected}");
    }

    #[test]
    fn groups_are_found_from_another_session() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: control groups need root");
            return;
        }
        if !rigbox_testkit::in_own_process("sandbox::cgroup::tests::groups_are_found_from_another_session") {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let name = format!("rigbox-test-{}", std::process::id());
        let find = || Cgroups::find(&name, &folder.path().join("cgroups")).unwrap();
        let groups = find();
        let limits = Limits { memory_bytes: 256 << 20, millicpus: 1000, pids: 7 };
        let mut vmm = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        for procs in groups.create("vm", limits).unwrap() {
            fs::write(procs, vmm.id().to_string()).unwrap();
        }
        // A group that differs from the one before, as another session or unit has.
        let homes: Vec<PathBuf> =
            groups.parents.iter().map(|(_, parent)| parent.parent().unwrap().to_owned()).collect();
        let session = |home: &Path| home.join(format!("{name}-session"));
        for home in homes.iter().filter(|_| groups.version == Version::One) {
            fs::create_dir(session(home)).unwrap();
            fs::write(session(home).join("cgroup.procs"), "0").unwrap();
        }
        let later = OwnGroups(find());
        assert!(groups.version == Version::Two || later.0.parents != groups.parents);
        assert_eq!(later.0.list(), ["vm"]);
        later.0.remove("vm").unwrap();
        assert!(!vmm.wait().unwrap().success(), "killed");
        later.0.remove_parents();
        assert!(groups.parents.iter().all(|(_, parent)| !parent.exists()));
        for home in homes.iter().filter(|_| groups.version == Version::One) {
            fs::write(home.join("cgroup.procs"), "0").unwrap();
            let _ = fs::remove_dir(session(home).join(&name));
            fs::remove_dir(session(home)).unwrap();
        }
    }

    #[test]
    fn own_group_is_found_by_controller() {
        let own = "12:pids:/user\n4:cpu,cpuacct:/a:b\n1:name=systemd:/x\n0::/y\n";
        assert_eq!(group_of(own, "cpu"), Some("/a:b"));
        assert_eq!(group_of(own, "pids"), Some("/user"));
        assert_eq!(group_of(own, "memory"), None);
    }
}
