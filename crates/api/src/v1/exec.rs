//! `POST /workspaces/{id}/exec`: one command, its output as JSON lines while it runs. The WebSocket at the
//! same URL shares the schema.

use std::collections::HashMap;
use std::convert::Infallible;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use rigbox_core::authz::Exec;
use rigbox_core::ids::ProcessId;
use rigbox_core::signals;
use rigbox_proto::guest::{
    ExecExit, ExecInput, ExecOutput, ExecStart, WindowSize, exec_exit, exec_input, exec_output,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, JsonBody, PathParams};
use crate::openapi::formats;
use rigbox_service::error::random_id;
use rigbox_service::guests::client::{CHUNK_BYTES, GuestError, Output, RunningCommand};
use rigbox_service::guests::request_stream::Input;

pub(crate) mod socket;

/// stdin in the request.
const MAX_STDIN_BYTES: usize = 1024 * 1024;
/// Command and environment, which are one message to the agent.
const MAX_COMMAND_BYTES: usize = 96 * 1024;
/// Response header with the command's id, by which it can be listed and signaled while it runs.
pub(crate) const PROCESS_HEADER: &str = "rigbox-process";
/// Body of a request: the maximum stdin in base64, and 1 MiB for the rest.
const MAX_BODY_BYTES: usize = MAX_STDIN_BYTES / 3 * 4 + 4 + crate::extract::MAX_BODY_BYTES;

/// Command to run.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExecRequest {
    /// At most 96 KiB together with `env`.
    #[schema(value_type = formats::Command)]
    command: Command,
    /// Absolute; the user's home directory if omitted.
    #[schema(pattern = r"^/[^\u0000]*$")]
    cwd: Option<String>,
    /// Added to the environment of the workspace.
    #[schema(value_type = Option<formats::CommandEnv>)]
    env: Option<HashMap<String, String>>,
    /// `developer` if omitted.
    #[schema(value_type = Option<formats::GuestUser>)]
    user: Option<String>,
    /// Seconds after which the command is killed.
    #[schema(exclusive_minimum = 0, maximum = 1_000_000)]
    timeout_s: Option<f64>,
    /// Up to 1 MiB, in base64. Without it stdin is empty; over a WebSocket it stays open.
    #[schema(
        max_length = 1_398_104,
        pattern = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$"
    )]
    stdin_b64: Option<String>,
    /// Over a WebSocket: a terminal instead of pipes.
    #[schema(ignore)]
    tty: Option<bool>,
    /// Height of the terminal, 24 if omitted.
    #[schema(ignore)]
    rows: Option<u16>,
    /// Width of the terminal, 80 if omitted.
    #[schema(ignore)]
    cols: Option<u16>,
}

/// Program and arguments, or a command line for `bash -lc`.
#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "The value is neither a program with arguments nor a line. Use a list of strings, or a string."
)]
enum Command {
    Argv(Vec<String>),
    Line(String),
}

/// Line of the response: output, and at the end exactly one of `exit_code`, `signal` and `error`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum ExecEvent {
    /// Output of the command.
    #[schema(title = "ExecOutputEvent")]
    #[cfg_attr(not(test), allow(dead_code))]
    // Listed here for the document; written by `output_line`.
    Output {
        #[schema(value_type = formats::OutputStream)]
        stream: String,
        data_b64: String,
    },
    /// The command exited.
    #[schema(title = "ExecExitEvent")]
    Exit {
        exit_code: i32,
        /// Run time as measured in the VM, µs.
        duration_us: u64,
    },
    /// The command was killed by a signal.
    #[schema(title = "ExecSignalEvent")]
    Signal {
        /// Name of the signal, e.g. `KILL`.
        signal: String,
        duration_us: u64,
    },
    /// The command did not start, or its end is unknown.
    #[schema(title = "ExecErrorEvent")]
    Error { error: ExecError },
}

/// Error of a command.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ExecError {
    code: String,
    message: String,
}

impl ExecError {
    pub(crate) fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }
}

impl ExecEvent {
    pub(crate) fn failed(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Error { error: ExecError::new(code, message) }
    }
}

impl ExecRequest {
    /// Returns the request for the agent, and the stdin that the request contains.
    pub(crate) fn into_start(self) -> Result<(ExecStart, Option<Bytes>), ApiError> {
        let (argv, shell) = match self.command {
            Command::Argv(argv) if argv.first().is_none_or(String::is_empty) => {
                return Err(ApiError::bad_request(
                    "command: The command is empty. Use a program and its arguments, or a command line for bash.",
                ));
            }
            Command::Argv(argv) => (argv, String::new()),
            Command::Line(line) if line.trim().is_empty() => {
                return Err(ApiError::bad_request("command: The command line is empty."));
            }
            Command::Line(line) => (Vec::new(), line),
        };
        let user = check_user(self.user)?;
        let timeout_ms = match self.timeout_s {
            None => 0,
            Some(seconds) if seconds > 0.0 && seconds <= 1_000_000.0 => (seconds * 1000.0).ceil() as u32,
            Some(_) => {
                return Err(ApiError::bad_request(
                    "timeout_s: The timeout is out of range. Use more than 0 and at most 1000000.",
                ));
            }
        };
        if self.cwd.as_ref().is_some_and(|cwd| !cwd.starts_with('/')) {
            return Err(ApiError::bad_request("cwd: The path is not absolute. Start it with `/`."));
        }
        let stdin = self.stdin_b64.as_deref().map(decode_stdin).transpose()?;
        let tty = self.tty.unwrap_or(false).then(|| WindowSize {
            rows: self.rows.unwrap_or(24).into(),
            cols: self.cols.unwrap_or(80).into(),
        });
        let env = self.env.unwrap_or_default();
        if let Some(name) = env.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return Err(ApiError::bad_request(format!("env: `{name}` is not a valid variable name.")));
        }
        let cwd = self.cwd.unwrap_or_default();
        let size = shell.len()
            + argv.iter().map(|word| word.len() + 1).sum::<usize>()
            + env.iter().map(|(name, value)| name.len() + value.len() + 2).sum::<usize>();
        if size > MAX_COMMAND_BYTES {
            return Err(ApiError::bad_request(format!(
                "command: The command and its environment have {size} bytes. Use at most {MAX_COMMAND_BYTES}, and stdin or a file for the rest."
            )));
        }
        let id = String::new();
        Ok((ExecStart { argv, shell, cwd, env, user, timeout_ms, tty, id }, stdin))
    }
}

/// Validates the user; `developer` if omitted.
pub(crate) fn check_user(user: Option<String>) -> Result<String, ApiError> {
    match user.as_deref() {
        None | Some("developer") => Ok("developer".to_owned()),
        Some("root") => Ok("root".to_owned()),
        Some(_) => Err(ApiError::bad_request("user: The user is unknown. Use developer or root.")),
    }
}

/// Validates the name of a signal.
pub(crate) fn check_signal(name: &str) -> Result<(), ApiError> {
    if signals::NAMES.contains(&name.strip_prefix("SIG").unwrap_or(name)) {
        return Ok(());
    }
    let shown: String = name.chars().take(16).collect();
    Err(ApiError::bad_request(format!("signal: `{shown}` is unknown. Use for example INT, TERM or KILL.")))
}

pub(crate) fn decode_stdin(text: &str) -> Result<Bytes, ApiError> {
    let bytes = STANDARD.decode(text).map_err(|_| {
        ApiError::bad_request("stdin_b64: The value is not base64. Encode it as base64, with padding.")
    })?;
    if bytes.len() > MAX_STDIN_BYTES {
        return Err(ApiError::bad_request(format!(
            "stdin_b64: The input is too large. Send at most {MAX_STDIN_BYTES} bytes."
        )));
    }
    Ok(bytes.into())
}

pub(crate) async fn send_stdin(input: &Input<ExecInput>, mut bytes: Bytes) {
    while !bytes.is_empty() {
        let part = bytes.split_to(bytes.len().min(CHUNK_BYTES));
        input.send(ExecInput { input: Some(exec_input::Input::Stdin(part)) }).await;
    }
}

pub(crate) async fn send_eof(input: &Input<ExecInput>) {
    input.send(ExecInput { input: Some(exec_input::Input::Eof(true)) }).await;
}

/// Run a command; the response has one JSON object per line while it runs
#[utoipa::path(
    post, path = "/workspaces/{id}/exec", operation_id = "exec_command", tag = "exec", params(("id" = String, Path)),
    request_body(content = ExecRequest, examples(
        ("line" = (summary = "Command line for bash", value = json!({"command": "echo $NAME", "env": {"NAME": "value"}}))),
        ("program" = (summary = "Program, as root, with a time limit", value = json!({"command": ["id", "-u"], "user": "root", "timeout_s": 10}))),
    )),
    responses(
        (
            status = 200, body = ExecEvent, content_type = "application/x-ndjson",
            description = "Lines, each with one object",
            headers(("Rigbox-Process" = String, description = "Id of the command, to signal it while it runs")),
        ),
        (status = 400, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody, description = "The workspace is not running"),
        (status = 413, body = ApiErrorBody),
    ),
)]
pub(crate) async fn exec(
    State(context): State<ApiContext>,
    caller: Caller<Exec>,
    PathParams(id): PathParams<String>,
    JsonBody(request): JsonBody<ExecRequest, MAX_BODY_BYTES>,
) -> Result<Response, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    if request.tty == Some(true) {
        return Err(ApiError::bad_request("tty: A terminal requires the WebSocket at this URL."));
    }
    let (start, stdin) = request.into_start()?;
    let process = new_process_id()?;
    let running = context.guests.exec(&permit, &process, start).await?;
    let RunningCommand { input, output } = running;
    let sending = async move {
        send_stdin(&input, stdin.unwrap_or_default()).await;
        send_eof(&input).await;
        // The input stream stays open: its end would look like a disconnected caller.
        let () = std::future::pending().await;
        drop(input);
    };
    let headers = [(PROCESS_HEADER, process.to_string())];
    Ok((headers, ndjson(sending, output)).into_response())
}

/// Returns the id of a new command.
pub(crate) fn new_process_id() -> Result<ProcessId, ApiError> {
    Ok(ProcessId::from_random(random_id()?))
}

/// Returns a response with one line per message. Dropping it drops `sending` and the call, and with it the command's process group, unless
/// it runs in the background.
pub(crate) fn ndjson(
    sending: impl Future<Output = ()> + Send + 'static,
    output: Output<ExecOutput>,
) -> Response {
    let headers = [(CONTENT_TYPE, "application/x-ndjson"), (CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(lines(sending, output))).into_response()
}

fn lines(
    sending: impl Future<Output = ()>,
    output: Output<ExecOutput>,
) -> impl stream::Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(Some((Box::pin(sending), output)), |state| async {
        let (mut sending, mut output) = state?;
        let message = tokio::select! {
            message = output.next() => message,
            () = &mut sending => return None,
        };
        let (line, last) = render(message);
        Some((Ok(line), (!last).then_some((sending, output))))
    })
}

/// Renders a message from the guest as a line, and returns whether it is the last.
pub(crate) fn render(message: Result<Option<ExecOutput>, GuestError>) -> (Bytes, bool) {
    let output = match message {
        Ok(Some(ExecOutput { output })) => output,
        Ok(None) => {
            return (
                event(&ExecEvent::failed(
                    "agent_lost",
                    "The connection to the workspace's agent was lost. The command may still be running.",
                )),
                true,
            );
        }
        Err(error) => {
            let (code, message) = ApiError::from(error).into_code_and_message();
            return (event(&ExecEvent::failed(code, message)), true);
        }
    };
    match output {
        Some(exec_output::Output::Stdout(data)) => (output_line("stdout", &data), false),
        Some(exec_output::Output::Stderr(data)) => (output_line("stderr", &data), false),
        Some(exec_output::Output::Exit(exit)) => (event(&exit_event(exit)), true),
        // Messages of a newer agent.
        None => (Bytes::new(), false),
    }
}

fn exit_event(ExecExit { outcome, duration_us }: ExecExit) -> ExecEvent {
    match outcome {
        Some(exec_exit::Outcome::ExitCode(exit_code)) => ExecEvent::Exit { exit_code, duration_us },
        Some(exec_exit::Outcome::Signal(signal)) => ExecEvent::Signal { signal, duration_us },
        Some(exec_exit::Outcome::Error(error)) => ExecEvent::failed(error.code, error.message),
        None => ExecEvent::failed("internal", "The agent did not report how the command ended."),
    }
}

pub(crate) fn event(event: &ExecEvent) -> Bytes {
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

/// Renders by hand, because this is the path of bulk output and serialization would copy the data twice more.
fn output_line(stream: &str, data: &[u8]) -> Bytes {
    let mut line = String::with_capacity(data.len() / 3 * 4 + 48);
    line.push_str("{\"stream\":\"");
    line.push_str(stream);
    line.push_str("\",\"data_b64\":\"");
    STANDARD.encode_string(data, &mut line);
    line.push_str("\"}\n");
    line.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_written_line_equals_serialized_line() {
        for data in [&b""[..], b"a", b"ab", b"abc", &[0xff; 100]] {
            let serialized =
                event(&ExecEvent::Output { stream: "stdout".into(), data_b64: STANDARD.encode(data) });
            assert_eq!(output_line("stdout", data), serialized);
        }
    }
}
