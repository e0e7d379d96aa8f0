//! Conversion of records that the version before wrote, under VMs that still run. It had no targets: what was wanted shows in the state.

use serde_json::{Value, json};

/// Returns a record in the current form.
pub(super) fn converted(mut record: Value) -> Value {
    let Some(fields) = record.as_object_mut().filter(|fields| !fields.contains_key("target")) else {
        return record;
    };
    let generation = fields.remove("generation").and_then(|generation| generation.as_u64()).unwrap_or(0);
    let phase = fields.get("phase").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut is_stopping = None;
    if let Some(boot) = fields.get_mut("boot").and_then(Value::as_object_mut) {
        is_stopping = boot.get("stopping").and_then(Value::as_bool);
        boot.insert("generation".to_owned(), generation.into());
    }
    if let Some(end) = fields.get_mut("last_end").and_then(Value::as_object_mut) {
        end.insert("generation".to_owned(), generation.into());
        end.insert("code".to_owned(), "".into());
    }
    let (generation, state) = match (phase.as_str(), is_stopping) {
        ("deleting", _) => (generation, "deleted"),
        // How to create the disk was not recorded. The next target tells, and it has to be a later one.
        ("provisioning", _) => (0, "stopped"),
        (_, Some(false)) => (generation, "running"),
        _ => (generation, "stopped"),
    };
    if phase == "deleting" {
        fields.insert("phase".to_owned(), "provisioning".into());
    }
    fields.insert("target".to_owned(), json!({ "generation": generation, "state": state }));
    fields.insert("spec".to_owned(), Value::Null);
    record
}
