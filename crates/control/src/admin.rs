//! Administration commands that the operator runs on the machine itself, beside a control role that may be
//! running: users, keys, links, the audit log, workspaces without an owner. Access to the database is the permission.

pub mod ai;
pub mod backup;
pub mod provider_keys;
pub mod ssh_host_key;

use rigbox_core::ids::{DatabaseId, UserId, WorkspaceId};
use rigbox_core::names::WorkspaceName;
use rigbox_core::plans::{LimitOverrides, Plan};
use rigbox_core::templates::Template;
use rigbox_service::database::{self, AuditEvent, NewKey, Rotation, Store, TokenKey};
use rigbox_service::nodes::orphans;
use rigbox_service::records::{ApiKey, Orphan, User};

use crate::{Config, Error};
use rigbox_service::clock;
use rigbox_service::identity::email;
use rigbox_service::identity::sign_in;

/// User and a new key of theirs.
#[derive(Debug, Clone)]
pub struct CreatedKey {
    /// Owner of the key.
    pub user_id: UserId,
    /// The key; shown once, stored as a hash.
    pub api_key: ApiKey,
}

/// Database, opened for one command.
struct Database {
    store: Store,
    token_key: TokenKey,
}

impl Database {
    async fn open(config: &Config) -> Result<Self, Error> {
        let token_key = TokenKey::load_or_create(&config.token_key)?;
        let store = Store::open(&config.database, &token_key).await?;
        Ok(Self { store, token_key })
    }

    async fn user(&self, email: &str) -> Result<User, Error> {
        let user = self.store.user_by_email(&address(email)?).await?;
        user.ok_or_else(|| Error::UnknownUser(email.to_owned()))
    }

    async fn orphan(&self, id: &WorkspaceId) -> Result<Orphan, Error> {
        let orphans = self.store.orphans().await?;
        let orphan = orphans.into_iter().find(|orphan| orphan.id == *id && !orphan.is_removed);
        orphan.ok_or_else(|| Error::UnknownOrphan(id.clone()))
    }

    /// Returns a user who is not the administrator.
    async fn regular_user(&self, email: &str) -> Result<User, Error> {
        let user = self.user(email).await?;
        let first = self.store.first_user().await?.ok_or(Error::NoUser)?;
        if user.id == first.id { Err(Error::Administrator) } else { Ok(user) }
    }
}

fn address(email: &str) -> Result<String, Error> {
    email::parse_address(email).ok_or_else(|| Error::InvalidEmail(email.to_owned()))
}

/// Creates the installation's first user, its administrator, with one API key.
pub async fn bootstrap(config: &Config, email: &str) -> Result<CreatedKey, Error> {
    let email = address(email)?;
    let Database { store, token_key } = Database::open(config).await?;
    let api_key = ApiKey::mint()?;
    let record = NewKey::of(&api_key, "bootstrap", &token_key);
    match store.create_first_user(&email, &record, clock::now()).await {
        Ok(user_id) => Ok(CreatedKey { user_id, api_key }),
        Err(database::Error::UserExists) => Err(Error::UserExists),
        Err(other) => Err(other.into()),
    }
}

/// Creates another key for the first user, in case the saved one was lost.
pub async fn mint_key(config: &Config, name: &str) -> Result<CreatedKey, Error> {
    let Database { store, token_key } = Database::open(config).await?;
    let api_key = ApiKey::mint()?;
    let record = NewKey::of(&api_key, name, &token_key);
    let user = store.first_user().await?.ok_or(Error::NoUser)?;
    let event = AuditEvent::by_operator(&user.id, "key.create", "");
    store.add_key(&user.id, &record, u32::MAX, None, event, clock::now()).await?;
    Ok(CreatedKey { user_id: user.id, api_key })
}

/// Overrides the limits of a user's plan, effective with the next request. `None` removes all overrides.
pub async fn set_limits(config: &Config, email: &str, limits: Option<LimitOverrides>) -> Result<(), Error> {
    let database = Database::open(config).await?;
    let user = database.user(email).await?;
    database.store.set_user_limits(&user.id, limits, clock::now()).await?;
    Ok(())
}

/// Creates a user, who signs in by a link.
pub async fn add_user(config: &Config, email: &str, plan: Plan) -> Result<UserId, Error> {
    let email = address(email)?;
    let database = Database::open(config).await?;
    database.store.add_user(&email, plan, clock::now()).await.map_err(|error| match error {
        database::Error::UserExists => Error::EmailTaken(email),
        other => other.into(),
    })
}

/// Lists all users, oldest first.
pub async fn users(config: &Config) -> Result<Vec<User>, Error> {
    Ok(Database::open(config).await?.store.users().await?)
}

/// Moves a user to another plan.
pub async fn set_plan(config: &Config, email: &str, plan: Plan) -> Result<(), Error> {
    let database = Database::open(config).await?;
    let user = database.regular_user(email).await?;
    Ok(database.store.set_plan(&user.id, plan, clock::now()).await?)
}

/// Disables a user's credentials, effective with the next request, or enables them again.
pub async fn set_disabled(config: &Config, email: &str, disabled: bool) -> Result<(), Error> {
    let database = Database::open(config).await?;
    let user = database.regular_user(email).await?;
    Ok(database.store.set_disabled(&user.id, disabled, clock::now()).await?)
}

/// Creates a link that signs a user in once, in case no email reaches them.
pub async fn login_link(config: &Config, email: &str) -> Result<String, Error> {
    let console = crate::startup::console_origin(config)?;
    let database = Database::open(config).await?;
    let user = database.user(email).await?;
    if user.disabled_at.is_some() {
        return Err(Error::Disabled(user.email));
    }
    Ok(sign_in::new_link(&database.store, &database.token_key, console.origin(), &user, None).await?)
}

/// Verifies the chain of the audit log. Returns the number of entries, or the first invalid one.
pub async fn verify_audit(config: &Config) -> Result<Result<u64, i64>, Error> {
    Ok(Database::open(config).await?.store.verify_audit().await?)
}

/// Lists the workspaces that a node has and the database does not, longest known first.
pub async fn orphans(config: &Config) -> Result<Vec<Orphan>, Error> {
    Ok(Database::open(config).await?.store.orphans().await?)
}

/// Gives an orphan to a user, as a stopped workspace.
pub async fn adopt_orphan(
    config: &Config,
    id: &WorkspaceId,
    email: &str,
    name: WorkspaceName,
    template: &Template,
) -> Result<(), Error> {
    let database = Database::open(config).await?;
    let owner = database.user(email).await?;
    let orphan = database.orphan(id).await?;
    let workspace = orphans::adopted(&orphan, owner.id, name.clone(), template, clock::now())
        .map_err(|_| Error::NoDisk(id.clone()))?;
    match database.store.adopt_orphan(&workspace).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::UnknownOrphan(id.clone())),
        Err(database::Error::NameTaken) => Err(Error::NameTaken(name)),
        Err(other) => Err(other.into()),
    }
}

/// Requests the removal of an orphan, which destroys its disk once the control role runs.
pub async fn remove_orphan(config: &Config, id: &WorkspaceId) -> Result<(), Error> {
    let database = Database::open(config).await?;
    let operator = database.store.first_user().await?.ok_or(Error::NoUser)?;
    if database.store.remove_orphan(id, &operator.id, clock::now()).await? {
        Ok(())
    } else {
        Err(Error::UnknownOrphan(id.clone()))
    }
}

/// Makes the database the one that a node knows, whose workspaces it takes over once the control role starts.
pub async fn claim_nodes(config: &Config, database_id: &DatabaseId) -> Result<(), Error> {
    Ok(Database::open(config).await?.store.set_database_id(database_id, clock::now()).await?)
}

/// Encrypts all secrets with a new master key, beside a control role that may be running. Finishes an
/// interrupted rotation.
pub async fn rotate_master_key(config: &Config) -> Result<Rotation, Error> {
    let Database { store, .. } = Database::open(config).await?;
    let store = store.unlock(config.master_key.clone(), clock::now()).await?;
    Ok(store.rotate_master_key(clock::now()).await?)
}
