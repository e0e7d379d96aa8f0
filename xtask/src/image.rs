//! `cargo xtask image NAME`.

use std::path::PathBuf;

use anyhow::Result;
use rigbox_image::default_cache_dir;

use crate::place::checkout;
use crate::steps::step;

/// Builds the image, unless it is in the cache; returns its folder.
pub(crate) fn build(name: &str) -> Result<PathBuf> {
    let recipe = checkout().join("images").join(name);
    anyhow::ensure!(recipe.is_dir(), "there is no recipe images/{name}");
    step(&format!("image {name}"), "look at the message below; apt's sources must work", || {
        let mut progress = |line: &str| eprintln!("    {line}");
        let folder = rigbox_image::build(&recipe, &default_cache_dir()?, &mut progress)?;
        eprintln!("    {}", folder.display());
        Ok(folder)
    })
}
