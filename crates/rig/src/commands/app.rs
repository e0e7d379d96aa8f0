//! `rig app`: workspace ports, published as URLs.

use reqwest::Method;
use serde_json::{Map, Value, json};

mod domain;
mod service;

use crate::api::{Api, App};
use crate::args::{AppCommand, NewAppArguments, ParamCommand, ShareArguments};
use crate::failure::Failure;
use crate::output::{Event, Output, escape};
use crate::terminal;

const ROUTE: &str = "apps";

pub(super) async fn run(api: &Api, out: &Output, command: AppCommand) -> Result<(), Failure> {
    match command {
        AppCommand::Ls { workspace } => ls(api, out, workspace.as_deref()).await,
        AppCommand::Show { app } => show(api, out, &app).await,
        AppCommand::New(arguments) => new(api, out, &arguments).await,
        AppCommand::Wrap { app } => service::wrap(api, out, &app).await,
        AppCommand::Command { app, command } => {
            let app = api.find_app(&app).await?;
            service::command(api, out, &app.id, &command.command, command.cwd.as_deref(), &command.env).await
        }
        AppCommand::Start { app } => operate(api, out, &app, "start").await,
        AppCommand::Stop { app } => operate(api, out, &app, "stop").await,
        AppCommand::Restart { app } => operate(api, out, &app, "restart").await,
        AppCommand::Rm { app, force } => rm(api, out, &app, force).await,
        AppCommand::Logs { app, lines, follow } => logs(api, out, &app, lines, follow).await,
        AppCommand::Share(arguments) => share(api, out, &arguments).await,
        AppCommand::Open { app } => open(api, out, &app).await,
        AppCommand::Health { app } => health(api, out, &app).await,
        AppCommand::Domain { app, domain, remove } => domain::run(api, out, &app, domain, remove).await,
        AppCommand::VerifyDomain { app } => domain::verify(api, out, &app).await,
        AppCommand::Param(command) => param(api, out, &command).await,
    }
}

async fn ls(api: &Api, out: &Output, workspace: Option<&str>) -> Result<(), Failure> {
    let workspace = match workspace {
        Some(workspace) => Some(api.find(workspace).await?.id),
        None => None,
    };
    let apps = api.apps(workspace.as_deref()).await?;
    out.event(&Event::Apps { apps: &apps })?;
    if apps.is_empty() {
        return out.line("No apps. Create one with `rig app new NAME --port PORT -w WORKSPACE`.");
    }
    let rows = apps.iter().map(|app| {
        let text = |field: &Option<String>| field.clone().unwrap_or_else(|| "-".to_owned());
        vec![
            app.name.clone(),
            app.id.clone(),
            app.status.clone(),
            app.port.to_string(),
            audience(app),
            text(&app.workspace_id),
            text(&app.url),
        ]
    });
    out.table(&["NAME", "ID", "STATUS", "PORT", "VISIBILITY", "WORKSPACE", "URL"], rows)
}

fn audience(app: &App) -> String {
    match app.visibility.as_deref() {
        Some("privileged") => format!("shared ({})", app.allowed_emails.len()),
        Some(visibility) => visibility.to_owned(),
        None => "-".to_owned(),
    }
}

async fn show(api: &Api, out: &Output, text: &str) -> Result<(), Failure> {
    let app = api.find_app(text).await?;
    let response: Map<String, Value> = api.get(&[ROUTE, &app.id]).await?;
    let shown = response.get("app").and_then(Value::as_object).cloned().unwrap_or_default();
    out.response("app_show", response)?;
    out.fields(&shown)
}

async fn new(api: &Api, out: &Output, arguments: &NewAppArguments) -> Result<(), Failure> {
    let workspace = api.find_or_current(arguments.workspace.as_deref()).await?;
    // Otherwise the app would be created, and its command lost.
    if arguments.command.is_some() && workspace.status != "running" {
        let name = escape(&workspace.name);
        return Err(Failure::new(
            "invalid_state",
            format!(
                "workspace {name} is `{}`, and only a running one can get a service; start it: rig workspace start {name}",
                workspace.status
            ),
        ));
    }
    let mut body = json!({"name": arguments.name, "workspace_id": workspace.id, "port": arguments.port});
    if let (Some(body), Some(text)) = (body.as_object_mut(), &arguments.description) {
        body.insert("description".to_owned(), json!(text));
    }
    let response: Map<String, Value> =
        api.call(api.request(Method::POST, &[ROUTE], &[])?.json(&body)).await?;
    let app = app_in(&response);
    out.response("app_new", response)?;
    let url = app.as_ref().and_then(|app| app.url.as_deref()).unwrap_or_default();
    out.line(&format!(
        "{}: {} (private; share it with `rig app share`)",
        escape(&arguments.name),
        escape(url)
    ))?;
    match (&arguments.command, app) {
        (Some(command), Some(app)) => {
            service::command(api, out, &app.id, command, arguments.cwd.as_deref(), &arguments.env).await
        }
        _ => Ok(()),
    }
}

async fn operate(api: &Api, out: &Output, text: &str, operation: &str) -> Result<(), Failure> {
    let app = api.find_app(text).await?;
    let response: Map<String, Value> = api.send(Method::POST, &[ROUTE, &app.id, operation]).await?;
    let message = text_in(&response, "message");
    out.response(&format!("app_{operation}"), response)?;
    out.line(&escape(&message))
}

async fn rm(api: &Api, out: &Output, text: &str, force: bool) -> Result<(), Failure> {
    let app = api.find_app(text).await?;
    if !force {
        terminal::confirm(&app.name, &format!("Remove app {}? Its workspace is kept.", escape(&app.name)))?;
    }
    let response: Map<String, Value> = api.send(Method::DELETE, &[ROUTE, &app.id]).await?;
    let message = text_in(&response, "message");
    out.response("app_rm", response)?;
    out.line(&escape(&message))
}

async fn logs(api: &Api, out: &Output, text: &str, lines: u32, follow: bool) -> Result<(), Failure> {
    let app = api.find_app(text).await?;
    super::logs::print(api, out, &[ROUTE, &app.id, "logs"], lines, follow).await
}

async fn share(api: &Api, out: &Output, arguments: &ShareArguments) -> Result<(), Failure> {
    let app = api.find_app(&arguments.app).await?;
    let (visibility, emails) = match (arguments.public, arguments.private) {
        (true, _) => ("public", None),
        (_, true) => ("private", None),
        (false, false) => ("privileged", Some(emails(&app, arguments))),
    };
    let mut body = json!({"visibility": visibility});
    if let (Some(body), Some(emails)) = (body.as_object_mut(), &emails) {
        body.insert("allowed_emails".to_owned(), json!(emails));
    }
    let request = api.request(Method::PUT, &[ROUTE, &app.id, "visibility"], &[])?.json(&body);
    let response: Map<String, Value> = api.call(request).await?;
    let without_account: Vec<String> = response
        .get("without_account")
        .and_then(|list| serde_json::from_value(list.clone()).ok())
        .unwrap_or_default();
    out.response("app_share", response)?;
    let audience = match (visibility, emails) {
        ("public" | "private", _) => visibility.to_owned(),
        (_, emails) => match emails.filter(|emails| !emails.is_empty()) {
            Some(emails) => format!("shared with {}", emails.join(", ")),
            None => "shared with nobody but you".to_owned(),
        },
    };
    out.line(&format!("{} is now {}", escape(&app.name), escape(&audience)))?;
    for email in &without_account {
        out.line(&format!("{0} has no account yet: rigboxd admin user add {0}", escape(email)))?;
    }
    match visibility {
        "privileged" if without_account.is_empty() => {
            out.line("They sign in with these addresses, for which they need accounts here.")
        }
        _ => Ok(()),
    }
}

/// Returns the new list of users who may open an app.
fn emails(app: &App, arguments: &ShareArguments) -> Vec<String> {
    if !arguments.with.is_empty() {
        return arguments.with.clone();
    }
    let is = |one: &str, other: &str| one.eq_ignore_ascii_case(other);
    let mut emails = app.allowed_emails.clone();
    emails.retain(|email| !arguments.remove.iter().any(|removed| is(email, removed)));
    for added in &arguments.add {
        if !emails.iter().any(|email| is(email, added)) {
            emails.push(added.clone());
        }
    }
    emails
}

async fn open(api: &Api, out: &Output, text: &str) -> Result<(), Failure> {
    let app = api.find_app(text).await?;
    let url = app.url.ok_or_else(|| Failure::new("no_url", format!("{} has no URL", app.name)))?;
    out.response("app_open", [("url".to_owned(), json!(url))].into_iter().collect())?;
    out.line(&escape(&url))
}

async fn health(api: &Api, out: &Output, text: &str) -> Result<(), Failure> {
    let app = api.find_app(text).await?;
    let response: Map<String, Value> = api.get(&[ROUTE, &app.id, "health"]).await?;
    let yes = |name: &str| response.get(name).and_then(Value::as_bool).unwrap_or(false);
    let (live, open, drift) = (yes("live"), yes("port_open"), yes("port_drift"));
    let service = text_in(&response, "service_status");
    let addresses = response.get("listening_on").and_then(Value::as_array).cloned().unwrap_or_default();
    let addresses: Vec<&str> = addresses.iter().filter_map(Value::as_str).collect();
    let (name, port) = (&app.name, app.port);
    let state = if let Some(status) = service.strip_prefix("workspace ") {
        let workspace = app.workspace_id.as_deref().unwrap_or_default();
        format!("its workspace is {status}; start it with `rig workspace start {workspace}`")
    } else if live {
        format!("live; service: {service}")
    } else if open {
        format!("stopped; start it with `rig app start {name}`; service: {service}")
    } else if let [address, ..] = addresses.as_slice() {
        format!("listens on {address}:{port} only; have it listen on 0.0.0.0; service: {service}")
    } else if drift {
        format!("its service listens on another port than {port}; service: {service}")
    } else {
        format!("nothing listens on port {port}; have a server listen on 0.0.0.0:{port}; service: {service}")
    };
    let line = format!("{name}: {state}");
    out.response("app_health", response)?;
    out.line(&escape(&line))
}

async fn param(api: &Api, out: &Output, command: &ParamCommand) -> Result<(), Failure> {
    let (app, changes): (&str, Map<String, Value>) = match command {
        ParamCommand::Ls { app } => (app, Map::new()),
        ParamCommand::Set { app, params } => {
            (app, params.iter().map(|(name, value)| (name.clone(), json!(value))).collect())
        }
        ParamCommand::Unset { app, names } => {
            (app, names.iter().map(|name| (name.clone(), Value::Null)).collect())
        }
    };
    let app = api.find_app(app).await?;
    let path = [ROUTE, &app.id, "params"];
    let response: Map<String, Value> = match command {
        ParamCommand::Ls { .. } => api.get(&path).await?,
        ParamCommand::Set { .. } | ParamCommand::Unset { .. } => {
            api.call(api.request(Method::PATCH, &path, &[])?.json(&json!({"params": changes}))).await?
        }
    };
    let params = response.get("params").and_then(Value::as_object).cloned().unwrap_or_default();
    out.response("app_param", response)?;
    let shown = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    out.table(&["NAME", "VALUE"], params.iter().map(|(name, value)| vec![name.clone(), shown(value)]))
}

fn text_in(response: &Map<String, Value>, name: &str) -> String {
    response.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn app_in(response: &Map<String, Value>) -> Option<App> {
    response.get("app").and_then(|app| serde_json::from_value(app.clone()).ok())
}
