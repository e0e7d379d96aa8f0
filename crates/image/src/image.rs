//! Finished image on disk: its description and the paths of its parts.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::error::Error;

/// Files of an image, besides `image.json`.
const PARTS: &[&str] = &["rootfs.ext4", "vmlinux", "modules.cpio"];

/// File that describes the image. It is written last, so a folder without it is not an image.
const DESCRIPTION_FILE: &str = "image.json";

/// Description of an image in `image.json`, and its folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Name of the recipe, such as `base`.
    pub name: String,
    /// Name, build date and start of the hash, such as `base-2026.11.23-0f3a9c12`.
    pub version: String,
    /// Hash of the recipe and the builder.
    pub inputs: String,
    /// Release of the kernel, such as `6.1.0-56-cloud-amd64`. The disk contains its modules.
    pub kernel_version: String,
    /// Size of the smallest disk that fits the root file system.
    pub min_disk_mb: u64,
    /// Time of the build.
    #[serde(with = "time::serde::rfc3339")]
    pub built_at: OffsetDateTime,
    /// Packages in the image: Debian's, including the kernel, and those that the recipe takes from other registries, sorted by name.
    pub packages: Vec<Package>,
    /// Folder from which it was loaded.
    #[serde(skip)]
    dir: PathBuf,
}

/// Package of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Name of the package.
    pub name: String,
    /// Version of the package, in the form of its registry.
    pub version: String,
    /// Registry from which it came.
    #[serde(default)]
    pub registry: Registry,
}

/// Registry of packages.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Registry {
    /// Debian's archive.
    #[default]
    Debian,
    /// Python packages.
    Pypi,
    /// JavaScript packages.
    Npm,
}

impl Package {
    pub(crate) fn new(registry: Registry, name: &str, version: &str) -> Self {
        Self { name: name.to_owned(), version: version.to_owned(), registry }
    }
}

impl Image {
    /// Loads the image in `dir`.
    ///
    /// # Errors
    /// [`Error::Incomplete`]
    pub fn load(dir: &Path) -> Result<Self, Error> {
        let incomplete = |problem: String| Error::Incomplete { path: dir.to_owned(), problem };
        let text = std::fs::read_to_string(dir.join(DESCRIPTION_FILE))
            .map_err(|e| incomplete(format!("{DESCRIPTION_FILE}: {e}")))?;
        let image: Self =
            serde_json::from_str(&text).map_err(|e| incomplete(format!("{DESCRIPTION_FILE}: {e}")))?;
        for part in PARTS {
            if !dir.join(part).is_file() {
                return Err(incomplete(format!("{part} is missing")));
            }
        }
        Ok(Self { dir: dir.to_owned(), ..image })
    }

    /// Returns the image's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the path of the root file system, from which disks are cloned.
    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs.ext4")
    }

    /// Returns the path of the kernel, an ELF.
    pub fn vmlinux(&self) -> PathBuf {
        self.dir.join("vmlinux")
    }

    /// Returns the path of the first part of the initramfs.
    pub fn modules(&self) -> PathBuf {
        self.dir.join("modules.cpio")
    }

    /// Creates the description of a new image in `dir`, without writing it.
    pub(crate) fn new(dir: &Path, inputs: &str, name: &str, min_disk_mb: u64) -> Self {
        let built_at = OffsetDateTime::now_utc();
        let date = format!("{}.{:02}.{:02}", built_at.year(), u8::from(built_at.month()), built_at.day());
        let short_hash: String = inputs.chars().take(8).collect();
        Self {
            name: name.to_owned(),
            version: format!("{name}-{date}-{short_hash}"),
            inputs: inputs.to_owned(),
            kernel_version: String::new(),
            min_disk_mb,
            built_at,
            packages: Vec::new(),
            dir: dir.to_owned(),
        }
    }

    /// Writes `image.json`, which completes the image.
    pub(crate) fn write(&self) -> Result<(), Error> {
        let path = self.dir.join(DESCRIPTION_FILE);
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::from);
        text.and_then(|text| std::fs::write(&path, text + "\n")).map_err(Error::file("write", &path))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Writes a tiny image to `dir`.
    pub(crate) fn write_image(dir: &Path, name: &str, inputs: &str, built_at: OffsetDateTime) {
        std::fs::create_dir_all(dir).unwrap();
        for part in PARTS {
            std::fs::write(dir.join(part), "x").unwrap();
        }
        Image { built_at, ..Image::new(dir, inputs, name, 3072) }.write().unwrap();
    }

    #[test]
    fn written_image_is_loaded_with_its_parts() {
        let dir = tempfile::tempdir().unwrap();
        write_image(
            dir.path(),
            "base",
            "0123456789abcdef",
            OffsetDateTime::from_unix_timestamp(1_795_392_000).unwrap(),
        );
        let image = Image::load(dir.path()).unwrap();
        assert!(
            image.version.starts_with("base-20") && image.version.ends_with("-01234567"),
            "{}",
            image.version
        );
        assert!(image.rootfs().is_file() && image.vmlinux().is_file() && image.modules().is_file());
    }

    #[test]
    fn folder_without_a_part_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write_image(dir.path(), "base", "0123456789abcdef", OffsetDateTime::UNIX_EPOCH);
        std::fs::remove_file(dir.path().join("vmlinux")).unwrap();
        let error = Image::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("vmlinux"), "{error}");
    }
}
