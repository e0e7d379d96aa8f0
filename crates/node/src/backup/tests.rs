//! Backups and restores of a node without its VMs. They need a file system that shares blocks, which only root can mount.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::*;
use crate::record::{Boot, BootMemory};
use crate::storage::testbed::{in_own_namespace, mount_xfs};
use crate::vmm::kind::VmmKind;

/// Folder on an XFS volume of its own, in a mount namespace of its own.
struct Folders {
    _scratch: tempfile::TempDir,
    root: PathBuf,
}

fn folders(test: &str) -> Option<Folders> {
    if !in_own_namespace(&format!("backup::tests::{test}")) {
        return None;
    }
    let scratch = tempfile::tempdir().unwrap();
    let root = mount_xfs(scratch.path(), 2_048);
    Some(Folders { _scratch: scratch, root })
}

impl Folders {
    fn config(&self, name: &str) -> Config {
        let state_dir = self.root.join(name);
        fs::create_dir_all(&state_dir).unwrap();
        Config { state_dir, run_dir: self.root.join(format!("{name}-run")), ..Config::for_tests() }
    }
}

fn id(byte: u8) -> WorkspaceId {
    WorkspaceId::from_random([byte; 5])
}

fn record(id: &WorkspaceId) -> Record {
    let boot = Boot {
        boot_id: "b".into(),
        generation: 1,
        host_boot_id: "this host".into(),
        process: None,
        vmm: VmmKind::Qemu,
        metadata_json: String::new(),
        ready: true,
        stopping: false,
        paused: false,
        epoch: 0,
        is_closed: false,
        memory: BootMemory::None,
    };
    Record { phase: Phase::Provisioned, disk_size_mb: 64, boot: Some(boot), ..Record::new(id, 1) }
}

/// Makes a node with one workspace, whose disk begins with `mark`.
fn make_node(config: &Config, mark: &[u8]) {
    Journal::open(config.journal_dir()).unwrap().save(&record(&id(1))).unwrap();
    let disks = Disks::open(Volume::open(&config.state_dir, &config.run_dir).unwrap(), 1.0).unwrap();
    fs::create_dir_all(images::folder(disks.volume().root())).unwrap();
    let disk = File::create_new(disks.path(&id(1))).unwrap();
    disk.set_len(64 << 20).unwrap();
    disk.write_all_at(mark, 0).unwrap();
    fs::write(config.state_dir.join(owner::FILE), "db-aaaaaaaa\n").unwrap();
}

fn disk_of(config: &Config) -> PathBuf {
    config.state_dir.join("volume/disks").join(disks::file_name(&id(1)))
}

#[test]
fn backup_of_a_node_is_restored_to_an_empty_one_only() {
    let Some(folders) = folders("backup_of_a_node_is_restored_to_an_empty_one_only") else { return };
    let (config, target) = (folders.config("one"), folders.root.join("backup"));
    make_node(&config, b"first");
    let writer = File::options().write(true).open(disk_of(&config)).unwrap();
    assert_eq!(back_up(&config, &target, true, true).unwrap(), Copied { workspaces: 1, disks: 1 });
    // What the VM writes afterwards is not in it.
    writer.write_all_at(b"later", 0).unwrap();
    assert!(!is_empty(&config).unwrap());

    let other = folders.config("two");
    assert!(is_empty(&other).unwrap());
    // It has worked for another database, whose workspaces are gone.
    fs::write(other.state_dir.join(owner::FILE), "db-bbbbbbbb\n").unwrap();
    // An interrupted restore has left a part of the disk.
    fs::create_dir_all(other.state_dir.join("volume/disks")).unwrap();
    fs::write(disk_of(&other).with_added_extension("new"), "part").unwrap();
    for _ in 0..2 {
        assert_eq!(restore(&other, &target).unwrap(), Copied { workspaces: 1, disks: 1 });
    }
    assert!(!is_empty(&other).unwrap());
    let content = fs::read(disk_of(&other)).unwrap();
    assert!(content.starts_with(b"first") && content.len() == 64 << 20);
    assert_eq!(fs::read_dir(other.state_dir.join("volume/disks")).unwrap().count(), 1);
    for id in [other.state_dir.join(owner::FILE), other.state_dir.join("volume").join(owner::FILE)] {
        assert_eq!(fs::read_to_string(id).unwrap(), "db-aaaaaaaa\n");
    }
    // Its VM does not run here.
    let (_, restored) = Journal::open(other.journal_dir()).unwrap().load().unwrap().remove(0);
    assert_eq!(restored.boot.unwrap().host_boot_id, NO_HOST_BOOT);
}

#[test]
fn disk_whose_clone_does_not_fit_is_named() {
    let Some(folders) = folders("disk_whose_clone_does_not_fit_is_named") else { return };
    let (config, target) = (folders.config("one"), folders.root.join("backup"));
    make_node(&config, &vec![1; 32 << 20]);
    let free = rustix::fs::statvfs(&folders.root).unwrap();
    let filler = File::create(folders.root.join("filler")).unwrap();
    let all_but_16_mb = free.f_bavail * free.f_frsize - (16 << 20);
    rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, all_but_16_mb).unwrap();
    let refused = back_up(&config, &target, true, true).unwrap_err().to_string();
    assert!(refused.contains(id(1).as_str()) && refused.contains("32 MiB"), "{refused}");
    // Without disks it needs none of that space.
    fs::remove_dir_all(&target).unwrap();
    assert_eq!(back_up(&config, &target, false, true).unwrap(), Copied { workspaces: 1, disks: 0 });
}

#[test]
fn clone_of_a_disk_has_no_name_and_ends_with_its_descriptor() {
    let Some(folders) = folders("clone_of_a_disk_has_no_name_and_ends_with_its_descriptor") else { return };
    let config = folders.config("one");
    make_node(&config, &vec![1; 32 << 20]);
    let disks = open_disks(&config).unwrap();
    let names = || fs::read_dir(config.state_dir.join("volume/disks")).unwrap().count();
    let clone = disks.clone_for_backup(&id(1)).unwrap().unwrap();
    assert_eq!(names(), 1);
    let mut start = [0; 4];
    clone.read_exact_at(&mut start, 0).unwrap();
    assert_eq!(start, [1; 4]);
    assert!(disks.clone_for_backup(&id(2)).unwrap().is_none());
}
