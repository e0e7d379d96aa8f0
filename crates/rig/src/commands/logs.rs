//! Lines of a log: of an app's service, or a workspace's own.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::api::{ANSWER, Api};
use crate::failure::Failure;
use crate::output::{Event, Output, plain};

/// How soon a followed log is asked for news.
const AGAIN: Duration = Duration::from_secs(1);

/// Prints the last lines of the log at a route, and goes on if asked to.
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
        let answer: Map<String, Value> = api.get_with(path, &query, ANSWER).await?;
        for line in answer.get("lines").and_then(Value::as_array).into_iter().flatten() {
            let field = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or_default();
            out.event(&Event::Log { timestamp: field("timestamp"), message: field("message") })?;
            out.say(&format!("{} {}", plain(field("timestamp")), plain(field("message"))))?;
        }
        if !follow {
            return Ok(());
        }
        cursor = answer.get("cursor").and_then(Value::as_str).map(str::to_owned).or(cursor);
        if !answer.get("has_more").and_then(Value::as_bool).unwrap_or(false) {
            tokio::time::sleep(AGAIN).await;
        }
    }
}
