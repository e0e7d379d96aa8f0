//! Build of an image: the steps from a recipe folder to an image folder, in order.

use std::path::{Path, PathBuf};

use crate::cache::{self, BuildLock};
use crate::error::Error;
use crate::image::{Image, Package};
use crate::recipe::Recipe;
use crate::rootfs::{self, WorkDir};
use crate::{disk, host, inputs, kernel, modules, npm, pypi};

/// Builds the image of the recipe in `recipe_dir` into `cache_dir` and returns its folder. Returns at once if the image exists already.
/// `progress` receives one line per step.
///
/// # Errors
/// [`Error`]
pub fn build(recipe_dir: &Path, cache_dir: &Path, progress: &mut dyn FnMut(&str)) -> Result<PathBuf, Error> {
    let recipe = Recipe::load(recipe_dir)?;
    let inputs = inputs::hash(recipe_dir)?;
    let image_dir = cache::image_dir(cache_dir, &recipe.name, &inputs);
    if Image::load(&image_dir).is_ok() {
        return Ok(image_dir);
    }
    host::check()?;
    let lock = BuildLock::acquire(cache_dir, progress)?;
    // The previous holder of the lock may have built the same image.
    if Image::load(&image_dir).is_ok() {
        return Ok(image_dir);
    }
    let work_dir = lock.create_work_dir()?;
    let new_image = work_dir.path().join("image");
    std::fs::create_dir(&new_image).map_err(Error::file("create", &new_image))?;
    build_parts(&recipe, recipe_dir, &inputs, work_dir.path(), &new_image, progress)?;
    if image_dir.exists() {
        // It could not be loaded, so it is damaged.
        std::fs::remove_dir_all(&image_dir).map_err(Error::file("remove", &image_dir))?;
    }
    std::fs::rename(&new_image, &image_dir).map_err(Error::file("rename the new image to", &image_dir))?;
    Ok(image_dir)
}

/// Builds all parts of the image in the folder `image`. `work_dir` is for intermediate files.
fn build_parts(
    recipe: &Recipe,
    recipe_dir: &Path,
    inputs: &str,
    work_dir: &Path,
    image: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<(), Error> {
    let work = WorkDir::new(work_dir);
    let mut description = Image::new(image, inputs, &recipe.name, recipe.disk_mb);
    // First, because it is quick, and fails where a registry cannot be reached.
    let pinned = download_pinned(recipe, recipe_dir, &work, progress)?;
    rootfs::install(recipe, &work, progress)?;
    progress("copying the recipe's files");
    rootfs::customize(recipe, recipe_dir, &work)?;
    description.packages = rootfs::packages(&work)?;
    description.packages.extend(pinned);
    description.packages.sort_by(|a, b| (&a.name, a.registry).cmp(&(&b.name, b.registry)));

    progress("unpacking the kernel");
    description.kernel_version = kernel::version(&work.kernel.join("lib/modules"))?;
    let vmlinuz = work.kernel.join("boot").join(format!("vmlinuz-{}", description.kernel_version));
    write(&description.vmlinux(), &kernel::vmlinux(&vmlinuz)?)?;
    let installed = work.root.join("usr/lib/modules").join(&description.kernel_version);
    write(&description.modules(), &modules::archive(&installed, recipe.boot_modules.as_deref())?)?;

    progress("creating the root file system");
    disk::format(&work.root, &description.rootfs(), recipe.disk_mb)?;
    description.write()
}

/// Downloads the recipe's pinned packages for the steps in `hook.sh`, and returns them.
fn download_pinned(
    recipe: &Recipe,
    recipe_dir: &Path,
    work: &WorkDir,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<Package>, Error> {
    let mut packages = Vec::new();
    if let Some(version) = &recipe.python {
        progress("downloading the PyPI packages");
        packages.extend(pypi::download(recipe_dir, version, &work.pypi)?);
    }
    if recipe_dir.join(inputs::NPM_LOCK).exists() {
        progress("downloading the npm packages");
        packages.extend(npm::download(recipe_dir, &work.npm)?);
    }
    Ok(packages)
}

fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    std::fs::write(path, content).map_err(Error::file("write", path))
}
