//! `/templates`: templates of workspaces.

use axum::Json;
use rigbox_core::templates::{self, ExpectedApp, Template};
use serde::Serialize;
use utoipa::ToSchema;

/// All templates.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TemplatesResponse {
    templates: Vec<WorkspaceTemplate>,
}

/// Image with its minimum resources.
#[derive(Debug, Serialize, ToSchema)]
struct WorkspaceTemplate {
    id: &'static str,
    name: &'static str,
    description: &'static str,
    icon: &'static str,
    category: &'static str,
    image: &'static str,
    ram_mb: u32,
    vcpu_count: u32,
    disk_size_mb: u32,
    /// Not available yet: always empty.
    #[schema(max_items = 0)]
    default_log_sources: Vec<TemplateLogSourcePreset>,
    expected_apps: Vec<TemplateExpectedApp>,
    /// Always false: every listed template can be used.
    coming_soon: bool,
}

/// Source of logs.
#[derive(Debug, Serialize, ToSchema)]
struct TemplateLogSourcePreset {
    source_type: &'static str,
    source_ref: &'static str,
    display_name: &'static str,
    is_primary: bool,
}

/// App of the template, created by `quick-deploy`.
#[derive(Debug, Serialize, ToSchema)]
struct TemplateExpectedApp {
    name: &'static str,
    port: u16,
    protocol: &'static str,
    /// Always false: a service is made by `PUT /apps/{id}/service` or `expose-port`.
    managed: bool,
    /// Not available yet: always empty.
    #[schema(max_items = 0)]
    system_tags: Vec<&'static str>,
}

impl From<&ExpectedApp> for TemplateExpectedApp {
    fn from(app: &ExpectedApp) -> Self {
        Self { name: app.name, port: app.port, protocol: "http", managed: false, system_tags: Vec::new() }
    }
}

impl From<&Template> for WorkspaceTemplate {
    fn from(template: &Template) -> Self {
        Self {
            id: template.id,
            name: template.name,
            description: template.description,
            icon: template.icon,
            category: template.category,
            image: template.image,
            ram_mb: template.ram_mb,
            vcpu_count: template.vcpu_count,
            disk_size_mb: template.disk_size_mb,
            default_log_sources: Vec::new(),
            expected_apps: template.expected_apps.iter().map(Into::into).collect(),
            coming_soon: false,
        }
    }
}

/// List the templates of workspaces
#[utoipa::path(get, path = "/templates", operation_id = "list_templates", tag = "templates", responses((status = 200, body = TemplatesResponse)))]
pub(crate) async fn list() -> Json<TemplatesResponse> {
    Json(TemplatesResponse { templates: templates::ALL.iter().map(Into::into).collect() })
}
