//! Causes of an end, as numbers on the wire and in the journal.

use rigbox_core::lifecycle::EndCause;
use rigbox_proto::node::Cause;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Returns the cause on the wire.
pub(crate) fn to_wire(cause: EndCause) -> Cause {
    match cause {
        EndCause::Requested => Cause::Requested,
        EndCause::Poweroff => Cause::Poweroff,
        EndCause::Reboot => Cause::Reboot,
        EndCause::Halt => Cause::Halt,
        EndCause::KernelPanic => Cause::KernelPanic,
        EndCause::VmmDied => Cause::VmmDied,
        EndCause::AgentNeverAnswered => Cause::AgentNeverAnswered,
        EndCause::Unobserved => Cause::EndedUnobserved,
        EndCause::HostWentDown => Cause::HostWentDown,
        EndCause::StartFailed => Cause::StartFailed,
        EndCause::Refused => Cause::Refused,
    }
}

fn from_wire(cause: Cause) -> EndCause {
    match cause {
        Cause::Requested => EndCause::Requested,
        Cause::Poweroff => EndCause::Poweroff,
        Cause::Reboot => EndCause::Reboot,
        Cause::Halt => EndCause::Halt,
        Cause::KernelPanic => EndCause::KernelPanic,
        Cause::VmmDied => EndCause::VmmDied,
        Cause::AgentNeverAnswered => EndCause::AgentNeverAnswered,
        Cause::EndedUnobserved | Cause::Unspecified => EndCause::Unobserved,
        Cause::HostWentDown => EndCause::HostWentDown,
        Cause::StartFailed => EndCause::StartFailed,
        Cause::Refused => EndCause::Refused,
    }
}

/// Writes the number of a cause.
pub(crate) fn serialize<S: Serializer>(cause: &EndCause, serializer: S) -> Result<S::Ok, S::Error> {
    i32::from(to_wire(*cause)).serialize(serializer)
}

/// Reads the number of a cause.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<EndCause, D::Error> {
    let number = i32::deserialize(deserializer)?;
    Ok(from_wire(Cause::try_from(number).unwrap_or(Cause::Unspecified)))
}
