//! Control groups: one per VM, on version 2 (a single hierarchy) or version 1 (one per controller). Leftover processes are found through
//! them, whatever their pids. Under systemd and version 2, the groups are in transient scopes (`scope.rs`).

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rigbox_core::vm_limits::DiskLimits;

use super::block_device::BlockDevice;
use super::scope::{self, Holder, Slice};
use crate::durable;
use crate::error::Error;

const ROOT: &str = "/sys/fs/cgroup";
/// Controllers of version 1 in which each VM gets a group.
const V1_CONTROLLERS: [&str; 5] = ["cpu", "memory", "pids", "blkio", "freezer"];
/// Group of a VMM in its scope.
const GROUP_IN_SCOPE: &str = "vmm";
const PAGE_BYTES: u64 = 4096;
/// Time from SIGKILL to an empty group, in which the kernel only has to tear down memory.
const KILL_TIMEOUT: Duration = Duration::from_secs(20);
/// Time in which systemd removes a scope that has ended. The kernel tells it after some 10 ms.
const SCOPE_TIMEOUT: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Resource limits of a VMM.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) memory_bytes: u64,
    /// Thousandths of a CPU.
    pub(crate) millicpus: u64,
    pub(crate) pids: u32,
    pub(crate) disk: DiskLimits,
}

/// Folders of groups, each with the controller of its hierarchy (version 1).
type Places = Vec<(&'static str, Place)>;

/// Folder in which VMs have their groups: a group of ours, or under systemd a slice with a scope for each VM.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    folder: PathBuf,
    slice: Option<Slice>,
}

impl Place {
    fn new(folder: PathBuf) -> Self {
        Self { slice: Slice::at(&folder), folder }
    }

    /// Returns the groups of a VM, the one of its VMM first. A scope is systemd's, so the VMM has a group of ours in it.
    fn groups(&self, vm: &str) -> Vec<PathBuf> {
        let Some(slice) = &self.slice else { return vec![self.folder.join(vm)] };
        let scope = self.folder.join(slice.scope(vm));
        vec![scope.join(GROUP_IN_SCOPE), scope]
    }

    /// Returns the names of the VMs that have groups here.
    fn vms(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let names = entries
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| entry.file_name().into_string().ok());
        let vm = |name: String| match &self.slice {
            Some(slice) => slice.vm_of(&name).map(str::to_owned),
            None => Some(name),
        };
        names.filter_map(vm).collect()
    }

    /// Kills the processes in the groups of a VM, and removes them. A scope is left to systemd, which learns from its group that it has ended,
    /// and would keep the unit for ever if the group went first.
    fn remove_groups(&self, vm: &str) -> Result<(), Error> {
        let groups = self.groups(vm);
        let Some(slice) = &self.slice else { return groups.iter().try_for_each(|group| remove_group(group)) };
        let [group, scope] = groups.as_slice() else { return Ok(()) };
        kill(scope);
        remove_group(group)?;
        if !is_gone(scope) {
            slice.stop_scope(vm)?;
        }
        remove_group(scope)
    }

    /// Removes the folder, unless VMs have groups in it.
    fn remove(&self) {
        match &self.slice {
            // It would take them with it.
            Some(_) if !self.vms().is_empty() => {}
            Some(slice) => {
                if let Err(error) = slice.stop() {
                    tracing::warn!(%error, "cannot remove the slice of the VMs");
                }
            }
            None => {
                let _ = fs::remove_dir(&self.folder);
            }
        }
    }
}

/// Control groups of this installation.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    version: Version,
    /// Maximum memory of all VMs together.
    max_memory_bytes: u64,
    /// The installation's place in each hierarchy.
    places: Places,
    /// Places of earlier nodes. In version 1 they depend on the session or unit that a node is started from.
    former_places: Vec<Place>,
    /// Device for which the traffic of VMs' disks is limited.
    disk_device: Option<BlockDevice>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Groups that were made for a VMM.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// Files to which a process writes `0` to join them.
    pub(crate) procs: Vec<PathBuf>,
    /// Keeps them until the VMM has joined.
    _holder: Option<Holder>,
}

impl Cgroups {
    /// Finds the hierarchies. `name` is the installation's group, and `record` the file with the places of this group, now and before. The VMs
    /// leave an eighth of the machine's memory to the host.
    pub(crate) fn find(name: &str, record: &Path) -> Result<Self, Error> {
        let machine = nix::sys::sysinfo::sysinfo().map_err(Error::system("read the machine's memory"))?;
        // In whole pages, as the kernel counts.
        let max_memory_bytes = machine.ram_total() / 8 * 7 / PAGE_BYTES * PAGE_BYTES;
        let (version, places) = current_places(name)?;
        let current: Vec<&Path> = places.iter().map(|(_, place)| place.folder.as_path()).collect();
        let known = match fs::read_to_string(record) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            read => read.map_err(Error::at("read", record))?,
        };
        let former = known.lines().map(PathBuf::from).filter(|folder| !current.contains(&folder.as_path()));
        let former: Vec<PathBuf> = former.filter(|folder| folder.is_dir()).collect();
        let paths = current.into_iter().chain(former.iter().map(PathBuf::as_path));
        let text: String = paths.map(|path| format!("{}\n", path.display())).collect();
        // Before there is a group in any of them.
        durable::replace(record, text.as_bytes()).map_err(Error::at("write", record))?;
        let former_places = former.into_iter().map(Place::new).collect();
        Ok(Self { version, max_memory_bytes, places, former_places, disk_device: None })
    }

    /// Limits the traffic of VMs' disks, which are in `folder`, besides the VMM's own limit. Version 1 would miss buffered writes.
    pub(crate) fn limiting_disks_in(mut self, folder: &Path) -> Self {
        if self.version == Version::Two {
            self.disk_device = device_with_limits(folder);
        }
        self
    }

    /// Returns all places in which VMs may have groups.
    fn all_places(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().map(|(_, place)| place).chain(&self.former_places)
    }

    /// Creates the groups of `vm` with its limits.
    pub(crate) fn create(&self, vm: &str, limits: Limits) -> Result<Groups, Error> {
        let mut groups = Groups::default();
        for (controller, place) in &self.places {
            let Some(group) = place.groups(vm).into_iter().next() else { continue };
            match &place.slice {
                Some(slice) => groups._holder = Some(self.create_in_scope(place, slice, vm, &group)?),
                None => self.create_in_own(controller, &place.folder, &group)?,
            }
            for (file, value) in self.settings(controller, limits) {
                let path = group.join(file);
                // Without swap accounting the kernel has no such file, and nothing to limit.
                let is_swap = file.contains("swap.") || file.contains("memsw");
                if !is_swap || path.exists() {
                    write_setting(&path, &value)?;
                }
            }
            self.limit_disk(&group, limits.disk);
            groups.procs.push(group.join("cgroup.procs"));
        }
        Ok(groups)
    }

    /// Raises the memory that the VMM of `vm` may use.
    pub(crate) fn raise_memory(&self, vm: &str, bytes: u64) -> Result<(), Error> {
        let files: [&str; 2] = match self.version {
            Version::Two => ["memory.max", "memory.max"],
            // Never below the other one.
            Version::One => ["memory.memsw.limit_in_bytes", "memory.limit_in_bytes"],
        };
        for (controller, place) in &self.places {
            if self.memory_limit_file(controller).is_none() {
                continue;
            }
            let Some(group) = place.groups(vm).into_iter().next() else { continue };
            for path in files.map(|file| group.join(file)) {
                // As for the limits at first: without swap accounting there is no such file.
                if path.exists() {
                    write_setting(&path, &bytes.to_string())?;
                }
            }
        }
        Ok(())
    }

    /// Limits the traffic of a VM's disk, if the kernel can. The VMM does in any case.
    fn limit_disk(&self, group: &Path, limits: DiskLimits) {
        let Some(device) = self.disk_device else { return };
        if let Err(error) = write_setting(&group.join("io.max"), &device.limited(limits)) {
            tracing::warn!(%error, "cannot limit a disk's traffic in its control group; QEMU alone does");
        }
    }

    /// Creates `group` in a group of ours.
    fn create_in_own(&self, controller: &str, parent: &Path, group: &Path) -> Result<(), Error> {
        fs::create_dir_all(group).map_err(Error::at("create", group))?;
        if self.version == Version::Two {
            enable_controllers(Path::new(ROOT))?;
            enable_controllers(parent)?;
        }
        if let Some(file) = self.memory_limit_file(controller) {
            // A VM ends before the host's own processes do.
            write_setting(&parent.join(file), &self.max_memory_bytes.to_string())?;
        }
        Ok(())
    }

    /// Creates `group` in a new scope of systemd. The holder is in it, because controllers cannot be enabled in a group with processes.
    fn create_in_scope(&self, place: &Place, slice: &Slice, vm: &str, group: &Path) -> Result<Holder, Error> {
        let holder = slice.start_scope(vm)?;
        fs::create_dir_all(group).map_err(Error::at("create", group))?;
        write_setting(&group.join("cgroup.procs"), &holder.pid().to_string())?;
        enable_controllers(&place.folder.join(slice.scope(vm)))?;
        let limit = fs::read_to_string(place.folder.join("memory.max")).unwrap_or_default();
        if limit.trim() != self.max_memory_bytes.to_string() {
            slice.limit_memory(self.max_memory_bytes)?;
        }
        Ok(holder)
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

    /// Returns the names of the VMs that have groups.
    pub(crate) fn list(&self) -> Vec<String> {
        let mut names: Vec<String> = self.all_places().flat_map(Place::vms).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Kills the processes in the groups of `vm` and removes them, in every hierarchy.
    pub(crate) fn remove(&self, vm: &str) -> Result<(), Error> {
        self.all_places().try_for_each(|place| place.remove_groups(vm))
    }

    /// Removes the installation's places if no VM has a group in them.
    pub(crate) fn remove_parents(&self) {
        self.all_places().for_each(Place::remove);
    }
}

/// Returns the version of the hierarchies, and the installation's place in each.
fn current_places(name: &str) -> Result<(Version, Places), Error> {
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").exists() {
        let folder = if scope::is_systemd() { Slice::new(name).folder(root) } else { root.join(name) };
        return Ok((Version::Two, vec![("", Place::new(folder))]));
    }
    let own = fs::read_to_string("/proc/self/cgroup").map_err(Error::system("read /proc/self/cgroup"))?;
    let mut places = Vec::new();
    for controller in V1_CONTROLLERS {
        let group = group_of(&own, controller).ok_or_else(|| Error::System {
            action: "find the control groups",
            source: io::Error::other(format!("no hierarchy with the controller `{controller}` is mounted")),
        })?;
        let folder = root.join(controller).join(group.trim_start_matches('/')).join(name);
        places.push((controller, Place::new(folder)));
    }
    Ok((Version::One, places))
}

/// Kills all processes in a group, and those in groups below it, and removes it.
fn remove_group(group: &Path) -> Result<(), Error> {
    let deadline = Instant::now() + KILL_TIMEOUT;
    loop {
        kill(group);
        match fs::remove_dir(group) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(Error::at("remove", group)(error)),
            Err(_) => std::thread::sleep(POLL_INTERVAL),
        }
    }
}

/// Waits until systemd has removed the group of an empty scope. Returns whether it has.
fn is_gone(scope: &Path) -> bool {
    let deadline = Instant::now() + SCOPE_TIMEOUT;
    while scope.exists() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    true
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

/// Returns the device of `folder`, if the kernel can limit its traffic (version 2).
fn device_with_limits(folder: &Path) -> Option<BlockDevice> {
    let found = if has_io(Path::new(ROOT)) {
        BlockDevice::below(folder)
    } else {
        Err(io::Error::other("the kernel has no controller `io`"))
    };
    let reason = match found {
        Ok(Some(device)) => return Some(device),
        Ok(None) => "their file system has no block device of its own".to_owned(),
        Err(error) => error.to_string(),
    };
    tracing::info!(reason, "control groups do not limit the traffic of disks; QEMU alone does");
    None
}

/// Returns whether the controller for block devices can be enabled in a group (version 2).
fn has_io(group: &Path) -> bool {
    let controllers = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    controllers.split_whitespace().any(|name| name == "io")
}

/// Enables the controllers for the groups below `parent` (version 2).
fn enable_controllers(parent: &Path) -> Result<(), Error> {
    let path = parent.join("cgroup.subtree_control");
    let controllers = if has_io(parent) { "+cpu +memory +pids +io" } else { "+cpu +memory +pids" };
    match fs::write(&path, controllers) {
        Err(error) if error.kind() == ErrorKind::ResourceBusy => {
            let remedy = "it has processes of its own, as in a container: move them to a group below it, or run Rigbox on the host";
            Err(Error::at("enable cpu, memory and pids in", &path)(io::Error::new(error.kind(), remedy)))
        }
        result => result.map_err(Error::at("enable cpu, memory and pids in", &path)),
    }
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
mod tests;
