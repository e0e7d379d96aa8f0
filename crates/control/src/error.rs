//! Errors of the control role.

use std::net::SocketAddr;
use std::path::PathBuf;

use rigbox_core::ids::{ProviderKeyId, WorkspaceId};
use rigbox_core::names::WorkspaceName;
use rigbox_service::ai::key_tests::KeyTestError;
use rigbox_service::ai::provider_keys::ProviderKeyError;
use rigbox_service::ai::reconciliation::ReportError;
use rigbox_service::database;
use rigbox_service::identity::email::MailError;
use rigbox_tls::TlsError;

/// Error of the control role, or of an administration command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The certificates of the API are unusable.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The database, or a file beside it.
    #[error("{0}")]
    Store(#[from] database::Error),
    /// The keys are not those that a backup needs.
    #[error("{0}. Put the keys of the backup in place, or give them with --keys")]
    BackupKeys(database::Error),
    /// The API's address is unavailable.
    #[error("cannot listen on {address}: {problem}; is another rigboxd running?")]
    Listen {
        /// Address.
        address: SocketAddr,
        /// Cause.
        problem: std::io::Error,
    },
    /// `api.url` is invalid.
    #[error("api.url `{0}` is not a URL: use e.g. http://localhost:7070")]
    PublicUrl(String),
    /// `api.console_url` is invalid.
    #[error("api.console_url `{0}` is not an origin: use e.g. http://console.localhost:7070")]
    ConsoleUrl(String),
    /// The origin of apps is invalid.
    #[error(
        "apps.domain and apps.listen give `{0}`, which is not an origin: use e.g. rigbox.localhost and 127.0.0.1:7080"
    )]
    AppsUrl(String),
    /// A socket is unavailable.
    #[error("cannot listen on {}: {problem}", path.display())]
    Socket {
        /// Path of the socket.
        path: PathBuf,
        /// Cause.
        problem: std::io::Error,
    },
    /// The DNS resolver is unavailable.
    #[error("cannot create the DNS resolver: {0}")]
    Dns(String),
    /// The key of identity assertions is unavailable.
    #[error("cannot create the key that signs identity assertions: {0}")]
    Assertions(String),
    /// The next host key of the SSH gateway was announced before.
    #[error("the next host key is announced already; use it: rigboxd admin ssh-host-key rotate --now")]
    HostKeyAnnounced,
    /// The mail settings are invalid.
    #[error(transparent)]
    Mail(#[from] MailError),
    /// The installation already has its first user.
    #[error("there is already a first user: `rigboxd admin key` creates another key for them")]
    UserExists,
    /// The installation has no user yet.
    #[error("there is no user yet: run `rigboxd bootstrap` first")]
    NoUser,
    /// Not an email address.
    #[error("`{0}` is not an email address: use e.g. ada@example.org")]
    InvalidEmail(String),
    /// The address is taken.
    #[error("there is already a user with the address {0}")]
    EmailTaken(String),
    /// No user has the address.
    #[error("user {0} not found: `rigboxd admin user ls` lists all users")]
    UnknownUser(String),
    /// The user is disabled.
    #[error("user {0} is disabled: run `rigboxd admin user enable {0}` first")]
    Disabled(String),
    /// The administrator is exempt.
    #[error("the installation's administrator cannot be disabled or moved to another plan")]
    Administrator,
    /// There is no such orphan.
    #[error("orphan {0} not found: `rigboxd admin orphans ls` lists all orphans")]
    UnknownOrphan(WorkspaceId),
    /// The node has no complete disk of the orphan.
    #[error("orphan {0} has no complete disk: remove it with `rigboxd admin orphans rm {0}`")]
    NoDisk(WorkspaceId),
    /// The user has a workspace of this name.
    #[error("the user already has a workspace with the name {0}: choose another one with --name")]
    NameTaken(WorkspaceName),
    /// The AI proxy is disabled.
    #[error("the AI proxy is disabled: set `enabled = true` in the table `ai` of the configuration")]
    AiDisabled,
    /// No upstream has the name.
    #[error("upstream {0} not found; the configuration has: {1}")]
    UnknownUpstream(String, String),
    /// The key of a provider cannot be stored.
    #[error(transparent)]
    ProviderKey(#[from] ProviderKeyError),
    /// The upstream has no key, or none of the label.
    #[error("upstream {0} has no such key: `rigboxd admin provider-key ls` lists all keys")]
    NoProviderKey(String),
    /// Keys cannot be tested.
    #[error(transparent)]
    KeyTest(#[from] KeyTestError),
    /// There is no such key of a provider.
    #[error("provider key {0} not found: `rigboxd admin provider-key ls` lists all keys")]
    UnknownProviderKey(ProviderKeyId),
    /// There is no such workspace.
    #[error("workspace {0} not found")]
    UnknownWorkspace(WorkspaceId),
    /// The report of a provider cannot be read.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// Work that goes on beside the API has ended.
    #[error("the work beside the API has ended: {0}")]
    Background(String),
    /// Serving failed.
    #[error("the API failed: {0}")]
    Serve(std::io::Error),
}
