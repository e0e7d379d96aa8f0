//! Workspaces by the API, as the CLI uses them.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::Connection;

const GONE_WITHIN: Duration = Duration::from_secs(60);

/// One connection, and what is done by it.
pub(crate) struct Workspaces {
    api: Connection,
}

/// How a command ended.
pub(crate) struct Ended {
    /// When the last event came.
    pub(crate) at: Instant,
    /// From the agent's fork to the command's end.
    pub(crate) ran: Duration,
}

/// One line of an exec's answer.
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

    /// Makes a workspace, starts it and waits until it runs. Answers its id.
    pub(crate) fn spawn(&mut self, name: &str) -> Result<String> {
        let made =
            self.api.json("POST", "/api/v1/workspaces", json!({ "name": name }).to_string().as_bytes())?;
        let id = made.pointer("/vm/id").and_then(Value::as_str).context("no id")?.to_owned();
        self.pass(&id, "provisioning", "provisioned")?;
        self.api.json("POST", &format!("/api/v1/workspaces/{id}/start"), b"")?;
        self.pass(&id, "starting", "running")?;
        Ok(id)
    }

    /// Size of its disk, bytes.
    pub(crate) fn disk_bytes(&mut self, id: &str) -> Result<u64> {
        let answer = self.api.json("GET", &format!("/api/v1/workspaces/{id}"), b"")?;
        let megabytes = answer.pointer("/vm/disk_size_mb").and_then(Value::as_u64).context("no disk size")?;
        Ok(megabytes << 20)
    }

    /// Waits until the workspace has left `from`, which must lead to `to`.
    fn pass(&mut self, id: &str, from: &str, to: &str) -> Result<()> {
        loop {
            let path = format!("/api/v1/workspaces/{id}?wait_until_not={from}&timeout_s=120");
            let answer = self.api.json("GET", &path, b"")?;
            match answer.pointer("/vm/status").and_then(Value::as_str) {
                Some(status) if status == from => {}
                Some(status) if status == to => return Ok(()),
                status => anyhow::bail!("the workspace is {status:?}, not {to}: {answer}"),
            }
        }
    }

    pub(crate) fn delete(&mut self, id: &str) -> Result<()> {
        let path = format!("/api/v1/workspaces/{id}");
        self.api.json("DELETE", &path, b"")?;
        let deadline = Instant::now() + GONE_WITHIN;
        while self.api.json("GET", &format!("{path}?wait_until_not=deleting&timeout_s=10"), b"").is_ok() {
            anyhow::ensure!(Instant::now() < deadline, "{id} is still there");
        }
        Ok(())
    }

    /// Writes a file of the guest's user.
    pub(crate) fn write_file(&mut self, id: &str, path: &str, content: &[u8]) -> Result<()> {
        self.api.json("PUT", &format!("/api/v1/workspaces/{id}/files?path={path}"), content).map(drop)
    }

    /// Runs a command that must succeed, and hands on what it says.
    pub(crate) fn exec(&mut self, id: &str, command: &Value, mut output: impl FnMut(&[u8])) -> Result<Ended> {
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
                ended = Some(Ended { at: Instant::now(), ran });
            }
            line.clear();
        }
        ended.context("the command's end was not told")
    }

    /// As [`Self::exec`]: all that the command says, as text.
    pub(crate) fn text_of(&mut self, id: &str, command: &Value) -> Result<(String, Ended)> {
        let mut bytes = Vec::new();
        let ended = self.exec(id, command, |part| bytes.extend_from_slice(part))?;
        Ok((String::from_utf8(bytes)?, ended))
    }
}
