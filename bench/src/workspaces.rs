//! Workspaces over the API, as the CLI uses them.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::Connection;

const DELETE_TIMEOUT: Duration = Duration::from_secs(60);

/// Client with one connection.
pub(crate) struct Workspaces {
    api: Connection,
}

/// End of a command.
pub(crate) struct ExecResult {
    /// Time of the last event.
    pub(crate) at: Instant,
    /// Duration from the agent's fork to the command's end.
    pub(crate) ran: Duration,
}

/// Line of an exec response.
#[derive(Deserialize)]
struct Event<'a> {
    data_b64: Option<&'a str>,
    exit_code: Option<i32>,
    duration_us: Option<u64>,
}

impl Workspaces {
    pub(crate) fn connect(port: u16, key: &str) -> Result<Self> {
        Ok(Self { api: Connection::open(port, key)? })
    }

    /// Creates a workspace, starts it, waits until it is running, and returns its id.
    pub(crate) fn spawn(&mut self, name: &str) -> Result<String> {
        let created =
            self.api.json("POST", "/api/v1/workspaces", json!({ "name": name }).to_string().as_bytes())?;
        let id = created.pointer("/vm/id").and_then(Value::as_str).context("no id")?.to_owned();
        self.wait_for_transition(&id, "provisioning", "provisioned")?;
        self.api.json("POST", &format!("/api/v1/workspaces/{id}/start"), b"")?;
        self.wait_for_transition(&id, "starting", "running")?;
        Ok(id)
    }

    /// Returns the size of a workspace's disk in bytes.
    pub(crate) fn disk_bytes(&mut self, id: &str) -> Result<u64> {
        let response = self.api.json("GET", &format!("/api/v1/workspaces/{id}"), b"")?;
        let megabytes =
            response.pointer("/vm/disk_size_mb").and_then(Value::as_u64).context("no disk size")?;
        Ok(megabytes << 20)
    }

    /// Waits until the workspace leaves status `from`; the next one must be `to`.
    fn wait_for_transition(&mut self, id: &str, from: &str, to: &str) -> Result<()> {
        loop {
            let path = format!("/api/v1/workspaces/{id}?wait_until_not={from}&timeout_s=120");
            let response = self.api.json("GET", &path, b"")?;
            match response.pointer("/vm/status").and_then(Value::as_str) {
                Some(status) if status == from => {}
                Some(status) if status == to => return Ok(()),
                status => anyhow::bail!("the workspace is {status:?}, not {to}: {response}"),
            }
        }
    }

    pub(crate) fn delete(&mut self, id: &str) -> Result<()> {
        let path = format!("/api/v1/workspaces/{id}");
        self.api.json("DELETE", &path, b"")?;
        let deadline = Instant::now() + DELETE_TIMEOUT;
        while self.api.json("GET", &format!("{path}?wait_until_not=deleting&timeout_s=10"), b"").is_ok() {
            anyhow::ensure!(Instant::now() < deadline, "{id} is still there");
        }
        Ok(())
    }

    /// Changes where a workspace may connect to. Fails if that is not in force when the API answers.
    pub(crate) fn set_egress(&mut self, id: &str, mode: &str) -> Result<()> {
        let body = json!({ "egress": { "mode": mode } }).to_string();
        let path = format!("/api/v1/workspaces/{id}/network");
        let response = self.api.json("PATCH", &path, body.as_bytes())?;
        let is_live = response.get("live").and_then(Value::as_bool);
        anyhow::ensure!(is_live == Some(true), "the policy is not in force: {response}");
        Ok(())
    }

    /// Writes a file as the guest's user.
    pub(crate) fn write_file(&mut self, id: &str, path: &str, content: &[u8]) -> Result<()> {
        self.api.json("PUT", &format!("/api/v1/workspaces/{id}/files?path={path}"), content).map(drop)
    }

    /// Runs a command, which must succeed, and passes its output to `output`.
    pub(crate) fn exec(
        &mut self,
        id: &str,
        command: &Value,
        mut output: impl FnMut(&[u8]),
    ) -> Result<ExecResult> {
        let request = json!({ "command": command }).to_string();
        let (status, body) =
            self.api.send("POST", &format!("/api/v1/workspaces/{id}/exec"), request.as_bytes())?;
        let mut lines = BufReader::with_capacity(128 * 1024, body);
        let (mut line, mut bytes, mut ended) = (Vec::new(), Vec::new(), None);
        while lines.read_until(b'\n', &mut line)? > 0 {
            let text = std::str::from_utf8(&line)?;
            anyhow::ensure!(status == 200, "exec: {status}: {text}");
            let event: Event<'_> = serde_json::from_str(text).with_context(|| text.to_owned())?;
            if let Some(data) = event.data_b64 {
                bytes.clear();
                STANDARD.decode_vec(data, &mut bytes)?;
                output(&bytes);
            } else {
                anyhow::ensure!(event.exit_code == Some(0), "exec of {command}: {text}");
                let ran = Duration::from_micros(event.duration_us.unwrap_or_default());
                ended = Some(ExecResult { at: Instant::now(), ran });
            }
            line.clear();
        }
        ended.context("the response has no end of the command")
    }

    /// Runs a command as [`Self::exec`], and returns its output as text.
    pub(crate) fn text_of(&mut self, id: &str, command: &Value) -> Result<(String, ExecResult)> {
        let mut bytes = Vec::new();
        let ended = self.exec(id, command, |part| bytes.extend_from_slice(part))?;
        Ok((String::from_utf8(bytes)?, ended))
    }
}
