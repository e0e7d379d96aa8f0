//! State of a Firecracker: running, paused, saved to files, loaded from them.

use hyper::Method;
use rigbox_proto::guestio::RunState;
use rigbox_proto::memory_files::{MEMORY, STATE};
use serde::Deserialize;
use serde_json::json;

use super::api::{ApiError, request};
use crate::vm::Vm;

/// Answer to a request for the state.
#[derive(Deserialize)]
struct InstanceInfo {
    state: InstanceState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum InstanceState {
    #[serde(rename = "Not started")]
    NotStarted,
    Running,
    Paused,
}

/// Brings the VMM to a state. That it cannot get there is reported.
pub(super) async fn set(vm: &Vm, wanted: RunState) -> Result<(), ApiError> {
    if wanted == RunState::Running {
        let run_on = async {
            if found(vm).await? == InstanceState::Paused { change(vm, "Resumed").await } else { Ok(()) }
        };
        return vm.set_running(run_on.await);
    }
    vm.is_running.send_replace(false);
    let reached = match pause(vm).await {
        Ok(()) if wanted == RunState::Saved => save(vm).await,
        other => other,
    };
    let error = match reached {
        Ok(()) => None,
        Err(error @ (ApiError::Refused(_) | ApiError::Body | ApiError::Timeout(_))) => {
            Some(error.to_string())
        }
        // There may be another answer the next time.
        Err(error) => return Err(error),
    };
    vm.set_reached(wanted, error.as_deref());
    Ok(())
}

async fn found(vm: &Vm) -> Result<InstanceState, ApiError> {
    let answer = request(vm, Method::GET, "/", None).await?;
    let info: InstanceInfo =
        serde_json::from_slice(&answer).map_err(|error| ApiError::Refused(error.to_string()))?;
    Ok(info.state)
}

async fn change(vm: &Vm, state: &str) -> Result<(), ApiError> {
    request(vm, Method::PATCH, "/vm", Some(json!({"state": state}))).await.map(drop)
}

/// Has the guest stand still, which is loaded first if it is not there yet.
async fn pause(vm: &Vm) -> Result<(), ApiError> {
    match found(vm).await? {
        InstanceState::Paused => Ok(()),
        InstanceState::Running => change(vm, "Paused").await,
        InstanceState::NotStarted if vm.is_restored => {
            let memory = json!({"backend_type": "File", "backend_path": MEMORY});
            let image = json!({"snapshot_path": STATE, "mem_backend": memory, "resume_vm": false});
            request(vm, Method::PUT, "/snapshot/load", Some(image)).await.map(drop)
        }
        InstanceState::NotStarted => Err(ApiError::Refused("there is no guest yet".to_owned())),
    }
}

/// Writes the memory of a guest that stands still to files.
async fn save(vm: &Vm) -> Result<(), ApiError> {
    let image = json!({"snapshot_type": "Full", "snapshot_path": STATE, "mem_file_path": MEMORY});
    request(vm, Method::PUT, "/snapshot/create", Some(image)).await.map(drop)
}
