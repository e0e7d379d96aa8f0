//! A recipe: the folder that says what an image is made of, read into a checked value.
//!
//! `recipe.toml` holds decisions, `files/` beside it is laid over the root file system as it is.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::error::Error;

/// What `recipe.toml` says.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    /// Name of the image, also the start of its version.
    pub(crate) name: String,
    /// The Debian release, like `bookworm`.
    pub(crate) suite: String,
    /// The meta package whose newest kernel is taken.
    pub(crate) kernel: String,
    /// Size of the root file system, and so the smallest disk it fits on.
    pub(crate) disk_mb: u64,
    /// Debian packages; their recommendations are not followed.
    pub(crate) packages: Vec<String>,
    /// Paths that dpkg does not unpack, in the image and in workspaces made from it (dpkg's patterns).
    #[serde(default)]
    pub(crate) excluded: Vec<String>,
    /// Exceptions from `excluded`.
    #[serde(default)]
    pub(crate) included: Vec<String>,
    /// systemd units that never start.
    #[serde(default)]
    pub(crate) masked: Vec<String>,
    /// systemd generators that never run.
    #[serde(default)]
    pub(crate) masked_generators: Vec<String>,
    /// Paths removed from the finished tree.
    #[serde(default)]
    pub(crate) removed: Vec<PathBuf>,
    /// Symbolic links, path to target: written here rather than in `files/`, because they point into a running VM.
    #[serde(default)]
    pub(crate) links: BTreeMap<PathBuf, PathBuf>,
    /// Octal modes of files from `files/`, where 0644 (or 0755 for executables) is wrong.
    #[serde(default)]
    pub(crate) modes: BTreeMap<PathBuf, String>,
}

impl Recipe {
    /// Reads and checks the recipe in `dir`.
    pub(crate) fn load(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("recipe.toml");
        let text = std::fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        Self::parse(&text).map_err(|problem| Error::Recipe { path, problem })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let recipe: Self = toml::from_str(text).map_err(|e| e.to_string())?;
        recipe.check()?;
        Ok(recipe)
    }

    fn check(&self) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.name.is_empty() || !self.name.chars().all(plain) {
            return Err(format!("name `{}`: use only a-z, 0-9 and -", self.name));
        }
        if self.disk_mb < 256 {
            return Err(format!("disk_mb = {}: a Debian needs at least 256", self.disk_mb));
        }
        // A name that begins with `-` or holds a comma would become another option of mmdebstrap.
        for package in self.packages.iter().chain([&self.kernel, &self.suite]) {
            let fits = package.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && package.chars().all(|c| plain(c) || c == '+' || c == '.');
            if !fits {
                return Err(format!("`{package}` is no name of a Debian package or release"));
            }
        }
        for unit in self.masked.iter().chain(&self.masked_generators) {
            if unit.is_empty() || unit.contains('/') {
                return Err(format!("masked unit `{unit}`: give its name, not a path"));
            }
        }
        for path in self.removed.iter().chain(self.links.keys()).chain(self.modes.keys()) {
            inside(path)?;
        }
        for path in self.modes.keys() {
            self.mode(path)?;
        }
        Ok(())
    }

    /// The mode that the recipe gives to `path` (absolute, as seen in the VM), if it does.
    pub(crate) fn mode(&self, path: &Path) -> Result<Option<u32>, String> {
        let parse = |octal: &String| {
            u32::from_str_radix(octal, 8).ok().filter(|mode| *mode <= 0o7777).ok_or_else(|| {
                format!("mode `{octal}` of {}: write an octal number like \"0440\"", path.display())
            })
        };
        self.modes.get(path).map(parse).transpose()
    }
}

/// `path`, which is absolute in the VM, as a path relative to the root folder.
///
/// The builder is root on the host: a path with `..` would let a typing error reach the host's own files.
pub(crate) fn inside(path: &Path) -> Result<&Path, String> {
    let relative = path.strip_prefix("/").map_err(|_| format!("{}: begin with /", path.display()))?;
    let normal = relative.components().all(|c| matches!(c, Component::Normal(_)));
    if normal && relative.components().next().is_some() {
        Ok(relative)
    } else {
        Err(format!("{}: name a path below / without . or ..", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "name = \"base\"\nsuite = \"bookworm\"\nkernel = \"linux-image-cloud-amd64\"\n\
                         disk_mb = 3072\npackages = [\"g++\", \"python3.11\"]\n";

    #[test]
    fn a_small_recipe_is_enough() {
        let recipe = Recipe::parse(SMALL).unwrap();
        assert_eq!((recipe.name.as_str(), recipe.disk_mb), ("base", 3072));
        assert!(recipe.masked.is_empty());
    }

    #[test]
    fn the_recipes_of_this_repository_parse() {
        let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images");
        let mut seen = 0;
        for entry in std::fs::read_dir(images).unwrap() {
            let dir = entry.unwrap().path();
            if dir.join("recipe.toml").exists() {
                Recipe::load(&dir).unwrap();
                seen += 1;
            }
        }
        assert!(seen > 0);
    }

    #[test]
    fn mistakes_are_refused_with_the_word_that_is_wrong() {
        for (line, expected) in [
            ("pakages = []", "pakages"),
            ("masked = [\"a/b.service\"]", "a/b.service"),
            ("removed = [\"etc/x\"]", "begin with /"),
            ("removed = [\"/etc/../../x\"]", "without"),
            ("removed = [\"/\"]", "below /"),
            ("modes = { \"/etc/x\" = \"rw\" }", "octal"),
        ] {
            let problem = Recipe::parse(&format!("{SMALL}{line}\n")).unwrap_err();
            assert!(problem.contains(expected), "{line}: {problem}");
        }
        for (from, to) in [("\"base\"", "\"Ba/se\""), ("3072", "12"), ("g++", "--include"), ("g++", "a,b")] {
            Recipe::parse(&SMALL.replace(from, to)).unwrap_err();
        }
    }

    #[test]
    fn modes_are_octal() {
        let recipe = Recipe::parse(&format!("{SMALL}modes = {{ \"/etc/x\" = \"0440\" }}\n")).unwrap();
        assert_eq!(recipe.mode(Path::new("/etc/x")), Ok(Some(0o440)));
        assert_eq!(recipe.mode(Path::new("/etc/y")), Ok(None));
    }
}
