//! What is set for one user otherwise than for the user's plan.

use rigbox_core::ids::UserId;
use rigbox_core::plans::Overrides;
use rigbox_core::time::Moment;

use crate::audit::{self, Act};
use crate::{Error, Store};

impl Store {
    /// What is set for a user; `None`: there is no such user.
    pub async fn user_limits(&self, user: &UserId) -> Result<Option<Overrides>, Error> {
        let text: Option<Option<String>> = sqlx::query_scalar("SELECT limits FROM users WHERE id = $1")
            .bind(user.as_str())
            .fetch_optional(&self.pool)
            .await?;
        text.map(|text| read(text.as_deref())).transpose()
    }

    /// Sets it for the next request on; none takes everything back that was set. `false`: there is no such user.
    pub async fn set_user_limits(
        &self,
        user: &UserId,
        limits: Option<Overrides>,
        now: Moment,
    ) -> Result<bool, Error> {
        let text = limits.map(|limits| serde_json::to_string(&limits)).transpose();
        let text = text.map_err(|error| Error::Damaged(error.to_string()))?;
        let mut tx = self.write().await?;
        let done = sqlx::query("UPDATE users SET limits = $1 WHERE id = $2")
            .bind(text)
            .bind(user.as_str())
            .execute(&mut *tx)
            .await?;
        let set = done.rows_affected() == 1;
        if set {
            audit::append(&mut tx, &self.chain, &Act::on_machine(user, "user.limits", user), now).await?;
        }
        tx.commit().await?;
        Ok(set)
    }
}

/// The column as it is stored.
pub(crate) fn read(text: Option<&str>) -> Result<Overrides, Error> {
    let limits = text.map(serde_json::from_str).transpose();
    Ok(limits.map_err(|error| Error::Damaged(format!("limits of a user: {error}")))?.unwrap_or_default())
}
