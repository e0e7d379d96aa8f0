//! `/doctor`: problems of the installation and their remedies.

use axum::Json;
use axum::extract::State;
use rigbox_core::authz::{Diagnose, Target};
use rigbox_proto::node::finding::Level;
use rigbox_proto::node::{Finding as NodeFinding, NodeDescription};
use rigbox_service::apps::site::AppsSite;
use rigbox_service::records::{Orphan, RevocationLogHealth};
use serde::Serialize;
use utoipa::ToSchema;

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::Caller;

/// Orphans that a finding names.
const MAX_NAMED: usize = 10;

/// Result of the check.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Doctor {
    /// True if there are no errors.
    healthy: bool,
    /// Absent while the node does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    node: Option<DoctorNode>,
    findings: Vec<Finding>,
}

/// Node and its way of running VMs.
#[derive(Debug, Serialize, ToSchema)]
struct DoctorNode {
    id: String,
    driver: String,
    accelerator: String,
    /// Reason for this driver and accelerator.
    reason: String,
    images: Vec<DoctorImage>,
}

/// Image on the node.
#[derive(Debug, Serialize, ToSchema)]
struct DoctorImage {
    name: String,
    version: String,
}

/// Result of one check.
#[derive(Debug, Serialize, ToSchema)]
struct Finding {
    /// `ok`, `warning` or `error`.
    level: &'static str,
    subject: String,
    message: String,
    /// Steps to fix the problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    remedy: Option<String>,
}

impl From<&NodeFinding> for Finding {
    fn from(finding: &NodeFinding) -> Self {
        Self {
            level: match finding.level() {
                Level::Ok => "ok",
                Level::Unspecified | Level::Warning => "warning",
                Level::Error => "error",
            },
            subject: finding.subject.clone(),
            message: finding.message.clone(),
            remedy: Some(finding.remedy.clone()).filter(|remedy| !remedy.is_empty()),
        }
    }
}

impl From<AppsSite> for Finding {
    fn from(site: AppsSite) -> Self {
        let (level, message, remedy) = match site {
            AppsSite::Local => ("ok", "Apps are on this machine only.".to_owned(), None),
            AppsSite::OnePerApp => ("ok", "Each app is a site of its own.".to_owned(), None),
            AppsSite::Shared(site) => {
                let message =
                    format!("All apps are one site, {site}: one app's script can set cookies of another.");
                let remedy = "Have the apps' domain added to the Public Suffix List (publicsuffix.org).";
                ("warning", message, Some(remedy.to_owned()))
            }
        };
        Self { level, subject: "apps_domain".to_owned(), message, remedy }
    }
}

impl From<&[Orphan]> for Finding {
    fn from(orphans: &[Orphan]) -> Self {
        let mut ids: Vec<_> = orphans.iter().take(MAX_NAMED).map(|orphan| orphan.id.to_string()).collect();
        if orphans.len() > MAX_NAMED {
            ids.push(format!("{} more", orphans.len() - MAX_NAMED));
        }
        Self {
            level: "warning",
            subject: "orphans".to_owned(),
            message: format!(
                "The node keeps workspaces that the database does not have: {}.",
                ids.join(", ")
            ),
            remedy: Some("Adopt or remove them with `rigboxd admin orphans` on the machine.".to_owned()),
        }
    }
}

impl From<RevocationLogHealth> for Finding {
    fn from(health: RevocationLogHealth) -> Self {
        let (level, message, remedy) = match health {
            RevocationLogHealth::Complete => ("ok", "The log of revocations is complete.".to_owned(), None),
            RevocationLogHealth::Missing { path } => (
                "error",
                format!("{path} is missing: a restored backup would bring revoked keys back."),
                Some(
                    "Put a copy of it back and restart Rigbox, which begins a new log without one."
                        .to_owned(),
                ),
            ),
            RevocationLogHealth::Unusable(problem) => ("error", problem, None),
            RevocationLogHealth::Short { path, last, wanted } => (
                "error",
                format!(
                    "{path} ends at entry {last} of {wanted}: a restored backup would bring revoked keys back."
                ),
                Some("Put a newer copy of it back, or restart Rigbox, which marks them as lost.".to_owned()),
            ),
            RevocationLogHealth::Incomplete { path, up_to } => (
                "warning",
                format!(
                    "{path} lacks entries up to {up_to}: an older backup brings back what was revoked then."
                ),
                Some("Make a new backup, and delete those from before the loss.".to_owned()),
            ),
        };
        Self { level, subject: "revocation_log".to_owned(), message, remedy }
    }
}

impl From<&NodeDescription> for DoctorNode {
    fn from(node: &NodeDescription) -> Self {
        Self {
            id: node.node_id.clone(),
            driver: node.driver.clone(),
            accelerator: node.accelerator.clone(),
            reason: node.reason.clone(),
            images: node
                .images
                .iter()
                .map(|image| DoctorImage { name: image.name.clone(), version: image.version.clone() })
                .collect(),
        }
    }
}

/// Diagnose the installation
#[utoipa::path(
    get, path = "/doctor", operation_id = "diagnose_installation", tag = "machine",
    responses((status = 200, body = Doctor), (status = 403, body = ApiErrorBody)),
)]
pub(crate) async fn doctor(
    State(context): State<ApiContext>,
    caller: Caller<Diagnose>,
) -> Result<Json<Doctor>, ApiError> {
    let permit = caller.authorize(Target::Installation)?;
    let database = Finding {
        level: "ok",
        subject: "database".to_owned(),
        message: "The database answers.".to_owned(),
        remedy: None,
    };
    let (node, node_findings) = match context.capacity.diagnose(&permit).await {
        Ok(node) => (Some(DoctorNode::from(&*node)), node.findings.iter().map(Finding::from).collect()),
        Err(error) => {
            let unreachable = Finding {
                level: "error",
                subject: "node".to_owned(),
                message: error.to_string(),
                remedy: Some("Check that the node's process is running, and read its log.".to_owned()),
            };
            (None, vec![unreachable])
        }
    };
    let log = Finding::from(context.health.revocation_log(&permit).await?);
    let site = Finding::from(context.apps.site());
    let orphans = context.orphans.list(&permit).await?;
    let orphans = (!orphans.is_empty()).then(|| Finding::from(orphans.as_slice()));
    let findings: Vec<_> =
        std::iter::once(database).chain(node_findings).chain([log, site]).chain(orphans).collect();
    let healthy = findings.iter().all(|finding| finding.level != "error");
    Ok(Json(Doctor { healthy, node, findings }))
}
