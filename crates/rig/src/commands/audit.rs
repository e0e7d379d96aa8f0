//! `rig audit`.

use serde_json::{Map, Value};

use crate::api::{Api, RESPONSE_TIMEOUT};
use crate::failure::Failure;
use crate::output::Output;

pub(super) async fn run(api: &Api, out: &Output, limit: u32) -> Result<(), Failure> {
    let limit = limit.to_string();
    let response: Map<String, Value> =
        api.get_with(&["audit-log"], &[("limit", &limit)], RESPONSE_TIMEOUT).await?;
    let entries = response.get("entries").and_then(Value::as_array).cloned().unwrap_or_default();
    out.response("audit", response)?;
    let rows = entries.iter().map(|entry| {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
        ["at", "action", "target", "key_id", "address"].map(text).to_vec()
    });
    out.table(&["TIME", "ACTION", "TARGET", "API KEY", "ADDRESS"], rows)
}
