//! `rig app domain` and `rig app verify-domain`.

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{ROUTE, text_in};
use crate::api::Api;
use crate::failure::Failure;
use crate::output::{Output, escape};

/// Sets, removes or shows an app's custom domain.
pub(super) async fn run(
    api: &Api,
    out: &Output,
    app: &str,
    domain: Option<String>,
    remove: bool,
) -> Result<(), Failure> {
    let app = api.find_app(app).await?;
    let path = [ROUTE, &app.id];
    let is_change = remove || domain.is_some();
    let response: Map<String, Value> = if is_change {
        let body = json!({"custom_domain": domain});
        api.call(api.request(Method::PATCH, &path, &[])?.json(&body)).await?
    } else {
        api.get(&path).await?
    };
    let shown = response.get("app").cloned().unwrap_or_default();
    out.response("app_domain", response)?;
    let name = escape(&app.name);
    match shown.get("custom_domain").and_then(Value::as_str) {
        None => out.line(&format!("{name} has no custom domain")),
        Some(domain) if shown.get("custom_domain_verified") == Some(&Value::Bool(true)) => {
            out.line(&format!("{name}: {} (verified)", escape(domain)))
        }
        Some(domain) => {
            let (domain, next) = (escape(domain), format!("rig app verify-domain {name}"));
            out.line(&format!("{name}: {domain} (not verified; `{next}` tells the DNS record and checks it)"))
        }
    }
}

/// Checks the DNS record of a custom domain. The refusal tells which record is needed.
pub(super) async fn verify(api: &Api, out: &Output, app: &str) -> Result<(), Failure> {
    let app = api.find_app(app).await?;
    let response: Map<String, Value> = api.send(Method::POST, &[ROUTE, &app.id, "verify-domain"]).await?;
    let message = text_in(&response, "message");
    out.response("app_verify_domain", response)?;
    out.line(&escape(&message))
}
