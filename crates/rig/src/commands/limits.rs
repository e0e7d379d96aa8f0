//! `rig limits`.

use serde_json::{Map, Value};

use crate::api::Api;
use crate::failure::Failure;
use crate::output::{Output, plain};

pub(super) async fn run(api: &Api, out: &Output) -> Result<(), Failure> {
    let answer: Map<String, Value> = api.get(&["users", "me", "limits"]).await?;
    let plan = answer.get("plan").and_then(Value::as_str).unwrap_or("?");
    out.say(&format!("plan {}", plain(plan)))?;
    for (part, title) in [("limits", "LIMIT"), ("usage", "USED")] {
        let Some(fields) = answer.get(part).and_then(Value::as_object) else { continue };
        out.say("")?;
        let rows = fields.iter().map(|(name, value)| vec![name.clone(), value.to_string()]);
        out.table(&[title, ""], rows)?;
    }
    out.answer("limits", answer)
}
