//! `rig completion SHELL`.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Arguments;
use crate::failure::Failure;
use crate::output::{Format, Output};

pub(super) fn run(shell: Shell, out: &Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "rig", &mut script);
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
