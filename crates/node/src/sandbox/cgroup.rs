//! Control groups: one per VM, on version 2 (a single hierarchy) or version 1 (one per controller). Leftover processes are found through
//! them, whatever their pids.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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

/// Control groups of this installation.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    version: Version,
    /// Maximum memory of all VMs together.
    max_memory_bytes: u64,
    /// The installation's group in each hierarchy.
    parents: Vec<(&'static str, PathBuf)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Cgroups {
    /// Finds the hierarchies. `name` is the installation's group. The VMs leave an eighth of the machine's memory to the host.
    pub(crate) fn find(name: &str) -> Result<Self, Error> {
        let machine = nix::sys::sysinfo::sysinfo().map_err(Error::system("read the machine's memory"))?;
        let max_memory_bytes = machine.ram_total() / 8 * 7;
        if Path::new(ROOT).join("cgroup.controllers").exists() {
            let parents = vec![("", Path::new(ROOT).join(name))];
            return Ok(Self { version: Version::Two, max_memory_bytes, parents });
        }
        let own = fs::read_to_string("/proc/self/cgroup").map_err(Error::system("read /proc/self/cgroup"))?;
        let mut parents = Vec::new();
        for controller in V1_CONTROLLERS {
            let group = group_of(&own, controller).ok_or_else(|| Error::System {
                action: "find the control groups",
                source: io::Error::other(format!(
                    "no hierarchy with the controller `{controller}` is mounted"
                )),
            })?;
            let path = Path::new(ROOT).join(controller).join(group.trim_start_matches('/')).join(name);
            parents.push((controller, path));
        }
        Ok(Self { version: Version::One, max_memory_bytes, parents })
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
            .parents
            .iter()
            .filter_map(|(_, parent)| fs::read_dir(parent).ok())
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
        for (_, parent) in &self.parents {
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
        for (_, parent) in &self.parents {
            // Fails while a VM still exists.
            let _ = fs::remove_dir(parent);
        }
    }
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
        let groups = OwnGroups(Cgroups::find(&format!("rigbox-test-{}", std::process::id())).unwrap());
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
    fn own_group_is_found_by_controller() {
        let own = "12:pids:/user\n4:cpu,cpuacct:/a:b\n1:name=systemd:/x\n0::/y\n";
        assert_eq!(group_of(own, "cpu"), Some("/a:b"));
        assert_eq!(group_of(own, "pids"), Some("/user"));
        assert_eq!(group_of(own, "memory"), None);
    }
}
