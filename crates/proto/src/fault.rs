//! Errors between roles: a gRPC status whose metadata carries a stable code that the caller can act on.

use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

const FAULT_METADATA_KEY: &str = "rigbox-fault";

/// Returns a status with the stable code `fault` (lower case, underscores) and a message for people.
pub fn status(code: Code, fault: &'static str, message: impl Into<String>) -> Status {
    let mut status = Status::new(code, message);
    status.metadata_mut().insert(FAULT_METADATA_KEY, MetadataValue::from_static(fault));
    status
}

/// Returns the stable code of a status created by [`status`]. Any other status did not come from the role itself: it is `unreachable` if
/// the call broke on its way (a role that dies during a call leaves `Unknown` or `Internal`, depending on what had arrived), else
/// `internal`.
pub fn code(status: &Status) -> &str {
    if let Some(fault) = status.metadata().get(FAULT_METADATA_KEY).and_then(|v| v.to_str().ok()) {
        return fault;
    }
    match status.code() {
        Code::Unavailable
        | Code::Unknown
        | Code::Internal
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Aborted => "unreachable",
        _ => "internal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_keeps_its_code() {
        assert_eq!(code(&status(Code::ResourceExhausted, "disk_full", "no space")), "disk_full");
        assert_eq!(code(&Status::unavailable("gone")), "unreachable");
        assert_eq!(code(&Status::unknown("transport error")), "unreachable");
        assert_eq!(code(&Status::unimplemented("?")), "internal");
    }
}
