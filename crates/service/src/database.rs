//! Access to the database, for start-up and for the operator's commands beside a running role.

pub use rigbox_store::tokens::TokenKey;
pub use rigbox_store::{
    AiProxyState, AuditEvent, CopyInfo, Error, KeySource, MasterKeyId, NewKey, Rotation, SshSecret, Store,
    check_revocation_log, inspect_copy,
};
