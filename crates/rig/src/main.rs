//! `rig`, Rigbox's command line: parses the arguments, runs one command, and returns its exit code. Commands are in `commands`, output in
//! `output`, and the HTTP client in `api`.

mod api;
mod args;
mod commands;
mod complete;
mod config;
mod failure;
mod name;
mod output;
mod private_file;
mod terminal;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use clap_complete::CompleteEnv;

use args::{Arguments, Command};
use failure::Failure;
use output::{Format, Output};

/// Exit code of `rig exec` when `rig` itself failed. 1 and 2 are the command's own.
const EXEC_FAILED: u8 = 125;

fn main() -> ExitCode {
    // Called by the shell for completions, this prints them and exits.
    CompleteEnv::with_factory(Arguments::command).complete();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return ExitCode::from(report_parse_error(error)),
    };
    let out = Output::new(arguments.output);
    let is_exec = matches!(arguments.command, Command::Exec(_) | Command::Attach { .. });
    let code = match run(arguments.command, &out) {
        Ok(code) => code,
        Err(failure) => {
            out.failure(&failure);
            if is_exec { failure.exec_exit_code(EXEC_FAILED) } else { failure.exit_code() }
        }
    };
    ExitCode::from(code)
}

fn run(command: Command, out: &Output) -> Result<u8, Failure> {
    // One thread: a command mostly waits for one server, and starting threads would take longer.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new("internal", format!("cannot start the event loop: {error}")))?;
    let result = runtime.block_on(commands::run(command, out));
    // A drop would wait for a thread that is blocked on stdin.
    runtime.shutdown_background();
    result
}

/// Prints what clap returns as an error, which includes help and version, and returns the exit code.
fn report_parse_error(mut error: clap::Error) -> u8 {
    let out = Output::new(args::format_of(std::env::args().skip(1)));
    let tip = missing_dashes().or_else(|| args::tip::full_command(&mut error, std::env::args().skip(1)));
    let text = error.to_string();
    match (error.kind(), out.format()) {
        (ErrorKind::DisplayHelp | ErrorKind::DisplayVersion, Format::Text) => {
            let _ = error.print();
            0
        }
        (ErrorKind::DisplayHelp, Format::Json) => print_event(&out, "help", "text", &text),
        (ErrorKind::DisplayVersion, Format::Json) => {
            print_event(&out, "version", "version", env!("CARGO_PKG_VERSION"))
        }
        (_, Format::Text) => {
            let _ = error.print();
            if let Some(tip) = tip {
                eprintln!("\n  tip: {tip}");
            }
            usage_exit_code()
        }
        (_, Format::Json) => {
            let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
            let tip = tip.map(|tip| format!("\n\n  tip: {tip}")).unwrap_or_default();
            out.failure(&Failure::new("usage", format!("{text}{tip}")));
            usage_exit_code()
        }
    }
}

fn usage_exit_code() -> u8 {
    if args::is_exec(std::env::args().skip(1)) { EXEC_FAILED } else { 1 }
}

/// Returns the remedy for a command without `--` before it.
fn missing_dashes() -> Option<String> {
    let is_missing = args::is_exec(std::env::args().skip(1)) && std::env::args().all(|word| word != "--");
    is_missing.then(|| "put the command after `--`: rig exec WORKSPACE -- COMMAND".to_owned())
}

fn print_event(out: &Output, event: &str, field: &str, text: &str) -> u8 {
    let fields = [(field.to_owned(), text.into())].into_iter().collect();
    match out.response(event, fields) {
        Ok(()) => 0,
        Err(failure) => failure.exit_code(),
    }
}
