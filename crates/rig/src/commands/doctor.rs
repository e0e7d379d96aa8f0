//! `rig doctor`: diagnoses the installation, from here and from the server.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::api::{Api, ApiError};
use crate::failure::Failure;
use crate::output::{Output, escape};

/// Result of one check.
#[derive(Deserialize)]
struct Finding {
    level: String,
    subject: String,
    message: String,
    #[serde(default)]
    remedy: Option<String>,
}

pub(super) async fn run(api: &Api, out: &Output) -> Result<(), Failure> {
    if api.config().is_inside() {
        let message = "rig doctor is not available inside a workspace; run it where you manage Rigbox";
        return Err(Failure::new("not_available", message));
    }
    let mut response = match api.root::<Value>("healthz").await {
        Ok(_) => match api.get::<Map<String, Value>>(&["doctor"]).await {
            Ok(response) => response,
            Err(error) => return Err(report_unreachable(out, reachable(api), error)),
        },
        Err(error) => return Err(report_unreachable(out, unreachable(&error), error)),
    };
    if let Some(Value::Array(findings)) = response.get_mut("findings") {
        findings.insert(0, reachable(api));
    }
    let errors = report(out, response)?;
    match errors {
        0 => Ok(()),
        1 => Err(unhealthy("1 problem")),
        many => Err(unhealthy(&format!("{many} problems"))),
    }
}

/// Reports the only finding without the server's own; returns its error as the failure.
fn report_unreachable(out: &Output, finding: Value, error: ApiError) -> Failure {
    let response = [("healthy".to_owned(), Value::Bool(false)), ("findings".to_owned(), json!([finding]))];
    match report(out, response.into_iter().collect()) {
        Ok(_) => error.into(),
        Err(failure) => failure,
    }
}

/// Prints the findings, and returns the number of errors.
fn report(out: &Output, response: Map<String, Value>) -> Result<usize, Failure> {
    let findings = response.get("findings").cloned().unwrap_or_default();
    let findings: Vec<Finding> = serde_json::from_value(findings)
        .map_err(|error| Failure::new("unexpected_answer", format!("invalid findings: {error}")))?;
    if let Some(node) = response.get("node").and_then(Value::as_object) {
        let field = |name: &str| escape(node.get(name).and_then(Value::as_str).unwrap_or("?")).into_owned();
        out.line(&format!(
            "VMs run in {} with {}: {}\n",
            field("driver"),
            field("accelerator"),
            field("reason")
        ))?;
    }
    let rows = findings.iter().map(|finding| {
        let message = match &finding.remedy {
            Some(remedy) => format!("{}; {remedy}", finding.message),
            None => finding.message.clone(),
        };
        vec![finding.level.clone(), finding.subject.clone(), message]
    });
    out.table(&["LEVEL", "SUBJECT", "FINDING"], rows)?;
    out.response("doctor", response)?;
    Ok(findings.iter().filter(|finding| finding.level == "error").count())
}

fn reachable(api: &Api) -> Value {
    json!({"level": "ok", "subject": "server", "message": format!("{} is reachable", api.config().address())})
}

fn unreachable(error: &ApiError) -> Value {
    match error {
        ApiError::Unreachable { address, reason, remedy } => json!({
            "level": "error", "subject": "server", "remedy": remedy,
            "message": format!("cannot reach {address}: {reason}"),
        }),
        other => json!({"level": "error", "subject": "server", "message": other.to_string()}),
    }
}

fn unhealthy(count: &str) -> Failure {
    Failure::new("unhealthy", format!("found {count}; see the findings for remedies"))
}
