//! Waiting for a workspace: one question that the server holds back until there is news, asked again and again.

use std::time::{Duration, Instant};

use crate::api::{Api, ApiError, GetWorkspace, Vm};
use crate::failure::Failure;
use crate::output::{Event, Output, Progress};

/// The server ends every state in motion by itself long before; this is for servers that do not.
const PATIENCE: Duration = Duration::from_secs(600);
/// A server that restarts is back within this.
const AWAY: Duration = Duration::from_secs(30);
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Somebody who waits.
pub(super) struct Watch<'a> {
    api: &'a Api,
    out: &'a Output,
    progress: &'a Progress,
}

impl<'a> Watch<'a> {
    pub(super) fn new(api: &'a Api, out: &'a Output, progress: &'a Progress) -> Self {
        Self { api, out, progress }
    }

    /// Tells each status until the workspace rests, which must be in `wanted`.
    pub(super) async fn until(&self, begun: GetWorkspace, wanted: &str) -> Result<GetWorkspace, Failure> {
        self.tell(&begun.vm)?;
        let mut now = begun;
        while now.vm.is_in_motion() {
            now = self.next(now).await?;
            self.tell(&now.vm)?;
        }
        expect(now, wanted)
    }

    /// As `until`, but silent.
    pub(super) async fn quietly(&self, begun: GetWorkspace, wanted: &str) -> Result<GetWorkspace, Failure> {
        let mut now = begun;
        while now.vm.is_in_motion() {
            now = self.next(now).await?;
        }
        expect(now, wanted)
    }

    fn tell(&self, vm: &Vm) -> Result<(), Failure> {
        self.progress.now(&format!("{} is {}", vm.name, vm.status));
        self.out.event(&Event::VmStatus { status: &vm.status })
    }

    async fn next(&self, now: GetWorkspace) -> Result<GetWorkspace, Failure> {
        match self.change(&now.vm).await? {
            Some(next) => Ok(next),
            None => {
                Err(Failure::new("not_found", format!("{} was removed meanwhile: not found", now.vm.name)))
            }
        }
    }

    /// The workspace in another status than this; nothing when it is gone.
    pub(super) async fn change(&self, vm: &Vm) -> Result<Option<GetWorkspace>, Failure> {
        let began = Instant::now();
        let mut answered = began;
        while began.elapsed() < PATIENCE {
            match self.api.news(&vm.id, &vm.status).await {
                Ok(news) if news.vm.status != vm.status => return Ok(Some(news)),
                Ok(_) => answered = Instant::now(),
                Err(error) if error.is_not_found() => return Ok(None),
                Err(ApiError::Unreachable { .. }) if answered.elapsed() < AWAY => {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let message = format!(
            "{} is `{}` since {} minutes: see `rig doctor`",
            vm.name,
            vm.status,
            PATIENCE.as_secs() / 60
        );
        Err(Failure::new("timeout", message))
    }
}

fn expect(now: GetWorkspace, wanted: &str) -> Result<GetWorkspace, Failure> {
    if now.vm.status == wanted { Ok(now) } else { Err(ended_otherwise(&now.vm, wanted)) }
}

/// Why a workspace is not where it should be.
pub(super) fn ended_otherwise(vm: &Vm, wanted: &str) -> Failure {
    let (name, status) = (&vm.name, &vm.status);
    match (&vm.failure_code, &vm.failure_reason) {
        (Some(code), reason) => {
            let reason = reason.as_deref().unwrap_or("no reason is known");
            let remedy =
                format!("`rig workspace start {name}` tries again, `rig workspace rm {name}` removes it");
            Failure::new(code, format!("{name} failed: {reason}; {remedy}"))
        }
        (None, _) => Failure::new(
            "invalid_state",
            format!("{name} is `{status}` and not `{wanted}`: somebody or something else changed it"),
        ),
    }
}
