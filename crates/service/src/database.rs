//! The database as the role opens it at start-up, and as the operator's commands use it beside a running role.

pub use rigbox_store::tokens::TokenKey;
pub use rigbox_store::{AuditEvent, Error, KeySource, NewKey, Rotation, Store};
