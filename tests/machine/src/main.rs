//! Tests of Rigbox in an emulated machine of its own: a whole Debian with systemd as PID 1, control groups of version 2 and KVM, which can be
//! rebooted. One program with two halves: `outside` boots the machine and prints results, `inside` is the machine's service that runs the
//! tests. They speak by `events` over a port of the machine.

mod events;
mod inside;
mod outside;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
enum Arguments {
    /// Boot the machine, and print the results of its tests.
    Outside(outside::Arguments),
    /// Run the tests in the machine, as its service.
    Inside,
    /// Grow a file in the machine, as a VMM could that was taken over.
    Grow(inside::growth::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse() {
        Arguments::Outside(arguments) => outside::run(&arguments),
        Arguments::Inside => inside::run().map(|()| true),
        Arguments::Grow(arguments) => inside::growth::print(&arguments).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the tests in the emulated machine cannot run: {error:#}");
            ExitCode::FAILURE
        }
    }
}
