//! Operator's commands for AI calls: the switch, credits, budgets, models, and the comparison with a provider's report.

use rigbox_core::ai::money::Money;
use rigbox_core::ai::provider::Provider;
use rigbox_core::ids::WorkspaceId;
use rigbox_service::ai::models::Models;
use rigbox_service::ai::reconciliation::{self, Comparison};
use rigbox_service::clock;
use rigbox_service::records::{AiCredits, AiSubject};

use super::Database;
use crate::{Config, Error};

/// State of AI calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AiStatus {
    /// The operator has stopped all calls.
    pub stopped: bool,
    /// Number of calls that are open.
    pub open_calls: u64,
    /// Sum of their reservations.
    pub reserved: Money,
    /// Upstreams, each with the number of its keys and of its models.
    pub upstreams: Vec<(String, usize, usize)>,
    /// Day and origin of the prices.
    pub prices: (String, String),
    /// Problem with the files of prices.
    pub problem: Option<String>,
}

/// User or workspace that a bound is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bounded {
    /// User, by email address.
    User(String),
    /// Workspace.
    Workspace(WorkspaceId),
}

/// Stops all AI calls, or lets them go on.
pub async fn set_stopped(config: &Config, stopped: bool) -> Result<(), Error> {
    let store = Database::open(config).await?.store;
    let operator = store.first_user().await?.ok_or(Error::NoUser)?;
    Ok(store.set_ai_stopped(stopped, &operator.id, clock::now()).await?)
}

/// Returns the state of AI calls.
pub async fn status(config: &Config) -> Result<AiStatus, Error> {
    let ai = config.ai.clone().ok_or(Error::AiDisabled)?;
    let store = Database::open(config).await?.store;
    let keys = store.provider_keys().await?;
    let models = Models::new(ai.upstreams, ai.prices);
    let set = models.current();
    let upstream = |name: &String| {
        let keys = keys.iter().filter(|key| key.upstream == *name).count();
        (name.clone(), keys, set.iter().filter(|model| model.upstream == *name).count())
    };
    let (open_calls, reserved) = store.open_ai_calls().await?;
    Ok(AiStatus {
        stopped: store.ai_proxy_state()?.stopped,
        open_calls,
        reserved,
        upstreams: models.upstreams().iter().map(|known| upstream(&known.name)).collect(),
        prices: set.origin.clone(),
        problem: set.problem.as_ref().map(ToString::to_string),
    })
}

/// Grants a user credits for good, or takes back what is left of them. Returns the credits afterwards.
pub async fn grant(config: &Config, email: &str, amount: Money, takes: bool) -> Result<AiCredits, Error> {
    let database = Database::open(config).await?;
    let user = database.user(email).await?;
    let granted =
        database.store.grant_ai_credits(&user.id, amount, takes, &config.plans, clock::now()).await?;
    granted.ok_or_else(|| Error::UnknownUser(email.to_owned()))
}

/// Sets the budget for each month. `None` means no budget, whatever the configuration says.
pub async fn set_budget(config: &Config, whom: &Bounded, amount: Option<Money>) -> Result<(), Error> {
    let database = Database::open(config).await?;
    let subject = subject(&database, whom).await?;
    Ok(database.store.set_ai_budget(&subject, amount, clock::now()).await?)
}

/// Sets the models that may be used. An empty list means all.
pub async fn set_models(config: &Config, whom: &Bounded, models: &[String]) -> Result<(), Error> {
    let database = Database::open(config).await?;
    let subject = subject(&database, whom).await?;
    Ok(database.store.set_ai_models(&subject, models, clock::now()).await?)
}

/// Compares a day's records with a provider's report.
pub async fn reconcile(
    config: &Config,
    provider: Provider,
    day: i64,
    report: &str,
) -> Result<Vec<Comparison>, Error> {
    let report = reconciliation::parse(report)?;
    let store = Database::open(config).await?.store;
    Ok(reconciliation::compare(&store, provider, day, &report).await?)
}

async fn subject(database: &Database, whom: &Bounded) -> Result<AiSubject, Error> {
    match whom {
        Bounded::User(email) => Ok(AiSubject::User(database.user(email).await?.id)),
        Bounded::Workspace(id) => {
            let workspace = database.store.workspace(id).await?;
            let workspace = workspace.ok_or_else(|| Error::UnknownWorkspace(id.clone()))?;
            Ok(AiSubject::Workspace(workspace.id, workspace.user_id))
        }
    }
}
