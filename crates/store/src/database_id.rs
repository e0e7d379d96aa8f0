//! Identity of the database, which nodes remember.

use rigbox_core::ids::DatabaseId;
use rigbox_core::time::Timestamp;

use crate::revocations::entry::Revocation;
use crate::sqlite::connection::Connection;
use crate::{Error, Store, parse, random};

impl Store {
    /// Returns the identity of this database. The first call creates it.
    pub async fn database_id(&self) -> Result<DatabaseId, Error> {
        let mut tx = self.begin_write().await?;
        let query = "SELECT id FROM database_identity";
        let id = match sqlx::query_scalar::<_, String>(query).fetch_optional(&mut *tx).await? {
            Some(id) => parse(&id)?,
            None => {
                let id = DatabaseId::from_random(random()?);
                insert(&mut tx, &id).await?;
                id
            }
        };
        tx.commit().await?;
        Ok(id)
    }

    /// Gives this database the identity of another one, whose nodes it takes over.
    pub async fn set_database_id(&self, id: &DatabaseId, now: Timestamp) -> Result<(), Error> {
        let mut tx = self.begin_write().await?;
        sqlx::query("DELETE FROM database_identity").execute(&mut *tx).await?;
        insert(&mut tx, id).await?;
        let change = Revocation::Database { id: id.to_string() };
        self.commit_revoking(tx, vec![change], now).await
    }
}

async fn insert(connection: &mut Connection, id: &DatabaseId) -> Result<(), Error> {
    let query = sqlx::query("INSERT INTO database_identity (id) VALUES ($1)").bind(id.as_str());
    query.execute(connection).await?;
    Ok(())
}
