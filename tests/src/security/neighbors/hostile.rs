//! Hostile tenant: a user of a plan that anybody may have, with one workspace, and kinds of harm it does. Each kind ends when what it returns
//! is dropped, and by itself.

use std::any::Any;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rigbox_testkit::blocking::eventually;
use serde_json::{Value, json};

use super::honest::find;
use crate::functional::apps;
use crate::harness::api::Api;
use crate::harness::installation::Installation;
use crate::harness::internet::SERVER;
use crate::harness::sockets;
use crate::harness::terminal::Terminal;
use crate::harness::visitor;

const NAME: &str = "hostile";
/// Another client than the honest tenant: shares of addresses are not what is tested here.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const PROGRAM: &str = include_str!("hostile.py");
/// Time after which harm ends by itself.
const MAX_SECONDS: u32 = 60;
/// Commands that a workspace may run at once.
pub(crate) const SHARE: usize = 64;
/// More than all windows between a caller and a command that does not read.
const STDIN_BYTES: usize = 1 << 20;
const STREAMS: usize = 250;
const TERMINALS: usize = 32;
const CONNECTIONS: usize = 4096;

/// Harm that lasts until this is dropped.
pub(crate) struct Harm(#[expect(dead_code, reason = "it is held")] Vec<Box<dyn Any>>);

impl Harm {
    /// Returns harm that lasts while all of this is held.
    pub(crate) fn holding(held: Vec<Box<dyn Any>>) -> Self {
        Self(held)
    }

    /// Returns harm that does all of this at once.
    pub(crate) fn all(parts: Vec<Self>) -> Self {
        Self(parts.into_iter().map(|part| Box::new(part) as Box<dyn Any>).collect())
    }
}

/// The tenant.
pub(crate) struct Hostile {
    pub(super) api: Api,
    pub(super) id: String,
}

impl Hostile {
    /// Returns the tenant that all tests share.
    pub(crate) fn shared(installation: &Installation) -> Result<Self> {
        let key = apps::user(installation, "hostile@example.org")?;
        let api = installation.api.with_key(&key)?.with_address(ADDRESS)?;
        if let Some(id) = find(&api, NAME)? {
            if api.status(&id)? != "running" {
                api.start(&id)?;
            }
            return Ok(Self { api, id });
        }
        let id = api.spawn(NAME)?;
        let program = STANDARD.encode(PROGRAM);
        api.sudo(&id, &format!("echo {program} | base64 -d > /root/hostile.py"))?;
        let app = api.post("/apps", &json!({"name": NAME, "workspace_id": id, "port": 8000}))?.expect(201)?;
        let app = app.pointer("/app/id").and_then(Value::as_str).unwrap_or_default();
        let visibility = json!({"visibility": "public", "allowed_emails": []}).to_string();
        api.send_json("PUT", &format!("/apps/{app}/visibility"), &visibility)?.expect(200)?;
        Ok(Self { api, id })
    }

    /// Runs a part of the program in the VM, and waits until it has begun.
    fn run(&self, kind: &str) -> Result<Harm> {
        let command = format!("exec python3 /root/hostile.py {kind} {MAX_SECONDS} {SERVER}");
        let body = json!({"command": command, "user": "root", "timeout_s": MAX_SECONDS + 5});
        Ok(Harm(vec![Box::new(self.api.exec_and_hold_after_output(&self.id, &body)?)]))
    }

    /// A loop that harms nobody.
    pub(crate) fn computes(&self) -> Result<Harm> {
        self.run("compute")
    }

    /// Every flood, and every call that is not read, at once.
    pub(crate) fn floods_with_everything(&self) -> Result<Harm> {
        Ok(Harm::all(vec![
            self.holds_visitors()?,
            self.connects_outward()?,
            self.floods_dns()?,
            self.floods_flows()?,
            self.floods_refusals()?,
            self.leaves_terminals_unread()?,
            // The rest of its shares: of commands, and of connections, which commands and logs have together.
            self.stalls(SHARE - TERMINALS - 5)?,
            self.leaves_unread(STREAMS - SHARE)?,
        ]))
    }

    /// Commands that do not read their stdin.
    pub(crate) fn stalls_commands(&self) -> Result<Harm> {
        self.stalls(SHARE)
    }

    fn stalls(&self, commands: usize) -> Result<Harm> {
        let stdin = STANDARD.encode(vec![0; STDIN_BYTES]);
        let body = json!({"command": ["sleep", "600"], "stdin_b64": stdin, "timeout_s": MAX_SECONDS});
        let stalled = (0..commands).map(|_| self.api.exec_and_hold(&self.id, &body).map(boxed));
        Ok(Harm(stalled.collect::<Result<_>>()?))
    }

    /// Log streams that are not read.
    pub(crate) fn leaves_logs_unread(&self) -> Result<Harm> {
        self.leaves_unread(STREAMS)
    }

    fn leaves_unread(&self, logs: usize) -> Result<Harm> {
        let path = format!("/workspaces/{}/logs/stream", self.id);
        Ok(Harm((0..logs).map(|_| self.api.get_and_hold(&path).map(boxed)).collect::<Result<_>>()?))
    }

    /// Terminals with endless output that is not read.
    pub(crate) fn leaves_terminals_unread(&self) -> Result<Harm> {
        let terminals = (0..TERMINALS).map(|_| {
            Terminal::open(&self.api, &self.id, &json!(["timeout", MAX_SECONDS.to_string(), "yes"]))
        });
        Ok(Harm(terminals.map(|terminal| terminal.map(boxed)).collect::<Result<_>>()?))
    }

    /// As many connections to the internet as there may be.
    pub(crate) fn connects_outward(&self) -> Result<Harm> {
        self.run("outward")
    }

    /// Visitors of an app that never answers.
    pub(crate) fn holds_visitors(&self) -> Result<Harm> {
        sockets::allow_many()?;
        let app = self.run("inward")?;
        let request = format!("GET / HTTP/1.1\r\nHost: {NAME}.rigbox.localhost:{}\r\n\r\n", visitor::PORT);
        let mut held: Vec<Box<dyn Any>> = vec![Box::new(app)];
        for number in 0..CONNECTIONS {
            let from = Ipv4Addr::new(127, 0, 1, u8::try_from(number % 64)? + 1);
            let edge = SocketAddr::from((Ipv4Addr::LOCALHOST, visitor::PORT));
            let mut stream = sockets::connect_from(from.into(), edge)?;
            // The connection of one too many is closed already.
            let _ = stream.write_all(request.as_bytes());
            held.push(Box::new(stream));
        }
        Ok(Harm(held))
    }

    /// DNS queries as fast as the VM can.
    pub(crate) fn floods_dns(&self) -> Result<Harm> {
        self.run("dns")
    }

    /// New flows as fast as the VM can.
    pub(crate) fn floods_flows(&self) -> Result<Harm> {
        self.run("conntrack")
    }

    /// Packets that are refused, as fast as the VM can.
    pub(crate) fn floods_refusals(&self) -> Result<Harm> {
        self.run("refusals")
    }

    /// A full disk.
    pub(crate) fn fills_its_disk(&self) -> Result<Harm> {
        self.run("disk")
    }

    /// Full memory.
    pub(crate) fn fills_its_memory(&self) -> Result<Harm> {
        self.run("memory")
    }

    /// Processes that fork.
    pub(crate) fn forks(&self) -> Result<Harm> {
        self.run("forks")
    }

    /// Returns the commands that its callers have running.
    pub(crate) fn commands(&self) -> Result<Vec<Value>> {
        let listed = self.api.get(&format!("/workspaces/{}/processes", self.id))?.expect(200)?;
        Ok(listed.pointer("/processes").and_then(Value::as_array).cloned().unwrap_or_default())
    }

    /// Waits until the VM runs commands as before.
    pub(crate) fn recovers(&self) -> Result<()> {
        eventually("the hostile VM runs commands", Duration::from_secs(60), || {
            let ran = self.api.exec(&self.id, &json!({"command": ["true"]}));
            ensure!(ran?.exit_code() == Some(0), "its exit code");
            Ok(Some(()))
        })
    }
}

fn boxed(held: impl Any) -> Box<dyn Any> {
    Box::new(held)
}
