//! Disks of the machine: its root, the programs under test, and the image of workspaces.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rigbox_image::Image;

/// Programs that are tested, and this one, below the folder of programs.
const PROGRAMS: [&str; 5] = ["rigboxd", "rig", "guest/init", "guest/rig", "rigbox-machine"];
const PROGRAMS_MB: u64 = 512;
/// Minimal `/init`, which mounts the first disk and becomes its systemd.
const INIT: &str = "guest/bare-init";
/// Unit that people install.
const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/rigboxd.service");

/// Files that the machine boots from.
pub(super) struct Disks {
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
    pub(super) root: PathBuf,
    pub(super) programs: PathBuf,
    pub(super) image: PathBuf,
}

impl Disks {
    /// Creates the disks in `scratch`, but for that of the image, which is kept beside the machine's own.
    pub(super) fn create(
        programs: &Path,
        machine: &Path,
        image: &Path,
        firecracker: Option<&Path>,
        soak: bool,
        scratch: &Path,
    ) -> Result<Self> {
        let (machine, image) = (Image::load(machine)?, Image::load(image)?);
        let initramfs = scratch.join("initramfs.cpio");
        let init = programs.join(INIT);
        let init = fs::read(&init).with_context(|| init.display().to_string())?;
        fs::write(&initramfs, [fs::read(machine.modules())?, rigbox_image::init_archive(&init)].concat())?;
        Ok(Self {
            kernel: machine.vmlinux(),
            initramfs,
            // The machine writes to it.
            root: copy(&machine.rootfs(), scratch.join("root.ext4"))?,
            programs: disk_of_programs(programs, firecracker, soak, scratch)?,
            image: disk_of_image(&image, machine.dir().parent().context("the folder of images")?)?,
        })
    }
}

/// Copies a disk, which is mostly empty, or a folder of such.
fn copy(from: &Path, to: PathBuf) -> Result<PathBuf> {
    let copied = Command::new("cp").args(["-a", "--sparse=always"]).arg(from).arg(&to).status()?;
    ensure!(copied.success(), "cp ended with {copied}");
    Ok(to)
}

fn disk_of_programs(
    programs: &Path,
    firecracker: Option<&Path>,
    soak: bool,
    scratch: &Path,
) -> Result<PathBuf> {
    let tree = scratch.join("programs");
    fs::create_dir_all(tree.join("guest"))?;
    for program in PROGRAMS {
        let from = programs.join(program);
        fs::copy(&from, tree.join(program)).with_context(|| from.display().to_string())?;
    }
    fs::copy(UNIT, tree.join("rigboxd.service")).context(UNIT)?;
    if let Some(program) = firecracker {
        fs::copy(program, tree.join("firecracker")).with_context(|| program.display().to_string())?;
    }
    if soak {
        fs::write(tree.join("soak"), "")?;
    }
    let disk = scratch.join("programs.ext4");
    format(&tree, &disk, PROGRAMS_MB)?;
    Ok(disk)
}

/// Returns a disk with the image in a cache folder, as the node expects it.
fn disk_of_image(image: &Image, folder: &Path) -> Result<PathBuf> {
    let disk = folder.join(format!("{}.disk", image.version));
    if !disk.exists() {
        let work = tempfile::tempdir_in(folder)?;
        let (tree, new) = (work.path().join("tree"), work.path().join("disk"));
        let images = tree.join("images");
        fs::create_dir_all(&images)?;
        copy(image.dir(), images)?;
        format(&tree, &new, image.min_disk_mb)?;
        fs::rename(new, &disk)?;
    }
    Ok(disk)
}

fn format(tree: &Path, disk: &Path, size_mb: u64) -> Result<()> {
    fs::File::create(disk)?.set_len(size_mb << 20)?;
    let made = Command::new("mkfs.ext4").args(["-q", "-F", "-d"]).arg(tree).arg(disk).status()?;
    ensure!(made.success(), "mkfs.ext4 ended with {made}");
    Ok(())
}
