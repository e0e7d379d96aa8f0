//! `POST /workspaces/{id}/exec`: one command, its output as lines of JSON while it comes. The shapes are shared with the
//! WebSocket of the same URL.

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
use rigbox_proto::guest::{
    ExecExit, ExecInput, ExecOutput, ExecStart, WindowSize, exec_exit, exec_input, exec_output,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, JsonBody, PathId};
use rigbox_service::guests::client::{CHUNK, GuestError, RunningCommand};
use rigbox_service::guests::request_stream::Input;

pub(crate) mod socket;

/// stdin that comes with the request.
const MAX_STDIN_BYTES: usize = 1024 * 1024;
/// A request with as much stdin as is allowed, in base64, and 1 MiB of the rest.
const MAX_BODY_BYTES: usize = MAX_STDIN_BYTES / 3 * 4 + 4 + crate::extract::MAX_BODY_BYTES;

/// A command.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExecRequest {
    command: Command,
    /// Absolute; the user's home when left out.
    cwd: Option<String>,
    env: Option<HashMap<String, String>>,
    /// `developer` (when left out) or `root`.
    user: Option<String>,
    /// The command is ended after so many seconds.
    timeout_s: Option<f64>,
    /// Up to 1 MiB, in base64. Without it stdin is at its end at idempotency_key; over a WebSocket it stays open.
    stdin_b64: Option<String>,
    /// Over a WebSocket: a terminal instead of pipes.
    tty: Option<bool>,
    /// Height of the terminal, 24 when left out.
    #[schema(maximum = 65_535)]
    rows: Option<u16>,
    /// Width of the terminal, 80 when left out.
    #[schema(maximum = 65_535)]
    cols: Option<u16>,
}

/// Program and arguments, or a line for `bash -lc`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
enum Command {
    Argv(Vec<String>),
    Line(String),
}

/// One line of the answer: output, and at the end exactly one of `exit_code`, `signal` and `error`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum ExecEvent {
    /// What the command wrote.
    #[cfg_attr(not(test), allow(dead_code))]
    // Described here for the document; written by `output_line`.
    Output {
        /// `stdout` or `stderr`.
        stream: String,
        data_b64: String,
    },
    /// It ended by itself.
    Exit {
        exit_code: i32,
        /// From its start to its end as its VM saw it, µs.
        duration_us: u64,
    },
    /// A signal ended it.
    Signal {
        /// Its name, e.g. `KILL`.
        signal: String,
        duration_us: u64,
    },
    /// It did not begin, or its end was not seen.
    Error { error: ExecError },
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ExecError {
    code: String,
    message: String,
}

impl ExecEvent {
    pub(crate) fn failed(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Error { error: ExecError { code: code.into(), message: message.into() } }
    }
}

impl ExecRequest {
    /// The start that the agent understands, and the stdin that came with it.
    pub(crate) fn into_start(self) -> Result<(ExecStart, Option<Bytes>), ApiError> {
        let (argv, shell) = match self.command {
            Command::Argv(argv) if argv.first().is_none_or(String::is_empty) => {
                return Err(ApiError::bad_request(
                    "command: expected a program and its arguments, or a line for bash",
                ));
            }
            Command::Argv(argv) => (argv, String::new()),
            Command::Line(line) if line.trim().is_empty() => {
                return Err(ApiError::bad_request("command: the line for bash is empty"));
            }
            Command::Line(line) => (Vec::new(), line),
        };
        let user = user(self.user)?;
        let timeout_ms = match self.timeout_s {
            None => 0,
            Some(seconds) if seconds > 0.0 && seconds <= 1_000_000.0 => (seconds * 1000.0).ceil() as u32,
            Some(_) => {
                return Err(ApiError::bad_request("timeout_s: expected more than 0 and at most 1000000"));
            }
        };
        if self.cwd.as_ref().is_some_and(|cwd| !cwd.starts_with('/')) {
            return Err(ApiError::bad_request("cwd: expected an absolute path"));
        }
        let stdin = self.stdin_b64.as_deref().map(decode_stdin).transpose()?;
        let tty = self.tty.unwrap_or(false).then(|| WindowSize {
            rows: self.rows.unwrap_or(24).into(),
            cols: self.cols.unwrap_or(80).into(),
        });
        let env = self.env.unwrap_or_default();
        if let Some(name) = env.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return Err(ApiError::bad_request(format!("env: `{name}` is not the name of a variable")));
        }
        let cwd = self.cwd.unwrap_or_default();
        Ok((ExecStart { argv, shell, cwd, env, user, timeout_ms, tty }, stdin))
    }
}

/// A user that exists in every guest.
pub(crate) fn user(user: Option<String>) -> Result<String, ApiError> {
    match user.as_deref() {
        None | Some("developer") => Ok("developer".to_owned()),
        Some("root") => Ok("root".to_owned()),
        Some(_) => Err(ApiError::bad_request("user: expected developer or root")),
    }
}

pub(crate) fn decode_stdin(text: &str) -> Result<Bytes, ApiError> {
    let bytes = STANDARD
        .decode(text)
        .map_err(|error| ApiError::bad_request(format!("stdin_b64: not base64 (with padding): {error}")))?;
    if bytes.len() > MAX_STDIN_BYTES {
        return Err(ApiError::bad_request(format!("stdin_b64: more than {MAX_STDIN_BYTES} bytes")));
    }
    Ok(bytes.into())
}

pub(crate) async fn send_stdin(input: &Input<ExecInput>, mut bytes: Bytes) {
    while !bytes.is_empty() {
        let part = bytes.split_to(bytes.len().min(CHUNK));
        input.send(ExecInput { input: Some(exec_input::Input::Stdin(part)) }).await;
    }
}

pub(crate) async fn send_eof(input: &Input<ExecInput>) {
    input.send(ExecInput { input: Some(exec_input::Input::Eof(true)) }).await;
}

/// Run a command; the answer is one JSON object per line while it runs
#[utoipa::path(
    post, path = "/workspaces/{id}/exec", tag = "exec", params(("id" = String, Path)), request_body = ExecRequest,
    responses(
        (status = 200, body = ExecEvent, content_type = "application/x-ndjson"),
        (status = 400, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody, description = "The workspace is not running"),
        (status = 413, body = ApiErrorBody),
    ),
)]
pub(crate) async fn exec(
    State(app): State<ApiContext>,
    caller: Caller<Exec>,
    PathId(id): PathId,
    JsonBody(request): JsonBody<ExecRequest, MAX_BODY_BYTES>,
) -> Result<Response, ApiError> {
    let permit = caller.workspace(&app, &id).await?;
    if request.tty == Some(true) {
        return Err(ApiError::bad_request("tty: a terminal needs the WebSocket of this URL"));
    }
    let (start, stdin) = request.into_start()?;
    let running = app.guests.exec(&permit, start).await?;
    let headers = [(CONTENT_TYPE, "application/x-ndjson"), (CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(lines(running, stdin))).into_response())
}

/// The answer's lines. Dropping the stream drops the call, and with it the command's process group.
fn lines(
    RunningCommand { input, output }: RunningCommand,
    stdin: Option<Bytes>,
) -> impl stream::Stream<Item = Result<Bytes, Infallible>> {
    let feeding = Box::pin(async move {
        send_stdin(&input, stdin.unwrap_or_default()).await;
        send_eof(&input).await;
        // The stream of input stays open: its end would look like a caller that went away.
        let () = std::future::pending().await;
        drop(input);
    });
    stream::unfold(Some((feeding, output)), |state| async {
        let (mut feeding, mut output) = state?;
        let message = tokio::select! {
            message = output.next() => message,
            () = &mut feeding => return None,
        };
        let (line, last) = render(message);
        Some((Ok(line), (!last).then_some((feeding, output))))
    })
}

/// A line for what came from the guest, and whether it is the last.
pub(crate) fn render(message: Result<Option<ExecOutput>, GuestError>) -> (Bytes, bool) {
    let output = match message {
        Ok(Some(ExecOutput { output })) => output,
        Ok(None) => return (event(&ExecEvent::failed("agent_lost", "the command's end was not seen")), true),
        Err(error) => {
            let (code, message) = ApiError::from(error).into_code_and_message();
            return (event(&ExecEvent::failed(code, message)), true);
        }
    };
    match output {
        Some(exec_output::Output::Stdout(data)) => (output_line("stdout", &data), false),
        Some(exec_output::Output::Stderr(data)) => (output_line("stderr", &data), false),
        Some(exec_output::Output::Exit(end)) => (event(&end_event(end)), true),
        // What a newer agent may send.
        None => (Bytes::new(), false),
    }
}

fn end_event(ExecExit { outcome, duration_us }: ExecExit) -> ExecEvent {
    match outcome {
        Some(exec_exit::Outcome::ExitCode(exit_code)) => ExecEvent::Exit { exit_code, duration_us },
        Some(exec_exit::Outcome::Signal(signal)) => ExecEvent::Signal { signal, duration_us },
        Some(exec_exit::Outcome::Error(error)) => ExecEvent::failed(error.code, error.message),
        None => ExecEvent::failed("internal", "the agent did not say how the command ended"),
    }
}

pub(crate) fn event(event: &ExecEvent) -> Bytes {
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

/// Written by hand: serialising would copy the data twice more, and this is the way of bulk output.
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
    fn the_fast_line_is_what_serialising_would_give() {
        for data in [&b""[..], b"a", b"ab", b"abc", &[0xff; 100]] {
            let slow = event(&ExecEvent::Output { stream: "stdout".into(), data_b64: STANDARD.encode(data) });
            assert_eq!(output_line("stdout", data), slow);
        }
    }
}
