//! What the operator does on the machine itself, beside a control role that may run: users, keys, links, the audit log. Whoever may read
//! the database may do this.

use rigbox_core::ids::UserId;
use rigbox_core::plans::{LimitOverrides, Plan};
use rigbox_service::database::{self, AuditEvent, NewKey, Rotation, Store, TokenKey};
use rigbox_service::records::{ApiKey, User};

use crate::{Config, Error};
use rigbox_service::clock;
use rigbox_service::identity::email;
use rigbox_service::identity::sign_in;

/// A user and a key of theirs.
#[derive(Debug, Clone)]
pub struct KeyMade {
    /// Whose.
    pub user_id: UserId,
    /// The key: shown once, stored as a hash.
    pub api_key: ApiKey,
}

/// The database, opened for one event.
struct Opened {
    store: Store,
    token_key: TokenKey,
}

impl Opened {
    async fn of(config: &Config) -> Result<Self, Error> {
        let token_key = TokenKey::load_or_create(&config.token_key)?;
        let store = Store::open(&config.database, &token_key).await?;
        Ok(Self { store, token_key })
    }

    async fn user(&self, email: &str) -> Result<User, Error> {
        let user = self.store.user_by_email(&address(email)?).await?;
        user.ok_or_else(|| Error::UnknownUser(email.to_owned()))
    }

    /// A user, but not the one who may do everything.
    async fn ordinary_user(&self, email: &str) -> Result<User, Error> {
        let user = self.user(email).await?;
        let first = self.store.first_user().await?.ok_or(Error::NoUser)?;
        if user.id == first.id { Err(Error::Administrator) } else { Ok(user) }
    }
}

fn address(email: &str) -> Result<String, Error> {
    email::parse_address(email).ok_or_else(|| Error::InvalidEmail(email.to_owned()))
}

/// Makes the installation's first user, its administrator, with one API key.
pub async fn bootstrap(config: &Config, email: &str) -> Result<KeyMade, Error> {
    let email = address(email)?;
    let Opened { store, token_key } = Opened::of(config).await?;
    let api_key = ApiKey::mint()?;
    let record = NewKey::of(&api_key, "bootstrap", &token_key);
    match store.create_first_user(&email, &record, clock::now()).await {
        Ok(user_id) => Ok(KeyMade { user_id, api_key }),
        Err(database::Error::UserExists) => Err(Error::UserExists),
        Err(other) => Err(other.into()),
    }
}

/// A further key of the first user, for when the saved one was lost.
pub async fn mint_key(config: &Config, name: &str) -> Result<KeyMade, Error> {
    let Opened { store, token_key } = Opened::of(config).await?;
    let api_key = ApiKey::mint()?;
    let record = NewKey::of(&api_key, name, &token_key);
    let user = store.first_user().await?.ok_or(Error::NoUser)?;
    let event = AuditEvent::by_operator(&user.id, "key.create", "");
    store.add_key(&user.id, &record, u32::MAX, None, event, clock::now()).await?;
    Ok(KeyMade { user_id: user.id, api_key })
}

/// Sets what a user may otherwise than by the plan, from the next request on; none takes back all that was set.
pub async fn set_limits(config: &Config, email: &str, limits: Option<LimitOverrides>) -> Result<(), Error> {
    let opened = Opened::of(config).await?;
    let user = opened.user(email).await?;
    opened.store.set_user_limits(&user.id, limits, clock::now()).await?;
    Ok(())
}

/// Makes a user, who signs in by a link.
pub async fn add_user(config: &Config, email: &str, plan: Plan) -> Result<UserId, Error> {
    let email = address(email)?;
    let opened = Opened::of(config).await?;
    opened.store.add_user(&email, plan, clock::now()).await.map_err(|error| match error {
        database::Error::UserExists => Error::EmailTaken(email),
        other => other.into(),
    })
}

/// Every user, oldest first.
pub async fn users(config: &Config) -> Result<Vec<User>, Error> {
    Ok(Opened::of(config).await?.store.users().await?)
}

/// Gives a user another plan.
pub async fn set_plan(config: &Config, email: &str, plan: Plan) -> Result<(), Error> {
    let opened = Opened::of(config).await?;
    let user = opened.ordinary_user(email).await?;
    Ok(opened.store.set_plan(&user.id, plan, clock::now()).await?)
}

/// Makes everything that a user has open nothing from the next request on, or open again.
pub async fn set_disabled(config: &Config, email: &str, disabled: bool) -> Result<(), Error> {
    let opened = Opened::of(config).await?;
    let user = opened.ordinary_user(email).await?;
    Ok(opened.store.set_disabled(&user.id, disabled, clock::now()).await?)
}

/// A link that signs a user in once, for when no letter reaches them.
pub async fn login_link(config: &Config, email: &str) -> Result<String, Error> {
    let console = crate::startup::console_origin(config)?;
    let opened = Opened::of(config).await?;
    let user = opened.user(email).await?;
    if user.disabled_at.is_some() {
        return Err(Error::Disabled(user.email));
    }
    Ok(sign_in::new_link(&opened.store, &opened.token_key, console.origin(), &user, None).await?)
}

/// Follows the audit log's chain: how many entries it has, or the first that does not fit.
pub async fn verify_audit(config: &Config) -> Result<Result<u64, i64>, Error> {
    Ok(Opened::of(config).await?.store.verify_audit().await?)
}

/// Encrypts all secrets with another master key, beside a control role that may run; finishes a rotation that was interrupted.
pub async fn rotate_master_key(config: &Config) -> Result<Rotation, Error> {
    let Opened { store, .. } = Opened::of(config).await?;
    let store = store.unlock(config.master_key.clone(), clock::now()).await?;
    Ok(store.rotate_master_key(clock::now()).await?)
}
