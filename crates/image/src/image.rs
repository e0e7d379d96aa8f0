//! A finished image on disk: what is known about it and where its parts lie.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::build;
use crate::cache;
use crate::error::Error;

/// The files that make an image, beside `image.json`.
const PARTS: &[&str] = &["rootfs.ext4", "vmlinux", "modules.cpio"];

/// The file that describes the image; written last, so an image without it is not one.
const DESCRIPTION: &str = "image.json";

/// What `image.json` says of an image, and its folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The recipe's name, like `base`.
    pub name: String,
    /// Name, date of the build and start of the hash, like `base-2026.11.23-0f3a9c12`.
    pub version: String,
    /// Hash of the recipe and the builder.
    pub inputs: String,
    /// The kernel's release, like `6.1.0-56-cloud-amd64`; the disk holds its modules.
    pub kernel_version: String,
    /// The smallest disk that the root file system fits on.
    pub min_disk_mb: u64,
    /// When it was built.
    #[serde(with = "time::serde::rfc3339")]
    pub built_at: OffsetDateTime,
    /// The Debian packages in it, the kernel's among them, by name.
    pub packages: Vec<Package>,
    /// The folder it was loaded from.
    #[serde(skip)]
    dir: PathBuf,
}

/// A Debian package of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, as Debian writes it.
    pub version: String,
}

impl Image {
    /// Reads the image in `dir`.
    pub fn load(dir: &Path) -> Result<Self, Error> {
        let incomplete = |problem: String| Error::Incomplete { path: dir.to_owned(), problem };
        let text = std::fs::read_to_string(dir.join(DESCRIPTION))
            .map_err(|e| incomplete(format!("{DESCRIPTION}: {e}")))?;
        let image: Self =
            serde_json::from_str(&text).map_err(|e| incomplete(format!("{DESCRIPTION}: {e}")))?;
        for part in PARTS {
            if !dir.join(part).is_file() {
                return Err(incomplete(format!("{part} is missing")));
            }
        }
        Ok(Self { dir: dir.to_owned(), ..image })
    }

    /// Builds the image of the recipe in `recipe_dir` into `cache_dir` and returns its folder; at once when it
    /// is there already. `progress` hears one line per step.
    pub fn build(
        recipe_dir: &Path,
        cache_dir: &Path,
        progress: &mut dyn FnMut(&str),
    ) -> Result<PathBuf, Error> {
        build::build(recipe_dir, cache_dir, progress)
    }

    /// The image called `name` in `cache_dir` that was built last.
    pub fn find_newest(cache_dir: &Path, name: &str) -> Result<Self, Error> {
        cache::find_newest(cache_dir, name)
    }

    /// Of each name in `cache_dir`, the image that was built last.
    pub fn newest_of_each(cache_dir: &Path) -> Vec<Self> {
        cache::newest_of_each(cache_dir).into_values().collect()
    }

    /// The folder that the image was loaded from.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The root file system to clone disks from.
    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs.ext4")
    }

    /// The kernel, an ELF.
    pub fn vmlinux(&self) -> PathBuf {
        self.dir.join("vmlinux")
    }

    /// The first part of the initramfs.
    pub fn modules(&self) -> PathBuf {
        self.dir.join("modules.cpio")
    }

    /// A new image in `dir`, not written yet.
    pub(crate) fn describe(dir: &Path, inputs: &str, name: &str, min_disk_mb: u64) -> Self {
        let built_at = OffsetDateTime::now_utc();
        let date = format!("{}.{:02}.{:02}", built_at.year(), u8::from(built_at.month()), built_at.day());
        let short: String = inputs.chars().take(8).collect();
        Self {
            name: name.to_owned(),
            version: format!("{name}-{date}-{short}"),
            inputs: inputs.to_owned(),
            kernel_version: String::new(),
            min_disk_mb,
            built_at,
            packages: Vec::new(),
            dir: dir.to_owned(),
        }
    }

    /// Writes `image.json`, which makes the folder an image.
    pub(crate) fn write(&self) -> Result<(), Error> {
        let path = self.dir.join(DESCRIPTION);
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::from);
        text.and_then(|text| std::fs::write(&path, text + "\n")).map_err(Error::file("write", &path))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Puts a tiny image into `dir`.
    pub(crate) fn put(dir: &Path, name: &str, inputs: &str, built_at: OffsetDateTime) {
        std::fs::create_dir_all(dir).unwrap();
        for part in PARTS {
            std::fs::write(dir.join(part), "x").unwrap();
        }
        Image { built_at, ..Image::describe(dir, inputs, name, 3072) }.write().unwrap();
    }

    #[test]
    fn an_image_is_read_back_and_knows_its_parts() {
        let dir = tempfile::tempdir().unwrap();
        put(
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
    fn a_folder_that_lacks_a_part_is_no_image() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "base", "0123456789abcdef", OffsetDateTime::UNIX_EPOCH);
        std::fs::remove_file(dir.path().join("vmlinux")).unwrap();
        let error = Image::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("vmlinux"), "{error}");
    }
}
