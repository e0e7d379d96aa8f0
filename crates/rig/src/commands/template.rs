//! `rig template`.

use crate::api::{Api, Templates};
use crate::args::TemplateCommand;
use crate::failure::Failure;
use crate::output::{Output, fields_of};

pub(super) async fn run(api: &Api, out: &Output, command: &TemplateCommand) -> Result<(), Failure> {
    match command {
        TemplateCommand::Ls => ls(api, out).await,
    }
}

async fn ls(api: &Api, out: &Output) -> Result<(), Failure> {
    let response: Templates = api.public("templates").await?;
    out.response("template_ls", fields_of(&response)?)?;
    let rows = response.templates.iter().map(|template| {
        vec![
            template.id.clone(),
            template.ram_mb.to_string(),
            template.vcpu_count.to_string(),
            template.disk_size_mb.to_string(),
            template.description.clone(),
        ]
    });
    out.table(&["TEMPLATE", "RAM MiB", "VCPUS", "DISK MiB", "DESCRIPTION"], rows)
}
