//! `rig limits`.

use serde_json::{Map, Value};

use crate::api::Api;
use crate::failure::Failure;
use crate::output::{Output, escape};

pub(super) async fn run(api: &Api, out: &Output) -> Result<(), Failure> {
    let response: Map<String, Value> = api.get(&["users", "me", "limits"]).await?;
    let plan = response.get("plan").and_then(Value::as_str).unwrap_or("?");
    out.line(&format!("Plan {}", escape(plan)))?;
    for (part, title) in [("limits", "LIMIT"), ("usage", "USED")] {
        let Some(fields) = response.get(part).and_then(Value::as_object) else { continue };
        out.line("")?;
        let rows = fields.iter().map(|(name, value)| vec![name.clone(), value.to_string()]);
        out.table(&[title, ""], rows)?;
    }
    out.response("limits", response)
}
