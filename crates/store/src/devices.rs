//! Device logins (`rig login`): requested by a machine, decided by a user, and collected once by the machine.
//! The polling secret and the user code are stored only as keyed hashes.

use std::net::IpAddr;

use rigbox_core::authz::Principal;
use rigbox_core::time::Timestamp;
use sqlx::Row;

use crate::audit::{self, AuditEvent};
use crate::tokens::{DeviceSecret, TokenKey, UserCode};
use crate::{Error, NewKey, Store, User, api_keys, users};

/// Pending device login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceLogin {
    /// Name of the machine, as it states it.
    pub machine: String,
    /// Address of the machine.
    pub address: String,
    /// Time of the request.
    pub created_at: Timestamp,
}

/// Result of polling a device login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Poll {
    /// Not decided yet.
    Pending,
    /// The user denied the request.
    Denied,
    /// The offered key is stored, and the login is consumed.
    Approved(User),
    /// Unknown or expired.
    Unknown,
}

/// Maximum number of pending logins.
const MAX_PENDING_LOGINS: i64 = 10_000;
/// Maximum number of pending logins of one client.
const MAX_PENDING_LOGINS_PER_CLIENT: i64 = 20;
/// Maximum number of keys of a user for whom another login creates one.
const MAX_DEVICE_KEYS: i64 = 100;

/// Outcome of the start of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartedLogin {
    /// It is pending.
    Pending,
    /// The client has its maximum of pending logins.
    ClientHasMaximum,
    /// All clients together have the maximum.
    Full,
}

impl Store {
    /// Stores a login from `address` that is valid until `until`, and removes expired ones. It counts for this `client`.
    pub async fn add_device_login(
        &self,
        (secret, code, token_key): (&DeviceSecret, &UserCode, &TokenKey),
        machine: &str,
        (address, client): (IpAddr, &str),
        until: Timestamp,
        now: Timestamp,
    ) -> Result<StartedLogin, Error> {
        let mut tx = self.begin_write().await?;
        sqlx::query("DELETE FROM device_logins WHERE expires_at <= $1")
            .bind(now.unix_ms())
            .execute(&mut *tx)
            .await?;
        let waiting: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM device_logins").fetch_one(&mut *tx).await?;
        let own: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM device_logins WHERE client = $1")
            .bind(client)
            .fetch_one(&mut *tx)
            .await?;
        if own >= MAX_PENDING_LOGINS_PER_CLIENT {
            return Ok(StartedLogin::ClientHasMaximum);
        }
        if waiting >= MAX_PENDING_LOGINS {
            return Ok(StartedLogin::Full);
        }
        sqlx::query(
            "INSERT INTO device_logins (hash, code_hash, machine, address, client, created_at, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(token_key.hash(secret.reveal()).as_str())
        .bind(token_key.hash(code.reveal()).as_str())
        .bind(machine)
        .bind(address.to_string())
        .bind(client)
        .bind(now.unix_ms())
        .bind(until.unix_ms())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(StartedLogin::Pending)
    }

    /// Returns the undecided login of a user code.
    pub async fn device_login(
        &self,
        code: &UserCode,
        token_key: &TokenKey,
        now: Timestamp,
    ) -> Result<Option<DeviceLogin>, Error> {
        let row = sqlx::query(
            "SELECT machine, address, created_at FROM device_logins \
             WHERE code_hash = $1 AND expires_at > $2 AND approved IS NULL",
        )
        .bind(token_key.hash(code.reveal()).as_str())
        .bind(now.unix_ms())
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| {
            Ok(DeviceLogin {
                machine: row.try_get("machine")?,
                address: row.try_get("address")?,
                created_at: Timestamp::from_unix_ms(row.try_get("created_at")?),
            })
        })
        .transpose()
    }

    /// Records a user's decision. Returns `None` if there is no undecided login.
    pub async fn decide_device_login(
        &self,
        by: &Principal,
        code: &UserCode,
        token_key: &TokenKey,
        approved: bool,
        now: Timestamp,
    ) -> Result<Option<String>, Error> {
        let mut tx = self.begin_write().await?;
        let machine: Option<String> = sqlx::query_scalar(
            "UPDATE device_logins SET approved = $1, user_id = $2 \
             WHERE code_hash = $3 AND expires_at > $4 AND approved IS NULL RETURNING machine",
        )
        .bind(approved)
        .bind(by.user.as_str())
        .bind(token_key.hash(code.reveal()).as_str())
        .bind(now.unix_ms())
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(machine) = &machine {
            let action = if approved { "device.approve" } else { "device.deny" };
            audit::append(&mut tx, &self.chain, &AuditEvent::by(by, action, machine), now).await?;
        }
        tx.commit().await?;
        Ok(machine)
    }

    /// Returns the state of a login. If it was approved, stores an API key named after the machine with the
    /// secret of `key`, and consumes the login: it is collected once.
    pub async fn poll_device_login(
        &self,
        secret: &DeviceSecret,
        key: NewKey,
        token_key: &TokenKey,
        now: Timestamp,
    ) -> Result<Poll, Error> {
        let hash = token_key.hash(secret.reveal());
        let row = sqlx::query("SELECT approved FROM device_logins WHERE hash = $1 AND expires_at > $2")
            .bind(hash.as_str())
            .bind(now.unix_ms())
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(Poll::Unknown) };
        match row.try_get::<Option<bool>, _>("approved")? {
            None => return Ok(Poll::Pending),
            Some(false) => return Ok(Poll::Denied),
            Some(true) => {}
        }
        let mut tx = self.begin_write().await?;
        let row = sqlx::query(
            "DELETE FROM device_logins WHERE hash = $1 AND approved RETURNING user_id, machine, address",
        )
        .bind(hash.as_str())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(Poll::Unknown) };
        let (user, machine): (String, String) = (row.try_get("user_id")?, row.try_get("machine")?);
        let address: String = row.try_get("address")?;
        let Some(user) = users::enabled(&mut tx, &user).await? else { return Ok(Poll::Unknown) };
        let keys: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM api_keys WHERE user_id = $1")
            .bind(user.id.as_str())
            .fetch_one(&mut *tx)
            .await?;
        if keys >= MAX_DEVICE_KEYS {
            let [limit, used] = [MAX_DEVICE_KEYS, keys].map(|count| u64::try_from(count).unwrap_or(0));
            return Err(Error::Quota { limit_name: "max_api_keys", limit, used });
        }
        let key = NewKey { name: format!("rig on {machine}"), by_login: true, ..key };
        let id = api_keys::insert(&mut tx, &user.id, &key, now).await?;
        // The machine has no credential yet, but an address.
        let event = AuditEvent::by_operator(&user.id, "key.create", &id).with_address(address);
        audit::append(&mut tx, &self.chain, &event, now).await?;
        tx.commit().await?;
        Ok(Poll::Approved(user))
    }
}
