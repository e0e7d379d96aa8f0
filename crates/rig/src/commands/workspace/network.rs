//! `rig workspace network`.

use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::api::Api;
use crate::args::NetworkArguments;
use crate::failure::Failure;
use crate::output::{Output, escape};

/// Shows the network settings of a workspace, after changing those that were given.
pub(super) async fn run(api: &Api, out: &Output, arguments: &NetworkArguments) -> Result<(), Failure> {
    let vm = api.find(&arguments.workspace).await?;
    let path = ["workspaces", &vm.id, "network"];
    let change = change(arguments);
    let response: Map<String, Value> = if change.is_empty() {
        api.get(&path).await?
    } else {
        api.call(api.request(Method::PATCH, &path, &[])?.json(&change)).await?
    };
    let settings = response.clone();
    out.response("workspace_network", response)?;
    let egress = settings.get("egress").cloned().unwrap_or_default();
    let list = |name: &str| -> Vec<String> {
        let entries = egress.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
        entries.iter().filter_map(Value::as_str).map(|entry| escape(entry).into_owned()).collect()
    };
    let name = escape(&vm.name);
    match egress.get("mode").and_then(Value::as_str) {
        Some("none") => out.line(&format!("{name} reaches nothing"))?,
        Some("list") => {
            let entries = [list("domains"), list("cidrs")].concat();
            out.line(&format!("{name} reaches only {}", entries.join(", ")))?;
        }
        _ => out.line(&format!("{name} reaches the public internet"))?,
    }
    if egress.get("allow_ech").and_then(Value::as_bool) == Some(true) {
        out.line("Server names in TLS may be encrypted beside an allowed one.")?;
    }
    let wide = list("can_tunnel");
    if !wide.is_empty() {
        out.warn(&format!("data can leave through names that others control: {}", wide.join(", ")));
    }
    if settings.get("apps_from_inside").and_then(Value::as_str) == Some("any") {
        out.line("Programs in it may share its apps with anyone.")?;
    }
    Ok(())
}

fn change(arguments: &NetworkArguments) -> Map<String, Value> {
    let mut change = Map::new();
    if arguments.internet {
        change.insert("egress".to_owned(), json!({"mode": "internet"}));
    } else if arguments.none {
        change.insert("egress".to_owned(), json!({"mode": "none"}));
    } else if !arguments.allow.is_empty() {
        let is_cidr = |entry: &&String| entry.contains('/') || entry.parse::<std::net::IpAddr>().is_ok();
        let (cidrs, domains): (Vec<_>, Vec<_>) = arguments.allow.iter().partition(is_cidr);
        let mut egress = json!({"mode": "list", "domains": domains, "cidrs": cidrs});
        if let (Some(egress), true) = (egress.as_object_mut(), arguments.allow_ech) {
            egress.insert("allow_ech".to_owned(), json!(true));
        }
        change.insert("egress".to_owned(), egress);
    }
    if let Some(inside) = &arguments.apps_from_inside {
        change.insert("apps_from_inside".to_owned(), json!(inside));
    }
    change
}
