//! Services behind apps: listening ports of a workspace, systemd units `rigbox-svc-NAME`, their state and
//! their logs. Output of a guest is its own claim about itself, and its size is bounded.

use std::collections::BTreeMap;
use std::time::Duration;

use rigbox_core::authz::{Action, ManageApp, Permit, ReadApp, ReadPorts};
use rigbox_core::ids::WorkspaceId;
use rigbox_core::status::Status;
use rigbox_proto::guest::{ExecStart, ListeningPort, WriteFileOpen};
use rigbox_store::{App, AppWithWorkspace, Store};
use serde::Deserialize;
use tracing::warn;

use crate::apps::{AppChange, AppError, Apps};
use crate::error::{ServiceError, id_of};
use crate::guests::client::{Guest, GuestClient, GuestError, RunningCommand, WriteError};

/// Prefix of the names of systemd units that run apps.
const UNIT_PREFIX: &str = "rigbox-svc-";
/// Directory of the environment files with the apps' parameters.
const PARAMS_DIRECTORY: &str = "/etc/rigbox/apps";

/// Maximum time to wait for the service of a deleted app to be removed.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(45);

/// Service for the processes behind apps.
#[derive(Clone)]
pub struct AppServices {
    store: Store,
    guests: GuestClient,
    apps: Apps,
}

/// Action on an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceAction {
    /// Start the app.
    Start,
    /// Stop the app.
    Stop,
    /// Restart the app.
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

/// Health of an app.
pub struct AppHealth {
    /// True if the app is expected to respond, as far as can be seen from outside of it.
    pub live: bool,
    /// True if something listens on the app's port at an address that can be reached.
    pub port_open: bool,
    /// True if the app's service listens, but only on other ports.
    pub port_drift: bool,
    /// State according to systemd; `unmanaged` without a service.
    pub service_status: String,
    /// Addresses on which something listens on the app's port.
    pub addresses: Vec<String>,
}

/// Line of an app's log.
pub struct LogLine {
    /// Text of the line.
    pub message: String,
    /// Time in microseconds since the Unix epoch.
    pub at_us: Option<i64>,
    /// Position in the journal.
    pub cursor: String,
}

impl AppServices {
    /// Creates the service.
    pub fn new(store: Store, guests: GuestClient, apps: Apps) -> Self {
        Self { store, guests, apps }
    }

    /// Lists the listening ports of a workspace, each with whether an app exposes it.
    pub async fn ports(&self, permit: &Permit<ReadPorts>) -> Result<Vec<(ListeningPort, bool)>, AppError> {
        let guest = self.running(permit).await?;
        let exposed = self.store.app_ports(guest.workspace)?;
        let ports = self.guests.list_ports(guest, 0).await?;
        let is_exposed =
            |port: &ListeningPort| u16::try_from(port.port).is_ok_and(|port| exposed.contains(&port));
        let with_exposed = |port| (is_exposed(&port), port);
        Ok(ports.into_iter().map(with_exposed).map(|(exposed, port)| (port, exposed)).collect())
    }

    /// Returns all details of what listens on a port.
    pub async fn detect(&self, permit: &Permit<ManageApp>, port: u16) -> Result<ListeningPort, AppError> {
        let guest = self.running(permit).await?;
        let found = self.guests.list_ports(guest, port).await?;
        found.into_iter().next().ok_or_else(|| AppError::InvalidValue {
            field: "port",
            problem: format!("Nothing listens on port {port}. Start the program first."),
        })
    }

    /// Returns the app of a workspace that exposes a port.
    pub fn app_on_port(&self, id: &WorkspaceId, port: u16) -> Result<Option<AppWithWorkspace>, AppError> {
        Ok(self.store.app_on_port(id, port)?)
    }

    /// Creates a systemd unit for what listens on an app's port, so that it starts with the workspace. The listener runs on; the unit takes
    /// over at its next start.
    pub async fn wrap(
        &self,
        permit: &Permit<ManageApp>,
        app: &App,
        listener: &ListeningPort,
    ) -> Result<AppWithWorkspace, AppError> {
        let unit = Unit::of_listener(listener)?;
        self.install(permit, app, &unit).await?;
        let change = AppChange { service: Some(unit_name(app)), ..AppChange::default() };
        self.apps.change(permit, &app.id, &change, "app.wrap").await
    }

    /// Creates or replaces the systemd unit of an app, and starts it. `params` are added to the app's.
    pub async fn set_command(
        &self,
        permit: &Permit<ManageApp>,
        app: &App,
        command: &ServiceCommand,
    ) -> Result<AppWithWorkspace, AppError> {
        let unit = Unit::of_command(command)?;
        let guest = self.running(permit).await?;
        let params = command.params.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect();
        let (service, stopped) = (Some(unit_name(app)), Some(false));
        let change = AppChange { service, stopped, params, ..AppChange::default() };
        let changed = self.apps.change(permit, &app.id, &change, "app.set_command").await?;
        self.install(permit, &changed.app, &unit).await?;
        self.systemctl(guest, &["restart", &unit_name(app)]).await?;
        Ok(changed)
    }

    /// Writes a unit with its parameters, and has it start with the workspace.
    async fn install(&self, permit: &Permit<ManageApp>, app: &App, unit: &Unit<'_>) -> Result<(), AppError> {
        let (guest, name) = (self.running(permit).await?, unit_name(app));
        self.write(guest, &unit_path(&name), unit.text(app)).await?;
        self.write_params(guest, app).await?;
        self.systemctl(guest, &["daemon-reload"]).await?;
        self.systemctl(guest, &["enable", &name]).await
    }

    /// Starts, stops or restarts an app: whether requests are forwarded to it, and its service, if it has
    /// one.
    pub async fn perform(
        &self,
        permit: &Permit<ManageApp>,
        app: &App,
        action: ServiceAction,
    ) -> Result<AppWithWorkspace, AppError> {
        let change = AppChange { stopped: Some(action == ServiceAction::Stop), ..AppChange::default() };
        let audit_action = format!("app.{}", action.verb());
        match &app.service {
            // Requests are refused even if the service cannot be stopped.
            Some(unit) if action == ServiceAction::Stop => {
                let changed = self.apps.change(permit, &app.id, &change, &audit_action).await?;
                if changed.status == Status::Running {
                    self.systemctl(guest_of(permit)?, &[action.verb(), unit]).await?;
                }
                Ok(changed)
            }
            Some(unit) => {
                let guest = self.running(permit).await?;
                self.write_params(guest, app).await?;
                self.systemctl(guest, &[action.verb(), unit]).await?;
                self.apps.change(permit, &app.id, &change, &audit_action).await
            }
            None if action == ServiceAction::Restart => Err(AppError::NoService(app.name.to_string())),
            None => self.apps.change(permit, &app.id, &change, &audit_action).await,
        }
    }

    /// Deletes an app, and stops and removes its service. Returns the name of a service that is left in the workspace, because that is not
    /// running or does not answer.
    pub async fn delete(&self, permit: &Permit<ManageApp>, app: &App) -> Result<Option<String>, AppError> {
        self.apps.delete(permit, app).await?;
        let Some(unit) = &app.service else { return Ok(None) };
        match tokio::time::timeout(REMOVAL_TIMEOUT, self.uninstall(permit, app, unit)).await {
            Ok(Ok(())) => return Ok(None),
            Ok(Err(AppError::NotRunning(_))) => {}
            Ok(Err(problem)) => warn!(%unit, %problem, "removing the service of a deleted app failed"),
            Err(_) => warn!(%unit, "removing the service of a deleted app timed out"),
        }
        Ok(Some(unit.clone()))
    }

    /// Stops a unit and removes it with its parameters.
    async fn uninstall(&self, permit: &Permit<ManageApp>, app: &App, unit: &str) -> Result<(), AppError> {
        let guest = self.running(permit).await?;
        let stopped = self.systemctl(guest, &["disable", "--now", unit]).await;
        // Without its file, a unit that takes long to stop does not start again either.
        let (file, params) = (unit_path(unit), params_path(app));
        let removed = self.guests.output(guest, &["rm", "-f", "--", &file, &params]).await?;
        self.systemctl(guest, &["daemon-reload"]).await?;
        if removed.succeeded { stopped } else { Err(systemctl_failed(&removed.error_text())) }
    }

    /// Returns the health of an app.
    pub async fn health(
        &self,
        permit: &Permit<ReadApp>,
        found: &AppWithWorkspace,
    ) -> Result<AppHealth, AppError> {
        let app = &found.app;
        if found.status != Status::Running {
            let service_status = format!("workspace {}", found.status);
            let (live, port_open, port_drift, addresses) = (false, false, false, Vec::new());
            return Ok(AppHealth { live, port_open, port_drift, service_status, addresses });
        }
        let guest = self.running(permit).await?;
        let ports = self.guests.list_ports(guest, 0).await?;
        let open = |port: &ListeningPort| app.port.is_some_and(|own| u32::from(own) == port.port);
        let port_open = ports.iter().any(|port| open(port) && is_reachable(&port.address));
        let own: Vec<_> = ports.iter().filter(|port| app.service.as_ref() == Some(&port.unit)).collect();
        let service_status = match &app.service {
            Some(unit) => {
                let output = self.guests.output(guest, &["systemctl", "is-active", "--", unit]).await?;
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
        Ok(AppHealth {
            live: port_open && !app.stopped,
            port_open,
            port_drift: !own.is_empty() && !own.iter().any(|port| open(port)),
            service_status,
            addresses: ports.iter().filter(|port| open(port)).map(|port| port.address.clone()).collect(),
        })
    }

    /// Returns the last lines of an app's log, or those after a cursor.
    pub async fn logs(
        &self,
        permit: &Permit<ReadApp>,
        app: &App,
        lines: u32,
        cursor: Option<&str>,
    ) -> Result<Vec<LogLine>, AppError> {
        let unit = service_of(app)?;
        let guest = self.running(permit).await?;
        let count = format!("--lines={lines}");
        let after = cursor.map(|cursor| format!("--after-cursor={cursor}"));
        let mut command = vec!["journalctl", "--output=json", "--no-pager", "--unit", unit];
        match &after {
            Some(after) => command.push(after),
            None => command.push(&count),
        }
        let output = self.guests.output(guest, &command).await?;
        if !output.succeeded {
            return Err(systemctl_failed(&output.error_text()));
        }
        let text = output.stdout.split(|byte| *byte == b'\n');
        Ok(text.filter_map(parse_journal_line).take(lines as usize).collect())
    }

    /// Follows an app's log, as JSON lines of systemd's journal.
    pub async fn follow(
        &self,
        permit: &Permit<ReadApp>,
        app: &App,
        cursor: Option<&str>,
    ) -> Result<RunningCommand, AppError> {
        let unit = service_of(app)?;
        let guest = self.running(permit).await?;
        let from = cursor.map_or("--lines=10".to_owned(), |cursor| format!("--after-cursor={cursor}"));
        let command = ["journalctl", "--output=json", "--no-pager", "--follow", "--unit", unit, &from];
        let start = ExecStart {
            argv: command.iter().map(|word| (*word).to_owned()).collect(),
            user: "root".to_owned(),
            ..ExecStart::default()
        };
        Ok(self.guests.exec(guest, start).await?)
    }

    /// Writes the environment file that the service reads at its next start.
    async fn write_params(&self, guest: Guest<'_>, app: &App) -> Result<(), AppError> {
        let quoted = |(name, value): (&String, &String)| {
            format!(
                "{name}=\"{}\"\n",
                value.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$").replace('`', "\\`")
            )
        };
        self.write(guest, &params_path(app), app.params.iter().map(quoted).collect()).await
    }

    async fn write(&self, guest: Guest<'_>, path: &str, text: String) -> Result<(), AppError> {
        let open = WriteFileOpen {
            path: path.to_owned(),
            user: "root".to_owned(),
            mode: 0o644,
            create_parents: true,
        };
        let content = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(text.into())]);
        match self.guests.write_file(guest, open, content).await {
            Ok(_) => Ok(()),
            Err(WriteError::Guest(error)) => Err(error.into()),
            Err(WriteError::Content(never)) => match never {},
        }
    }

    async fn systemctl(&self, guest: Guest<'_>, words: &[&str]) -> Result<(), AppError> {
        let command: Vec<&str> = ["systemctl"].iter().chain(words).copied().collect();
        let output = self.guests.output(guest, &command).await?;
        if output.succeeded { Ok(()) } else { Err(systemctl_failed(&output.error_text())) }
    }

    /// Returns the permit's workspace if it is running.
    async fn running<'a, A: Action>(&self, permit: &'a Permit<A>) -> Result<Guest<'a>, AppError> {
        let id = id_of(permit)?;
        let workspace = self.store.workspace(id).await?;
        match workspace.ok_or_else(|| ServiceError::NotFound(id.to_string()))?.lifecycle.status {
            Status::Running => Ok(guest_of(permit)?),
            status => Err(AppError::NotRunning(status)),
        }
    }
}

/// Returns the guest of a permit's workspace, which may not run.
fn guest_of<A: Action>(permit: &Permit<A>) -> Result<Guest<'_>, AppError> {
    Ok(Guest { workspace: id_of(permit)?, owner: &permit.principal().user })
}

fn service_of(app: &App) -> Result<&str, AppError> {
    app.service.as_deref().ok_or_else(|| AppError::NoService(app.name.to_string()))
}

fn systemctl_failed(error_text: &str) -> AppError {
    AppError::Guest(GuestError {
        code: "busy".to_owned(),
        message: format!(
            "systemd in the workspace failed: {error_text}. It may still be starting; try again."
        ),
    })
}

/// Returns whether a listener on this address is reachable from outside the VM.
fn is_reachable(address: &str) -> bool {
    address.parse::<std::net::IpAddr>().is_ok_and(|address| !address.is_loopback())
}

fn unit_path(unit: &str) -> String {
    format!("/etc/systemd/system/{unit}")
}

fn params_path(app: &App) -> String {
    format!("{PARAMS_DIRECTORY}/{}.env", app.name)
}

/// Command that runs an app.
#[derive(Debug)]
pub struct ServiceCommand {
    /// Command line for bash.
    pub command: String,
    /// Absolute path; the user's home if omitted.
    pub cwd: Option<String>,
    /// Environment variables, which become parameters of the app.
    pub params: BTreeMap<String, String>,
}

/// Content of a systemd unit (systemd.service(5)).
struct Unit<'a> {
    user: &'a str,
    directory: &'a str,
    command: Vec<&'a str>,
}

impl<'a> Unit<'a> {
    fn of_listener(listener: &'a ListeningPort) -> Result<Self, AppError> {
        if listener.command.is_empty() {
            let problem = format!(
                "The program on port {} cannot be restarted, because its command line is empty.",
                listener.port
            );
            return Err(AppError::InvalidValue { field: "port", problem });
        }
        Ok(Self {
            user: if listener.uid == 0 { "root" } else { "developer" },
            directory: if listener.cwd.starts_with('/') { &listener.cwd } else { "/" },
            command: listener.command.iter().map(String::as_str).collect(),
        })
    }

    fn of_command(command: &'a ServiceCommand) -> Result<Self, AppError> {
        let invalid =
            |field, problem: &str| Err(AppError::InvalidValue { field, problem: problem.to_owned() });
        let directory = command.cwd.as_deref().unwrap_or("/home/developer");
        if command.command.trim().is_empty() || command.command.contains('\0') {
            return invalid(
                "command",
                "The command is empty, or contains NUL. Give a command line for bash.",
            );
        }
        if !directory.starts_with('/') || directory.contains(char::is_control) {
            return invalid("cwd", "The path is not absolute. Start it with `/`.");
        }
        Ok(Self { user: "developer", directory, command: vec!["/bin/bash", "-lc", &command.command] })
    }

    fn text(&self, app: &App) -> String {
        let command: Vec<String> = self.command.iter().map(|word| quote_word(word)).collect();
        format!(
            "[Unit]\nDescription=App {name}\nAfter=network.target\n\n[Service]\nUser={user}\n\
             WorkingDirectory={directory}\nEnvironmentFile=-{params}\nExecStart={command}\n\
             Restart=on-failure\nRestartSec=1\n\n[Install]\nWantedBy=multi-user.target\n",
            name = app.name,
            user = self.user,
            directory = self.directory.replace('%', "%%").replace(['\n', '\r'], ""),
            params = params_path(app),
            command = command.join(" "),
        )
    }
}

fn unit_name(app: &App) -> String {
    format!("{UNIT_PREFIX}{}.service", app.name)
}

/// Quotes one word of `ExecStart=` (systemd.syntax(7), "Quoting").
fn quote_word(word: &str) -> String {
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

/// Returns a suggestion for the name of an app.
pub fn suggest_name(listener: &ListeningPort) -> String {
    let name: String = listener
        .process
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(24)
        .collect();
    let name = name.trim_matches('-');
    format!("{}-{}", if name.is_empty() { "app" } else { name }, listener.port)
}

/// Parses a JSON line of systemd's journal (systemd.journal-fields(7)).
pub fn parse_journal_line(text: &[u8]) -> Option<LogLine> {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(rename = "__CURSOR")]
        cursor: String,
        #[serde(rename = "__REALTIME_TIMESTAMP")]
        at: Option<String>,
        #[serde(rename = "MESSAGE")]
        message: Option<Message>,
    }
    /// Messages that are not UTF-8 are lists of bytes.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Message {
        Text(String),
        Bytes(Vec<u8>),
    }
    let entry: Entry = serde_json::from_slice(text).ok()?;
    // The guest may say anything, and the cursor becomes the id of an event.
    if !is_valid_cursor(&entry.cursor) {
        return None;
    }
    let message = match entry.message? {
        Message::Text(text) => text,
        Message::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
    };
    Some(LogLine { message, at_us: entry.at.and_then(|at| at.parse().ok()), cursor: entry.cursor })
}

/// Returns whether a text can be a cursor of the journal. Cursors become arguments of a command.
pub fn is_valid_cursor(text: &str) -> bool {
    (1..=512).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'=' | b';' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_word_is_one_word_for_systemd() {
        assert_eq!(quote_word("plain"), "\"plain\"");
        assert_eq!(quote_word("a b\"c\\d%e$f\ng"), "\"a b\\\"c\\\\d%%e$$f\\ng\"");
    }

    #[test]
    fn only_journal_lines_are_parsed() {
        let read =
            parse_journal_line(br#"{"__CURSOR":"s=1;i=2","__REALTIME_TIMESTAMP":"17","MESSAGE":"hello"}"#)
                .unwrap();
        assert_eq!((read.message.as_str(), read.at_us, read.cursor.as_str()), ("hello", Some(17), "s=1;i=2"));
        assert_eq!(
            parse_journal_line(br#"{"__CURSOR":"c","MESSAGE":[104,255]}"#).unwrap().message,
            "h\u{fffd}"
        );
        assert!(
            parse_journal_line(b"").is_none()
                && parse_journal_line(b"no json").is_none()
                && parse_journal_line(b"{}").is_none()
                && parse_journal_line(b"{\"__CURSOR\":\"a\\nb\",\"MESSAGE\":\"x\"}").is_none()
        );
        assert!(is_valid_cursor("s=a1;i=2b;b=c") && !is_valid_cursor("--unit=x y") && !is_valid_cursor(""));
    }

    #[test]
    fn suggested_name_is_valid() {
        let suggest = |process: &str| {
            suggest_name(&ListeningPort { process: process.to_owned(), port: 80, ..ListeningPort::default() })
        };
        for process in ["python3", "", "---", "näme with blanks", "a/b", &"x".repeat(60)] {
            assert!(suggest(process).parse::<rigbox_core::apps::AppName>().is_ok(), "{process}");
        }
    }
}
