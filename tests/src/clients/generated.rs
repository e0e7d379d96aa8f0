//! Clients that foreign programs generate from the served OpenAPI document: openapi-python-client, and openapi-typescript with
//! openapi-fetch.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::TestResult;
use crate::harness::installation::Installation;

tests![
    python_client_from_the_document_takes_a_workspace_through_its_life,
    typescript_client_from_the_document_takes_a_workspace_through_its_life,
];

/// Folder of the generators, which `cargo xtask test` installs.
const TOOLS: &str = "RIGBOX_OPENAPI_TOOLS";
/// Programs that use the generated clients.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi");

/// The tools, and a folder with the document for a client.
struct Workshop<'a> {
    installation: &'a Installation,
    tools: PathBuf,
    folder: PathBuf,
}

impl<'a> Workshop<'a> {
    fn new(installation: &'a Installation, name: &str) -> anyhow::Result<Self> {
        let tools = std::env::var_os(TOOLS).map(PathBuf::from);
        let tools = tools.with_context(|| format!("{TOOLS} is not set: run `cargo xtask test`"))?;
        let folder = installation.scratch.join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("openapi.json"), installation.api.document()?)?;
        Ok(Self { installation, tools, folder })
    }

    /// Runs a program in the folder, which must succeed, and returns its output.
    fn run(&self, program: &Path, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.folder);
        command.env("RIGBOX_API_KEY", &self.installation.key).env("NO_PROXY", "*");
        let output = command.output().with_context(|| program.display().to_string())?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{}: {out}{err}", program.display());
        Ok(out.into_owned())
    }
}

fn python_client_from_the_document_takes_a_workspace_through_its_life(
    installation: &Installation,
) -> TestResult {
    let workshop = Workshop::new(installation, "python-client")?;
    let config = format!("{SOURCES}/python-client.yaml");
    workshop.run(
        &workshop.tools.join("venv/bin/openapi-python-client"),
        &[
            "generate",
            "--path",
            "openapi.json",
            "--config",
            &config,
            "--meta",
            "none",
            "--output-path",
            "rigbox_client",
        ],
    )?;
    fs::copy(format!("{SOURCES}/client.py"), workshop.folder.join("client.py"))?;
    let python = workshop.tools.join("venv/bin/python");
    let said = workshop.run(&python, &["client.py", &installation.api.url, "python-client"])?;
    ensure!(said == "ok\n", "{said}");
    Ok(())
}

fn typescript_client_from_the_document_takes_a_workspace_through_its_life(
    installation: &Installation,
) -> TestResult {
    let workshop = Workshop::new(installation, "typescript-client")?;
    let (node, modules) = (Path::new("node"), workshop.tools.join("node_modules"));
    std::os::unix::fs::symlink(&modules, workshop.folder.join("node_modules"))?;
    for name in ["client.ts", "package.json", "tsconfig.json"] {
        fs::copy(format!("{SOURCES}/{name}"), workshop.folder.join(name))?;
    }
    workshop
        .run(node, &["node_modules/openapi-typescript/bin/cli.js", "openapi.json", "--output", "api.d.ts"])?;
    // The compiler checks the calls against the document.
    workshop.run(node, &["node_modules/typescript/bin/tsc", "--project", "."])?;
    let said = workshop.run(node, &["client.js", &installation.api.url, "typescript-client"])?;
    ensure!(said == "ok\n", "{said}");
    Ok(())
}
