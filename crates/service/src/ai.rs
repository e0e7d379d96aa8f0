//! AI: models and their prices, the ledger of calls, the operator's keys at providers, users' settings, and what
//! users have used.

mod denial;
pub mod field_tables;
pub mod key_tests;
pub mod ledger;
pub mod models;
pub mod own_calls;
mod price_table;
pub mod provider_keys;
pub mod reconciliation;
pub mod settings;
pub mod setup;
pub mod usage;

pub use denial::{Denial, DenialReason};
