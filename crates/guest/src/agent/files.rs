//! Reading and writing of files as one of the guest's users. A child process with that user's credentials does the work, so the kernel
//! checks the permissions and no path, link or mount in the guest can abuse the agent's root privileges.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use rigbox_proto::fault;
use rigbox_proto::guest::{
    FileInfo, ReadFileOutput, ReadFileRequest, WriteFileInput, WriteFileOpen, read_file_output,
    write_file_input,
};
use rigbox_proto::guest_stream::MAX_CHUNK_BYTES;
use rigbox_sys::spawn::{ChildSetup, configure_child};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio_stream::Stream;
use tonic::{Code, Status, Streaming};

use crate::users::User;

const MAX_STAT_LINE_LEN: usize = 128;

/// Writes to a temporary file next to the target and renames it, so that the file appears complete or not at all. `$0` path, `$1` mode,
/// `$2` non-empty to create parents.
const WRITE_SCRIPT: &str = r#"set -eu
[ -z "$2" ] || mkdir -p -- "$(dirname -- "$0")"
if [ -d "$0" ]; then echo "$0: is a directory" >&2; exit 1; fi
new=$(mktemp -- "$0.XXXXXX")
trap 'rm -f -- "$new"' EXIT
trap 'exit 1' TERM
cat > "$new"
chmod -- "$1" "$new"
mv -f -- "$new" "$0"
trap - EXIT TERM"#;

/// Prints a line with type, size, mode and time, and then the content. `$0` path, `$1` offset + 1, `$2` length or empty.
const READ_SCRIPT: &str = r#"set -eu
exec 3< "$0"
stat -L -c '%F/%s/%a/%Y' /proc/self/fd/3
tail -c "+$1" <&3 | if [ -n "$2" ]; then head -c "$2"; else cat; fi"#;

/// Writes the file of a request and returns its size.
pub(super) async fn write(mut input: Streaming<WriteFileInput>) -> Result<u64, Status> {
    let Some(WriteFileInput { input: Some(write_file_input::Input::Open(open)) }) = input.message().await?
    else {
        return Err(bad_request("The first input must be `open`."));
    };
    let WriteFileOpen { path, user, mode, create_parents } = open;
    let user = User::find(&user).map_err(bad_request)?;
    let path = absolute(&path, &user)?;
    let mode = if mode == 0 { 0o644 } else { mode & 0o7777 };
    let mut child = run(
        &user,
        WRITE_SCRIPT,
        &path,
        [format!("{mode:o}"), if create_parents { "yes" } else { "" }.to_owned()],
    )?;
    let mut size = 0;
    // Taken out of the child, so that dropping it closes the pipe.
    let mut stdin = child.stdin.take();
    loop {
        match input.message().await {
            Ok(Some(WriteFileInput { input: Some(write_file_input::Input::Data(data)) })) => {
                size += data.len() as u64;
                if let Some(pipe) = &mut stdin
                    && pipe.write_all(&data).await.is_err()
                {
                    // The child reports the cause below.
                    stdin = None;
                }
            }
            Ok(Some(WriteFileInput { input: Some(write_file_input::Input::Done(true)) })) => break,
            // The caller disconnected, so the content is incomplete.
            Ok(_) | Err(_) => {
                child.stdin = stdin;
                kill(&mut child).await;
                return Err(bad_request("The content did not end with `done`. Nothing was written."));
            }
        }
    }
    drop(stdin);
    finish(child).await.map(|()| size)
}

/// Reads the file of a request.
pub(super) async fn read(
    request: ReadFileRequest,
) -> Result<impl Stream<Item = Result<ReadFileOutput, Status>> + use<>, Status> {
    let user = User::find(&request.user).map_err(bad_request)?;
    let path = absolute(&request.path, &user)?;
    let limit = if request.limit == 0 { String::new() } else { request.limit.to_string() };
    let mut child = run(&user, READ_SCRIPT, &path, [(request.offset.saturating_add(1)).to_string(), limit])?;
    let Some(mut stdout) = child.stdout.take() else {
        return Err(Status::internal("the reader has no output"));
    };
    let mut line = Vec::new();
    loop {
        match stdout.read_u8().await {
            Ok(b'\n') => break,
            Ok(byte) if line.len() < MAX_STAT_LINE_LEN => line.push(byte),
            _ => {
                return Err(finish(child)
                    .await
                    .err()
                    .unwrap_or_else(|| Status::internal("the reader printed nothing")));
            }
        }
    }
    let info = parse_stat(&line).ok_or_else(|| Status::internal("the reader printed an invalid header"))?;
    let (kind, info) = info;
    if kind == "directory" {
        return Err(bad_request(format!("{} is a directory.", path.display())));
    }
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    tokio::spawn(async move {
        let send = |output| sender.send(Ok(ReadFileOutput { output: Some(output) }));
        if send(read_file_output::Output::Info(info)).await.is_err() {
            return kill(&mut child).await;
        }
        loop {
            let mut chunk = Vec::with_capacity(MAX_CHUNK_BYTES);
            match stdout.read_buf(&mut chunk).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {
                    if send(read_file_output::Output::Data(chunk.into())).await.is_err() {
                        return kill(&mut child).await;
                    }
                }
            }
        }
        if let Err(status) = finish(child).await {
            let _ = sender.send(Err(status)).await;
        }
    });
    Ok(tokio_stream::wrappers::ReceiverStream::new(receiver))
}

/// Parses the header line of the reader: file type, size, mode and time.
fn parse_stat(line: &[u8]) -> Option<(String, FileInfo)> {
    let text = std::str::from_utf8(line).ok()?;
    let mut fields = text.rsplitn(4, '/');
    let modified_unix_s = fields.next()?.parse().ok()?;
    let mode = u32::from_str_radix(fields.next()?, 8).ok()?;
    let size = fields.next()?.parse().ok()?;
    Some((fields.next()?.to_owned(), FileInfo { size, mode, modified_unix_s }))
}

/// Resolves a path relative to the user's home.
fn absolute(path: &str, user: &User) -> Result<PathBuf, Status> {
    if path.is_empty() || path.contains('\0') {
        return Err(bad_request("The path must not be empty or contain NUL."));
    }
    Ok(user.home.join(Path::new(path)))
}

/// Starts a script as `user`.
fn run(user: &User, script: &str, path: &Path, arguments: [String; 2]) -> Result<Child, Status> {
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", script]).arg(path).args(arguments);
    command.env_clear().envs(user.environment()).env("LC_ALL", "C").current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let credentials = Some(user.credentials.clone());
    configure_child(
        &mut command,
        ChildSetup { credentials, oom_score_adj: Some(0), nice: Some(0), ..Default::default() },
    );
    let mut command = Command::from(command);
    command.kill_on_drop(true).spawn().map_err(|error| Status::internal(format!("/bin/sh: {error}")))
}

/// Stops a child, which removes its temporary file.
async fn kill(child: &mut Child) {
    // SIGTERM first: the shell handles it once the end of input has ended `cat`, and removes the incomplete file.
    if let Some(pid) = child.id() {
        let _ = rigbox_sys::spawn::send_signal(pid.cast_signed(), 15);
    }
    drop(child.stdin.take());
    if tokio::time::timeout(std::time::Duration::from_secs(5), child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// Waits for a child. If it fails, the first line of its standard error becomes the message.
async fn finish(mut child: Child) -> Result<(), Status> {
    let mut message = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(1024).read_to_end(&mut message).await;
    }
    let status = child.wait().await.map_err(|error| Status::internal(error.to_string()))?;
    if status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&message);
    let message = message.lines().next().unwrap_or("The file could not be read or written.").to_owned();
    let (code, fault_code) = if message.contains("Permission denied") {
        (Code::PermissionDenied, "permission_denied")
    } else if message.contains("No such file") || message.contains("cannot open") {
        (Code::NotFound, "not_found")
    } else if message.contains("No space left") {
        (Code::ResourceExhausted, "no_space")
    } else {
        (Code::InvalidArgument, "bad_request")
    };
    Err(fault::status(code, fault_code, message))
}

fn bad_request(message: impl Into<String>) -> Status {
    fault::status(Code::InvalidArgument, "bad_request", message)
}
