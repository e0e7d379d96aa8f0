//! `rig doctor`: what is wrong, seen from here and from the server, and how to mend it.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::api::{Api, ApiError};
use crate::failure::Failure;
use crate::output::{Output, plain};

/// One thing that was looked at.
#[derive(Deserialize)]
struct Finding {
    level: String,
    subject: String,
    message: String,
    #[serde(default)]
    remedy: Option<String>,
}

pub(super) async fn run(api: &Api, out: &Output) -> Result<(), Failure> {
    let mut answer = match api.root::<Value>("healthz").await {
        Ok(_) => match api.get::<Map<String, Value>>(&["doctor"]).await {
            Ok(answer) => answer,
            Err(error) => return Err(report_only_ours(out, reached(api), error)),
        },
        Err(error) => return Err(report_only_ours(out, not_reached(&error), error)),
    };
    if let Some(Value::Array(findings)) = answer.get_mut("findings") {
        findings.insert(0, reached(api));
    }
    let errors = report(out, answer)?;
    match errors {
        0 => Ok(()),
        1 => Err(unhealthy("1 thing is")),
        many => Err(unhealthy(&format!("{many} things are"))),
    }
}

/// What was seen from here, where the server told nothing; the reason is the failure.
fn report_only_ours(out: &Output, ours: Value, error: ApiError) -> Failure {
    let answer = [("healthy".to_owned(), Value::Bool(false)), ("findings".to_owned(), json!([ours]))];
    match report(out, answer.into_iter().collect()) {
        Ok(_) => error.into(),
        Err(failure) => failure,
    }
}

/// Prints the findings and says how many are errors.
fn report(out: &Output, answer: Map<String, Value>) -> Result<usize, Failure> {
    let findings = answer.get("findings").cloned().unwrap_or_default();
    let findings: Vec<Finding> = serde_json::from_value(findings).map_err(|error| {
        Failure::new("unexpected_answer", format!("findings that make no sense: {error}"))
    })?;
    if let Some(node) = answer.get("node").and_then(Value::as_object) {
        let field = |name: &str| plain(node.get(name).and_then(Value::as_str).unwrap_or("?")).into_owned();
        out.say(&format!(
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
    out.answer("doctor", answer)?;
    Ok(findings.iter().filter(|finding| finding.level == "error").count())
}

fn reached(api: &Api) -> Value {
    json!({"level": "ok", "subject": "server", "message": format!("{} answers", api.config().address())})
}

fn not_reached(error: &ApiError) -> Value {
    match error {
        ApiError::Unreachable { address, reason, remedy } => json!({
            "level": "error", "subject": "server", "remedy": remedy,
            "message": format!("{address} cannot be reached: {reason}"),
        }),
        other => json!({"level": "error", "subject": "server", "message": other.to_string()}),
    }
}

fn unhealthy(count: &str) -> Failure {
    Failure::new("unhealthy", format!("{count} wrong; what to do stands beside it"))
}
