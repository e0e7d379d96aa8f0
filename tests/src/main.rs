//! End-to-end suite: one program that tests, or measures, one installation of Rigbox with a few VMs, on a host of its own (network, mount and
//! pid namespaces), so that leftovers are found and two runs never meet. The folders are named after what their tests protect; `harness` is
//! what they share. Tests run one after the other.

/// Lists the tests of a module, in the order in which they run.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[crate::Test] = &[$((stringify!($name), $name)),*];
    };
}

mod clients;
mod functional;
mod harness;
mod performance;
mod recovery;
mod security;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};

use clients::{agents, ai, cli, generated, http, ssh};
use functional::{apps, browser, contract, image, sign_in};
use harness::host::{self, Stage};
use harness::installation::Installation;
use harness::roles;
use recovery::{conformance, crashes, leftovers, lifecycle};
use security::{egress, gateway_dial, isolation, neighbors, refusals, secret_canaries, secrets, strangers};

type TestResult = anyhow::Result<()>;
/// A test and its name, which is a promise.
type Test = (&'static str, fn(&Installation) -> TestResult);
type Module = (&'static str, &'static [Test]);

const MODULES: [Module; 29] = [
    ("refusals", refusals::TESTS),
    ("contract", contract::TESTS),
    // First of those that share a workspace: it creates it.
    ("cli", cli::TESTS),
    ("http", http::TESTS),
    ("generated", generated::TESTS),
    ("ssh", ssh::commands::TESTS),
    ("ssh", ssh::connecting::TESTS),
    ("ssh", ssh::copies::TESTS),
    ("ssh", ssh::forwards::TESTS),
    ("ssh", ssh::foreign::TESTS),
    ("ssh", ssh::security_keys::TESTS),
    ("ssh", ssh::load::TESTS),
    ("ssh", ssh::refusals::TESTS),
    ("ai", ai::TESTS),
    ("agents", agents::TESTS),
    ("image", image::TESTS),
    ("isolation", isolation::TESTS),
    ("neighbors", neighbors::TESTS),
    ("strangers", strangers::TESTS),
    ("gateway_dial", gateway_dial::TESTS),
    ("egress", egress::TESTS),
    ("browser", browser::TESTS),
    ("apps", apps::TESTS),
    ("lifecycle", lifecycle::TESTS),
    ("sign_in", sign_in::TESTS),
    ("secrets", secrets::TESTS),
    ("secret_canaries", secret_canaries::TESTS),
    ("crashes", crashes::TESTS),
    // Last: it deletes everything.
    ("leftovers", leftovers::TESTS),
];

fn main() -> ExitCode {
    if let Some(ended) = roles::main() {
        return ended;
    }
    match host::stage() {
        Stage::Outside => host::run_outside(),
        Stage::Host => host::own(),
        Stage::Init => host::reap(),
        Stage::Internet => host::play_internet(),
        Stage::Inside => run(),
    }
}

fn run() -> ExitCode {
    if let Some(ended) = performance::main().or_else(agents::matrix::main) {
        return ended;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    // The name of a module selects its tests alone.
    if let Some(filter) = &mut arguments.filter
        && (MODULES.iter().any(|(module, _)| module == filter) || filter == conformance::MODULE)
    {
        filter.push_str("::");
    }
    let installation = match Installation::open() {
        Ok(installation) => Arc::new(installation),
        Err(error) => {
            eprintln!("cannot start the installation under test: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let mut tests = Vec::new();
    for (module, list) in MODULES {
        // Before what deletes everything.
        if module == "leftovers" {
            tests.extend(conformance::trials(&installation));
        }
        for (name, test) in list {
            let installation = Arc::clone(&installation);
            tests.push(Trial::test(format!("{module}::{name}"), move || {
                test(&installation).map_err(|error| format!("{error:#}").into())
            }));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, tests);
    if conclusion.has_failed() {
        eprintln!("end of the installation's log:\n{}", installation.log_tail(60));
    }
    conclusion.exit_code()
}
