//! Inputs of an image, and their hash, which names the image's folder.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Version of the builder. It changes whenever the builder creates a different image from the same recipe.
const BUILDER_VERSION: &str = "rigbox-image 2";

/// Pinned PyPI packages of a recipe, with their hashes.
pub(crate) const PYPI_PINS: &str = "python/requirements.txt";
/// Pinned npm packages of a recipe.
pub(crate) const NPM_MANIFEST: &str = "node/package.json";
/// Hashes of the npm packages of a recipe.
pub(crate) const NPM_LOCK: &str = "node/package-lock.json";

/// File in the `files/` of a recipe.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OverlayFile {
    /// Path relative to the root.
    pub(crate) path: PathBuf,
    pub(crate) content: Vec<u8>,
    pub(crate) executable: bool,
}

/// Reads all files of the recipe's overlay, sorted by path. Symbolic links belong in `recipe.toml`.
pub(crate) fn overlay_files(recipe_dir: &Path) -> Result<Vec<OverlayFile>, Error> {
    let base = recipe_dir.join("files");
    let mut files = Vec::new();
    let mut folders = if base.is_dir() { vec![base.clone()] } else { vec![] };
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(Error::file("list", &folder))? {
            let path = entry.map_err(Error::file("list", &folder))?.path();
            let found = path.symlink_metadata().map_err(Error::file("read", &path))?;
            if found.is_dir() {
                folders.push(path);
            } else if found.is_file() {
                let content = std::fs::read(&path).map_err(Error::file("read", &path))?;
                let executable = found.permissions().mode() & 0o100 != 0;
                let path = path.strip_prefix(&base).unwrap_or(&path).to_owned();
                files.push(OverlayFile { path, content, executable });
            } else {
                let problem =
                    format!("{} is not a regular file; define symbolic links in [links]", path.display());
                return Err(Error::Recipe { path: recipe_dir.join("recipe.toml"), problem });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// Returns the hash of all inputs as 16 hexadecimal digits.
///
/// Versions of Debian packages are not an input: the image lists those of its build, and newer versions must not invalidate an existing image on a
/// host without a network.
pub(crate) fn hash(recipe_dir: &Path) -> Result<String, Error> {
    let mut hasher = blake3::Hasher::new();
    // Each part is hashed with its length, so that different inputs cannot collide by concatenation.
    let mut add = |bytes: &[u8]| {
        hasher.update(&bytes.len().to_le_bytes());
        hasher.update(bytes);
    };
    add(BUILDER_VERSION.as_bytes());
    add(include_bytes!("hook.sh"));
    let recipe = recipe_dir.join("recipe.toml");
    add(&std::fs::read(&recipe).map_err(Error::file("read", &recipe))?);
    for name in [PYPI_PINS, NPM_MANIFEST, NPM_LOCK] {
        let path = recipe_dir.join(name);
        if path.exists() {
            add(name.as_bytes());
            add(&std::fs::read(&path).map_err(Error::file("read", &path))?);
        }
    }
    for file in overlay_files(recipe_dir)? {
        add(file.path.as_os_str().as_encoded_bytes());
        add(&[u8::from(file.executable)]);
        add(&file.content);
    }
    Ok(hasher.finalize().to_hex().chars().take(16).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_depends_on_every_input_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("recipe.toml", "name = \"x\"");
        write("files/etc/a", "1");
        let first = hash(dir.path()).unwrap();
        assert_eq!(first.len(), 16);
        assert_eq!(hash(dir.path()).unwrap(), first);
        write("notes.md", "not an input");
        assert_eq!(hash(dir.path()).unwrap(), first);
        write("files/etc/a", "2");
        let second = hash(dir.path()).unwrap();
        write("files/etc/b", "");
        let third = hash(dir.path()).unwrap();
        write("recipe.toml", "name = \"y\"");
        let fourth = hash(dir.path()).unwrap();
        let mut all = std::collections::BTreeSet::from([first, second, third, fourth]);
        for pins in [PYPI_PINS, NPM_MANIFEST, NPM_LOCK] {
            write(pins, "");
            all.insert(hash(dir.path()).unwrap());
        }
        assert_eq!(all.len(), 7);
    }

    #[test]
    fn symbolic_links_in_the_overlay_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("files")).unwrap();
        std::os::unix::fs::symlink("/run/x", dir.path().join("files/x")).unwrap();
        assert!(overlay_files(dir.path()).unwrap_err().to_string().contains("[links]"));
    }
}
