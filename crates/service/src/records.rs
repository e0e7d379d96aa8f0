//! Records of the database as services take and return them, and the tokens that callers present. Only this
//! crate depends on the store; HTTP and the role get these types here.

pub use rigbox_store::tokens::{ApiKey, SessionToken, UserCode};
pub use rigbox_store::{
    AiCredits, AiDay, AiEnding, AiSettlement, AiSubject, AiSums, AiWorkspaceSum, App, AppPage,
    AppWithWorkspace, AuditEntry, EnvironmentNames, Error as StoreError, IdempotencyKey, KeyRecord, LogEntry,
    NetworkSettings, OpenedSecret, Orphan, OwnAiCall, Page, ProviderKey, ProviderKeySecret, ProxiedSecret,
    RevocationLogHealth, SshKey, User, Workspace, WorkspaceAi, WorkspaceAiMode,
};
