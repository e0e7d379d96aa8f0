//! `rig whoami`: the caller's account, or the workspace that `rig` runs in.

use std::path::Path;

use crate::api::{Api, ApiError, User};
use crate::commands::names;
use crate::config::WORKSPACE_FILE;
use crate::failure::Failure;
use crate::output::{CurrentWorkspace, Event, Format, Identity, Output, escape};

pub(super) async fn run(api: &Api, out: &Output) -> Result<(), Failure> {
    let config = api.config();
    if config.is_inside()
        && let Some(workspace) = workspace_at(Path::new(WORKSPACE_FILE))?
    {
        return print_workspace(&workspace, out);
    }
    let source = config.key_source.as_str();
    let why = match api.get::<User>(&["users", "me"]).await {
        Ok(user) => return print_user(api, &user, source, out).await,
        Err(ApiError::LogIn { message }) => message,
        Err(error) => return Err(error.into()),
    };
    match out.format() {
        // Programs are told so, and succeed.
        Format::Json => out.event(&Event::Whoami(Identity { source, ..Default::default() })),
        Format::Text => Err(Failure::new("unauthorized", format!("not logged in: {why}"))),
    }
}

async fn print_user(api: &Api, user: &User, source: &str, out: &Output) -> Result<(), Failure> {
    out.event(&Event::Whoami(Identity {
        authed: true,
        user_email: Some(&user.email),
        user_id: Some(&user.id),
        source,
        subscription: subscription(&user.plan),
        api_key: user.api_key.as_ref(),
        workspace: None,
    }))?;
    let from = if source == "env" { "RIG_API_KEY" } else { "~/.rigbox/config.json" };
    out.line(&format!("{} ({}), API key from {from}", escape(&user.email), escape(&user.id)))?;
    match user.api_key.as_ref().map(|key| (key, key.role.as_deref(), key.workspaces.as_deref())) {
        Some((key, Some(role), Some(ids))) if out.format() == Format::Text => {
            let scope = names::scope(role, ids, &names::of_workspaces(api).await);
            out.line(&format!("key {}: {}", escape(&key.name), escape(&scope)))
        }
        _ => Ok(()),
    }
}

/// Returns the plan for older clients, which know only `free` and `pro`.
fn subscription(plan: &str) -> Option<&str> {
    Some(plan).filter(|plan| matches!(*plan, "free" | "pro"))
}

fn print_workspace(workspace: &CurrentWorkspace, out: &Output) -> Result<(), Failure> {
    let identity = Identity { source: "bridge", workspace: Some(workspace), ..Default::default() };
    out.event(&Event::Whoami(identity))?;
    let field = |name: &str| workspace.get(name).and_then(|value| value.as_str()).unwrap_or("?");
    out.line(&format!("workspace {} ({})", escape(field("name")), escape(field("id"))))
}

/// Reads the description of the current workspace; `None` outside of one.
fn workspace_at(path: &Path) -> Result<Option<CurrentWorkspace>, Failure> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(bad(path, &error)),
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| bad(path, &error))
}

fn bad(path: &Path, problem: &dyn std::fmt::Display) -> Failure {
    Failure::new("bad_workspace_file", format!("cannot read {}: {problem}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plans_that_programs_know_are_subscriptions() {
        for (plan, shown) in [("free", Some("free")), ("pro", Some("pro")), ("owner", None), ("", None)] {
            assert_eq!(subscription(plan), shown);
        }
    }

    #[test]
    fn workspace_is_identified_by_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("workspace.json");
        assert!(workspace_at(&path).unwrap().is_none());
        std::fs::write(&path, r#"{"id":"ws-aaaaaaaa","name":"web"}"#).unwrap();
        let workspace = workspace_at(&path).unwrap().unwrap();
        let event =
            Event::Whoami(Identity { source: "bridge", workspace: Some(&workspace), ..Default::default() });
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"event":"whoami","authed":false,"source":"bridge","workspace":{"id":"ws-aaaaaaaa","name":"web"}}"#
        );
        std::fs::write(&path, "{").unwrap();
        assert!(workspace_at(&path).is_err());
    }
}
