//! `rig template`.

use serde_json::{Map, Value};

use crate::api::{Api, Template, Templates};
use crate::args::TemplateCommand;
use crate::failure::Failure;
use crate::output::{Format, Output, fields_of};

pub(super) async fn run(api: &Api, out: &Output, command: &TemplateCommand) -> Result<(), Failure> {
    match command {
        TemplateCommand::Ls => ls(api, out).await,
    }
}

async fn ls(api: &Api, out: &Output) -> Result<(), Failure> {
    let response: Templates = api.public("templates").await?;
    out.response("template_ls", fields_of(&response)?)?;
    let limits = match out.format() {
        Format::Text => limits(api).await,
        Format::Json => Map::new(),
    };
    let rows = response.templates.iter().map(|template| {
        let description = match excess(template, &limits) {
            Some(excess) => format!("{} (not in your plan: {excess})", template.description),
            None => template.description.clone(),
        };
        vec![
            template.id.clone(),
            template.ram_mb.to_string(),
            template.vcpu_count.to_string(),
            template.disk_size_mb.to_string(),
            description,
        ]
    });
    out.table(&["TEMPLATE", "RAM MiB", "VCPUS", "DISK MiB", "DESCRIPTION"], rows)
}

/// Returns the caller's limits. There are none without a key for the whole account: the list needs no key.
async fn limits(api: &Api) -> Map<String, Value> {
    let response: Map<String, Value> = match api.config().key {
        Some(_) => api.get_once(&["users", "me", "limits"]).await.unwrap_or_default(),
        None => Map::new(),
    };
    response.get("limits").and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Returns what a template needs and the limits do not allow, e.g. "2 vCPUs of at most 1".
fn excess(template: &Template, limits: &Map<String, Value>) -> Option<String> {
    [
        ("vCPUs", template.vcpu_count, "max_vcpu_per_vm"),
        ("MiB of memory", template.ram_mb, "max_ram_per_vm_mb"),
        ("MiB of disk", template.disk_size_mb, "max_disk_total_mb"),
    ]
    .into_iter()
    .find_map(|(what, needed, limit)| {
        let limit = limits.get(limit)?.as_u64().filter(|limit| u64::from(needed) > *limit)?;
        Some(format!("{needed} {what} of at most {limit}"))
    })
}
