//! AI ledger: reservations of calls and what they have cost, the accounts and bounds that they count against, providers' keys, users' own
//! settings and keys, and what the proxy has to be told.

mod accounts;
mod amounts;
pub(crate) mod batch;
mod caller;
mod calls;
mod configs;
mod limits;
mod modes;
mod own_calls;
mod provider_keys;
mod proxy;
mod reservation;
mod runs;
mod settlement;
mod step;
mod sums;
mod usage;

pub use accounts::AiCredits;
pub use caller::{AiCap, AiDenial};
pub(crate) use configs::VALUE as OWN_KEY;
pub use configs::{AiConfigChange, WorkspaceAi};
pub use limits::AiSubject;
pub use modes::WorkspaceAiMode;
pub use own_calls::{OwnAiCall, OwnAiOutcome};
pub(crate) use provider_keys::VALUE as PROVIDER_KEY;
pub use provider_keys::{ProviderKey, ProviderKeySecret};
pub use proxy::AiProxyState;
pub use reservation::{AiReservation, AiTerms};
pub use settlement::{AiEnding, AiSettlement};
pub use step::{AiOutcome, AiStep};
pub use usage::{AiDay, AiModelSum, AiSums, AiWorkspaceSum};
