//! Log-ins of machines (`rig login`): asked for by a machine, decided by a user, collected once by the machine. What the machine polls
//! with and what the user types are stored as keyed hashes only.

use std::net::IpAddr;

use rigbox_core::permit::Principal;
use rigbox_core::time::Moment;
use sqlx::Row;

use crate::audit::{self, Act};
use crate::secret::{DeviceSecret, TokenKey, UserCode};
use crate::{Error, NewKey, Store, User, api_keys, users};

/// A log-in that waits for its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceLogin {
    /// What the machine says that it is called.
    pub machine: String,
    /// Where it asked from.
    pub address: String,
    /// When it asked.
    pub created_at: Moment,
}

/// What a machine that polls is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Poll {
    /// Nobody has decided.
    Pending,
    /// The user does not want it.
    Denied,
    /// The key that was offered is stored and the log-in is used up.
    Approved(User),
    /// There is no such log-in (any more).
    Unknown,
}

/// Log-ins that may wait at one time.
const MOST_WAITING: i64 = 10_000;
/// Keys that a user may have when another machine logs in.
const MOST_KEYS: i64 = 100;

impl Store {
    /// Keeps a log-in until `until`; `false` when too many wait already. Those that have ended are removed on the way.
    pub async fn add_device_login(
        &self,
        (secret, code, token_key): (&DeviceSecret, &UserCode, &TokenKey),
        machine: &str,
        address: IpAddr,
        until: Moment,
        now: Moment,
    ) -> Result<bool, Error> {
        let mut tx = self.write().await?;
        sqlx::query("DELETE FROM device_logins WHERE expires_at <= $1")
            .bind(now.unix_ms())
            .execute(&mut *tx)
            .await?;
        let waiting: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM device_logins").fetch_one(&mut *tx).await?;
        if waiting >= MOST_WAITING {
            return Ok(false);
        }
        sqlx::query(
            "INSERT INTO device_logins (hash, code_hash, machine, address, created_at, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(token_key.hash(secret.reveal()).as_str())
        .bind(token_key.hash(code.reveal()).as_str())
        .bind(machine)
        .bind(address.to_string())
        .bind(now.unix_ms())
        .bind(until.unix_ms())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(true)
    }

    /// The log-in that a user's code is about, if it waits for a decision.
    pub async fn device_login(
        &self,
        code: &UserCode,
        token_key: &TokenKey,
        now: Moment,
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
                created_at: Moment::from_unix_ms(row.try_get("created_at")?),
            })
        })
        .transpose()
    }

    /// Writes a user's decision down; `None` when there is nothing (any more) to decide.
    pub async fn decide_device_login(
        &self,
        by: &Principal,
        code: &UserCode,
        token_key: &TokenKey,
        approved: bool,
        now: Moment,
    ) -> Result<Option<String>, Error> {
        let mut tx = self.write().await?;
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
            audit::append(&mut tx, &self.chain, &Act::by(by, action, machine), now).await?;
        }
        tx.commit().await?;
        Ok(machine)
    }

    /// What became of a log-in. If it was approved, a key is stored, named after the machine and with the secret of `key`, and the
    /// log-in is used up: it is collected once.
    pub async fn poll_device_login(
        &self,
        secret: &DeviceSecret,
        key: NewKey,
        token_key: &TokenKey,
        now: Moment,
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
        let mut tx = self.write().await?;
        let row =
            sqlx::query("DELETE FROM device_logins WHERE hash = $1 AND approved RETURNING user_id, machine")
                .bind(hash.as_str())
                .fetch_optional(&mut *tx)
                .await?;
        let Some(row) = row else { return Ok(Poll::Unknown) };
        let (user, machine): (String, String) = (row.try_get("user_id")?, row.try_get("machine")?);
        let Some(user) = users::enabled(&mut tx, &user).await? else { return Ok(Poll::Unknown) };
        let keys: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM api_keys WHERE user_id = $1")
            .bind(user.id.as_str())
            .fetch_one(&mut *tx)
            .await?;
        if keys >= MOST_KEYS {
            let limit = u64::try_from(MOST_KEYS).unwrap_or(0);
            return Err(Error::Quota { limit_name: "max_api_keys", limit });
        }
        let key = NewKey { name: format!("rig on {machine}"), by_login: true, ..key };
        let id = api_keys::insert(&mut tx, &user.id, &key, now).await?;
        let act = Act::on_machine(&user.id, "key.create", &id);
        audit::append(&mut tx, &self.chain, &act, now).await?;
        tx.commit().await?;
        Ok(Poll::Approved(user))
    }
}
