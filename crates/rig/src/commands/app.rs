//! `rig app`: ports of workspaces with a name in the world.

use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::api::{Api, App};
use crate::args::{AppCommand, NewAppArguments, ParamCommand, ShareArguments};
use crate::failure::Failure;
use crate::output::{Event, Output, plain};

const ROUTE: &str = "apps";

pub(super) async fn run(api: &Api, out: &Output, command: AppCommand) -> Result<(), Failure> {
    match command {
        AppCommand::Ls { workspace } => ls(api, out, workspace.as_deref()).await,
        AppCommand::New(arguments) => new(api, out, &arguments).await,
        AppCommand::Start { app } => act(api, out, &app, "start").await,
        AppCommand::Stop { app } => act(api, out, &app, "stop").await,
        AppCommand::Restart { app } => act(api, out, &app, "restart").await,
        AppCommand::Rm { app } => rm(api, out, &app).await,
        AppCommand::Logs { app, lines, follow } => logs(api, out, &app, lines, follow).await,
        AppCommand::Share(arguments) => share(api, out, &arguments).await,
        AppCommand::Open { app } => open(api, out, &app).await,
        AppCommand::Health { app } => health(api, out, &app).await,
        AppCommand::VerifyDomain { app } => verify_domain(api, out, &app).await,
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
        return out.say("no apps: `rig app new NAME --port PORT -w WORKSPACE` makes one");
    }
    let rows = apps.iter().map(|app| {
        let text = |field: &Option<String>| field.clone().unwrap_or_else(|| "-".to_owned());
        vec![
            app.name.clone(),
            app.id.clone(),
            app.status.clone(),
            app.port.to_string(),
            text(&app.visibility),
            text(&app.workspace_id),
            text(&app.url),
        ]
    });
    out.table(&["NAME", "ID", "STATUS", "PORT", "VISIBLE", "WORKSPACE", "URL"], rows)
}

async fn new(api: &Api, out: &Output, arguments: &NewAppArguments) -> Result<(), Failure> {
    let workspace = api.find_or_own(arguments.workspace.as_deref()).await?;
    let mut body = json!({"name": arguments.name, "workspace_id": workspace.id, "port": arguments.port});
    if let (Some(body), Some(text)) = (body.as_object_mut(), &arguments.description) {
        body.insert("description".to_owned(), json!(text));
    }
    let answer: Map<String, Value> = api.call(api.request(Method::POST, &[ROUTE], &[])?.json(&body)).await?;
    let url = url_in(&answer);
    out.answer("app_new", answer)?;
    out.say(&format!(
        "{} is at {}, for you alone: `rig app share` shows it to others",
        plain(&arguments.name),
        plain(&url)
    ))
}

async fn act(api: &Api, out: &Output, text: &str, act: &str) -> Result<(), Failure> {
    let app = api.find_app(text).await?;
    let answer: Map<String, Value> = api.send(Method::POST, &[ROUTE, &app.id, act]).await?;
    let message = text_in(&answer, "message");
    out.answer(&format!("app_{act}"), answer)?;
    out.say(&plain(&message))
}

async fn rm(api: &Api, out: &Output, text: &str) -> Result<(), Failure> {
    let app = api.find_app(text).await?;
    let answer: Map<String, Value> = api.send(Method::DELETE, &[ROUTE, &app.id]).await?;
    let message = text_in(&answer, "message");
    out.answer("app_rm", answer)?;
    out.say(&plain(&message))
}

async fn logs(api: &Api, out: &Output, text: &str, lines: u32, follow: bool) -> Result<(), Failure> {
    let app = api.find_app(text).await?;
    super::logs::print(api, out, &[ROUTE, &app.id, "logs"], lines, follow).await
}

async fn share(api: &Api, out: &Output, arguments: &ShareArguments) -> Result<(), Failure> {
    let app = api.find_app(&arguments.app).await?;
    let (visibility, emails) = match (arguments.public, arguments.private, &arguments.with) {
        (true, _, _) => ("public", None),
        (_, true, _) => ("private", None),
        (false, false, with) => ("privileged", Some(with)),
    };
    let mut body = json!({"visibility": visibility});
    if let (Some(body), Some(emails)) = (body.as_object_mut(), emails) {
        body.insert("allowed_emails".to_owned(), json!(emails));
    }
    let request = api.request(Method::PUT, &[ROUTE, &app.id, "visibility"], &[])?.json(&body);
    let answer: Map<String, Value> = api.call(request).await?;
    out.answer("app_share", answer)?;
    let to = match (visibility, emails) {
        ("public", _) => "everybody".to_owned(),
        ("private", _) => "you alone".to_owned(),
        (_, emails) => format!("you and {}", emails.map(|emails| emails.join(", ")).unwrap_or_default()),
    };
    out.say(&format!("{} shows itself to {}", plain(&app.name), plain(&to)))
}

async fn open(api: &Api, out: &Output, text: &str) -> Result<(), Failure> {
    let app = api.find_app(text).await?;
    let url = app.url.ok_or_else(|| Failure::new("no_url", format!("{} is reached by no URL", app.name)))?;
    out.answer("app_open", [("url".to_owned(), json!(url))].into_iter().collect())?;
    out.say(&plain(&url))
}

async fn health(api: &Api, out: &Output, text: &str) -> Result<(), Failure> {
    let app = api.find_app(text).await?;
    let answer: Map<String, Value> = api.get(&[ROUTE, &app.id, "health"]).await?;
    let yes = |name: &str| answer.get(name).and_then(Value::as_bool).unwrap_or(false);
    let (live, open, drift) = (yes("live"), yes("port_open"), yes("port_drift"));
    let service = text_in(&answer, "service_status");
    out.answer("app_health", answer)?;
    let said = match (live, open, drift) {
        (true, _, _) => "is live".to_owned(),
        (false, false, true) => "listens on another port than its own".to_owned(),
        (false, false, false) => {
            format!("does not listen on port {}, or on 127.0.0.1 only: have it listen on 0.0.0.0", app.port)
        }
        (false, true, _) => "is stopped".to_owned(),
    };
    out.say(&format!("{} {said}; its service: {}", plain(&app.name), plain(&service)))
}

async fn verify_domain(api: &Api, out: &Output, text: &str) -> Result<(), Failure> {
    let app = api.find_app(text).await?;
    let answer: Map<String, Value> = api.send(Method::POST, &[ROUTE, &app.id, "verify-domain"]).await?;
    let message = text_in(&answer, "message");
    out.answer("app_verify_domain", answer)?;
    out.say(&plain(&message))
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
    let answer: Map<String, Value> = match command {
        ParamCommand::Ls { .. } => api.get(&path).await?,
        ParamCommand::Set { .. } | ParamCommand::Unset { .. } => {
            api.call(api.request(Method::PATCH, &path, &[])?.json(&json!({"params": changes}))).await?
        }
    };
    let params = answer.get("params").and_then(Value::as_object).cloned().unwrap_or_default();
    out.answer("app_param", answer)?;
    let shown = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    out.table(&["NAME", "VALUE"], params.iter().map(|(name, value)| vec![name.clone(), shown(value)]))
}

fn text_in(answer: &Map<String, Value>, name: &str) -> String {
    answer.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn url_in(answer: &Map<String, Value>) -> String {
    let app: Option<App> = answer.get("app").and_then(|app| serde_json::from_value(app.clone()).ok());
    app.and_then(|app| app.url).unwrap_or_default()
}
