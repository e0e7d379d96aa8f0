//! Foreign clients and tools for the tests: Python and Node.js packages, at the versions listed in a folder of the checkout. They stay outside
//! `target`, because the tests run without a network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::run;
use crate::installed;
use crate::paths::checkout;
use crate::python_packages::environment;

/// Debian packages that the installations need, and clients of Debian's own.
const PACKAGES: &[&str] = &[
    "curl",
    "dropbear-bin",
    "lftp",
    "nghttp2-client",
    "openssh-client",
    "putty-tools",
    "python3-venv",
    "rsync",
    "sshfs",
];
/// Debian's Node.js, unless another one is installed: the two conflict.
const NODE: &[&str] = &["nodejs", "npm"];

/// Set of packages: `requirements.txt` and `package.json` in a folder, and perhaps `requirements-older.txt` with older versions, and
/// `package-lock.json` with hashes.
pub(crate) struct ClientTools {
    /// Variable that tells the tests where they are installed.
    pub(crate) variable: &'static str,
    name: &'static str,
    /// Folder in the checkout.
    versions: &'static str,
}

/// WebSocket clients for the tests of edge.
pub(crate) const WEBSOCKET_CLIENTS: ClientTools = ClientTools {
    variable: "RIGBOX_WEBSOCKET_CLIENTS",
    name: "websocket-clients",
    versions: "crates/edge/tests/edge/clients",
};
/// Validators of OpenAPI documents, and generators of clients.
pub(crate) const OPENAPI_TOOLS: ClientTools =
    ClientTools { variable: "RIGBOX_OPENAPI_TOOLS", name: "openapi-tools", versions: "tests/openapi" };
/// SSH clients for the end-to-end tests, and an auditor of SSH servers.
pub(crate) const SSH_CLIENTS: ClientTools =
    ClientTools { variable: "RIGBOX_SSH_CLIENTS", name: "ssh-clients", versions: "tests/ssh" };

/// SDKs of AI providers: the end-to-end tests copy them into a workspace, and the proxy's tables are compared with their types.
pub(crate) const AI_CLIENTS: ClientTools =
    ClientTools { variable: "RIGBOX_AI_CLIENTS", name: "ai-clients", versions: "tests/ai" };

/// Coding agents: the end-to-end tests copy them into a workspace.
pub(crate) const AGENTS: ClientTools =
    ClientTools { variable: "RIGBOX_AGENTS", name: "agents", versions: "tests/agents" };

/// Returns the Debian packages to install.
pub(crate) fn packages() -> Vec<&'static str> {
    let there = Command::new("npm").arg("--version").output().is_ok_and(|output| output.status.success());
    PACKAGES.iter().chain(NODE.iter().filter(|_| !there)).copied().collect()
}

impl ClientTools {
    /// Installs them unless they are installed, and returns their folder.
    pub(crate) fn install(&self) -> Result<PathBuf> {
        let beside = checkout().join(self.versions);
        let read = |name: &str| {
            let path = beside.join(name);
            fs::read_to_string(&path).with_context(|| path.display().to_string())
        };
        let (python, node) = (read("requirements.txt")?, read("package.json")?);
        let older = beside.join("requirements-older.txt");
        let read_if_there = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let lock = read_if_there(&beside.join("package-lock.json"));
        let wanted = format!("{python}{}{node}{lock}", read_if_there(&older));
        let remedy = "check that Python and Node.js packages can be downloaded";
        installed::once(self.name, &wanted, remedy, |folder| {
            let requirement = |path: PathBuf| ["--requirement".into(), path.into_os_string()];
            environment(&folder.join("venv"), requirement(beside.join("requirements.txt")))?;
            if older.exists() {
                environment(&folder.join("venv-older"), requirement(older))?;
            }
            fs::write(folder.join("package.json"), &node)?;
            let mut npm = Command::new("npm");
            if lock.is_empty() {
                npm.arg("install");
            } else {
                fs::write(folder.join("package-lock.json"), &lock)?;
                npm.args(["ci", "--omit=optional"]);
            }
            // Nothing that a package wants to run while it is installed is needed.
            npm.args(["--silent", "--no-audit", "--no-fund", "--ignore-scripts"]);
            run(npm.current_dir(folder))
        })
    }
}
