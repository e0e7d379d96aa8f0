//! The end-to-end suite: one program over one installation of Rigbox and a few VMs, in a host of its own (network, mount and pid
//! namespace), so that "nothing left behind" is checked for everything at once and two runs never meet. Tests stand in modules named
//! after the promise they keep, and run one after the other.

mod api;
mod apps;
mod browser;
mod canary;
mod clients;
mod console;
mod contract;
mod dialling;
mod host;
mod installation;
mod internet;
mod isolation;
mod leftovers;
mod lifecycle;
mod network;
mod recovery;
mod refusals;
mod roles;
mod search;
mod secrets;
mod sign_in;
mod visitor;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};

use installation::Installation;

/// What every test gets.
type World = Arc<Installation>;
/// A promise that was kept, or why not.
type Kept = anyhow::Result<()>;
/// Its name, and what shows it.
type Promise = (&'static str, fn(&World) -> Kept);

fn main() -> ExitCode {
    if let Some(ended) = roles::main() {
        return ended;
    }
    match host::stage() {
        host::Stage::Outside => host::run_outside(),
        host::Stage::Host => host::own(),
        host::Stage::Init => host::reap(),
        host::Stage::Internet => host::play_internet(),
        host::Stage::Inside => run(),
    }
}

type Module = (&'static str, &'static [Promise]);
const MODULES: [Module; 14] = [
    ("refusals", refusals::PROMISES),
    ("contract", contract::PROMISES),
    ("clients", clients::PROMISES),
    ("isolation", isolation::PROMISES),
    ("dialling", dialling::PROMISES),
    ("network", network::PROMISES),
    ("browser", browser::PROMISES),
    ("apps", apps::PROMISES),
    ("lifecycle", lifecycle::PROMISES),
    ("sign_in", sign_in::PROMISES),
    ("secrets", secrets::PROMISES),
    ("canary", canary::PROMISES),
    ("recovery", recovery::PROMISES),
    // Last: it deletes everything.
    ("leftovers", leftovers::PROMISES),
];

fn run() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    // The name of a module means its tests alone.
    if let Some(filter) = &mut arguments.filter
        && MODULES.iter().any(|(module, _)| module == filter)
    {
        filter.push_str("::");
    }
    let world = match Installation::open() {
        Ok(installation) => Arc::new(installation),
        Err(error) => {
            eprintln!("the installation under test does not start: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let mut tests = Vec::new();
    for (module, promises) in MODULES {
        for (name, promise) in promises {
            let world = Arc::clone(&world);
            tests.push(Trial::test(format!("{module}::{name}"), move || {
                promise(&world).map_err(|error| format!("{error:#}").into())
            }));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, tests);
    if conclusion.has_failed() {
        eprintln!("the end of the installation's log:\n{}", world.log_tail(60));
    }
    conclusion.exit_code()
}
