//! `cargo xtask agents`: runs all coding agents in workspaces, and writes the table of what holds into the documents.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::client_tools::{self, AGENTS};
use crate::paths::{checkout, program};
use crate::{build, image, python_packages};

/// Document with the table.
const DOCUMENT: &str = "docs/agents.md";
/// Cell of a case that the run has left out.
const NOT_RUN: &str = "not run";
/// Cells that name what a row is about: the agent, and its version.
const NAMES: usize = 2;
/// Lines around the table in it.
const BEGIN: &str = "<!-- begin: `cargo xtask agents` -->\n";
const END: &str = "<!-- end -->\n";

/// Runs the agents, or those whose name contains `name`, in all cases, or in those whose name contains `case`; fails if something does not
/// hold. What was not run stays in the table as an earlier run of the same version has left it.
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
    if !table.is_empty() {
        let path = checkout().join(DOCUMENT);
        fs::write(&path, merge(&fs::read_to_string(&path)?, &table)?)?;
    }
    anyhow::ensure!(output.status.success(), "what fails is above");
    Ok(())
}

/// Replaces the table in the text of the document. Cells that say `not run` are taken from the row of the same agent and version.
fn merge(text: &str, table: &str) -> Result<String> {
    let (before, rest) = text.split_once(BEGIN).with_context(|| format!("no {BEGIN:?} in {DOCUMENT}"))?;
    let (old, after) = rest.split_once(END).with_context(|| format!("no {END:?} in {DOCUMENT}"))?;
    let old: Vec<Vec<&str>> = old.lines().map(cells).collect();
    let rows = table.lines().map(|line| {
        let row = cells(line);
        let earlier = old.iter().find(|old| old.len() == row.len() && old.get(..NAMES) == row.get(..NAMES));
        let row =
            row.iter().enumerate().map(|(column, cell)| match earlier.and_then(|row| row.get(column)) {
                Some(earlier) if *cell == NOT_RUN => *earlier,
                _ => *cell,
            });
        format!("| {} |", row.collect::<Vec<_>>().join(" | "))
    });
    let table = rows.collect::<Vec<_>>().join("\n");
    Ok(format!("{before}{BEGIN}\n{table}\n\n{END}{after}"))
}

/// Returns the cells of a row.
fn cells(line: &str) -> Vec<&str> {
    line.trim().trim_start_matches('|').trim_end_matches('|').split('|').map(str::trim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(table: &str) -> String {
        format!("above\n{BEGIN}\n{table}\n{END}below\n")
    }

    #[test]
    fn table_is_replaced_and_the_rest_stays() {
        let (old, new) = (
            "| agent | version |\n| --- | --- |\n| a | 1 |\n",
            "| agent | version |\n| --- | --- |\n| b | 2 |\n",
        );
        assert_eq!(merge(&document(old), new).unwrap(), document(new));
        assert_eq!(merge(&document(new), new).unwrap(), document(new));
        assert!(merge("nothing", new).is_err());
    }

    #[test]
    fn what_was_not_run_stays_as_it_was_for_that_version() {
        let old = "| a | 1 | done | fails |\n| b | 1 | done | done |\n";
        let new = "| a | 1 | not run | ends |\n| b | 2 | not run | ends |\n| c | 1 | not run | ends |\n";
        let merged = "| a | 1 | done | ends |\n| b | 2 | not run | ends |\n| c | 1 | not run | ends |\n";
        assert_eq!(merge(&document(old), new).unwrap(), document(merged));
    }
}
