//! `rig`, the command line of Rigbox: takes the arguments apart, runs one command, and turns its end into an exit code.
//! What a command does is in `commands`, what it prints in `output`, how the server is spoken to in `api`.

mod api;
mod args;
mod commands;
mod config;
mod failure;
mod name;
mod output;
mod terminal;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use args::{Arguments, Command};
use failure::Failure;
use output::{Format, Output};

/// Exit code of `rig exec` where not the command but `rig` failed.
const EXEC_FAILED: u8 = 255;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return ExitCode::from(not_understood(&error)),
    };
    let out = Output::new(arguments.output);
    let is_exec = matches!(arguments.command, Command::Exec(_));
    let code = match run(arguments.command, &out) {
        Ok(code) => code,
        Err(failure) => {
            out.failure(&failure);
            if is_exec { failure.exit_code_of_exec(EXEC_FAILED) } else { failure.exit_code() }
        }
    };
    ExitCode::from(code)
}

fn run(command: Command, out: &Output) -> Result<u8, Failure> {
    // One thread: a command waits for one server most of its life, and starting threads costs more than they give.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new("internal", format!("no event loop can be made: {error}")))?;
    let result = runtime.block_on(commands::run(command, out));
    // Not dropped: a thread that waits for a key on stdin would be waited for.
    runtime.shutdown_background();
    result
}

/// Help and version, which clap calls errors, and true usage errors.
fn not_understood(error: &clap::Error) -> u8 {
    let out = Output::new(args::format_of(std::env::args().skip(1)));
    let text = error.to_string();
    match (error.kind(), out.format()) {
        (ErrorKind::DisplayHelp | ErrorKind::DisplayVersion, Format::Text) => {
            let _ = error.print();
            0
        }
        (ErrorKind::DisplayHelp, Format::Json) => said(&out, "help", "text", &text),
        (ErrorKind::DisplayVersion, Format::Json) => {
            said(&out, "version", "version", env!("CARGO_PKG_VERSION"))
        }
        (_, Format::Text) => {
            let _ = error.print();
            1
        }
        (_, Format::Json) => {
            let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
            let failure = Failure::new("usage", text);
            out.failure(&failure);
            failure.exit_code()
        }
    }
}

fn said(out: &Output, event: &str, field: &str, text: &str) -> u8 {
    let answer = [(field.to_owned(), text.into())].into_iter().collect();
    match out.answer(event, answer) {
        Ok(()) => 0,
        Err(failure) => failure.exit_code(),
    }
}
