//! The build itself: the steps from a recipe folder to an image folder, in their order.

use std::path::{Path, PathBuf};

use crate::cache::{self, BuildLock};
use crate::error::Error;
use crate::image::Image;
use crate::recipe::Recipe;
use crate::rootfs::{self, Work};
use crate::{disk, host, inputs, kernel, modules};

/// See [`Image::build`].
pub(crate) fn build(
    recipe_dir: &Path,
    cache: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<PathBuf, Error> {
    let recipe = Recipe::load(recipe_dir)?;
    let inputs = inputs::hash(recipe_dir)?;
    let finished = cache::image_dir(cache, &recipe.name, &inputs);
    if Image::load(&finished).is_ok() {
        return Ok(finished);
    }
    host::check()?;
    let lock = BuildLock::wait(cache, progress)?;
    // Whoever held the lock before may have built just this one.
    if Image::load(&finished).is_ok() {
        return Ok(finished);
    }
    let folder = lock.folder()?;
    let image = folder.path().join("image");
    std::fs::create_dir(&image).map_err(Error::file("create", &image))?;
    make(&recipe, recipe_dir, &inputs, folder.path(), &image, progress)?;
    if finished.exists() {
        // It did not load, so it is damaged.
        std::fs::remove_dir_all(&finished).map_err(Error::file("remove", &finished))?;
    }
    std::fs::rename(&image, &finished).map_err(Error::file("rename the new image to", &finished))?;
    Ok(finished)
}

/// Makes all parts of the image in the folder `image`; `folder` is for what is needed on the way.
fn make(
    recipe: &Recipe,
    recipe_dir: &Path,
    inputs: &str,
    folder: &Path,
    image: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<(), Error> {
    let work = Work::new(folder);
    let mut description = Image::describe(image, inputs, &recipe.name, recipe.disk_mb);
    rootfs::install(recipe, &work, progress)?;
    progress("laying the recipe's files over it");
    rootfs::customize(recipe, recipe_dir, &work)?;
    description.packages = rootfs::packages(&work)?;

    progress("unpacking the kernel");
    description.kernel_version = kernel::version(&work.kernel.join("lib/modules"))?;
    let vmlinuz = work.kernel.join("boot").join(format!("vmlinuz-{}", description.kernel_version));
    write(&description.vmlinux(), &kernel::vmlinux(&vmlinuz)?)?;
    let installed = work.root.join("usr/lib/modules").join(&description.kernel_version);
    write(&description.modules(), &modules::archive(&installed)?)?;

    progress("making the root file system");
    disk::format(&work.root, &description.rootfs(), recipe.disk_mb)?;
    description.write()
}

fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    std::fs::write(path, content).map_err(Error::file("write", path))
}
