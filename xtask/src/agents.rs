//! `cargo xtask agents`: runs all coding agents in workspaces, and writes the table of what holds into the documents.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::client_tools::{self, AGENTS};
use crate::paths::{checkout, program};
use crate::{build, image, python_packages};

/// Document with the table.
const DOCUMENT: &str = "docs/agents.md";
/// Lines around the table in it.
const BEGIN: &str = "<!-- begin: `cargo xtask agents` -->\n";
const END: &str = "<!-- end -->\n";

/// Runs the agents, or those whose name contains `name`, in all cases, or in those whose name contains `case`; fails if something does not hold.
pub(crate) fn agents(name: Option<&str>, case: Option<&str>) -> Result<()> {
    let (clients, image) = (client_tools::packages(), rigbox_image::host_packages());
    build::install_packages(&[build::RUN_PACKAGES, &clients, &image, python_packages::PACKAGES])?;
    build::programs()?;
    image::build("base")?;
    let mut command = Command::new(program("rigbox-tests"));
    command.arg("agent-matrix").args(name).args(case).env(AGENTS.variable, AGENTS.install()?);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("rigbox-tests")?;
    let table = String::from_utf8(output.stdout)?;
    print!("{table}");
    if name.is_none() && !table.is_empty() {
        let path = checkout().join(DOCUMENT);
        fs::write(&path, replace(&fs::read_to_string(&path)?, &table)?)?;
    }
    anyhow::ensure!(output.status.success(), "what fails is above");
    Ok(())
}

/// Replaces the table in the text of the document.
fn replace(text: &str, table: &str) -> Result<String> {
    let (before, rest) = text.split_once(BEGIN).with_context(|| format!("no {BEGIN:?} in {DOCUMENT}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("no {END:?} in {DOCUMENT}"))?;
    Ok(format!("{before}{BEGIN}\n{table}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_replaced_and_the_rest_stays() {
        let text = format!("above\n{BEGIN}old\n{END}below\n");
        let new = replace(&text, "| a |\n").unwrap();
        assert_eq!(new, format!("above\n{BEGIN}\n| a |\n\n{END}below\n"));
        assert_eq!(replace(&new, "| a |\n").unwrap(), new);
        assert!(replace("nothing", "| a |\n").is_err());
    }
}
