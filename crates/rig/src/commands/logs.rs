//! Logs of an app's service or of a workspace.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::api::{Api, RESPONSE_TIMEOUT};
use crate::failure::Failure;
use crate::output::{Event, Output, escape};

/// Interval of requests while a log is followed.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Prints the last lines of a log, and follows it on request.
pub(super) async fn print(
    api: &Api,
    out: &Output,
    path: &[&str],
    lines: u32,
    follow: bool,
) -> Result<(), Failure> {
    let count = lines.to_string();
    let mut cursor: Option<String> = None;
    loop {
        let mut query = vec![("lines", count.as_str())];
        query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let response: Map<String, Value> = api.get_with(path, &query, RESPONSE_TIMEOUT).await?;
        for line in response.get("lines").and_then(Value::as_array).into_iter().flatten() {
            let field = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or_default();
            out.event(&Event::Log { timestamp: field("timestamp"), message: field("message") })?;
            out.line(&format!("{} {}", escape(field("timestamp")), escape(field("message"))))?;
        }
        if !follow {
            return Ok(());
        }
        cursor = response.get("cursor").and_then(Value::as_str).map(str::to_owned).or(cursor);
        if !response.get("has_more").and_then(Value::as_bool).unwrap_or(false) {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}
