//! npm packages of an image, Node.js among them: pinned by version and integrity hash in the recipe's lock file, downloaded with the host's
//! npm, which compares the hashes, and installed by `hook.sh`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use crate::command;
use crate::error::Error;
use crate::image::{Package, Registry};
use crate::inputs::{NPM_LOCK, NPM_MANIFEST};

/// Folder of the packages in a lock file.
const FOLDER: &str = "node_modules/";

/// Lock file of npm, version 3.
#[derive(Deserialize)]
struct Lock {
    /// Packages by the path of their folder. The root has an empty path.
    packages: BTreeMap<String, LockedPackage>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LockedPackage {
    version: Option<String>,
    integrity: Option<String>,
    /// True if it comes inside another package, which has the hash.
    #[serde(default)]
    in_bundle: bool,
}

/// Downloads the recipe's packages into `to/node_modules`, and returns them.
pub(crate) fn download(recipe_dir: &Path, to: &Path) -> Result<Vec<Package>, Error> {
    std::fs::create_dir(to).map_err(Error::file("create", to))?;
    for pins in [NPM_MANIFEST, NPM_LOCK].map(|name| recipe_dir.join(name)) {
        let copy = to.join(pins.file_name().unwrap_or_default());
        std::fs::copy(&pins, &copy).map_err(Error::file("copy", &pins))?;
    }
    let lock = recipe_dir.join(NPM_LOCK);
    let text = std::fs::read_to_string(&lock).map_err(Error::file("read", &lock))?;
    let packages = parse(&text).map_err(|problem| Error::Recipe { path: lock, problem })?;
    let mut npm = Command::new("npm");
    // Scripts would run on the host, as root.
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
        .current_dir(to)
        .env("PATH", command::PATH);
    command::output(&mut npm, "downloading the npm packages")?;
    Ok(packages)
}

/// Parses a lock file. Returns the packages that it pins, without those inside them.
fn parse(text: &str) -> Result<Vec<Package>, String> {
    let lock: Lock = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut pinned = Vec::new();
    for (path, package) in lock.packages {
        let Some(name) = path.strip_prefix(FOLDER).filter(|_| !package.in_bundle) else { continue };
        match (package.version, package.integrity) {
            (Some(version), Some(hash)) if hash.starts_with("sha512-") => {
                pinned.push(Package::new(Registry::Npm, name, &version));
            }
            _ => {
                return Err(format!("{path} needs a `version`, and an `integrity` that starts with sha512-"));
            }
        }
    }
    Ok(pinned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locked_packages_have_a_hash_of_their_own() {
        let lock = |package: &str| format!(r#"{{"packages": {{"": {{}}, "node_modules/yarn": {package}}}}}"#);
        let yarn = parse(&lock(r#"{"version": "1.22.22", "integrity": "sha512-x"}"#)).unwrap();
        assert_eq!(yarn, [Package::new(Registry::Npm, "yarn", "1.22.22")]);
        assert_eq!(parse(&lock(r#"{"version": "1", "inBundle": true}"#)), Ok(vec![]));
        for bad in [r#"{"version": "1"}"#, r#"{"version": "1", "integrity": "sha1-x"}"#] {
            assert!(parse(&lock(bad)).unwrap_err().contains("node_modules/yarn"), "{bad}");
        }
    }

    #[test]
    fn recipes_of_this_repository_pin_their_npm_packages() {
        let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images");
        for entry in std::fs::read_dir(images).unwrap() {
            if let Ok(text) = std::fs::read_to_string(entry.unwrap().path().join(NPM_LOCK)) {
                assert!(!parse(&text).unwrap().is_empty());
                assert!(!text.contains("\"resolved\""), "the host's npm knows where its registry is");
            }
        }
    }
}
