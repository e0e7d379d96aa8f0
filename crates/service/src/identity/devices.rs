//! `rig login`: a machine asks, its user approves in a browser, the machine collects a key idempotency_key.

use std::net::IpAddr;
use std::time::Duration;

use rigbox_core::authz::{ApproveDevice, Permit};
use rigbox_store::tokens::{ApiKey, DeviceSecret, TokenKey, UserCode};
use rigbox_store::{DeviceLogin, NewKey, Poll, Store, User};

use crate::clock;

/// From the request to the approval, and to the collection.
pub const LOGIN_TTL: Duration = Duration::from_mins(10);
/// How often a machine may ask what became of it.
pub const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// As `rig on NAME` it still is a key's name.
const MAX_NAME_LEN: usize = 48;

/// Why not.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("machine: expected 1 to {MAX_NAME_LEN} printable characters")]
    InvalidName,
    #[error("too many machines wait for approval: try again later")]
    TooMany,
    #[error("log-in not found: it has ended, or was collected already; run `rig login` again")]
    Unknown,
    #[error("the user has denied this log-in")]
    Denied,
    #[error(transparent)]
    Store(#[from] rigbox_store::Error),
}

pub struct Devices {
    store: Store,
    token_key: TokenKey,
}

/// A log-in that has just been requested for.
pub struct PendingLogin {
    pub secret: DeviceSecret,
    pub code: UserCode,
}

impl Devices {
    pub fn new(store: Store, token_key: TokenKey) -> Self {
        Self { store, token_key }
    }

    /// A machine asks.
    pub async fn ask(&self, machine: &str, from: IpAddr) -> Result<PendingLogin, DeviceError> {
        let fits =
            (1..=MAX_NAME_LEN).contains(&machine.chars().count()) && !machine.chars().any(char::is_control);
        if !fits {
            return Err(DeviceError::InvalidName);
        }
        let requested = PendingLogin { secret: DeviceSecret::mint()?, code: UserCode::mint()? };
        let now = clock::now();
        let tokens = (&requested.secret, &requested.code, &self.token_key);
        match self.store.add_device_login(tokens, machine, from, now.after(LOGIN_TTL), now).await? {
            true => Ok(requested),
            false => Err(DeviceError::TooMany),
        }
    }

    /// The log-in that waits for this code.
    pub async fn look(&self, _: &Permit<ApproveDevice>, code: &UserCode) -> Result<DeviceLogin, DeviceError> {
        let login = self.store.device_login(code, &self.token_key, clock::now()).await?;
        login.ok_or(DeviceError::Unknown)
    }

    /// The user decides; answers the machine's name.
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

    /// The machine asks what became of it: nothing yet, or its key.
    pub async fn poll(&self, secret: &str) -> Result<Option<(User, ApiKey)>, DeviceError> {
        let secret = DeviceSecret::parse(secret).ok_or(DeviceError::Unknown)?;
        let key = ApiKey::mint()?;
        // The store names it.
        let record = NewKey::of(&key, "", &self.token_key);
        match self.store.poll_device_login(&secret, record, &self.token_key, clock::now()).await? {
            Poll::Pending => Ok(None),
            Poll::Approved(user) => Ok(Some((user, key))),
            Poll::Denied => Err(DeviceError::Denied),
            Poll::Unknown => Err(DeviceError::Unknown),
        }
    }
}
