//! Compares the AI proxy's tables of fields with the SDKs of the providers: those that are pinned, or the newest ones, to learn which fields
//! have been added since.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::client_tools::AI_CLIENTS;
use crate::command::{cargo, run};
use crate::python_packages::environment;
use crate::steps::step;

/// The SDKs.
const SDKS: [&str; 3] = ["anthropic", "openai", "google-genai"];
/// Prints the versions of the packages that it is given.
const VERSIONS: &str =
    "import sys, importlib.metadata as m; [print(name, m.version(name)) for name in sys.argv[1:]]";

/// Runs the comparison, which is a test. Fails if a field has no row.
pub(crate) fn ai_fields(newest: bool) -> Result<()> {
    let folder = if newest { install_newest()? } else { AI_CLIENTS.install()? };
    run(Command::new(python(&folder)).args(["-c", VERSIONS]).args(SDKS))?;
    let mut test = cargo();
    test.args(["test", "--quiet", "--package", "rigbox-ai", "--test", "sdk_fields", "--", "--nocapture"]);
    let remedy = "add a row for each field to its table in crates/ai/tables, after reading what it does";
    step("compare the tables", remedy, || run(test.env(AI_CLIENTS.variable, &folder)))
}

/// Installs the newest SDKs, and nothing that runs while it is installed. Returns their folder.
fn install_newest() -> Result<PathBuf> {
    let folder = rigbox_image::default_cache_dir()?.join("ai-newest");
    step("install the newest SDKs", "check that Python packages can be downloaded", || {
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
        environment(&folder.join("venv"), ["--only-binary", ":all:"].into_iter().chain(SDKS))
    })?;
    Ok(folder)
}

fn python(folder: &Path) -> PathBuf {
    folder.join("venv/bin/python")
}
