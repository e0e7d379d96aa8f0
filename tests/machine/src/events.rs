//! Events from the machine: one JSON object per line on its port.

use serde::{Deserialize, Serialize};

/// Name of the port, in the machine below `/dev/virtio-ports`.
pub(crate) const PORT: &str = "rigbox.results";

/// Event on the port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Event {
    /// The machine is alive.
    Alive,
    /// Fact or measurement, for people.
    Note(String),
    /// A test has ended.
    Test {
        /// Its name.
        name: String,
        /// Reason of its failure.
        failure: Option<String>,
    },
    /// All tests have ended.
    End,
}
