//! Recipe of an image: a folder, parsed into a validated value.
//!
//! `recipe.toml` contains the settings; `files/` next to it is copied over the root file system.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::error::Error;

/// Content of `recipe.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    /// Name of the image and prefix of its version.
    pub(crate) name: String,
    /// Debian release, such as `bookworm`.
    pub(crate) suite: String,
    /// Meta package of the kernel. The newest version is used.
    pub(crate) kernel: String,
    /// Size of the root file system, and thereby of the smallest disk.
    pub(crate) disk_mb: u64,
    /// Debian packages, installed without recommended packages.
    pub(crate) packages: Vec<String>,
    /// Version of the release's Python, such as `3.11`, for which the packages of `python/requirements.txt` are installed.
    #[serde(default)]
    pub(crate) python: Option<String>,
    /// Paths that dpkg does not unpack, in the image and in workspaces created from it, as dpkg patterns.
    #[serde(default)]
    pub(crate) excluded: Vec<String>,
    /// Exceptions to `excluded`.
    #[serde(default)]
    pub(crate) included: Vec<String>,
    /// Units of Debian's packages that dpkg does not unpack, nor the links that start them.
    #[serde(default)]
    pub(crate) excluded_units: Vec<String>,
    /// Systemd units to mask.
    #[serde(default)]
    pub(crate) masked: Vec<String>,
    /// Systemd generators to mask.
    #[serde(default)]
    pub(crate) masked_generators: Vec<String>,
    /// Modules in the initramfs, if they are others than those of a micro-VM.
    #[serde(default)]
    pub(crate) boot_modules: Option<Vec<String>>,
    /// Paths to remove from the finished tree.
    #[serde(default)]
    pub(crate) removed: Vec<PathBuf>,
    /// Symbolic links, from path to target. They are defined here and not in `files/`, because they point into a running VM.
    #[serde(default)]
    pub(crate) links: BTreeMap<PathBuf, PathBuf>,
    /// Octal modes of files in `files/` that differ from 0644, or from 0755 for executables.
    #[serde(default)]
    pub(crate) modes: BTreeMap<PathBuf, String>,
}

impl Recipe {
    /// Loads and validates the recipe in `dir`.
    pub(crate) fn load(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("recipe.toml");
        let text = std::fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        Self::parse(&text).map_err(|problem| Error::Recipe { path, problem })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let recipe: Self = toml::from_str(text).map_err(|e| e.to_string())?;
        recipe.validate()?;
        Ok(recipe)
    }

    fn validate(&self) -> Result<(), String> {
        let is_name_char = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.name.is_empty() || !self.name.chars().all(is_name_char) {
            return Err(format!("name `{}`: use only a-z, 0-9 and -", self.name));
        }
        if self.disk_mb < 256 {
            return Err(format!("disk_mb = {}: Debian needs at least 256", self.disk_mb));
        }
        // mmdebstrap would parse a name that starts with `-` or contains a comma as an option.
        for package in self.packages.iter().chain([&self.kernel, &self.suite]) {
            let is_valid = package.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && package.chars().all(|c| is_name_char(c) || c == '+' || c == '.');
            if !is_valid {
                return Err(format!("`{package}` is not the name of a Debian package or release"));
            }
        }
        for unit in self.masked.iter().chain(&self.masked_generators).chain(&self.excluded_units) {
            if unit.is_empty() || unit.contains('/') {
                return Err(format!("unit `{unit}`: use its name, not a path"));
            }
        }
        for path in self.removed.iter().chain(self.links.keys()).chain(self.modes.keys()) {
            relative_to_root(path)?;
        }
        for path in self.modes.keys() {
            self.mode(path)?;
        }
        Ok(())
    }

    /// Returns the mode of `path` (absolute, as in the VM), if the recipe sets one.
    pub(crate) fn mode(&self, path: &Path) -> Result<Option<u32>, String> {
        let parse = |octal: &String| {
            u32::from_str_radix(octal, 8).ok().filter(|mode| *mode <= 0o7777).ok_or_else(|| {
                format!("mode `{octal}` of {}: write an octal number such as \"0440\"", path.display())
            })
        };
        self.modes.get(path).map(parse).transpose()
    }
}

/// Converts `path`, which is absolute in the VM, to a path relative to the root folder.
///
/// Paths with `..` are refused: the builder is root on the host, and a typo could otherwise reach the host's own files.
pub(crate) fn relative_to_root(path: &Path) -> Result<&Path, String> {
    let relative = path.strip_prefix("/").map_err(|_| format!("{}: must start with /", path.display()))?;
    let normal = relative.components().all(|c| matches!(c, Component::Normal(_)));
    if normal && relative.components().next().is_some() {
        Ok(relative)
    } else {
        Err(format!("{}: must be a path below / without . or ..", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "name = \"base\"\nsuite = \"bookworm\"\nkernel = \"linux-image-cloud-amd64\"\n\
                         disk_mb = 3072\npackages = [\"g++\", \"python3.11\"]\n";

    #[test]
    fn minimal_recipe_parses() {
        let recipe = Recipe::parse(SMALL).unwrap();
        assert_eq!((recipe.name.as_str(), recipe.disk_mb), ("base", 3072));
        assert!(recipe.masked.is_empty());
    }

    #[test]
    fn recipes_of_this_repository_parse() {
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
    fn error_names_the_invalid_value() {
        for (line, expected) in [
            ("pakages = []", "pakages"),
            ("masked = [\"a/b.service\"]", "a/b.service"),
            ("excluded_units = [\"a/c.service\"]", "a/c.service"),
            ("removed = [\"etc/x\"]", "start with /"),
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
