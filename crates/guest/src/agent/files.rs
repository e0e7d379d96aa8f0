//! Calls about files. A helper process of the user does the work ([`crate::files`]).

use std::path::PathBuf;
use std::process::Stdio;

use prost::Message;
use rigbox_proto::fault;
use rigbox_proto::guest::change_file_request::Change;
use rigbox_proto::guest::{
    ChangeFileRequest, FileEntry, FileEvent, FileInfo, MakeDirectory, ReadFileOutput, ReadFileRequest,
    Remove, Rename, WriteFileInput, WriteFileOpen, read_file_output, write_file_input,
};
use rigbox_proto::guest_stream::MAX_CHUNK_BYTES;
use rigbox_sys::spawn::{ChildSetup, configure_child};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::files::{HELPER_NAME, Operation};
use crate::users::User;

/// Messages of the helper are smaller: a name has at most 255 bytes, a link's target 4,096.
const MAX_MESSAGE_BYTES: u32 = 16 * 1024;
/// Bytes of the helper's failure.
const MAX_FAILURE_BYTES: u64 = 8 * 1024;
/// Queued messages to the host per call.
const MAX_QUEUED_MESSAGES: usize = 4;

/// Writes the file of a request and returns its size.
pub(super) async fn write(mut input: Streaming<WriteFileInput>) -> Result<u64, Status> {
    let Some(WriteFileInput { input: Some(write_file_input::Input::Open(open)) }) = input.message().await?
    else {
        return Err(bad_request("The first input must be `open`."));
    };
    let WriteFileOpen { path, user, mode, create_parents } = open;
    let user = User::find(&user).map_err(bad_request)?;
    let path = absolute(&path, &user)?;
    let mut helper = Helper::start(&user, &Operation::Write { path, mode: mode & 0o7777, create_parents })?;
    let mut size = 0;
    loop {
        match input.message().await {
            Ok(Some(WriteFileInput { input: Some(write_file_input::Input::Data(data)) })) => {
                size += data.len() as u64;
                helper.write(&data).await;
            }
            Ok(Some(WriteFileInput { input: Some(write_file_input::Input::Done(true)) })) => break,
            // The caller disconnected, so the content is incomplete. The helper must not take that for its end.
            Ok(_) | Err(_) => {
                helper.kill().await;
                return Err(bad_request("The content did not end with `done`. Nothing was written."));
            }
        }
    }
    helper.finish().await.map(|()| size)
}

/// Reads the file of a request.
pub(super) async fn read(
    request: ReadFileRequest,
) -> Result<ReceiverStream<Result<ReadFileOutput, Status>>, Status> {
    let user = User::find(&request.user).map_err(bad_request)?;
    let path = absolute(&request.path, &user)?;
    let operation = Operation::Read { path, offset: request.offset, limit: request.limit };
    let mut helper = Helper::start(&user, &operation)?;
    let info = match helper.message::<FileInfo>().await? {
        Some(info) => info,
        None => return Err(helper.finish().await.err().unwrap_or_else(no_message)),
    };
    #[expect(clippy::disallowed_methods, reason = "bound: messages of one transfer; it waits for its reader")]
    let (sender, receiver) = mpsc::channel(MAX_QUEUED_MESSAGES);
    tokio::spawn(async move {
        let send = |output| sender.send(Ok(ReadFileOutput { output: Some(output) }));
        let mut is_wanted = send(read_file_output::Output::Info(info)).await.is_ok();
        while is_wanted {
            let mut chunk = Vec::with_capacity(MAX_CHUNK_BYTES);
            match helper.stdout.read_buf(&mut chunk).await {
                Ok(0) | Err(_) => break,
                Ok(_) => is_wanted = send(read_file_output::Output::Data(chunk.into())).await.is_ok(),
            }
        }
        if !is_wanted {
            helper.kill().await;
        } else if let Err(status) = helper.finish().await {
            let _ = sender.send(Err(status)).await;
        }
    });
    Ok(ReceiverStream::new(receiver))
}

/// Describes one file.
pub(super) async fn stat(path: &str, user: &str) -> Result<FileEntry, Status> {
    let user = User::find(user).map_err(bad_request)?;
    let mut helper = Helper::start(&user, &Operation::Stat { path: absolute(path, &user)? })?;
    let entry = helper.message().await?;
    helper.finish().await?;
    entry.ok_or_else(no_message)
}

/// Describes the files of a directory.
pub(super) fn list(path: &str, user: &str) -> Result<ReceiverStream<Result<FileEntry, Status>>, Status> {
    let user = User::find(user).map_err(bad_request)?;
    messages(Helper::start(&user, &Operation::List { path: absolute(path, &user)? })?)
}

/// Reports changes in a directory, or of a file.
pub(super) fn watch(path: &str, user: &str) -> Result<ReceiverStream<Result<FileEvent, Status>>, Status> {
    let user = User::find(user).map_err(bad_request)?;
    messages(Helper::start(&user, &Operation::Watch { path: absolute(path, &user)? })?)
}

/// Makes a change.
pub(super) async fn change(request: ChangeFileRequest) -> Result<(), Status> {
    let user = User::find(&request.user).map_err(bad_request)?;
    let operation = match request.change {
        Some(Change::MakeDirectory(MakeDirectory { path, mode, create_parents })) => {
            Operation::MakeDirectory { path: absolute(&path, &user)?, mode: mode & 0o7777, create_parents }
        }
        Some(Change::Rename(Rename { from, to })) => {
            Operation::Rename { from: absolute(&from, &user)?, to: absolute(&to, &user)? }
        }
        Some(Change::Remove(Remove { path, recursive })) => {
            Operation::Remove { path: absolute(&path, &user)?, recursive }
        }
        None => return Err(bad_request("The request names no change.")),
    };
    Helper::start(&user, &operation)?.finish().await
}

/// Replaces the managed lines of the developer's `authorized_keys`.
pub(super) async fn sync_keys(keys: &[String]) -> Result<(), Status> {
    let user = User::find("").map_err(bad_request)?;
    let path = user.home.join(".ssh/authorized_keys");
    let mut helper = Helper::start(&user, &Operation::SyncKeys { path })?;
    for key in keys {
        helper.write(format!("{key}\n").as_bytes()).await;
    }
    helper.finish().await
}

/// Forwards the messages of a helper until it ends or the caller is gone.
fn messages<T: Message + Default + Send + 'static>(
    mut helper: Helper,
) -> Result<ReceiverStream<Result<T, Status>>, Status> {
    #[expect(clippy::disallowed_methods, reason = "bound: messages of one transfer; it waits for its reader")]
    let (sender, receiver) = mpsc::channel(MAX_QUEUED_MESSAGES);
    tokio::spawn(async move {
        loop {
            let message = tokio::select! {
                message = helper.message() => message,
                () = sender.closed() => return helper.kill().await,
            };
            let is_wanted = match message {
                Ok(Some(message)) => sender.send(Ok(message)).await.is_ok(),
                Ok(None) => break,
                Err(status) => {
                    let _ = sender.send(Err(status)).await;
                    false
                }
            };
            if !is_wanted {
                return helper.kill().await;
            }
        }
        if let Err(status) = helper.finish().await {
            let _ = sender.send(Err(status)).await;
        }
    });
    Ok(ReceiverStream::new(receiver))
}

/// Running helper. Dropping it kills it.
struct Helper {
    child: Child,
    stdout: ChildStdout,
}

impl Helper {
    fn start(user: &User, operation: &Operation) -> Result<Self, Status> {
        // This program itself, which need not be on the disk.
        let mut command = std::process::Command::new("/proc/self/exe");
        std::os::unix::process::CommandExt::arg0(&mut command, HELPER_NAME);
        command.args(operation.words()).env_clear().current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let credentials = Some(user.credentials.clone());
        configure_child(
            &mut command,
            ChildSetup { credentials, oom_score_adj: Some(0), nice: Some(0), ..Default::default() },
        );
        let failed = |error: std::io::Error| Status::internal(format!("the helper for files: {error}"));
        let mut child = Command::from(command).kill_on_drop(true).spawn().map_err(failed)?;
        let stdout = child.stdout.take().ok_or_else(no_message)?;
        Ok(Self { child, stdout })
    }

    /// Writes to its stdin. If it does not read any more, `finish` tells why.
    async fn write(&mut self, data: &[u8]) {
        if let Some(stdin) = &mut self.child.stdin
            && stdin.write_all(data).await.is_err()
        {
            self.child.stdin = None;
        }
    }

    /// Reads a message, or `None` at the end.
    async fn message<T: Message + Default>(&mut self) -> Result<Option<T>, Status> {
        let Ok(length) = self.stdout.read_u32_le().await else { return Ok(None) };
        if length > MAX_MESSAGE_BYTES {
            return Err(no_message());
        }
        let mut bytes = vec![0; length as usize];
        self.stdout.read_exact(&mut bytes).await.map_err(|_| no_message())?;
        T::decode(&*bytes).map(Some).map_err(|_| no_message())
    }

    /// Ends its stdin and waits for it. Its failure becomes the status.
    async fn finish(mut self) -> Result<(), Status> {
        drop(self.child.stdin.take());
        let mut text = String::new();
        if let Some(stderr) = self.child.stderr.take() {
            let _ = stderr.take(MAX_FAILURE_BYTES).read_to_string(&mut text).await;
        }
        let status = self.child.wait().await.map_err(|error| Status::internal(error.to_string()))?;
        if status.success() {
            return Ok(());
        }
        let (code, message) = text.trim_end().split_once(' ').unwrap_or_default();
        let failure = match code {
            "not_found" => fault::status(Code::NotFound, "not_found", message),
            "permission_denied" => fault::status(Code::PermissionDenied, "permission_denied", message),
            "no_space" => fault::status(Code::ResourceExhausted, "no_space", message),
            "bad_request" => bad_request(message),
            _ => Status::internal(format!("the helper for files ended with {status}")),
        };
        Err(failure)
    }

    /// Kills it before its stdin ends.
    async fn kill(mut self) {
        let _ = self.child.kill().await;
    }
}

/// Resolves a path relative to the user's home.
fn absolute(path: &str, user: &User) -> Result<PathBuf, Status> {
    if path.is_empty() || path.contains('\0') {
        return Err(bad_request("The path must not be empty or contain NUL."));
    }
    Ok(user.home.join(path))
}

fn no_message() -> Status {
    Status::internal("the helper for files sent no message")
}

fn bad_request(message: impl Into<String>) -> Status {
    fault::status(Code::InvalidArgument, "bad_request", message)
}
