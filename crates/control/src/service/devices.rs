//! `rig login`: a machine asks, its user approves in a browser, the machine collects a key once.

use std::net::IpAddr;
use std::time::Duration;

use rigbox_core::authz::{ApproveDevice, Permit};
use rigbox_store::tokens::{ApiKey, DeviceSecret, TokenKey, UserCode};
use rigbox_store::{DeviceLogin, NewKey, Poll, Store, User};

use crate::clock;

/// From the request to the approval, and to the collection.
pub(crate) const WITHIN: Duration = Duration::from_mins(10);
/// How often a machine may ask what became of it.
pub(crate) const POLL_EVERY: Duration = Duration::from_secs(2);
/// As `rig on NAME` it still is a key's name.
const MAX_NAME_LEN: usize = 48;

/// Why not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceProblem {
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

pub(crate) struct Devices {
    store: Store,
    token_key: TokenKey,
}

/// A log-in that has just been requested for.
pub(crate) struct Asked {
    pub(crate) secret: DeviceSecret,
    pub(crate) code: UserCode,
}

impl Devices {
    pub(crate) fn new(store: Store, token_key: TokenKey) -> Self {
        Self { store, token_key }
    }

    /// A machine asks.
    pub(crate) async fn ask(&self, machine: &str, from: IpAddr) -> Result<Asked, DeviceProblem> {
        let fits =
            (1..=MAX_NAME_LEN).contains(&machine.chars().count()) && !machine.chars().any(char::is_control);
        if !fits {
            return Err(DeviceProblem::InvalidName);
        }
        let requested = Asked { secret: DeviceSecret::mint()?, code: UserCode::mint()? };
        let now = clock::now();
        let tokens = (&requested.secret, &requested.code, &self.token_key);
        match self.store.add_device_login(tokens, machine, from, now.after(WITHIN), now).await? {
            true => Ok(requested),
            false => Err(DeviceProblem::TooMany),
        }
    }

    /// The log-in that waits for this code.
    pub(crate) async fn look(
        &self,
        _: &Permit<ApproveDevice>,
        code: &UserCode,
    ) -> Result<DeviceLogin, DeviceProblem> {
        let login = self.store.device_login(code, &self.token_key, clock::now()).await?;
        login.ok_or(DeviceProblem::Unknown)
    }

    /// The user decides; answers the machine's name.
    pub(crate) async fn decide(
        &self,
        permit: &Permit<ApproveDevice>,
        code: &UserCode,
        approved: bool,
    ) -> Result<String, DeviceProblem> {
        let (by, key) = (permit.principal(), &self.token_key);
        let machine = self.store.decide_device_login(by, code, key, approved, clock::now()).await?;
        machine.ok_or(DeviceProblem::Unknown)
    }

    /// The machine asks what became of it: nothing yet, or its key.
    pub(crate) async fn poll(&self, secret: &str) -> Result<Option<(User, ApiKey)>, DeviceProblem> {
        let secret = DeviceSecret::parse(secret).ok_or(DeviceProblem::Unknown)?;
        let key = ApiKey::mint()?;
        // The store names it.
        let record = NewKey::of(&key, "", &self.token_key);
        match self.store.poll_device_login(&secret, record, &self.token_key, clock::now()).await? {
            Poll::Pending => Ok(None),
            Poll::Approved(user) => Ok(Some((user, key))),
            Poll::Denied => Err(DeviceProblem::Denied),
            Poll::Unknown => Err(DeviceProblem::Unknown),
        }
    }
}
