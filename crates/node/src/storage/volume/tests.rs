//! Tests on real file systems, mounted in a namespace of each test's own.

use std::os::unix::fs::MetadataExt;

use super::*;
use crate::storage::testbed::{in_own_namespace, mount_xfs};

fn allocated_mb(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512 / MIB
}

#[test]
fn volume_gives_back_what_it_grew_by_and_takes_it_again() {
    if !in_own_namespace("storage::volume::tests::volume_gives_back_what_it_grew_by_and_takes_it_again") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (state, run) = (folder.path().join("state"), folder.path().join("run"));
    let open = || Volume::open(&state, &run).unwrap();
    let volume = open();
    if volume.backing.is_none() {
        eprintln!(
            "skipped: the temporary folder's file system shares blocks, so the volume is not in a file"
        );
        return;
    }
    let file = state.join("volume.xfs");
    assert_eq!(allocated_mb(&file), 4096);
    volume.ensure_capacity(9_000, 0).unwrap();
    assert_eq!(allocated_mb(&file), 12_288);
    let total_mb = volume.total_mb(0).unwrap();
    let data = volume.root().join("data");
    fs::write(&data, vec![7; 100 << 20]).unwrap();

    // Nearly all disks are deleted.
    let kept = volume.keep_capacity().unwrap();
    volume.give_back(1_000).unwrap();
    assert_eq!(allocated_mb(&file), 12_288);
    drop(kept);
    volume.give_back(1_000).unwrap();
    assert!(allocated_mb(&file) <= 4_100, "{}", allocated_mb(&file));
    assert!(total_mb.abs_diff(volume.total_mb(0).unwrap()) < 300);
    // The rest of the volume is backed: filled up, it takes nothing more from the host.
    let filler = volume.root().join("filler");
    let (_, free_mb) = space_mb(volume.root()).unwrap();
    fs::write(&filler, vec![8; usize::try_from((free_mb - 64).min(512) * MIB).unwrap()]).unwrap();
    rustix::fs::syncfs(File::open(volume.root()).unwrap()).unwrap();
    assert!(allocated_mb(&file) <= 4_100, "{}", allocated_mb(&file));
    fs::remove_file(&filler).unwrap();
    drop(volume);

    // A restarted node knows, also after one that was killed in the middle.
    fs::write(run.join("volume/ballast/7"), "").unwrap();
    let volume = open();
    volume.recover().unwrap();
    volume.ensure_capacity(5_000, 0).unwrap();
    assert_eq!(allocated_mb(&file), 8_192);
    volume.ensure_capacity(9_000, 0).unwrap();
    assert_eq!(allocated_mb(&file), 12_288);
    volume.ensure_capacity(12_500, 0).unwrap();
    assert_eq!(allocated_mb(&file), 16_384);
    assert_eq!(fs::read(&data).unwrap(), vec![7; 100 << 20]);
}

#[test]
fn files_of_others_are_no_space_for_disks() {
    if !in_own_namespace("storage::volume::tests::files_of_others_are_no_space_for_disks") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // A host whose own file system shares blocks.
    let host = mount_xfs(folder.path(), 8_192);
    let volume = Volume::open(&host.join("state"), &host.join("run")).unwrap();
    assert!(volume.backing.is_none());
    volume.ensure_capacity(6_000, 0).unwrap();
    allocate(&host.join("of others"), 4_096).unwrap();
    let refused = volume.ensure_capacity(6_000, 0).unwrap_err();
    assert!(matches!(refused, Error::DiskFull { .. }), "{refused}");
    volume.ensure_capacity(2_500, 0).unwrap();
    // What disks have written is theirs.
    volume.ensure_capacity(3_500, 1_000).unwrap();
}
