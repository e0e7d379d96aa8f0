//! The events that existing programs parse: names and fields are a promise. Answers of the API that have no event of
//! their own go through `Output::answer`.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::api::App;

/// One line of `--output json`.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event<'a> {
    /// `login` begins; the page that approves it shows the same code.
    SessionCreated { code: &'a str },
    /// Where it is approved.
    BrowserUrl { url: &'a str },
    /// Nobody has decided yet.
    Polling { elapsed_ms: u64 },
    /// The user has approved.
    Approved { user_email: &'a str },
    /// The key is kept here.
    Saved { path: &'a str },
    /// Who the key belongs to.
    Whoami(Identity<'a>),
    /// `workspace spawn` begins.
    Creating { name: &'a str },
    /// A size was raised to the template's.
    FloorBumped { resource: &'a str, from_mb: u32, to_mb: u32, reason: &'a str },
    /// The workspace exists.
    Created { id: &'a str, status: &'a str },
    /// It is about to be started.
    Starting,
    /// The status changed.
    VmStatus { status: &'a str },
    /// It can be used.
    Ready { id: &'a str, name: &'a str, ssh_user: &'a str, ssh_host: &'a str },
    /// It is gone, with every trace.
    Removed { workspace: &'a str, workspace_id: &'a str },
    /// Variables of its environment have values.
    Set { workspace: &'a str, keys: &'a [&'a str] },
    /// Variables of its environment are gone.
    Unset { workspace: &'a str, keys: &'a [&'a str] },
    /// The caller's apps.
    Apps { apps: &'a [App] },
    /// A line of a log.
    Log { timestamp: &'a str, message: &'a str },
    /// What the command wrote.
    Stdout(Piece<'a>),
    /// What the command wrote.
    Stderr(Piece<'a>),
    /// The command ended.
    Exit { code: u8 },
    /// The last event of what failed.
    Error { code: &'a str, message: &'a str },
}

/// Who calls.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Identity<'a> {
    pub(crate) authed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user_email: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user_id: Option<&'a str>,
    pub(crate) source: &'a str,
    /// Only plans that can be subscribed to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subscription: Option<&'a str>,
    /// Inside a workspace: which one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) workspace: Option<&'a FoundWorkspace>,
}

/// What a workspace knows about itself.
pub(crate) type FoundWorkspace = Map<String, Value>;

/// A piece of output: text where it is text.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Piece<'a> {
    /// It is UTF-8.
    Data(&'a str),
    /// It is not.
    DataB64(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_written_as_programs_expect_them() {
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
            (Event::VmStatus { status: "running" }, r#"{"event":"vm_status","status":"running"}"#),
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
            (Event::Stdout(Piece::Data("a\n")), r#"{"event":"stdout","data":"a\n"}"#),
            (Event::Stderr(Piece::DataB64("/w==".into())), r#"{"event":"stderr","data_b64":"/w=="}"#),
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
                    workspace: None,
                }),
                r#"{"event":"whoami","authed":true,"user_email":"a@b","user_id":"us-1","source":"env","subscription":"pro"}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&event).unwrap(), text);
        }
    }
}
