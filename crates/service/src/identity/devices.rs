//! `rig login`: a machine starts a login, its user approves it in a browser, and the machine collects its key
//! once.

use std::net::IpAddr;
use std::time::Duration;

use rigbox_core::authz::{ApproveDevice, Permit};
use rigbox_shares::AddressBlock;
use rigbox_store::tokens::{ApiKey, DeviceSecret, TokenKey, UserCode};
use rigbox_store::{DeviceLogin, NewKey, Poll, StartedLogin, Store, User};

use crate::clock;

/// Time from the start of a login to its approval and collection.
pub const LOGIN_TTL: Duration = Duration::from_mins(10);
/// Minimum interval between two polls of a machine.
pub const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Maximum length of a machine's name. Short enough that `rig on NAME` is a valid key name.
const MAX_NAME_LEN: usize = 48;

/// Error of a device login.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The machine's name is invalid.
    #[error("machine: The name is invalid. Use 1 to {MAX_NAME_LEN} printable characters.")]
    InvalidName,
    /// The client has too many pending logins.
    #[error(
        "Too many machines at your address are waiting for approval. Approve or deny them, or try again in 10 minutes."
    )]
    ClientHasMaximum,
    /// All clients together have too many pending logins.
    #[error("Too many machines are waiting for approval. Try again later.")]
    TooMany,
    /// The login does not exist, has expired or was used.
    #[error("Login request not found: it has expired or was already used. Run `rig login` again.")]
    Unknown,
    /// The user denied the login.
    #[error("The user denied this login.")]
    Denied,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] rigbox_store::Error),
}

/// Service for device logins.
pub struct Devices {
    store: Store,
    token_key: TokenKey,
}

/// Login that was just started.
pub struct PendingLogin {
    /// Secret with which the machine polls.
    pub secret: DeviceSecret,
    /// Code that the user enters in the browser.
    pub code: UserCode,
}

impl Devices {
    /// Creates the service.
    pub fn new(store: Store, token_key: TokenKey) -> Self {
        Self { store, token_key }
    }

    /// Starts a login for a machine.
    pub async fn start(&self, machine: &str, from: IpAddr) -> Result<PendingLogin, DeviceError> {
        let fits =
            (1..=MAX_NAME_LEN).contains(&machine.chars().count()) && !machine.chars().any(char::is_control);
        if !fits {
            return Err(DeviceError::InvalidName);
        }
        let login = PendingLogin { secret: DeviceSecret::mint()?, code: UserCode::mint()? };
        let now = clock::now();
        let tokens = (&login.secret, &login.code, &self.token_key);
        let client = AddressBlock::from(from).to_string();
        let by = (from, client.as_str());
        match self.store.add_device_login(tokens, machine, by, now.after(LOGIN_TTL), now).await? {
            StartedLogin::Pending => Ok(login),
            StartedLogin::ClientHasMaximum => Err(DeviceError::ClientHasMaximum),
            StartedLogin::Full => Err(DeviceError::TooMany),
        }
    }

    /// Returns the pending login with this code.
    pub async fn find(&self, _: &Permit<ApproveDevice>, code: &UserCode) -> Result<DeviceLogin, DeviceError> {
        let login = self.store.device_login(code, &self.token_key, clock::now()).await?;
        login.ok_or(DeviceError::Unknown)
    }

    /// Approves or denies a login. Returns the machine's name.
    pub async fn decide(
        &self,
        permit: &Permit<ApproveDevice>,
        code: &UserCode,
        approved: bool,
    ) -> Result<String, DeviceError> {
        let (by, key) = (permit.principal(), &self.token_key);
        let machine = self.store.decide_device_login(by, code, key, approved, clock::now()).await?;
        machine.ok_or(DeviceError::Unknown)
    }

    /// Polls a login. Returns `None` while it is pending, else the user and the key.
    pub async fn poll(&self, secret: &str) -> Result<Option<(User, ApiKey)>, DeviceError> {
        let secret = DeviceSecret::parse(secret).ok_or(DeviceError::Unknown)?;
        let key = ApiKey::mint()?;
        // The store sets the name.
        let record = NewKey::of(&key, "", &self.token_key);
        match self.store.poll_device_login(&secret, record, &self.token_key, clock::now()).await? {
            Poll::Pending => Ok(None),
            Poll::Approved(user) => Ok(Some((user, key))),
            Poll::Denied => Err(DeviceError::Denied),
            Poll::Unknown => Err(DeviceError::Unknown),
        }
    }
}
