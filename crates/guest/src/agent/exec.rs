//! Runs one command for the host: a process group in a control group of its own, with pipes or a terminal, its output streamed with
//! back-pressure, its end told. When the caller goes, so does the group.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rigbox_proto::fault;
use rigbox_proto::guest::exec_exit::Outcome;
use rigbox_proto::guest::exec_input::Input;
use rigbox_proto::guest::exec_output::Output;
use rigbox_proto::guest::{Error, ExecExit, ExecInput, ExecOutput, ExecStart};
use rigbox_proto::guest_stream::MAX_CHUNK_BYTES;
use rigbox_sys::spawn::{ChildSetup, configure_child};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::secrets::{Environment, Variables};
use super::terminal::{self, Terminal};
use crate::users::User;

const CGROUPS: &str = "/sys/fs/cgroup/rigbox/exec";
/// Between a polite signal and the last one.
const LAST_GRACE: Duration = Duration::from_secs(5);
/// Commands that may run at one time; each holds descriptors and buffers.
const MOST: usize = 200;
/// From a command's end to the removal of what it had, which need not delay the answer.
const TIDY_AFTER: Duration = Duration::from_millis(20);
/// Messages on their way to the host for one command.
const QUEUE: usize = 4;

/// All commands of this VM.
#[derive(Clone)]
pub(super) struct Execs {
    running: Arc<tokio::sync::Semaphore>,
    next: Arc<AtomicU64>,
    environment: Environment,
}

impl Execs {
    /// Every command gets the workspace's `environment` as it then is.
    pub(super) fn new(environment: Environment) -> Self {
        let running = Arc::new(tokio::sync::Semaphore::new(MOST));
        Self { running, next: Arc::new(AtomicU64::new(1)), environment }
    }

    /// Starts what the first input says. What is wrong with the command itself comes as its end, not as a status.
    pub(super) async fn start(
        &self,
        mut input: Streaming<ExecInput>,
    ) -> Result<ReceiverStream<Result<ExecOutput, Status>>, Status> {
        let permit = Arc::clone(&self.running).try_acquire_owned().map_err(|_| {
            let message = format!("{MOST} commands are running in this workspace: wait for one to end");
            fault::status(Code::ResourceExhausted, "busy", message)
        })?;
        let Some(ExecInput { input: Some(Input::Start(start)) }) = input.message().await? else {
            return Err(fault::status(
                Code::InvalidArgument,
                "bad_request",
                "the first input must be `start`",
            ));
        };
        let (sender, receiver) = mpsc::channel(QUEUE);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let variables = self.environment.now();
        tokio::spawn(async move {
            let (end, running) = match Running::spawn(&start, &variables, number) {
                Ok(mut running) => (running.attend(&start, input, &sender).await, Some(running)),
                Err(error) => (Some(ExecExit { outcome: Some(Outcome::Error(error)), duration_us: 0 }), None),
            };
            if let Some(end) = end {
                // A caller that is gone needs no end.
                let _ = sender.send(Ok(ExecOutput { output: Some(Output::Exit(end)) })).await;
            }
            drop(sender);
            // The end goes out before the control group is removed.
            tokio::time::sleep(TIDY_AFTER).await;
            drop(running);
            drop(permit);
        });
        Ok(ReceiverStream::new(receiver))
    }
}

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// A command that runs.
struct Running {
    child: Child,
    started: Instant,
    group: Group,
    stdin: Option<Writer>,
    stdout: Option<Reader>,
    stderr: Option<Reader>,
    /// The host's side of the terminal, for its size.
    terminal: Option<OwnedFd>,
}

/// Both names of a command's processes: the process group, for signals that people send, and the control group, which none of them
/// can leave.
struct Group {
    leader: i32,
    cgroup: PathBuf,
}

impl Group {
    fn signal(&self, signal: Signal) {
        // A group that has ended already is fine.
        let _ = rigbox_sys::spawn::send_signal(-self.leader, signal as i32);
    }

    fn kill(&self) {
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Background processes that the command left behind keep it; the directory then goes with the VM.
        let _ = fs::remove_dir(&self.cgroup);
    }
}

fn error(code: &str, message: impl Into<String>) -> Error {
    Error { code: code.to_owned(), message: message.into() }
}

/// Program, arguments and environment of a request: the user's, then the workspace's `variables`, then the request's own, which wins.
fn command(start: &ExecStart, user: &User, variables: &Variables) -> Result<std::process::Command, Error> {
    let mut argv: Vec<&str> = start.argv.iter().map(String::as_str).collect();
    if !start.shell.is_empty() {
        argv = vec!["/bin/bash", "-lc", &start.shell];
    }
    let Some((program, arguments)) = argv.split_first().filter(|(program, _)| !program.is_empty()) else {
        return Err(error("bad_request", "the command is empty: give a program or a shell line"));
    };
    let mut environment: BTreeMap<String, String> = user.environment();
    if start.tty.is_some() {
        environment.insert("TERM".into(), "xterm-256color".into());
    }
    environment.extend(variables.iter().map(|(name, value)| (name.clone(), value.clone())));
    if !start.shell.is_empty() {
        // The image's profile would read the workspace's variables in once more, over the request's.
        environment.insert("RIGBOX_ENV".into(), "given".into());
    }
    environment.extend(start.env.iter().map(|(name, value)| (name.clone(), value.clone())));
    if environment.iter().any(|(k, v)| k.is_empty() || k.contains(['=', '\0']) || v.contains('\0'))
        || argv.iter().any(|word| word.contains('\0'))
    {
        return Err(error(
            "bad_request",
            "arguments and environment must not contain NUL, names of variables not `=`",
        ));
    }
    let path = environment.get("PATH").map_or("", String::as_str);
    let cwd = if start.cwd.is_empty() { user.home.clone() } else { user.home.join(&start.cwd) };
    let file = find_program(program, path, &cwd).ok_or_else(|| {
        error("not_found", format!("`{program}` was not found in the workspace (PATH {path})"))
    })?;
    if !cwd.is_dir() {
        return Err(error("not_found", format!("the working directory {} was not found", cwd.display())));
    }
    let mut command = std::process::Command::new(file);
    std::os::unix::process::CommandExt::arg0(&mut command, program);
    command.args(arguments).env_clear().envs(&environment).current_dir(cwd);
    Ok(command)
}

/// As execvp(3), but with the user's PATH instead of the agent's.
fn find_program(program: &str, path: &str, cwd: &Path) -> Option<PathBuf> {
    if program.contains('/') {
        let file = cwd.join(program);
        return file.exists().then_some(file);
    }
    path.split(':').map(|folder| Path::new(folder).join(program)).find(|file| file.is_file())
}

impl Running {
    fn spawn(start: &ExecStart, variables: &Variables, number: u64) -> Result<Self, Error> {
        let user = User::find(&start.user).map_err(|message| error("bad_request", message))?;
        let mut command = command(start, &user, variables)?;
        let cgroup = PathBuf::from(format!("{CGROUPS}/{number}"));
        let io_error = |what: &str, failure: io::Error| error("internal", format!("{what}: {failure}"));
        fs::create_dir_all(&cgroup).map_err(|failure| io_error("control group", failure))?;
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
                return Err(error(code, format!("the command could not be started: {failure}")));
            }
        };
        let group = Group { leader: child.id().map_or(0, u32::cast_signed), cgroup };
        let mut running =
            Self { started, group, stdin: None, stdout: None, stderr: None, terminal: None, child };
        match pipes {
            Some(terminal) => {
                running.terminal = Some(terminal.size);
                running.stdout = Some(Box::new(terminal.reader));
                running.stdin = Some(Box::new(terminal.writer));
            }
            None => {
                running.stdin = running.child.stdin.take().map(|pipe| Box::new(pipe) as Writer);
                running.stdout = running.child.stdout.take().map(|pipe| Box::new(pipe) as Reader);
                running.stderr = running.child.stderr.take().map(|pipe| Box::new(pipe) as Reader);
            }
        }
        Ok(running)
    }

    /// Streams until the command has ended and its output has been read. `None`: the caller is gone.
    async fn attend(
        &mut self,
        start: &ExecStart,
        input: Streaming<ExecInput>,
        sender: &mpsc::Sender<Result<ExecOutput, Status>>,
    ) -> Option<ExecExit> {
        let (stdout, stderr) = (self.stdout.take(), self.stderr.take());
        let ended = tokio_util::sync::CancellationToken::new();
        let output = async {
            tokio::join!(
                pump(stdout, sender, Output::Stdout, &ended),
                pump(stderr, sender, Output::Stderr, &ended)
            );
        };
        let deadline = match start.timeout_ms {
            0 => None,
            ms => Some(tokio::time::Instant::now() + Duration::from_millis(ms.into())),
        };
        let stdin = feed(input, self.stdin.take(), self.terminal.take(), &self.group);
        let wait = async {
            let status = self.child.wait().await;
            let duration_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
            // What the command itself wrote is in the pipes now; what its background processes write later is not waited for.
            ended.cancel();
            (status, duration_us)
        };
        let mut timed_out = false;
        let run = async { tokio::join!(wait, output).0 };
        let gone = async {
            tokio::select! {
                () = stdin => {}
                () = sender.closed() => {}
            }
        };
        tokio::pin!(run, gone);
        let (status, duration_us) = loop {
            tokio::select! {
                finished = &mut run => break finished,
                () = &mut gone => {
                    self.group.signal(Signal::SIGHUP);
                    let _ = tokio::time::timeout(LAST_GRACE, &mut run).await;
                    self.group.kill();
                    return None;
                }
                () = sleep_until(deadline), if !timed_out => {
                    timed_out = true;
                    self.group.signal(Signal::SIGTERM);
                    if let Ok(finished) = tokio::time::timeout(LAST_GRACE, &mut run).await {
                        break finished;
                    }
                    self.group.kill();
                }
            }
        };
        let end = if timed_out {
            Outcome::Error(error(
                "timeout",
                format!("the command ran longer than {} ms and was ended", start.timeout_ms),
            ))
        } else {
            end_of(status)
        };
        Some(ExecExit { outcome: Some(end), duration_us })
    }
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn end_of(status: io::Result<ExitStatus>) -> Outcome {
    match status {
        Err(failure) => {
            Outcome::Error(error("internal", format!("the command cannot be waited for: {failure}")))
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
            (None, None) => Outcome::Error(error("internal", "the command ended without a status")),
        },
    }
}

/// A pipe can hold no more (`/proc/sys/fs/pipe-max-size`, as it is by default).
const PIPE_MAX: usize = 1 << 20;

/// Sends what comes out of `reader`; once `ended`, only what is there already: background processes may write for ever.
async fn pump(
    reader: Option<Reader>,
    sender: &mpsc::Sender<Result<ExecOutput, Status>>,
    wrap: fn(bytes: tonic::codegen::Bytes) -> Output,
    ended: &tokio_util::sync::CancellationToken,
) {
    let Some(mut reader) = reader else { return };
    let mut left_after_end = PIPE_MAX;
    while left_after_end > 0 {
        let mut chunk = Vec::with_capacity(MAX_CHUNK_BYTES);
        let count = tokio::select! {
            biased;
            count = reader.read_buf(&mut chunk) => count,
            () = ended.cancelled() => return,
        };
        // A terminal ends with EIO when its last process has gone.
        let Ok(count @ 1..) = count else { return };
        if ended.is_cancelled() {
            left_after_end = left_after_end.saturating_sub(count);
        }
        if sender.send(Ok(ExecOutput { output: Some(wrap(chunk.into())) })).await.is_err() {
            return;
        }
    }
}

/// Carries the caller's input to the command, until the caller is gone: one that only has no more input says `eof` and stays.
async fn feed(
    mut input: Streaming<ExecInput>,
    stdin: Option<Writer>,
    terminal: Option<OwnedFd>,
    group: &Group,
) {
    let mut stdin = stdin;
    while let Ok(Some(message)) = input.message().await {
        match message.input {
            Some(Input::Stdin(bytes)) => {
                // A command that does not read its input (or closed it) is its own affair.
                if let Some(pipe) = &mut stdin
                    && pipe.write_all(&bytes).await.is_err()
                {
                    stdin = None;
                }
            }
            Some(Input::Eof(_)) => match &terminal {
                // For a terminal the end of input is a character (Ctrl-D).
                Some(_) => {
                    if let Some(pipe) = &mut stdin {
                        let _ = pipe.write_all(b"\x04").await;
                    }
                }
                None => stdin = None,
            },
            Some(Input::Signal(name)) => {
                if let Ok(signal) = format!("SIG{}", name.trim_start_matches("SIG")).parse::<Signal>() {
                    group.signal(signal);
                }
            }
            Some(Input::Resize(size)) => {
                if let Some(terminal) = &terminal {
                    let _ = terminal::resize(terminal, size);
                }
            }
            Some(Input::Start(_)) | None => {}
        }
    }
}
