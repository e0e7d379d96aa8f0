//! Folders in the cache with what tests and benchmarks have installed, each replaced when something else is wanted.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::steps::step;

/// Installs `wanted` by `install` unless it is there, and returns the folder.
pub(crate) fn once(
    name: &str,
    wanted: &str,
    remedy: &str,
    install: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let folder = rigbox_image::default_cache_dir()?.join(name);
    // Written last, so that a folder with it is complete.
    let installed = folder.join("installed.txt");
    if fs::read_to_string(&installed).is_ok_and(|installed| installed == wanted) {
        return Ok(folder);
    }
    step(&format!("install {name}"), remedy, || {
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        install(&folder)?;
        Ok(fs::write(&installed, wanted)?)
    })?;
    Ok(folder)
}
