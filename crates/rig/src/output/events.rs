//! Events of `--output json`. Programs rely on their names and fields. Responses of the API without an event here go through
//! `Output::response`.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::api::{App, CallerKey, SshKey};

/// A line of `--output json`.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event<'a> {
    /// A login started; the approval page shows the same code.
    SessionCreated { code: &'a str },
    /// URL of the approval page.
    BrowserUrl { url: &'a str },
    /// The user has not decided yet.
    Polling { elapsed_ms: u64 },
    /// The user approved the login.
    Approved { user_email: &'a str },
    /// The API key was saved.
    Saved { path: &'a str },
    /// Owner of the API key.
    Whoami(Identity<'a>),
    /// `workspace spawn` started.
    Creating { name: &'a str },
    /// A size was raised to the template's minimum.
    FloorBumped { resource: &'a str, from_mb: u32, to_mb: u32, reason: &'a str },
    /// The workspace exists.
    Created { id: &'a str, status: &'a str },
    /// The workspace is about to start.
    Starting,
    /// The status changed.
    VmStatus {
        status: &'a str,
        /// State of the system in a running workspace.
        #[serde(skip_serializing_if = "Option::is_none")]
        system: Option<&'a str>,
    },
    /// The workspace is ready.
    Ready { id: &'a str, name: &'a str, ssh_user: &'a str, ssh_host: &'a str },
    /// The workspace and all its data were removed.
    Removed { workspace: &'a str, workspace_id: &'a str },
    /// Environment variables were set.
    Set { workspace: &'a str, keys: &'a [&'a str] },
    /// Environment variables were removed.
    Unset { workspace: &'a str, keys: &'a [&'a str] },
    /// AI mode of a workspace.
    Mode { workspace: &'a str, mode: &'a str },
    /// Apps of the caller.
    Apps { apps: &'a [App] },
    /// How a workspace is reached by SSH.
    SshInfo {
        workspace: &'a str,
        workspace_id: &'a str,
        status: &'a str,
        user: &'a str,
        host: &'a str,
        port: u16,
        ssh_target: &'a str,
        start_on_connect: bool,
    },
    /// SSH keys of the caller.
    SshKeys { ssh_keys: &'a [SshKey] },
    /// An SSH key was registered.
    SshKeyAdded {
        name: &'a str,
        id: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        fingerprint: Option<&'a str>,
    },
    /// Line of a log.
    Log { timestamp: &'a str, message: &'a str },
    /// The command wrote to stdout.
    Stdout(Chunk<'a>),
    /// The command wrote to stderr.
    Stderr(Chunk<'a>),
    /// The command exited.
    Exit { code: u8 },
    /// Last event of a failed command.
    Error { code: &'a str, message: &'a str },
}

/// Identity of the caller.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Identity<'a> {
    pub(crate) authed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user_email: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user_id: Option<&'a str>,
    pub(crate) source: &'a str,
    /// Plan, for older clients, which know only `free` and `pro`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subscription: Option<&'a str>,
    /// API key of the caller, with its scope.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_key: Option<&'a CallerKey>,
    /// Current workspace, inside one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) workspace: Option<&'a CurrentWorkspace>,
}

/// Description of a workspace in its own file.
pub(crate) type CurrentWorkspace = Map<String, Value>;

/// Chunk of output.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Chunk<'a> {
    /// UTF-8.
    Data(&'a str),
    /// Anything else, in base64.
    DataB64(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_keep_their_names_and_fields() {
        let reason = "why";
        for (event, text) in [
            (
                Event::SessionCreated { code: "BCDF-GHJK" },
                r#"{"event":"session_created","code":"BCDF-GHJK"}"#,
            ),
            (Event::BrowserUrl { url: "u" }, r#"{"event":"browser_url","url":"u"}"#),
            (Event::Polling { elapsed_ms: 7 }, r#"{"event":"polling","elapsed_ms":7}"#),
            (Event::Approved { user_email: "a@b" }, r#"{"event":"approved","user_email":"a@b"}"#),
            (Event::Saved { path: "p" }, r#"{"event":"saved","path":"p"}"#),
            (Event::Creating { name: "web" }, r#"{"event":"creating","name":"web"}"#),
            (
                Event::FloorBumped { resource: "ram", from_mb: 1, to_mb: 512, reason },
                r#"{"event":"floor_bumped","resource":"ram","from_mb":1,"to_mb":512,"reason":"why"}"#,
            ),
            (
                Event::Created { id: "ws-aaaaaaaa", status: "provisioning" },
                r#"{"event":"created","id":"ws-aaaaaaaa","status":"provisioning"}"#,
            ),
            (Event::Starting, r#"{"event":"starting"}"#),
            (
                Event::VmStatus { status: "starting", system: None },
                r#"{"event":"vm_status","status":"starting"}"#,
            ),
            (
                Event::VmStatus { status: "running", system: Some("starting") },
                r#"{"event":"vm_status","status":"running","system":"starting"}"#,
            ),
            (
                Event::Ready { id: "i", name: "n", ssh_user: "u", ssh_host: "h" },
                r#"{"event":"ready","id":"i","name":"n","ssh_user":"u","ssh_host":"h"}"#,
            ),
            (
                Event::Removed { workspace: "n", workspace_id: "i" },
                r#"{"event":"removed","workspace":"n","workspace_id":"i"}"#,
            ),
            (
                Event::Set { workspace: "n", keys: &["A", "B"] },
                r#"{"event":"set","workspace":"n","keys":["A","B"]}"#,
            ),
            (
                Event::Unset { workspace: "n", keys: &["A"] },
                r#"{"event":"unset","workspace":"n","keys":["A"]}"#,
            ),
            (
                Event::Mode { workspace: "n", mode: "byok" },
                r#"{"event":"mode","workspace":"n","mode":"byok"}"#,
            ),
            (
                Event::SshKeyAdded { name: "n", id: "sh-aaaaaaaa", fingerprint: Some("SHA256:x") },
                r#"{"event":"ssh_key_added","name":"n","id":"sh-aaaaaaaa","fingerprint":"SHA256:x"}"#,
            ),
            (Event::SshKeys { ssh_keys: &[] }, r#"{"event":"ssh_keys","ssh_keys":[]}"#),
            (Event::Stdout(Chunk::Data("a\n")), r#"{"event":"stdout","data":"a\n"}"#),
            (Event::Stderr(Chunk::DataB64("/w==".into())), r#"{"event":"stderr","data_b64":"/w=="}"#),
            (Event::Exit { code: 137 }, r#"{"event":"exit","code":137}"#),
            (Event::Error { code: "c", message: "m" }, r#"{"event":"error","code":"c","message":"m"}"#),
            (
                Event::Whoami(Identity { source: "none", ..Default::default() }),
                r#"{"event":"whoami","authed":false,"source":"none"}"#,
            ),
            (
                Event::Whoami(Identity {
                    authed: true,
                    user_email: Some("a@b"),
                    user_id: Some("us-1"),
                    source: "env",
                    subscription: Some("pro"),
                    api_key: None,
                    workspace: None,
                }),
                r#"{"event":"whoami","authed":true,"user_email":"a@b","user_id":"us-1","source":"env","subscription":"pro"}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&event).unwrap(), text);
        }
    }
}
