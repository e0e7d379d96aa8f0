//! Operations at random, with deaths of VMMs among them.

use std::hash::{BuildHasher, RandomState};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};

use crate::control::Control;
use crate::memory::check_remains;

/// Something that is done to a workspace.
#[derive(Debug, Clone, Copy)]
enum Operation {
    Start,
    Stop,
    Suspend,
    Pause,
    RunOn,
    Kill,
    Execute,
}

/// State in which the operations so far have left the workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Stopped,
    Suspended([u8; 32]),
    Running,
    Paused,
}

impl State {
    /// Returns what can be done to a workspace in this state.
    fn operations(self) -> &'static [Operation] {
        use Operation::{Execute, Kill, Pause, RunOn, Start, Stop, Suspend};
        match self {
            Self::Stopped | Self::Suspended(_) => &[Start],
            Self::Running => &[Stop, Suspend, Pause, Kill, Execute],
            Self::Paused => &[Stop, Suspend, RunOn, Kill],
        }
    }
}

/// After each operation there is a VMM if the workspace runs or stands still, a memory image if it is suspended, and nothing else.
pub(crate) fn random_suspensions_and_kills_leave_what_they_must(control: &mut Control) -> Result<()> {
    let mut state = State::Stopped;
    for number in 0..control.operations() {
        let operation = any_of(state.operations())?;
        state = perform(control, state, operation)
            .and_then(|after| check(control, after).map(|()| after))
            .with_context(|| format!("operation {number}, {operation:?} of {state:?}"))?;
    }
    control.delete()?;
    check_remains(control, false)
}

fn check(control: &Control, state: State) -> Result<()> {
    let has_vmm = matches!(state, State::Running | State::Paused);
    ensure!(control.vmm()?.is_some() == has_vmm, "it is {state:?}, and a VMM: {:?}", control.vmm());
    check_remains(control, matches!(state, State::Suspended(_)))
}

fn perform(control: &mut Control, state: State, operation: Operation) -> Result<State> {
    match operation {
        Operation::Start => {
            let key = if let State::Suspended(key) = state { Some(key) } else { None };
            let started = control.start(key)?;
            ensure!(started.memory_lost.is_empty(), "{started:?}");
            Ok(State::Running)
        }
        Operation::Stop => {
            let stopped = control.stop(None)?;
            ensure!(!stopped.suspended, "{stopped:?}");
            Ok(State::Stopped)
        }
        Operation::Suspend => {
            let key = [any_of(&[1, 2, 3])?; 32];
            let stopped = control.stop(Some(key))?;
            ensure!(stopped.suspended && stopped.memory_lost.is_empty(), "{stopped:?}");
            Ok(State::Suspended(key))
        }
        Operation::Pause => {
            control.pause()?;
            Ok(State::Paused)
        }
        Operation::RunOn => {
            control.set_paused(false)?;
            control.wait_answering()?;
            Ok(State::Running)
        }
        Operation::Kill => {
            kill(control.vmm()?.context("there is no VMM")?, Signal::SIGKILL)?;
            control.wait_ended()?;
            Ok(State::Stopped)
        }
        Operation::Execute => {
            let found = control.exec("echo $((6 * 7))")?;
            ensure!(found == "42", "it printed {found}");
            Ok(state)
        }
    }
}

/// Returns one of several at random.
///
/// # Errors
/// There is none.
pub fn any_of<T: Copy>(several: &[T]) -> Result<T> {
    let number = RandomState::new().hash_one(());
    let index = usize::try_from(number % several.len() as u64)?;
    several.get(index).copied().context("there is none")
}
