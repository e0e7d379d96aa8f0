//! `cargo xtask image NAME`: builds a guest image.

use std::path::{Path, PathBuf};

use anyhow::Result;
use rigbox_image::default_cache_dir;

use crate::paths::checkout;
use crate::steps::step;

/// Builds the image of workspaces with this name unless it is cached, and returns its folder.
pub(crate) fn build(name: &str) -> Result<PathBuf> {
    let recipe = checkout().join("images").join(name);
    anyhow::ensure!(recipe.is_dir(), "recipe images/{name} not found");
    build_recipe(&recipe, &default_cache_dir()?)
}

/// Builds the image of a recipe's folder unless `cache` has it, and returns its folder.
pub(crate) fn build_recipe(recipe: &Path, cache: &Path) -> Result<PathBuf> {
    let name = recipe.strip_prefix(checkout()).unwrap_or(recipe).display();
    step(&format!("image {name}"), "read the message below; check apt's sources", || {
        let mut progress = |line: &str| eprintln!("    {line}");
        let folder = rigbox_image::build(recipe, cache, &mut progress)?;
        eprintln!("    {}", folder.display());
        Ok(folder)
    })
}
