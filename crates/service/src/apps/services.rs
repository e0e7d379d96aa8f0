//! Apps as services of their workspace: what listens there, systemd units `rigbox-svc-NAME`, their state and their logs. Everything that a
//! guest says is taken for its own word about itself, and bounded.

use rigbox_core::authz::{Action, ManageApp, Permit, ReadApp, ReadPorts};
use rigbox_core::ids::WorkspaceId;
use rigbox_core::status::Status;
use rigbox_proto::guest::{ExecStart, ListeningPort, WriteFileOpen};
use rigbox_store::{App, AppWithWorkspace, Store};
use serde::Deserialize;

use crate::apps::{AppError, Apps, Change};
use crate::error::{ServiceError, id_of};
use crate::guests::client::{GuestClient, GuestError, RunningCommand, WriteError};

/// Of systemd units that are apps.
const UNIT: &str = "rigbox-svc-";
/// What starts with an app's parameters as environment.
const PARAMS_FOLDER: &str = "/etc/rigbox/apps";

#[derive(Clone)]
pub struct AppServices {
    store: Store,
    guests: GuestClient,
    apps: Apps,
}

/// What is requested of an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceAction {
    Start,
    Stop,
    Restart,
}

impl ServiceAction {
    fn verb(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
        }
    }
}

/// How an app is.
pub struct Health {
    /// Requests get an answer from it, as far as can be told from outside of it.
    pub live: bool,
    /// Something listens on its port where it can be reached.
    pub port_open: bool,
    /// Its service listens, and on other ports only.
    pub port_drift: bool,
    /// As systemd says; `unmanaged` without a service.
    pub service_status: String,
}

/// A line of a log.
pub struct Line {
    pub message: String,
    /// Microseconds since the epoch.
    pub at_us: Option<i64>,
    pub cursor: String,
}

impl AppServices {
    pub fn new(store: Store, guests: GuestClient, apps: Apps) -> Self {
        Self { store, guests, apps }
    }

    /// What listens in a workspace, and whether it is an app already.
    pub async fn ports(&self, permit: &Permit<ReadPorts>) -> Result<Vec<(ListeningPort, bool)>, AppError> {
        let id = self.running(permit).await?;
        let exposed = self.store.app_ports(id)?;
        let ports = self.guests.list_ports(id, 0).await?;
        let known = |port: &ListeningPort| u16::try_from(port.port).is_ok_and(|port| exposed.contains(&port));
        Ok(ports.into_iter().map(|port| (known(&port), port)).map(|(known, port)| (port, known)).collect())
    }

    /// All about what listens on a port.
    pub async fn detect(&self, permit: &Permit<ManageApp>, port: u16) -> Result<ListeningPort, AppError> {
        let id = self.running(permit).await?;
        let found = self.guests.list_ports(id, port).await?;
        found.into_iter().next().ok_or_else(|| AppError::InvalidValue {
            field: "port",
            problem: format!("nothing listens on {port}: start the program first"),
        })
    }

    /// Makes a unit of what listens on an app's port, so that it starts with the workspace.
    pub async fn wrap(
        &self,
        permit: &Permit<ManageApp>,
        app: &App,
        what: &ListeningPort,
    ) -> Result<AppWithWorkspace, AppError> {
        let id = self.running(permit).await?;
        let unit = format!("{UNIT}{}.service", app.name);
        let text = unit_text(app, what)?;
        self.write(id, &format!("/etc/systemd/system/{unit}"), text).await?;
        self.write_params(id, app).await?;
        self.systemctl(id, &["daemon-reload"]).await?;
        self.systemctl(id, &["enable", &unit]).await?;
        let change = Change { service: Some(unit), ..Change::default() };
        self.apps.change(permit, &app.id, &change, "app.wrap").await
    }

    /// Starts, stops or restarts an app: requests to it, and its service if it is one.
    pub async fn perform(
        &self,
        permit: &Permit<ManageApp>,
        app: &App,
        action: ServiceAction,
    ) -> Result<AppWithWorkspace, AppError> {
        let change = Change { stopped: Some(action == ServiceAction::Stop), ..Change::default() };
        let audit_action = format!("app.{}", action.verb());
        match &app.service {
            // A stop counts, whether or not the service can be requested.
            Some(unit) if action == ServiceAction::Stop => {
                let changed = self.apps.change(permit, &app.id, &change, &audit_action).await?;
                if changed.status == Status::Running {
                    self.systemctl(&app.workspace_id, &[action.verb(), unit]).await?;
                }
                Ok(changed)
            }
            Some(unit) => {
                let id = self.running(permit).await?;
                self.write_params(id, app).await?;
                self.systemctl(id, &[action.verb(), unit]).await?;
                self.apps.change(permit, &app.id, &change, &audit_action).await
            }
            None => self.apps.change(permit, &app.id, &change, &audit_action).await,
        }
    }

    pub async fn health(
        &self,
        permit: &Permit<ReadApp>,
        found: &AppWithWorkspace,
    ) -> Result<Health, AppError> {
        let app = &found.app;
        if found.status != Status::Running {
            let service_status = format!("workspace {}", found.status);
            return Ok(Health { live: false, port_open: false, port_drift: false, service_status });
        }
        let id = self.running(permit).await?;
        let ports = self.guests.list_ports(id, 0).await?;
        let open = |port: &ListeningPort| app.port.is_some_and(|own| u32::from(own) == port.port);
        let port_open = ports.iter().any(|port| open(port) && is_reachable(&port.address));
        let own: Vec<_> = ports.iter().filter(|port| app.service.as_ref() == Some(&port.unit)).collect();
        let service_status = match &app.service {
            Some(unit) => {
                let output = self.guests.output(id, &["systemctl", "is-active", "--", unit]).await?;
                let text =
                    String::from_utf8_lossy(&output.stdout).trim().chars().take(32).collect::<String>();
                if text.bytes().all(|byte| byte.is_ascii_lowercase()) && !text.is_empty() {
                    text
                } else {
                    "unknown".to_owned()
                }
            }
            None => "unmanaged".to_owned(),
        };
        Ok(Health {
            live: port_open && !app.stopped,
            port_open,
            port_drift: !own.is_empty() && !own.iter().any(|port| open(port)),
            service_status,
        })
    }

    /// The last lines of an app's log, or those after a cursor.
    pub async fn logs(
        &self,
        permit: &Permit<ReadApp>,
        app: &App,
        lines: u32,
        cursor: Option<&str>,
    ) -> Result<Vec<Line>, AppError> {
        let unit = service_of(app)?;
        let id = self.running(permit).await?;
        let count = format!("--lines={lines}");
        let after = cursor.map(|cursor| format!("--after-cursor={cursor}"));
        let mut command = vec!["journalctl", "--output=json", "--no-pager", "--unit", unit];
        match &after {
            Some(after) => command.push(after),
            None => command.push(&count),
        }
        let output = self.guests.output(id, &command).await?;
        if !output.succeeded {
            return Err(refused_by_systemd(&output.error_text()));
        }
        let text = output.stdout.split(|byte| *byte == b'\n');
        Ok(text.filter_map(line).take(lines as usize).collect())
    }

    /// An app's log as it is written, as lines of JSON from systemd's journal.
    pub async fn follow(
        &self,
        permit: &Permit<ReadApp>,
        app: &App,
        cursor: Option<&str>,
    ) -> Result<RunningCommand, AppError> {
        let unit = service_of(app)?;
        let id = self.running(permit).await?;
        let from = cursor.map_or("--lines=10".to_owned(), |cursor| format!("--after-cursor={cursor}"));
        let command = ["journalctl", "--output=json", "--no-pager", "--follow", "--unit", unit, &from];
        let start = ExecStart {
            argv: command.iter().map(|word| (*word).to_owned()).collect(),
            user: "root".to_owned(),
            ..ExecStart::default()
        };
        Ok(self.guests.exec(id, start).await?)
    }

    /// What the service's next start has as environment.
    async fn write_params(&self, id: &WorkspaceId, app: &App) -> Result<(), AppError> {
        let quoted = |(name, value): (&String, &String)| {
            format!(
                "{name}=\"{}\"\n",
                value.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$").replace('`', "\\`")
            )
        };
        self.write(id, &params_path(app), app.params.iter().map(quoted).collect()).await
    }

    async fn write(&self, id: &WorkspaceId, path: &str, text: String) -> Result<(), AppError> {
        let open = WriteFileOpen {
            path: path.to_owned(),
            user: "root".to_owned(),
            mode: 0o644,
            create_parents: true,
        };
        let content = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(text.into())]);
        match self.guests.write_file(id, open, content).await {
            Ok(_) => Ok(()),
            Err(WriteError::Guest(error)) => Err(error.into()),
            Err(WriteError::Content(never)) => match never {},
        }
    }

    async fn systemctl(&self, id: &WorkspaceId, words: &[&str]) -> Result<(), AppError> {
        let command: Vec<&str> = ["systemctl"].iter().chain(words).copied().collect();
        let output = self.guests.output(id, &command).await?;
        if output.succeeded { Ok(()) } else { Err(refused_by_systemd(&output.error_text())) }
    }

    /// The permit's workspace, if something in it can answer.
    async fn running<'a, A: Action>(&self, permit: &'a Permit<A>) -> Result<&'a WorkspaceId, AppError> {
        let id = id_of(permit)?;
        let workspace = self.store.workspace(id).await?;
        match workspace.ok_or_else(|| ServiceError::NotFound(id.to_string()))?.lifecycle.status {
            Status::Running => Ok(id),
            status => Err(AppError::NotRunning(status)),
        }
    }
}

fn service_of(app: &App) -> Result<&str, AppError> {
    app.service.as_deref().ok_or_else(|| AppError::NoService(app.name.to_string()))
}

fn refused_by_systemd(error_text: &str) -> AppError {
    AppError::Guest(GuestError {
        code: "busy".to_owned(),
        message: format!(
            "systemd in the workspace did not do it: {error_text}; it may still be starting: try again"
        ),
    })
}

/// Whether what is bound to an address is reached from outside the VM.
fn is_reachable(address: &str) -> bool {
    address.parse::<std::net::IpAddr>().is_ok_and(|address| !address.is_loopback())
}

fn params_path(app: &App) -> String {
    format!("{PARAMS_FOLDER}/{}.env", app.name)
}

/// systemd.service(5); what listens now, started again with the workspace.
fn unit_text(app: &App, what: &ListeningPort) -> Result<String, AppError> {
    if what.command.is_empty() {
        let problem =
            format!("what listens on {} has no command line that could be started again", what.port);
        return Err(AppError::InvalidValue { field: "port", problem });
    }
    let command: Vec<String> = what.command.iter().map(|word| quoted(word)).collect();
    let folder = if what.cwd.starts_with('/') { what.cwd.as_str() } else { "/" };
    let user = if what.uid == 0 { "root" } else { "developer" };
    Ok(format!(
        "[Unit]\nDescription=App {name}\nAfter=network.target\n\n[Service]\nUser={user}\nWorkingDirectory={folder}\n\
         EnvironmentFile=-{params}\nExecStart={command}\nRestart=on-failure\nRestartSec=1\n\n[Install]\nWantedBy=multi-user.target\n",
        name = app.name,
        folder = folder.replace('%', "%%").replace(['\n', '\r'], ""),
        params = params_path(app),
        command = command.join(" "),
    ))
}

/// One word of `ExecStart=` (systemd.syntax(7), "Quoting").
fn quoted(word: &str) -> String {
    let mut text = String::from("\"");
    for character in word.chars() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            '%' | '$' => text.extend([character, character]),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            other if other.is_control() => {}
            other => text.push(other),
        }
    }
    text.push('"');
    text
}

/// A name to suggest for what listens somewhere.
pub fn suggested_name(what: &ListeningPort) -> String {
    let name: String = what
        .process
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(24)
        .collect();
    let name = name.trim_matches('-');
    format!("{}-{}", if name.is_empty() { "app" } else { name }, what.port)
}

/// A line that systemd's journal wrote as JSON (systemd.journal-fields(7)).
pub fn line(text: &[u8]) -> Option<Line> {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(rename = "__CURSOR")]
        cursor: String,
        #[serde(rename = "__REALTIME_TIMESTAMP")]
        at: Option<String>,
        #[serde(rename = "MESSAGE")]
        message: Option<Message>,
    }
    /// What is no UTF-8 is written as a list of bytes.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Message {
        Text(String),
        Bytes(Vec<u8>),
    }
    let entry: Entry = serde_json::from_slice(text).ok()?;
    let message = match entry.message? {
        Message::Text(text) => text,
        Message::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
    };
    Some(Line { message, at_us: entry.at.and_then(|at| at.parse().ok()), cursor: entry.cursor })
}

/// Whether a text may be one of the journal's cursors: it becomes an argument of a command.
pub fn is_cursor(text: &str) -> bool {
    (1..=512).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'=' | b';' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stays_one_word_for_systemd() {
        assert_eq!(quoted("plain"), "\"plain\"");
        assert_eq!(quoted("a b\"c\\d%e$f\ng"), "\"a b\\\"c\\\\d%%e$$f\\ng\"");
    }

    #[test]
    fn a_line_of_the_journal_is_read_and_nothing_else_is() {
        let read = line(br#"{"__CURSOR":"s=1;i=2","__REALTIME_TIMESTAMP":"17","MESSAGE":"hello"}"#).unwrap();
        assert_eq!((read.message.as_str(), read.at_us, read.cursor.as_str()), ("hello", Some(17), "s=1;i=2"));
        assert_eq!(line(br#"{"__CURSOR":"c","MESSAGE":[104,255]}"#).unwrap().message, "h\u{fffd}");
        assert!(line(b"").is_none() && line(b"no json").is_none() && line(b"{}").is_none());
        assert!(is_cursor("s=a1;i=2b;b=c") && !is_cursor("--unit=x y") && !is_cursor(""));
    }

    #[test]
    fn a_suggested_name_is_one() {
        let named = |process: &str| {
            suggested_name(&ListeningPort {
                process: process.to_owned(),
                port: 80,
                ..ListeningPort::default()
            })
        };
        for process in ["python3", "", "---", "näme with blanks", "a/b", &"x".repeat(60)] {
            assert!(named(process).parse::<rigbox_core::apps::AppName>().is_ok(), "{process}");
        }
    }
}
