//! Execution of commands for the host. Each is a process group in a control group of its own, with pipes or a terminal. Its output is
//! streamed with back-pressure, followed by its outcome. If the caller disconnects, the group is killed. A command in the background has no
//! caller; the newest part of its output is kept.

mod command;
mod group;
mod output;
mod processes;
mod ring;

use std::fs::{self, File};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rigbox_proto::fault;
use rigbox_proto::guest::exec_exit::Outcome;
use rigbox_proto::guest::exec_input::Input;
use rigbox_proto::guest::exec_output::Output;
use rigbox_proto::guest::{Error, ExecExit, ExecInput, ExecOutput, ExecStart, Process};
use rigbox_proto::guest_calls::KILL_GRACE;
use rigbox_sys::spawn::{ChildSetup, configure_child};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::secrets::{Environment, Variables};
use super::system_start::SystemStart;
use super::terminal::Terminal;
use crate::users::User;
use command::error;
use group::{ControlGroups, ProcessGroup};
use output::Reader;
use processes::{Processes, parse_signal};
use ring::Ring;

/// Concurrent commands. Each holds descriptors and buffers.
const MAX_CONCURRENT_COMMANDS: usize = 200;
/// Delay of the cleanup after a command, so that it does not delay the response.
const CLEANUP_DELAY: Duration = Duration::from_millis(20);
/// Queued messages to the host per command.
const MAX_QUEUED_MESSAGES: usize = 4;
/// Interval at which the end of input is repeated on a terminal: what a program sees of it depends on the terminal's mode at that moment.
const EOF_INTERVAL: Duration = Duration::from_secs(1);

/// Runner of the commands of this VM.
#[derive(Clone)]
pub(super) struct CommandRunner {
    permits: Arc<tokio::sync::Semaphore>,
    next_number: Arc<AtomicU64>,
    environment: Environment,
    control_groups: Arc<ControlGroups>,
    processes: Processes,
    system_start: SystemStart,
}

impl CommandRunner {
    /// Creates a runner whose commands get the current `environment` of the workspace. The first one that ends lets the system start.
    pub(super) fn new(environment: Environment, system_start: SystemStart) -> Self {
        #[expect(clippy::disallowed_methods, reason = "bound: commands in one VM, which has one tenant")]
        let permits = Arc::new(tokio::sync::Semaphore::new(MAX_CONCURRENT_COMMANDS));
        Self {
            permits,
            next_number: Arc::new(AtomicU64::new(1)),
            environment,
            control_groups: Arc::default(),
            processes: Processes::default(),
            system_start,
        }
    }

    /// Returns the commands of this VM.
    pub(super) fn list(&self) -> Vec<Process> {
        self.processes.list()
    }

    /// Sends a signal to a command.
    pub(super) fn signal(&self, id: &str, name: &str) -> Result<(), Status> {
        self.processes.signal(id, name)
    }

    /// Streams the output of a command in the background.
    pub(super) fn output(
        &self,
        id: &str,
    ) -> Result<impl Stream<Item = Result<ExecOutput, Status>> + use<>, Status> {
        self.processes.output(id)
    }

    /// Starts a command in the background. Its stdin is empty.
    pub(super) fn start_detached(&self, start: ExecStart) -> Result<Result<Process, Error>, Status> {
        let permit = self.permit()?;
        let mut running = match self.spawn(&start) {
            Ok(running) => running,
            Err(error) => return Ok(Err(error)),
        };
        running.stdin = None;
        let ring = Arc::new(Ring::new());
        let process = self.processes.add(&start, &running.group, Some(&ring));
        #[expect(
            clippy::disallowed_methods,
            reason = "bound: messages of one command; it waits for its reader"
        )]
        let (sender, mut receiver) = mpsc::channel::<Result<ExecOutput, Status>>(MAX_QUEUED_MESSAGES);
        let kept = Arc::clone(&ring);
        let keep = async move {
            while let Some(message) = receiver.recv().await {
                if let Ok(ExecOutput { output: Some(output) }) = message {
                    kept.append(output);
                }
            }
        };
        let runner = self.clone();
        tokio::spawn(async move {
            let run = async {
                let exit = running.run(&start, None, &sender).await;
                drop(sender);
                exit
            };
            let (exit, ()) = tokio::join!(run, keep);
            runner.processes.end(&start.id, exit.clone());
            // After the entry's end, so that whoever has seen the exit finds it in the list.
            ring.append(Output::Exit(exit.unwrap_or_default()));
            runner.control_groups.remove(running.group.cgroup());
            drop(permit);
        });
        Ok(Ok(process))
    }

    fn permit(&self) -> Result<tokio::sync::OwnedSemaphorePermit, Status> {
        Arc::clone(&self.permits).try_acquire_owned().map_err(|_| {
            let message = format!(
                "{MAX_CONCURRENT_COMMANDS} commands are running in this workspace. Wait for one of them to finish."
            );
            fault::status(Code::ResourceExhausted, "busy", message)
        })
    }

    fn spawn(&self, start: &ExecStart) -> Result<RunningCommand, Error> {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        RunningCommand::spawn(start, &self.environment.current(), &self.control_groups, number)
    }

    /// Starts the command in the first input. A problem with the command itself is its outcome, not a status.
    pub(super) async fn start(
        &self,
        mut input: Streaming<ExecInput>,
    ) -> Result<ReceiverStream<Result<ExecOutput, Status>>, Status> {
        let permit = self.permit()?;
        let Some(ExecInput { input: Some(Input::Start(start)) }) = input.message().await? else {
            return Err(fault::status(
                Code::InvalidArgument,
                "bad_request",
                "The first input must be `start`.",
            ));
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "bound: messages of one command; it waits for its reader"
        )]
        let (sender, receiver) = mpsc::channel(MAX_QUEUED_MESSAGES);
        let runner = self.clone();
        tokio::spawn(async move {
            let (exit, running) = match runner.spawn(&start) {
                Ok(mut running) => {
                    runner.processes.add(&start, &running.group, None);
                    let exit = running.run(&start, Some(input), &sender).await;
                    runner.processes.end(&start.id, None);
                    (exit, Some(running))
                }
                Err(error) => (Some(ExecExit { outcome: Some(Outcome::Error(error)), duration_us: 0 }), None),
            };
            if let Some(exit) = exit {
                // A caller that has disconnected needs no outcome.
                let _ = sender.send(Ok(ExecOutput { output: Some(Output::Exit(exit)) })).await;
            }
            drop(sender);
            runner.system_start.allow();
            // The outcome is sent before the control group is removed.
            tokio::time::sleep(CLEANUP_DELAY).await;
            if let Some(running) = running {
                runner.control_groups.remove(running.group.cgroup());
            }
            drop(permit);
        });
        Ok(ReceiverStream::new(receiver))
    }
}

type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// Running command.
struct RunningCommand {
    child: Child,
    started: Instant,
    group: Arc<ProcessGroup>,
    stdin: Option<Writer>,
    stdout: Option<Reader>,
    stderr: Option<Reader>,
}

impl RunningCommand {
    fn spawn(
        start: &ExecStart,
        variables: &Variables,
        control_groups: &ControlGroups,
        number: u64,
    ) -> Result<Self, Error> {
        let user = User::find(&start.user).map_err(|message| error("bad_request", message))?;
        let mut command = command::build(start, &user, variables)?;
        let io_error = |subject: &str, failure: io::Error| error("internal", format!("{subject}: {failure}"));
        let cgroup = control_groups.create(number).map_err(|failure| io_error("control group", failure))?;
        let procs = File::options().write(true).open(cgroup.join("cgroup.procs"));
        let procs = procs.map_err(|failure| io_error("control group", failure))?;

        let pipes = match start.tty {
            None => {
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
                None
            }
            Some(size) => {
                Some(Terminal::attach(&mut command, size).map_err(|failure| io_error("terminal", failure))?)
            }
        };
        configure_child(
            &mut command,
            ChildSetup {
                cgroups: vec![procs.into()],
                new_session: true,
                controlling_terminal: start.tty.is_some(),
                credentials: Some(user.credentials.clone()),
                oom_score_adj: Some(0),
                nice: Some(0),
            },
        );
        let started = Instant::now();
        let spawned = Command::from(command).spawn();
        let child = match spawned {
            Ok(child) => child,
            Err(failure) => {
                let _ = fs::remove_dir(&cgroup);
                let code = match failure.kind() {
                    io::ErrorKind::NotFound => "not_found",
                    io::ErrorKind::PermissionDenied => "permission_denied",
                    _ => "internal",
                };
                return Err(error(code, format!("Failed to start the command: {failure}.")));
            }
        };
        let (pipes, terminal) = match pipes {
            Some(Terminal { reader, writer, control }) => (Some((reader, writer)), Some(control)),
            None => (None, None),
        };
        let group = Arc::new(ProcessGroup::new(child.id().unwrap_or(0), cgroup, terminal));
        let mut running = Self { started, group, stdin: None, stdout: None, stderr: None, child };
        match pipes {
            Some((reader, writer)) => {
                running.stdout = Some(Reader::terminal(reader));
                running.stdin = Some(Box::new(writer));
            }
            None => {
                running.stdin = running.child.stdin.take().map(|pipe| Box::new(pipe) as Writer);
                running.stdout = running.child.stdout.take().map(Reader::pipe);
                running.stderr = running.child.stderr.take().map(Reader::pipe);
            }
        }
        Ok(running)
    }

    /// Streams input and output until the command has exited and its output has been read. `None`: the caller has disconnected. A command
    /// without `input` has no caller.
    async fn run(
        &mut self,
        start: &ExecStart,
        input: Option<Streaming<ExecInput>>,
        sender: &mpsc::Sender<Result<ExecOutput, Status>>,
    ) -> Option<ExecExit> {
        let (stdout, stderr) = (self.stdout.take(), self.stderr.take());
        let exited = tokio_util::sync::CancellationToken::new();
        let output = async {
            tokio::join!(
                output::forward(stdout, sender, Output::Stdout, &exited),
                output::forward(stderr, sender, Output::Stderr, &exited)
            );
        };
        let deadline = match start.timeout_ms {
            0 => None,
            ms => Some(tokio::time::Instant::now() + Duration::from_millis(ms.into())),
        };
        let stdin = self.stdin.take();
        let group = Arc::clone(&self.group);
        let stdin = async {
            match input {
                Some(input) => forward_input(input, stdin, &group).await,
                None => std::future::pending().await,
            }
        };
        let wait = async {
            let status = self.child.wait().await;
            let duration_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
            // The pipes now hold all output of the command itself. Later output of its background processes is not awaited.
            exited.cancel();
            (status, duration_us)
        };
        let mut timed_out = false;
        let run = async { tokio::join!(wait, output).0 };
        let disconnected = async {
            tokio::select! {
                () = stdin => {}
                () = sender.closed() => {}
            }
        };
        tokio::pin!(run, disconnected);
        let (status, duration_us) = loop {
            tokio::select! {
                finished = &mut run => break finished,
                () = &mut disconnected => {
                    group.signal(Signal::SIGHUP);
                    let _ = tokio::time::timeout(KILL_GRACE, &mut run).await;
                    group.kill();
                    return None;
                }
                () = sleep_until(deadline), if !timed_out => {
                    timed_out = true;
                    group.signal_all(Signal::SIGTERM);
                    let finished = tokio::time::timeout(KILL_GRACE, &mut run).await;
                    // Also what the command has left behind: nothing of it outlives its timeout.
                    group.kill();
                    if let Ok(finished) = finished {
                        break finished;
                    }
                }
            }
        };
        let outcome = if timed_out {
            Outcome::Error(error(
                "timeout",
                format!("The command exceeded its timeout of {} ms and was killed.", start.timeout_ms),
            ))
        } else {
            outcome_of(status)
        };
        Some(ExecExit { outcome: Some(outcome), duration_us })
    }
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn outcome_of(status: io::Result<ExitStatus>) -> Outcome {
    match status {
        Err(failure) => {
            Outcome::Error(error("internal", format!("failed to wait for the command: {failure}")))
        }
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => Outcome::ExitCode(code),
            (None, Some(number)) => {
                let name = Signal::try_from(number).map_or_else(
                    |_| number.to_string(),
                    |signal| signal.as_str().trim_start_matches("SIG").to_owned(),
                );
                Outcome::Signal(name)
            }
            (None, None) => Outcome::Error(error("internal", "the command exited without a status")),
        },
    }
}

/// Forwards the caller's input to the command until the caller disconnects. A caller that only has no more input sends `eof` and stays.
async fn forward_input(mut input: Streaming<ExecInput>, mut stdin: Option<Writer>, group: &ProcessGroup) {
    let mut ended = false;
    loop {
        let message = tokio::select! {
            message = input.message() => message,
            () = tokio::time::sleep(EOF_INTERVAL), if ended => {
                write_end_of_input(&mut stdin).await;
                continue;
            }
        };
        let Ok(Some(message)) = message else { return };
        match message.input {
            Some(Input::Stdin(bytes)) => {
                // The command may have closed its input.
                if let Some(pipe) = &mut stdin
                    && pipe.write_all(&bytes).await.is_err()
                {
                    stdin = None;
                }
            }
            Some(Input::Eof(_)) if group.has_terminal() => {
                ended = true;
                write_end_of_input(&mut stdin).await;
            }
            Some(Input::Eof(_)) => stdin = None,
            Some(Input::Signal(name)) => {
                if let Some(signal) = parse_signal(&name) {
                    group.signal(signal);
                }
            }
            Some(Input::Resize(size)) => group.resize(size),
            Some(Input::Start(_)) | None => {}
        }
    }
}

/// Writes the end of input to a terminal, where it is a character (Ctrl-D).
async fn write_end_of_input(terminal: &mut Option<Writer>) {
    if let Some(writer) = terminal {
        let _ = writer.write_all(b"\x04").await;
    }
}
