//! Guest service of `guest.proto`: dispatches the host's calls.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::pin::Pin;
use std::time::Duration;

use rigbox_proto::guest::guest_server::Guest;
use rigbox_proto::guest::{
    ChangeFileRequest, ChangeFileResponse, DeliverSecretsRequest, DeliverSecretsResponse, ExecInput,
    ExecOutput, ExecStart, FileEntry, FileEvent, FileRequest, HelloRequest, HelloResponse, ListPortsRequest,
    ListPortsResponse, ListProcessesRequest, ListProcessesResponse, PrepareSshRequest, PrepareSshResponse,
    ReadFileOutput, ReadFileRequest, ReadOutputRequest, Resumed, ShutDownRequest, ShutDownResponse,
    ShutdownEvent, SignalProcessRequest, SignalProcessResponse, StartProcessResponse, SyncSshKeysRequest,
    SyncSshKeysResponse, SystemEvent, WatchShutdownRequest, WatchSystemRequest, WriteFileInput,
    WriteFileResponse, start_process_response,
};
use rustix::time::{ClockId, Timespec};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::system_start::SystemStart;
use super::{exec, files, listening_ports, secrets, shutdown, ssh};

type Output<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Difference up to which the clock is left alone, because setting it makes it jump for every process in the guest.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(500);

const METADATA_PATH: &str = "/run/rigbox/workspace.json";
/// systemd's signal for an orderly power-off: SIGRTMIN+4 (systemd(1)). With glibc, SIGRTMIN is 34.
const SIGNAL_POWEROFF: i32 = 34 + 4;
const POWEROFF_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Service of the agent.
#[derive(Clone)]
pub(super) struct Agent {
    commands: exec::CommandRunner,
    environment: secrets::Environment,
    system: watch::Receiver<&'static str>,
    system_start: SystemStart,
}

impl Agent {
    /// Creates a service that reports the state of the `system`.
    pub(super) fn new(system: watch::Receiver<&'static str>) -> Self {
        let (environment, system_start) = (secrets::Environment::default(), SystemStart::default());
        let commands = exec::CommandRunner::new(environment.clone(), system_start.clone());
        Self { commands, environment, system, system_start }
    }
}

#[tonic::async_trait]
impl Guest for Agent {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        let hello = request.into_inner();
        set_clock(hello.now_unix_ns);
        if let Some(Resumed { entropy }) = hello.resumed {
            reseed(&entropy)
                .map_err(|error| Status::internal(format!("the random number generator: {error}")))?;
        }
        write_metadata(&hello.metadata_json)
            .map_err(|error| Status::internal(format!("{METADATA_PATH}: {error}")))?;
        let kernel_boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(|error| Status::internal(format!("failed to read the kernel's boot id: {error}")))?;
        Ok(Response::new(HelloResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel_boot_id: kernel_boot_id.trim().to_owned(),
        }))
    }

    type ExecStream = Output<ExecOutput>;
    async fn exec(
        &self,
        request: Request<Streaming<ExecInput>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        Ok(Response::new(Box::pin(self.commands.start(request.into_inner()).await?)))
    }

    async fn start_process(
        &self,
        request: Request<ExecStart>,
    ) -> Result<Response<StartProcessResponse>, Status> {
        let outcome = match self.commands.start_detached(request.into_inner())? {
            Ok(process) => start_process_response::Outcome::Process(process),
            Err(error) => start_process_response::Outcome::Error(error),
        };
        Ok(Response::new(StartProcessResponse { outcome: Some(outcome) }))
    }

    async fn list_processes(
        &self,
        _: Request<ListProcessesRequest>,
    ) -> Result<Response<ListProcessesResponse>, Status> {
        Ok(Response::new(ListProcessesResponse { processes: self.commands.list() }))
    }

    async fn signal_process(
        &self,
        request: Request<SignalProcessRequest>,
    ) -> Result<Response<SignalProcessResponse>, Status> {
        let SignalProcessRequest { id, signal } = request.into_inner();
        self.commands.signal(&id, &signal)?;
        Ok(Response::new(SignalProcessResponse {}))
    }

    type ReadOutputStream = Output<ExecOutput>;
    async fn read_output(
        &self,
        request: Request<ReadOutputRequest>,
    ) -> Result<Response<Self::ReadOutputStream>, Status> {
        Ok(Response::new(Box::pin(self.commands.output(&request.into_inner().id)?)))
    }

    async fn write_file(
        &self,
        request: Request<Streaming<WriteFileInput>>,
    ) -> Result<Response<WriteFileResponse>, Status> {
        let size = files::write(request.into_inner()).await?;
        Ok(Response::new(WriteFileResponse { size }))
    }

    type ReadFileStream = Output<ReadFileOutput>;
    async fn read_file(
        &self,
        request: Request<ReadFileRequest>,
    ) -> Result<Response<Self::ReadFileStream>, Status> {
        Ok(Response::new(Box::pin(files::read(request.into_inner()).await?)))
    }

    async fn stat_file(&self, request: Request<FileRequest>) -> Result<Response<FileEntry>, Status> {
        let FileRequest { path, user } = request.into_inner();
        Ok(Response::new(files::stat(&path, &user).await?))
    }

    type ListFilesStream = Output<FileEntry>;
    async fn list_files(
        &self,
        request: Request<FileRequest>,
    ) -> Result<Response<Self::ListFilesStream>, Status> {
        let FileRequest { path, user } = request.into_inner();
        Ok(Response::new(Box::pin(files::list(&path, &user)?)))
    }

    type WatchFilesStream = Output<FileEvent>;
    async fn watch_files(
        &self,
        request: Request<FileRequest>,
    ) -> Result<Response<Self::WatchFilesStream>, Status> {
        let FileRequest { path, user } = request.into_inner();
        Ok(Response::new(Box::pin(files::watch(&path, &user)?)))
    }

    async fn change_file(
        &self,
        request: Request<ChangeFileRequest>,
    ) -> Result<Response<ChangeFileResponse>, Status> {
        files::change(request.into_inner()).await?;
        Ok(Response::new(ChangeFileResponse {}))
    }

    async fn deliver_secrets(
        &self,
        request: Request<DeliverSecretsRequest>,
    ) -> Result<Response<DeliverSecretsResponse>, Status> {
        secrets::store(&self.environment, request.into_inner())
            .map_err(|error| Status::internal(format!("{}: {error}", secrets::FOLDER)))?;
        self.system_start.allow_soon();
        Ok(Response::new(DeliverSecretsResponse {}))
    }

    async fn prepare_ssh(
        &self,
        request: Request<PrepareSshRequest>,
    ) -> Result<Response<PrepareSshResponse>, Status> {
        let host_keys = ssh::prepare(&request.into_inner().gateway_key).await?;
        Ok(Response::new(PrepareSshResponse { host_keys }))
    }

    async fn sync_ssh_keys(
        &self,
        request: Request<SyncSshKeysRequest>,
    ) -> Result<Response<SyncSshKeysResponse>, Status> {
        // It comes as soon as the VM runs, and would take half of the CPU from the first command.
        self.system_start.allowed().await;
        files::sync_keys(&request.into_inner().keys).await?;
        Ok(Response::new(SyncSshKeysResponse {}))
    }

    async fn list_ports(
        &self,
        request: Request<ListPortsRequest>,
    ) -> Result<Response<ListPortsResponse>, Status> {
        let only = request.into_inner().port;
        let listed = tokio::task::spawn_blocking(move || listening_ports::list(only)).await;
        let ports = listed.map_err(|error| Status::internal(error.to_string()))?;
        let ports = ports.map_err(|error| Status::internal(format!("/proc/net/tcp: {error}")))?;
        Ok(Response::new(ListPortsResponse { ports }))
    }

    async fn shut_down(
        &self,
        request: Request<ShutDownRequest>,
    ) -> Result<Response<ShutDownResponse>, Status> {
        let grace = Duration::from_millis(request.into_inner().grace_ms.into());
        tokio::spawn(shut_down(grace));
        Ok(Response::new(ShutDownResponse {}))
    }

    type WatchShutdownStream = Output<ShutdownEvent>;
    async fn watch_shutdown(
        &self,
        _: Request<WatchShutdownRequest>,
    ) -> Result<Response<Self::WatchShutdownStream>, Status> {
        #[expect(clippy::disallowed_methods, reason = "bound: one event, per watch of the host")]
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            let kind = tokio::select! {
                kind = shutdown::wait_for_shutdown() => kind,
                () = sender.closed() => return,
            };
            // A receiver that has disconnected needs no event.
            let _ = sender.send(Ok(ShutdownEvent { kind: kind.into() })).await;
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }

    type WatchSystemStream = Output<SystemEvent>;
    async fn watch_system(
        &self,
        _: Request<WatchSystemRequest>,
    ) -> Result<Response<Self::WatchSystemStream>, Status> {
        let states = WatchStream::new(self.system.clone());
        Ok(Response::new(Box::pin(states.map(|state| Ok(SystemEvent { state: state.into() })))))
    }
}

/// Asks systemd to power off. After half of the grace period, syncs the disks and powers off without systemd.
async fn shut_down(grace: Duration) {
    let deadline = tokio::time::Instant::now() + grace / 2;
    // The kernel drops signals for which PID 1 has no handler yet, so the signal is repeated.
    while tokio::time::Instant::now() < deadline {
        let _ = rigbox_sys::spawn::send_signal(1, SIGNAL_POWEROFF);
        tokio::time::sleep(POWEROFF_RETRY_INTERVAL).await;
    }
    eprintln!("rigbox-agent: systemd did not shut down in time; syncing and powering off");
    rustix::fs::sync();
    let _ = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_POWER_OFF);
}

/// Sets the clock to the host's, unless they agree within [`CLOCK_TOLERANCE`].
fn set_clock(host_unix_ns: i64) {
    let now = rustix::time::clock_gettime(ClockId::Realtime);
    let guest_ns = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
    if (guest_ns - i128::from(host_unix_ns)).unsigned_abs() > CLOCK_TOLERANCE.as_nanos() {
        let host = Timespec {
            tv_sec: host_unix_ns.div_euclid(1_000_000_000),
            tv_nsec: host_unix_ns.rem_euclid(1_000_000_000),
        };
        if let Err(error) = rustix::time::clock_settime(ClockId::Realtime, host) {
            eprintln!("rigbox-agent: failed to set the clock: {error}");
        }
    }
}

/// Gives the kernel other random numbers than any guest has that was in the same state.
fn reseed(entropy: &[u8]) -> std::io::Result<()> {
    let entropy = entropy.try_into().map_err(std::io::Error::other)?;
    rigbox_sys::random::reseed(entropy)
}

/// Writes the instance metadata atomically.
fn write_metadata(json: &str) -> std::io::Result<()> {
    let new = "/run/rigbox/.workspace.json.new";
    fs::write(new, json)?;
    fs::set_permissions(new, fs::Permissions::from_mode(0o644))?;
    fs::rename(new, METADATA_PATH)
}
