//! `rig status`: health, capacity and isolation of the server, and the number of workspaces.

use serde_json::{Map, Value, json};

use crate::api::{Api, ApiError, Vm};
use crate::failure::Failure;
use crate::output::{Output, escape};

/// Isolation of a machine without KVM.
const NOT_ISOLATED: &str =
    "none: VMs run in software emulation. Use a machine with KVM before you run code that you do not trust.";

pub(super) async fn run(api: &Api, out: &Output) -> Result<(), Failure> {
    if api.config().is_inside() {
        let message = "rig status is not available inside a workspace; `rig whoami` shows which one this is";
        return Err(Failure::new("not_available", message));
    }
    let health: Map<String, Value> = api.root("healthz").await?;
    let capacity = api.public::<Map<String, Value>>("capacity").await;
    let workspaces = match api.config().key {
        Some(_) => Some(api.workspaces().await),
        None => None,
    };
    let address = api.config().address();
    let version = health.get("version").and_then(Value::as_str).unwrap_or("?");
    out.response("status", event(address, &health, capacity.as_ref().ok(), workspaces.as_ref()))?;

    out.line(&format!("server      {address}, version {}", escape(version)))?;
    if let Ok(capacity) = &capacity {
        out.line(&format!("machine     {}", machine(capacity)))?;
        if capacity.get("emulated") == Some(&Value::Bool(true)) {
            out.line(&format!("isolation   {NOT_ISOLATED}"))?;
        }
    }
    match &workspaces {
        Some(Ok(all)) => out.line(&format!("workspaces  {} ({} running)", all.len(), running(all)))?,
        Some(Err(_)) => {}
        None => out.line("workspaces  unknown without an API key; run `rig login`, or set RIG_API_KEY")?,
    }
    // Failures come last and decide the exit code; a failure of the API key takes precedence.
    if let Some(Err(error)) = workspaces {
        return Err(error.into());
    }
    capacity.map(drop).map_err(unready)
}

fn event(
    address: &str,
    health: &Map<String, Value>,
    capacity: Option<&Map<String, Value>>,
    workspaces: Option<&Result<Vec<Vm>, ApiError>>,
) -> Map<String, Value> {
    let mut fields = health.clone();
    fields.insert("api_url".to_owned(), address.into());
    if let Some(capacity) = capacity {
        fields.insert("capacity".to_owned(), capacity.clone().into());
    }
    if let Some(Ok(all)) = workspaces {
        fields.insert("workspaces".to_owned(), json!({"total": all.len(), "running": running(all)}));
    }
    fields
}

fn running(all: &[Vm]) -> usize {
    all.iter().filter(|vm| vm.status == "running").count()
}

fn machine(capacity: &Map<String, Value>) -> String {
    let number = |name: &str| capacity.get(name).and_then(Value::as_u64).unwrap_or_default();
    format!(
        "{} vCPUs, {} MiB of memory, {} of {} MiB of disk free",
        number("vcpus"),
        number("ram_mb"),
        number("disk_free_mb"),
        number("disk_total_mb"),
    )
}

fn unready(error: ApiError) -> Failure {
    match error {
        ApiError::Refused { code, message, .. } => {
            Failure::new(code, format!("the server is not ready: {message}; run `rig doctor`"))
        }
        other => other.into(),
    }
}
