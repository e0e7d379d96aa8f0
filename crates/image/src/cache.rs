//! The folder that images are kept in: where it is, who may build in it, and which image of it to take.
//!
//! It lies outside `target/`, because an image outlives many builds of the program.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::image::Image;

/// Begins the names of folders of unfinished builds.
const UNFINISHED: &str = ".building-";

/// `$RIGBOX_CACHE`, else `$XDG_CACHE_HOME/rigbox`, else `~/.cache/rigbox`.
pub fn default_cache_dir() -> Result<PathBuf, Error> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    var("RIGBOX_CACHE")
        .or_else(|| var("XDG_CACHE_HOME").map(|dir| dir.join("rigbox")))
        .or_else(|| var("HOME").map(|dir| dir.join(".cache/rigbox")))
        .ok_or(Error::NoCacheDir)
}

/// The folder of the image `name` with these inputs.
pub(crate) fn image_dir(cache: &Path, name: &str, inputs: &str) -> PathBuf {
    cache.join("images").join(format!("{name}-{inputs}"))
}

/// The right to build in a cache; one build at a time. Dropped, or its process killed, another may begin.
pub(crate) struct BuildLock {
    images: PathBuf,
    _file: File,
}

impl BuildLock {
    /// Waits until no other build runs, then removes what killed builds left behind.
    pub(crate) fn wait(cache: &Path, progress: &mut dyn FnMut(&str)) -> Result<Self, Error> {
        let images = cache.join("images");
        std::fs::create_dir_all(&images).map_err(Error::file("create", &images))?;
        let path = images.join(".lock");
        let options = File::options().create(true).truncate(false).write(true).open(&path);
        let file = options.map_err(Error::file("open", &path))?;
        if file.try_lock().is_err() {
            progress("waiting for another build to end");
            file.lock().map_err(Error::file("lock", &path))?;
        }
        let lock = Self { images, _file: file };
        lock.remove_leftovers()?;
        Ok(lock)
    }

    /// A new empty folder for a build, beside the images so that it can be renamed into place; it removes itself.
    pub(crate) fn folder(&self) -> Result<tempfile::TempDir, Error> {
        let folder = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(&self.images);
        folder.map_err(Error::file("create a folder in", &self.images))
    }

    fn remove_leftovers(&self) -> Result<(), Error> {
        for entry in std::fs::read_dir(&self.images).map_err(Error::file("list", &self.images))? {
            let entry = entry.map_err(Error::file("list", &self.images))?;
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                let path = entry.path();
                std::fs::remove_dir_all(&path).map_err(Error::file("remove", &path))?;
            }
        }
        Ok(())
    }
}

/// The image called `name` in `cache` that was built last.
pub(crate) fn find_newest(cache: &Path, name: &str) -> Result<Image, Error> {
    newest_of_each(cache)
        .remove(name)
        .ok_or_else(|| Error::NotBuilt { name: name.to_owned(), cache: cache.to_owned() })
}

/// Of each name in `cache`, the image that was built last.
pub(crate) fn newest_of_each(cache: &Path) -> BTreeMap<String, Image> {
    let entries = std::fs::read_dir(cache.join("images")).into_iter().flatten().flatten();
    let mut newest: BTreeMap<String, Image> = BTreeMap::new();
    // A folder that is no image (another builder's, a damaged one) is no reason to find none.
    for image in entries.filter_map(|entry| Image::load(&entry.path()).ok()) {
        let is_whole = image.dir() == image_dir(cache, &image.name, &image.inputs);
        if is_whole && newest.get(&image.name).is_none_or(|other| other.built_at < image.built_at) {
            newest.insert(image.name.clone(), image);
        }
    }
    newest
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tests::put;
    use time::{Duration, OffsetDateTime};

    #[test]
    fn the_image_built_last_is_found_and_unfinished_ones_are_not() {
        let cache = tempfile::tempdir().unwrap();
        let day = |n: i64| OffsetDateTime::UNIX_EPOCH + Duration::days(n);
        put(&image_dir(cache.path(), "base", "bb"), "base", "bb", day(2));
        put(&image_dir(cache.path(), "base", "aa"), "base", "aa", day(1));
        put(&image_dir(cache.path(), "dev", "cc"), "dev", "cc", day(3));
        put(&cache.path().join("images/.building-x"), "base", "dd", day(4));
        assert_eq!(find_newest(cache.path(), "base").unwrap().inputs, "bb");
        let error = find_newest(cache.path(), "gpu").unwrap_err().to_string();
        assert!(error.contains("cargo xtask image gpu"), "{error}");
    }

    #[test]
    fn a_killed_builds_leftovers_are_removed_by_the_next() {
        let cache = tempfile::tempdir().unwrap();
        let left = cache.path().join("images/.building-killed/root");
        std::fs::create_dir_all(&left).unwrap();
        let lock = BuildLock::wait(cache.path(), &mut |_| {}).unwrap();
        assert!(!left.exists());
        assert!(lock.folder().unwrap().path().is_dir());
    }
}
