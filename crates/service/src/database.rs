//! Access to the database, for start-up and for the operator's commands beside a running role.

pub use rigbox_store::tokens::TokenKey;
pub use rigbox_store::{AuditEvent, Error, KeySource, NewKey, Rotation, Store};
