//! `cargo xtask image NAME`: builds a guest image.

use std::path::PathBuf;

use anyhow::Result;
use rigbox_image::default_cache_dir;

use crate::paths::checkout;
use crate::steps::step;

/// Builds the image unless it is cached, and returns its folder.
pub(crate) fn build(name: &str) -> Result<PathBuf> {
    let recipe = checkout().join("images").join(name);
    anyhow::ensure!(recipe.is_dir(), "recipe images/{name} not found");
    step(&format!("image {name}"), "read the message below; check apt's sources", || {
        let mut progress = |line: &str| eprintln!("    {line}");
        let folder = rigbox_image::build(&recipe, &default_cache_dir()?, &mut progress)?;
        eprintln!("    {}", folder.display());
        Ok(folder)
    })
}
