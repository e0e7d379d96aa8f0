//! The control role: its configuration, start-up, the gRPC service for gateways, and the operator's commands. The work is done by the
//! services, the HTTP by `rigbox-api`. The role holds the database, and talks to the node and guestio over unix sockets.

pub mod admin;
mod ai_rpc;
mod config;
mod error;
mod gateway_rpc;
mod ssh_rpc;
mod startup;

pub use config::{AiConfig, BridgeConfig, Config, GatewaysConfig, SshConfig};
pub use error::Error;
pub use rigbox_core::lifecycle::Timeouts;
pub use rigbox_service::ai::key_tests::KeyVerdict;
pub use rigbox_service::ai::ledger::DefaultBudgets;
pub use rigbox_service::ai::models::{PriceFiles, Upstream};
pub use rigbox_service::ai::reconciliation::{Comparison, parse_day};
pub use rigbox_service::database::{CopyInfo, KeySource, MasterKeyId, Rotation};
pub use rigbox_service::identity::email::{MailConfig, MailError};
pub use startup::{run, run_bare};
