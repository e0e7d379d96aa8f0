//! PyPI packages of an image: pinned by version and hash in the recipe, downloaded with the host's pip, installed by `hook.sh`.

use std::path::Path;
use std::process::Command;

use crate::command;
use crate::error::Error;
use crate::image::{Package, Registry};
use crate::inputs::PYPI_PINS;

/// Platforms of wheels that run on the image's glibc. pip compares their names literally, so older ones are listed too.
const PLATFORMS: &[&str] = &[
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_24_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
];

/// Downloads the recipe's wheels for the Python `version` into the folder `to`, next to a copy of their list, and returns them.
pub(crate) fn download(recipe_dir: &Path, version: &str, to: &Path) -> Result<Vec<Package>, Error> {
    let pins = recipe_dir.join(PYPI_PINS);
    let text = std::fs::read_to_string(&pins).map_err(Error::file("read", &pins))?;
    std::fs::create_dir(to).map_err(Error::file("create", to))?;
    let list = to.join("requirements.txt");
    std::fs::write(&list, &text).map_err(Error::file("write", &list))?;

    let mut pip = Command::new("pip3");
    pip.args(["download", "--quiet", "--disable-pip-version-check", "--require-hashes", "--no-deps"])
        .args(["--implementation", "cp", "--python-version", version])
        .args(PLATFORMS.iter().flat_map(|platform| ["--platform", platform]))
        .arg("--dest")
        .arg(to)
        .arg("--requirement")
        .arg(&list)
        .env("PATH", command::PATH);
    command::output(&mut pip, "downloading the PyPI packages")?;
    parse(&text).map_err(|problem| Error::Recipe { path: pins, problem })
}

/// Parses the pins of a requirements file, one `name==version --hash=...` a line.
fn parse(text: &str) -> Result<Vec<Package>, String> {
    let is_pin = |line: &&str| !line.is_empty() && !line.starts_with(['#', '-']);
    let pin = |line: &str| {
        let (name, version) = line.split_whitespace().next()?.split_once("==")?;
        let has_hash = line.split_whitespace().any(|word| word.starts_with("--hash=sha256:"));
        has_hash.then(|| Package::new(Registry::Pypi, name, version))
    };
    let pins = text.lines().map(str::trim).filter(is_pin);
    pins.map(|line| pin(line).ok_or_else(|| format!("`{line}`: write `name==version --hash=sha256:...`")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_have_a_version_and_a_hash() {
        let pins = parse("# why\n--only-binary :all:\n\nidna==3.20 --hash=sha256:ab\n").unwrap();
        assert_eq!(pins, [Package::new(Registry::Pypi, "idna", "3.20")]);
        for bad in ["idna", "idna>=3 --hash=sha256:ab", "idna==3.20"] {
            assert!(parse(bad).unwrap_err().contains(bad), "{bad}");
        }
    }

    #[test]
    fn recipes_of_this_repository_pin_their_pypi_packages() {
        let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images");
        for entry in std::fs::read_dir(images).unwrap() {
            if let Ok(text) = std::fs::read_to_string(entry.unwrap().path().join(PYPI_PINS)) {
                assert!(!parse(&text).unwrap().is_empty());
            }
        }
    }
}
