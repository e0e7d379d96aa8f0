//! Tests in the control groups of this machine, whichever version it has.

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
    let groups = Cgroups::find(&name, &folder.path().join("cgroups")).unwrap();
    let groups = OwnGroups(groups.limiting_disks_in(Path::new("/")));
    let limits = Limits { memory_bytes: 256 << 20, millicpus: 1500, pids: 7, disk: DiskLimits::DEFAULT };
    let procs = match groups.0.create("vm", limits) {
        Err(error) if !nix::unistd::geteuid().is_root() => {
            eprintln!("skipped: control groups need root: {error}");
            return;
        }
        groups => groups.unwrap().procs,
    };
    let read = |file: &str| {
        let groups = procs.iter().map(|procs| procs.parent().unwrap());
        let found = groups.clone().find_map(|group| fs::read_to_string(group.join(file)).ok());
        let of_all = groups.clone().find_map(|group| fs::read_to_string(group.join("..").join(file)).ok());
        [found, of_all].map(|text| text.unwrap_or_default().trim().to_owned())
    };
    assert_eq!(read("pids.max")[0], "7");
    if let Some(device) = groups.0.disk_device {
        assert_eq!(read("io.max")[0], device.limited(DiskLimits::DEFAULT));
    }
    let file = groups.0.places.iter().find_map(|(name, _)| groups.0.memory_limit_file(name)).unwrap();
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
    let limits = Limits { memory_bytes: 256 << 20, millicpus: 1000, pids: 7, disk: DiskLimits::DEFAULT };
    let mut vmm = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    for procs in groups.create("vm", limits).unwrap().procs {
        fs::write(procs, vmm.id().to_string()).unwrap();
    }
    // A group that differs from the one before, as another session or unit has.
    let homes: Vec<PathBuf> =
        groups.places.iter().map(|(_, place)| place.folder.parent().unwrap().to_owned()).collect();
    let session = |home: &Path| home.join(format!("{name}-session"));
    for home in homes.iter().filter(|_| groups.version == Version::One) {
        fs::create_dir(session(home)).unwrap();
        fs::write(session(home).join("cgroup.procs"), "0").unwrap();
    }
    let later = OwnGroups(find());
    assert!(groups.version == Version::Two || later.0.places != groups.places);
    assert_eq!(later.0.list(), ["vm"]);
    later.0.remove("vm").unwrap();
    assert!(!vmm.wait().unwrap().success(), "killed");
    later.0.remove_parents();
    assert!(groups.places.iter().all(|(_, place)| !place.folder.exists()));
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
