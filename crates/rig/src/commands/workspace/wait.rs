//! Waits for a workspace with requests that the server holds until the status changes.

use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use crate::api::{Api, ApiError, GetWorkspace, Vm};
use crate::failure::Failure;
use crate::output::{Event, Output, Progress};

/// Limit for a transitional state; the server's own limits are much shorter.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(600);
/// Limit for a restart of the server.
const UNREACHABLE_TIMEOUT: Duration = Duration::from_secs(30);
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Waits for a workspace, and reports its status on the way.
pub(super) struct Waiter<'a> {
    api: &'a Api,
    out: &'a Output,
    progress: &'a Progress,
}

impl<'a> Waiter<'a> {
    pub(super) fn new(api: &'a Api, out: &'a Output, progress: &'a Progress) -> Self {
        Self { api, out, progress }
    }

    /// Reports each status until the workspace is in a stable one, which must be `wanted`.
    pub(super) async fn until(&self, workspace: GetWorkspace, wanted: &str) -> Result<GetWorkspace, Failure> {
        self.report(&workspace.vm)?;
        let mut current = workspace;
        while current.vm.is_transitional() {
            current = self.next(current).await?;
            self.report(&current.vm)?;
        }
        expect(current, wanted)
    }

    /// Waits as `until` does, without reports.
    pub(super) async fn quietly(
        &self,
        workspace: GetWorkspace,
        wanted: &str,
    ) -> Result<GetWorkspace, Failure> {
        let mut current = workspace;
        while current.vm.is_transitional() {
            current = self.next(current).await?;
        }
        expect(current, wanted)
    }

    /// Waits until the system of a running workspace has started. A degraded system is reported, not refused.
    pub(super) async fn until_system(&self, running: GetWorkspace) -> Result<GetWorkspace, Failure> {
        let mut current = running;
        while current.vm.status == "running" && current.vm.system.as_deref() == Some("starting") {
            self.progress.set_message(&format!("{} is starting its services", current.vm.name));
            let vm = current.vm.clone();
            let started = |next: &Vm| next.status != vm.status || next.system != vm.system;
            let next = self.until_changed(&vm, started, || self.api.wait_for_system(&vm.id)).await?;
            current = next.ok_or_else(|| gone(&vm))?;
            self.report(&current.vm)?;
        }
        if current.vm.system.as_deref() == Some("degraded") {
            let name = &current.vm.name;
            self.out
                .warn(&format!("a service of {name} failed to start: rig exec {name} -- systemctl --failed"));
        }
        expect(current, "running")
    }

    fn report(&self, vm: &Vm) -> Result<(), Failure> {
        self.show(vm);
        self.out.event(&Event::VmStatus { status: &vm.status, system: vm.system.as_deref() })
    }

    fn show(&self, vm: &Vm) {
        let queue = match vm.queue_position {
            None => String::new(),
            Some(1) => ", after 1 other boot".to_owned(),
            Some(boots) => format!(", after {boots} other boots"),
        };
        self.progress.set_message(&format!("{} is {}{queue}", vm.name, vm.status));
    }

    async fn next(&self, current: GetWorkspace) -> Result<GetWorkspace, Failure> {
        match self.change(&current.vm).await? {
            Some(next) => Ok(next),
            None => Err(gone(&current.vm)),
        }
    }

    /// Returns the workspace in its next status, or `None` when it is gone.
    pub(super) async fn change(&self, vm: &Vm) -> Result<Option<GetWorkspace>, Failure> {
        let changed = |next: &Vm| next.status != vm.status;
        self.until_changed(vm, changed, || self.api.wait_for_change(&vm.id, &vm.status)).await
    }

    /// Repeats a request that the server holds until `changed`. Returns `None` when the workspace is gone.
    async fn until_changed<F: Future<Output = Result<GetWorkspace, ApiError>>>(
        &self,
        vm: &Vm,
        changed: impl Fn(&Vm) -> bool,
        request: impl Fn() -> F,
    ) -> Result<Option<GetWorkspace>, Failure> {
        let started = Instant::now();
        let mut last_response = started;
        while started.elapsed() < CHANGE_TIMEOUT {
            match request().await {
                Ok(next) if changed(&next.vm) => return Ok(Some(next)),
                Ok(next) => {
                    last_response = Instant::now();
                    if next.vm.status == "starting" {
                        self.show(&next.vm);
                    }
                }
                Err(error) if error.is_not_found() => return Ok(None),
                Err(ApiError::Unreachable { .. }) if last_response.elapsed() < UNREACHABLE_TIMEOUT => {
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let message = format!(
            "{} has been `{}` for {} minutes; run `rig doctor`",
            vm.name,
            vm.status,
            CHANGE_TIMEOUT.as_secs() / 60
        );
        Err(Failure::new("timeout", message))
    }
}

/// Returns the result of `work`, or on Ctrl-C a failure that says what the server goes on with.
pub(super) async fn unless_interrupted<T>(
    work: impl Future<Output = Result<T, Failure>>,
    message: impl Fn() -> String,
) -> Result<T, Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        result = work => result,
        _ = interrupt.recv() => Err(Failure::Interrupted { message: message() }),
    }
}

fn gone(vm: &Vm) -> Failure {
    Failure::new("not_found", format!("{} was removed: not found", vm.name))
}

fn expect(current: GetWorkspace, wanted: &str) -> Result<GetWorkspace, Failure> {
    if current.vm.status == wanted { Ok(current) } else { Err(unexpected_status(&current.vm, wanted)) }
}

/// Describes why a workspace is not in the wanted status.
pub(super) fn unexpected_status(vm: &Vm, wanted: &str) -> Failure {
    let (name, status) = (&vm.name, &vm.status);
    match (&vm.failure_code, &vm.failure_reason) {
        (Some(code), reason) => {
            let reason = reason.as_deref().unwrap_or("unknown reason");
            let remedy = format!(
                "retry with `rig workspace start {name}`, or remove it with `rig workspace rm {name}`"
            );
            Failure::new(code, format!("{name} failed: {reason}; {remedy}"))
        }
        (None, _) => Failure::new(
            "invalid_state",
            format!("{name} is `{status}`, not `{wanted}`; another client changed it"),
        ),
    }
}
