//! Errors between roles: a gRPC status whose metadata carries a stable code that the other side can act on.

use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

const HEADER: &str = "rigbox-fault";

/// A status with the stable code `fault` (lower case, underscores) beside the text for people.
pub fn status(code: Code, fault: &'static str, message: impl Into<String>) -> Status {
    let mut status = Status::new(code, message);
    status.metadata_mut().insert(HEADER, MetadataValue::from_static(fault));
    status
}

/// The stable code of a status made by [`status`]. Others are not the role's own words: `unreachable` when the call broke
/// on its way (a role that dies in a call leaves `Unknown` or `Internal`, according to what had arrived), else `internal`.
pub fn code(status: &Status) -> &str {
    if let Some(fault) = status.metadata().get(HEADER).and_then(|v| v.to_str().ok()) {
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
    fn a_fault_keeps_its_code() {
        assert_eq!(code(&status(Code::ResourceExhausted, "disk_full", "no room")), "disk_full");
        assert_eq!(code(&Status::unavailable("gone")), "unreachable");
        assert_eq!(code(&Status::unknown("transport error")), "unreachable");
        assert_eq!(code(&Status::unimplemented("?")), "internal");
    }
}
