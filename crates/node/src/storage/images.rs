//! Images on this node: copied once to the volume, where disks are cloned from them, each with an initramfs that combines the image's
//! modules with this version's agent.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rigbox_image::Image;

use crate::config::Config;
use crate::durable;
use crate::error::Error;
use crate::storage::disks::Disks;
use crate::storage::sparse;

/// Image on the volume.
#[derive(Debug, Clone)]
pub(crate) struct LocalImage {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) built_at: std::time::SystemTime,
    pub(crate) min_disk_mb: u32,
    pub(crate) rootfs: PathBuf,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
}

/// All images on the volume, by version.
#[derive(Debug, Clone, Default)]
pub(crate) struct Images {
    by_version: BTreeMap<String, LocalImage>,
}

impl Images {
    /// Imports the newest image of each name from the cache, keeps older images on the volume (disks boot from them), and writes an
    /// initramfs for each, with the agent in `config.guest_dir`.
    pub(crate) fn open(config: &Config, disks: &Disks) -> Result<Self, Error> {
        let dir = folder(disks.volume().root());
        fs::create_dir_all(&dir).map_err(Error::at("create", &dir))?;
        let agent = agent_archive(&config.guest_dir)?;
        let agent_hash = blake3::hash(&agent).to_hex();
        for image in rigbox_image::newest_of_each(&config.image_cache) {
            import(&image, &dir)?;
        }
        for folder in folders(&dir)?.iter().filter(|folder| is_incomplete(folder)) {
            fs::remove_dir_all(folder).map_err(Error::at("remove", folder))?;
        }
        let mut by_version = BTreeMap::new();
        for image in load_all(&dir)? {
            let initramfs =
                image.dir().join(format!("initramfs-{}.cpio", agent_hash.get(..16).unwrap_or_default()));
            write_initramfs(&image, &agent, &initramfs)?;
            reserve(&image, disks)?;
            let local = LocalImage {
                name: image.name.clone(),
                version: image.version.clone(),
                built_at: image.built_at.into(),
                min_disk_mb: u32::try_from(image.min_disk_mb).unwrap_or(u32::MAX),
                rootfs: image.rootfs(),
                kernel: image.vmlinux(),
                initramfs,
            };
            by_version.insert(image.version, local);
        }
        Ok(Self { by_version })
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &LocalImage> {
        self.by_version.values()
    }

    pub(crate) fn newest(&self, name: &str) -> Result<&LocalImage, Error> {
        let newest = self.all().filter(|image| image.name == name).max_by_key(|image| image.built_at);
        newest.ok_or_else(|| Error::NoImage(name.to_owned()))
    }

    pub(crate) fn version(&self, version: &str) -> Result<&LocalImage, Error> {
        self.by_version.get(version).ok_or_else(|| Error::NoImage(version.to_owned()))
    }
}

/// Reserves the space of an image on the volume.
pub(crate) fn reserve(image: &Image, disks: &Disks) -> Result<(), Error> {
    let rootfs = image.rootfs();
    let metadata = fs::metadata(&rootfs).map_err(Error::at("stat", &rootfs))?;
    disks.reserve_image(metadata.blocks() * 512 / (1 << 20))
}

/// Returns the folder of the images on a volume.
pub(crate) fn folder(volume: &Path) -> PathBuf {
    volume.join("images")
}

/// Loads the complete images in a folder of images.
pub(crate) fn load_all(dir: &Path) -> Result<Vec<Image>, Error> {
    let load = |folder: &PathBuf| {
        let image = Image::load(folder).map_err(std::io::Error::other);
        image.map_err(Error::at("load image", folder))
    };
    folders(dir)?.iter().filter(|folder| !is_incomplete(folder)).map(load).collect()
}

fn folders(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let list = fs::read_dir(dir).map_err(Error::at("list", dir))?;
    list.map(|entry| Ok(entry.map_err(Error::at("list", dir))?.path())).collect()
}

/// Returns whether an image was being imported when the node ended.
fn is_incomplete(folder: &Path) -> bool {
    folder.extension().is_some_and(|extension| extension == "new")
}

/// Builds the second half of the initramfs: the agent as `/init`.
fn agent_archive(guest_dir: &Path) -> Result<Vec<u8>, Error> {
    let path = guest_dir.join("init");
    let agent =
        fs::read(&path).map_err(Error::at("read the guest's program (built by `cargo xtask`)", &path))?;
    Ok(rigbox_image::init_archive(&agent))
}

/// Copies an image to a folder of images, unless it is there already.
pub(crate) fn import(image: &Image, dir: &Path) -> Result<(), Error> {
    let target = dir.join(&image.version);
    if target.exists() {
        return Ok(());
    }
    let new = dir.join(format!("{}.new", image.version));
    let copy = || -> std::io::Result<()> {
        let _ = fs::remove_dir_all(&new);
        fs::create_dir(&new)?;
        for from in [image.rootfs(), image.vmlinux(), image.modules(), image.dir().join("image.json")] {
            let to = new.join(from.file_name().unwrap_or_default());
            sparse::copy(&File::open(&from)?, &File::create(&to)?)?;
        }
        fs::rename(&new, &target)?;
        durable::sync_dir(dir)
    };
    copy().map_err(Error::at("copy the image to", &new))
}

fn write_initramfs(image: &Image, agent: &[u8], path: &Path) -> Result<(), Error> {
    if path.exists() {
        return Ok(());
    }
    let modules = fs::read(image.modules());
    let written = modules.and_then(|modules| durable::replace(path, &[&modules, agent].concat()));
    written.map_err(Error::at("write the initramfs", path))
}
