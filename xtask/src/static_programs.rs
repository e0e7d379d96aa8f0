//! Static copies of the programs that run in VMs, where there may be another C library or none. Most are linked from the same crates as the
//! programs of this host: cargo calls this program in the place of `rustc`, which then links each of them a second time. A build of
//! their own with `--target` would compile all their dependencies again.
//!
//! The agent has such a build, because it is a part of each boot: a CPU, and an emulated one above all, runs most of its code once, so that
//! less code starts sooner. Optimized for size as a whole, it takes about a twentieth off the time to an emulated VM's first output.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::command::{cargo, run};
use crate::paths::program;

/// Tells the wrapper where static programs go; unset outside of `build`.
const FOLDER: &str = "RIGBOX_STATIC_PROGRAMS";
/// Packages, each with one program of the same name, and the file name of its static copy.
const PROGRAMS: [(&str, &str); 2] = [("rig", "rig"), ("rigbox-bareinit", "bare-init")];
/// The agent's package, and the file name of its static copy.
const AGENT: (&str, &str) = ("rigbox-guest", "init");
/// Profile of the agent, in the workspace's `Cargo.toml`.
const AGENT_PROFILE: &str = "agent";
/// Target of the agent. That of this host, but named: then its flags do not apply to build scripts, and its files have a folder of their own.
const AGENT_TARGET: &str = "x86_64-unknown-linux-gnu";
/// A static program at a fixed address needs no relocation at its start.
const AGENT_FLAGS: &str = "-C target-feature=+crt-static -C relocation-model=static -C strip=symbols";

/// Runs a cargo command that builds all programs, and links the static copies.
pub(crate) fn build(arguments: &[&str]) -> Result<()> {
    let folder = program("guest");
    fs::create_dir_all(&folder)?;
    build_agent(&folder)?;
    let build = || {
        let mut command = cargo();
        command.args(arguments).env("RUSTC_WRAPPER", std::env::current_exe()?).env(FOLDER, &folder);
        run(&mut command)
    };
    build()?;
    let stale = stale();
    if stale.is_empty() {
        return Ok(());
    }
    // A build without the wrapper came before this one, and cargo sees nothing left to do.
    let mut clean = cargo();
    clean.args(["clean", "--release", "--quiet"]);
    for package in stale {
        clean.args(["--package", package]);
    }
    run(&mut clean)?;
    build()
}

fn build_agent(folder: &Path) -> Result<()> {
    let (package, copy) = AGENT;
    let mut command = cargo();
    command.args([
        "build",
        "--profile",
        AGENT_PROFILE,
        "--target",
        AGENT_TARGET,
        "--package",
        package,
        "--quiet",
    ]);
    run(command.env("RUSTFLAGS", AGENT_FLAGS))?;
    let target = folder.parent().and_then(Path::parent).context("the target folder")?;
    let built = target.join(AGENT_TARGET).join(AGENT_PROFILE).join(package);
    let (to, new) = (folder.join(copy), folder.join(copy).with_extension("new"));
    let is_same = |file: &Path| fs::read(file).ok() == fs::read(&built).ok();
    if is_same(&to) {
        return Ok(());
    }
    // A new file under the name, because the old one may be in use.
    fs::copy(&built, &new).with_context(|| built.display().to_string())?;
    Ok(fs::rename(new, to)?)
}

/// Returns packages whose static copy is missing or older than the program.
fn stale() -> Vec<&'static str> {
    let modified = |path: PathBuf| fs::metadata(path).and_then(|file| file.modified()).ok();
    let is_stale = |package: &str, copy: &str| {
        let built = modified(program(package)).unwrap_or(SystemTime::UNIX_EPOCH);
        modified(program("guest").join(copy)).is_none_or(|copied| copied < built)
    };
    PROGRAMS.iter().filter(|(package, copy)| is_stale(package, copy)).map(|(package, _)| *package).collect()
}

/// Compiles as cargo asks, if cargo called this program in the place of `rustc`.
pub(crate) fn rustc_wrapper() -> Option<ExitCode> {
    let folder = PathBuf::from(std::env::var_os(FOLDER)?);
    let mut arguments = std::env::args_os().skip(1);
    // Only then is the first argument a compiler.
    let rustc =
        arguments.next().filter(|rustc| PathBuf::from(rustc).file_stem() == Some("rustc".as_ref()))?;
    let arguments: Vec<OsString> = arguments.collect();
    Some(match compile(&rustc, &arguments, &folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    })
}

fn compile(rustc: &OsStr, arguments: &[OsString], folder: &Path) -> Result<()> {
    let compiled = Command::new(rustc).args(arguments).status().context("rustc")?;
    anyhow::ensure!(compiled.success(), "rustc ended with {compiled}");
    let Some(copy) = static_copy(arguments) else { return Ok(()) };
    // A new file under the name, because the old one may be in use.
    let (to, new) = (folder.join(copy), folder.join(copy).with_extension("new"));
    let mut emit = OsString::from("--emit=link=");
    emit.push(&new);
    let kept = arguments.iter().filter(|argument| !starts_with(argument, "--emit="));
    run(Command::new(rustc).args(kept).arg(emit).args([
        "-C",
        "target-feature=+crt-static",
        "-C",
        "strip=symbols",
        "--cap-lints",
        "allow",
    ]))?;
    Ok(fs::rename(new, to)?)
}

/// Returns the static copy's file name, if these arguments of `rustc` make one of the programs and not its tests.
fn static_copy(arguments: &[OsString]) -> Option<&'static str> {
    let value_of = |option: &str| {
        let at = arguments.iter().position(|argument| argument == option)?;
        arguments.get(at + 1)?.to_str()
    };
    if value_of("--crate-type") != Some("bin") || arguments.iter().any(|argument| argument == "--test") {
        return None;
    }
    let name = value_of("--crate-name")?;
    PROGRAMS.iter().find(|(package, _)| package.replace('-', "_") == name).map(|(_, copy)| *copy)
}

fn starts_with(argument: &OsStr, prefix: &str) -> bool {
    argument.to_str().is_some_and(|argument| argument.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_are_linked_twice() {
        let copy_of = |line: &str| static_copy(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        let bare = "--crate-name rigbox_bareinit --crate-type bin --emit=dep-info,link";
        assert_eq!(copy_of(bare), Some("bare-init"));
        assert_eq!(copy_of("--crate-name rig --edition=2024 --crate-type bin"), Some("rig"));
        assert_eq!(copy_of("--crate-name rig --crate-type bin --test"), None);
        assert_eq!(copy_of("--crate-name rigbox_guest --crate-type bin"), None);
        assert_eq!(copy_of("--crate-name rig --crate-type lib"), None);
        assert_eq!(copy_of("--crate-name rigboxd --crate-type bin"), None);
        assert_eq!(copy_of("-vV"), None);
    }
}
