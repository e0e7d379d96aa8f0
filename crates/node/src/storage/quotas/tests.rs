//! Tests on real file systems, mounted in a namespace of each test's own, where the kernel has project quotas. `tests/machine` runs with a
//! kernel that has.

use rigbox_core::ids::WorkspaceId;
use rigbox_sys::project_quota::{Usage, project, set_project, usage};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::*;
use crate::storage::disks::Disks;
use crate::storage::testbed::{in_own_namespace, mount_xfs};
use crate::storage::volume::Volume;

const DISK_MB: u32 = 128;

/// Disks on a file system with project quotas, and an image of the size of a disk.
struct Testbed {
    _folder: tempfile::TempDir,
    root: PathBuf,
    disks: Disks,
}

impl Testbed {
    /// Returns `None` where the test of this path is not to go on.
    fn open(test: &str) -> Option<Self> {
        if !in_own_namespace(&format!("storage::quotas::tests::{test}")) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let root = mount_xfs(folder.path(), 4_096);
        let (state, run) = (root.join("state"), root.join("run"));
        fs::create_dir_all(&state).unwrap();
        let disks = Disks::open(Volume::open(&state, &run).unwrap(), 1.0).unwrap();
        if let Err(error) = disks.quotas() {
            eprintln!("skipped: {error}");
            return None;
        }
        write(&File::create(root.join("image")).unwrap(), 1);
        disks.reserve_image(DISK_MB.into()).unwrap();
        Some(Self { _folder: folder, root, disks })
    }

    fn create(&self, id: &WorkspaceId) {
        self.disks.create(id, &self.root.join("image"), DISK_MB).unwrap();
    }

    fn usage(&self, project: u32) -> Usage {
        usage(&File::open(&self.root).unwrap(), project).unwrap()
    }
}

fn id(byte: u8) -> WorkspaceId {
    WorkspaceId::from_random([byte; 5])
}

/// Fills a disk or an image.
fn write(file: &File, byte: u8) {
    use std::os::unix::fs::FileExt;
    let mib = vec![byte; 1 << 20];
    (0..u64::from(DISK_MB)).for_each(|at| file.write_all_at(&mib, at << 20).unwrap());
    file.sync_all().unwrap();
}

/// Overwrites a disk as guests do: blocks here and there, several at once, so that the file is never without data to be written.
fn scatter(file: &File, byte: u8) {
    use std::os::unix::fs::FileExt;
    const BLOCK: u64 = 4096;
    const WRITERS: u64 = 4;
    let blocks = (u64::from(DISK_MB) << 20) / BLOCK;
    let write = |number: u64| {
        // Odd, and so prime to the number of blocks: each of them once.
        let block = number * 4_099 % blocks;
        file.write_all_at(&[byte; BLOCK as usize], block * BLOCK).unwrap();
    };
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || (writer..blocks).step_by(WRITERS as usize).for_each(write));
        }
    });
    file.sync_all().unwrap();
}

/// Allocates blocks beyond the end of a file, MiB by MiB, until that fails or there are `most_mb`. Returns their number.
fn grow(file: &File, most_mb: u64) -> (u64, Option<Errno>) {
    let end = file.metadata().unwrap().len();
    for mb in 0..most_mb {
        if let Err(errno) = fallocate(file, FallocateFlags::KEEP_SIZE, end + (mb << 20), 1 << 20) {
            return (mb, Some(errno));
        }
    }
    (most_mb, None)
}

#[test]
fn disk_does_not_grow_past_its_limit() {
    let Some(testbed) = Testbed::open("disk_does_not_grow_past_its_limit") else { return };
    testbed.create(&id(1));
    let disk = testbed.disks.open_disk(&id(1), 7_001, DISK_MB).unwrap();
    let (grown_mb, refused) = grow(&disk, 2_048);
    assert!(matches!(refused, Some(Errno::NOSPC | Errno::DQUOT)), "{refused:?} after {grown_mb} MiB");
    let Usage { limit_bytes, used_bytes } = testbed.usage(7_001);
    assert_eq!(limit_bytes, Some(limit_bytes_of_a_disk()));
    assert!(used_bytes <= limit_bytes_of_a_disk() && grown_mb <= u64::from(DISK_MB) + ROOM_MB + 1);
    // The volume has space: nothing else refused it.
    let other = File::create(testbed.root.join("other")).unwrap();
    assert_eq!(grow(&other, 2_048), (2_048, None));
}

fn limit_bytes_of_a_disk() -> u64 {
    limit_bytes(DISK_MB.into(), DISK_MB.into())
}

#[test]
fn full_disk_is_overwritten_while_its_blocks_are_shared() {
    let Some(testbed) = Testbed::open("full_disk_is_overwritten_while_its_blocks_are_shared") else { return };
    testbed.create(&id(1));
    let disk = testbed.disks.open_disk(&id(1), 7_001, DISK_MB).unwrap();
    // First with the image, and then with a backup.
    scatter(&disk, 2);
    let backup = testbed.disks.clone_for_backup(&id(1)).unwrap().unwrap();
    scatter(&disk, 3);
    drop(backup);
    scatter(&disk, 4);
    assert_eq!(project(&disk).unwrap(), 7_001);
    // A launch beside a backup leaves room for it, too.
    let _kept = testbed.disks.volume().keep_capacity().unwrap();
    let disk = testbed.disks.open_disk(&id(1), 7_001, DISK_MB).unwrap();
    let _backup = testbed.disks.clone_for_backup(&id(1)).unwrap().unwrap();
    scatter(&disk, 5);
}

#[test]
fn disk_in_the_project_of_another_is_taken_out_of_it() {
    let Some(testbed) = Testbed::open("disk_in_the_project_of_another_is_taken_out_of_it") else { return };
    let open = |byte: u8, project: u32| testbed.disks.open_disk(&id(byte), project, DISK_MB).unwrap();
    testbed.create(&id(1));
    testbed.create(&id(2));
    let (first, second) = (open(1, 7_001), open(2, 7_002));
    let blocks = first.metadata().unwrap().blocks() * 512;
    assert_eq!((testbed.usage(7_001).used_bytes, testbed.usage(7_002).used_bytes), (blocks, blocks));
    // The journal is lost, and slots are assigned anew.
    open(1, 7_002);
    assert_eq!((project(&first).unwrap(), project(&second).unwrap()), (7_002, 0));
    assert_eq!(testbed.usage(7_001), Usage { limit_bytes: None, used_bytes: 0 });
    assert_eq!(testbed.usage(7_002).used_bytes, blocks);
    open(2, 7_001);
    assert_eq!(testbed.usage(7_001).used_bytes, blocks);
}

#[test]
fn removed_disk_leaves_no_limit() {
    let Some(testbed) = Testbed::open("removed_disk_leaves_no_limit") else { return };
    testbed.create(&id(1));
    testbed.disks.open_disk(&id(1), 7_001, DISK_MB).unwrap();
    assert!(testbed.usage(7_001).limit_bytes.is_some());
    testbed.disks.remove(&id(1)).unwrap();
    assert_eq!(testbed.usage(7_001), Usage { limit_bytes: None, used_bytes: 0 });
    // Without a disk, it is as well.
    testbed.disks.remove(&id(1)).unwrap();
}

#[test]
fn folder_in_a_project_of_the_administrator_is_left_alone() {
    let Some(testbed) = Testbed::open("folder_in_a_project_of_the_administrator_is_left_alone") else {
        return;
    };
    let folder = testbed.root.join("limited");
    fs::create_dir(&folder).unwrap();
    assert!(Quotas::open(&folder).is_ok());
    set_project(&File::open(&folder).unwrap(), 5).unwrap();
    assert!(matches!(Quotas::open(&folder), Err(Unavailable::Taken(5))));
}

#[test]
fn limit_has_room_for_a_full_disk_whose_blocks_are_all_apart() {
    // Leaves of the map with half of the 251 records that fit, and the same of its inner nodes.
    let worst_map_mb = |size_mb: u64| (size_mb * 256).div_ceil(125).div_ceil(256) * 126 / 125;
    for size_mb in [1, 64, 4_096, 1 << 20] {
        let room_mb = limit_bytes(size_mb, 0) / MIB - size_mb;
        assert!(room_mb >= worst_map_mb(size_mb), "{size_mb}: {room_mb}");
    }
    assert_eq!(limit_bytes(1_000, 300) - limit_bytes(1_000, 0), 300 * MIB);
    // Nothing shares more than it has.
    assert_eq!(limit_bytes(1_000, 3_000), limit_bytes(1_000, 1_000));
}
