//! `rig completion SHELL`: the script that has the shell call `rig` for completions, those of names included.

use std::io::Write;

use clap_complete::Shell;
use clap_complete::env::Shells;

use crate::failure::Failure;
use crate::output::{Format, Output};

pub(super) fn run(shell: Shell, out: &Output) -> Result<(), Failure> {
    let shells = Shells::builtins();
    let completer = shells.completer(&shell.to_string());
    let completer = completer.ok_or_else(|| Failure::new("usage", format!("no completion for {shell}")))?;
    let mut script = Vec::new();
    completer.write_registration("COMPLETE", "rig", "rig", "rig", &mut script)?;
    match out.format() {
        Format::Text => Ok(std::io::stdout().write_all(&script)?),
        Format::Json => {
            let fields =
                [("shell", shell.to_string()), ("script", String::from_utf8_lossy(&script).into_owned())];
            out.response(
                "completion",
                fields.map(|(name, text)| (name.to_owned(), text.into())).into_iter().collect(),
            )
        }
    }
}
