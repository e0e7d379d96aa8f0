//! Cache of built images: its location, the lock for builds, and the lookup of images.
//!
//! The cache is outside `target/`, because an image outlives many builds of the program.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::image::Image;

/// Name prefix of the folders of unfinished builds.
const UNFINISHED_PREFIX: &str = ".building-";

/// Returns the default cache folder: `$RIGBOX_CACHE`, else `$XDG_CACHE_HOME/rigbox`, else `~/.cache/rigbox`.
///
/// # Errors
/// None of these variables, nor `HOME`, is set.
pub fn default_cache_dir() -> Result<PathBuf, Error> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    var("RIGBOX_CACHE")
        .or_else(|| var("XDG_CACHE_HOME").map(|dir| dir.join("rigbox")))
        .or_else(|| var("HOME").map(|dir| dir.join(".cache/rigbox")))
        .ok_or(Error::NoCacheDir)
}

/// Returns the folder of the image `name` with these inputs.
pub(crate) fn image_dir(cache: &Path, name: &str, inputs: &str) -> PathBuf {
    cache.join("images").join(format!("{name}-{inputs}"))
}

/// Lock on the cache, held during a build. It is released when dropped, or when its process ends.
pub(crate) struct BuildLock {
    images: PathBuf,
    _file: File,
}

impl BuildLock {
    /// Waits until no other build runs, then removes the leftovers of killed builds.
    pub(crate) fn acquire(cache: &Path, progress: &mut dyn FnMut(&str)) -> Result<Self, Error> {
        let images = cache.join("images");
        std::fs::create_dir_all(&images).map_err(Error::file("create", &images))?;
        let path = images.join(".lock");
        let options = File::options().create(true).truncate(false).write(true).open(&path);
        let file = options.map_err(Error::file("open", &path))?;
        if file.try_lock().is_err() {
            progress("waiting for another build to finish");
            file.lock().map_err(Error::file("lock", &path))?;
        }
        let lock = Self { images, _file: file };
        lock.remove_leftovers()?;
        Ok(lock)
    }

    /// Creates a temporary folder for a build, on the same file system as the images, so that it can be renamed into place.
    pub(crate) fn create_work_dir(&self) -> Result<tempfile::TempDir, Error> {
        let folder = tempfile::Builder::new().prefix(UNFINISHED_PREFIX).tempdir_in(&self.images);
        folder.map_err(Error::file("create a folder in", &self.images))
    }

    fn remove_leftovers(&self) -> Result<(), Error> {
        for entry in std::fs::read_dir(&self.images).map_err(Error::file("list", &self.images))? {
            let entry = entry.map_err(Error::file("list", &self.images))?;
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED_PREFIX) {
                let path = entry.path();
                std::fs::remove_dir_all(&path).map_err(Error::file("remove", &path))?;
            }
        }
        Ok(())
    }
}

/// Returns the newest image called `name` in `cache_dir`.
///
/// # Errors
/// There is no image of that name.
pub fn find_newest(cache_dir: &Path, name: &str) -> Result<Image, Error> {
    newest_by_name(cache_dir)
        .remove(name)
        .ok_or_else(|| Error::NotBuilt { name: name.to_owned(), cache: cache_dir.to_owned() })
}

/// Returns the newest image of each name in `cache_dir`.
pub fn newest_of_each(cache_dir: &Path) -> Vec<Image> {
    newest_by_name(cache_dir).into_values().collect()
}

fn newest_by_name(cache_dir: &Path) -> BTreeMap<String, Image> {
    let entries = std::fs::read_dir(cache_dir.join("images")).into_iter().flatten().flatten();
    let mut newest: BTreeMap<String, Image> = BTreeMap::new();
    // Folders that are not valid images, such as another builder's or damaged ones, are skipped.
    for image in entries.filter_map(|entry| Image::load(&entry.path()).ok()) {
        let is_in_place = image.dir() == image_dir(cache_dir, &image.name, &image.inputs);
        if is_in_place && newest.get(&image.name).is_none_or(|other| other.built_at < image.built_at) {
            newest.insert(image.name.clone(), image);
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tests::write_image;
    use time::{Duration, OffsetDateTime};

    #[test]
    fn newest_finished_image_is_found() {
        let cache = tempfile::tempdir().unwrap();
        let day = |n: i64| OffsetDateTime::UNIX_EPOCH + Duration::days(n);
        write_image(&image_dir(cache.path(), "base", "bb"), "base", "bb", day(2));
        write_image(&image_dir(cache.path(), "base", "aa"), "base", "aa", day(1));
        write_image(&image_dir(cache.path(), "dev", "cc"), "dev", "cc", day(3));
        write_image(&cache.path().join("images/.building-x"), "base", "dd", day(4));
        assert_eq!(find_newest(cache.path(), "base").unwrap().inputs, "bb");
        let error = find_newest(cache.path(), "gpu").unwrap_err().to_string();
        assert!(error.contains("cargo xtask image gpu"), "{error}");
    }

    #[test]
    fn leftovers_of_a_killed_build_are_removed_by_the_next() {
        let cache = tempfile::tempdir().unwrap();
        let left = cache.path().join("images/.building-killed/root");
        std::fs::create_dir_all(&left).unwrap();
        let lock = BuildLock::acquire(cache.path(), &mut |_| {}).unwrap();
        assert!(!left.exists());
        assert!(lock.create_work_dir().unwrap().path().is_dir());
    }
}
