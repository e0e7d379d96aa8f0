//! Ledger of AI calls: each is reserved before it is made and settled once it is over, in the database. All that wait are written with one
//! commit. What is spent and reserved never exceeds a bound, whatever runs at the same time.

use std::panic::resume_unwind;
use std::time::Duration;

use rigbox_core::ai::money::Money;
use rigbox_core::ai::prices::CallPrices;
use rigbox_core::ai::provider::Provider;
use rigbox_core::ai::reservation::{Ask, Grant, OutputLimits};
use rigbox_core::ids::WorkspaceId;
use rigbox_core::plans::Plans;
use rigbox_shares::{Bounds, Shares};
use rigbox_store::{AiOutcome, AiReservation, AiSettlement, AiStep, AiTerms, Store};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, timeout_at};
use tracing::{error, info, warn};

use super::denial::Denial;
use super::models::{Model, Models};
use crate::clock;

/// Steps that wait to be written.
const QUEUE_LEN: usize = 4_096;
/// Reservations that wait, and those of one workspace. Settlements have the rest of the queue.
const WAITING: Bounds = Bounds { total: QUEUE_LEN / 2, per_key: 256 };
/// Steps written with one commit.
const BATCH_LEN: usize = 256;
/// Time for which settlements wait for a reservation to share its commit: nobody waits for them.
const SETTLEMENT_DELAY: Duration = Duration::from_millis(5);
/// Maximum number of a workspace's calls that are open.
pub(super) const MAX_OPEN_CALLS: u64 = 512;
/// Time after which a call that was never settled counts as lost, and costs its bound.
const CALL_TIMEOUT: Duration = Duration::from_hours(24);
/// Interval at which lost calls are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_mins(10);
/// Interval at which old records are looked for.
const CLEANUP_INTERVAL: Duration = Duration::from_hours(1);
/// Old records deleted in one transaction: reservations wait for it.
const DELETE_BATCH_LEN: u32 = 1_000;
/// Maximum length of ids and names that the proxy sends.
const MAX_NAME_LEN: usize = 256;

/// Bounds of a month's calls, where the operator has set none for the user or the workspace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DefaultBudgets {
    /// Bound of a user.
    pub user: Option<Money>,
    /// Bound of a workspace.
    pub workspace: Option<Money>,
}

/// Kind of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Generates an output.
    Generate,
    /// Turns a text into a vector.
    Embed,
    /// Counts tokens, and costs nothing.
    Count,
}

/// Call as the proxy describes it.
#[derive(Debug, Clone)]
pub struct Call {
    /// Id that the proxy has made.
    pub id: String,
    /// Run of the proxy.
    pub run: String,
    /// Workspace that calls.
    pub workspace: WorkspaceId,
    /// Provider whose dialect it speaks.
    pub provider: Provider,
    /// Kind of call.
    pub operation: Operation,
    /// Model.
    pub model: String,
    /// Size.
    pub ask: Ask,
    /// The provider would fetch a URL.
    pub fetches_urls: bool,
    /// Options that change the price.
    pub options: Vec<String>,
}

/// Error of the ledger. The call must not be made.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The call is refused.
    #[error("{}", .0.text)]
    Denied(Denial),
    /// A text is too long or empty.
    #[error("a name of the call is empty or too long")]
    InvalidName,
    /// Another run of the proxy has taken over, or this one has not announced itself.
    #[error("another run of the proxy has taken over")]
    OtherRun,
    /// The call was never reserved.
    #[error("the call was never reserved")]
    UnknownCall,
    /// The database does not answer.
    #[error("the ledger does not answer")]
    Unavailable,
}

/// Step that waits, with where its outcome goes.
struct Waiting {
    step: AiStep,
    outcome: oneshot::Sender<Result<AiOutcome, LedgerError>>,
}

/// Ledger of AI calls.
#[derive(Clone)]
pub struct Ledger {
    store: Store,
    models: Models,
    queue: mpsc::Sender<Waiting>,
    waiting: Shares<WorkspaceId>,
}

/// Writer of the ledger, for [`LedgerWriter::run`].
pub struct LedgerWriter {
    store: Store,
    terms: AiTerms,
    retention: Duration,
    queue: mpsc::Receiver<Waiting>,
}

impl Operation {
    /// Returns the name in the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::Embed => "embed",
            Self::Count => "count",
        }
    }
}

impl Ledger {
    /// Creates the ledger and its writer, which keeps records for `retention`.
    pub fn new(
        store: Store,
        models: Models,
        plans: Plans,
        budgets: DefaultBudgets,
        retention: Duration,
    ) -> (Self, LedgerWriter) {
        #[expect(
            clippy::disallowed_methods,
            reason = "bound: steps of AI calls to write; reservations have a share per workspace before"
        )]
        let (sender, queue) = mpsc::channel(QUEUE_LEN);
        let DefaultBudgets { user: user_budget, workspace: workspace_budget } = budgets;
        let terms = AiTerms { plans, user_budget, workspace_budget, max_open_calls: MAX_OPEN_CALLS };
        let ledger = Self { store: store.clone(), models, queue: sender, waiting: Shares::new(WAITING) };
        (ledger, LedgerWriter { store, terms, retention, queue })
    }

    /// Begins a run of the proxy. Calls that another run has reserved and not settled cost their bound.
    ///
    /// # Errors
    /// [`LedgerError`]
    pub async fn begin_run(&self, run: &str) -> Result<(), LedgerError> {
        check_name(run)?;
        let (store, run) = (self.store.clone(), run.to_owned());
        let begun = spawn_blocking(move || store.begin_ai_run(&run, store.now())).await;
        let settled = begun.map_err(|_| LedgerError::Unavailable)?.map_err(unavailable)?;
        if settled > 0 {
            warn!(calls = settled, "settled AI calls of an earlier run at their bound");
        }
        Ok(())
    }

    /// Reserves the bound of a call. With the id of a call that is reserved, returns its reservation.
    ///
    /// # Errors
    /// [`LedgerError`]
    pub async fn reserve(&self, call: Call) -> Result<Grant, LedgerError> {
        for name in [&call.id, &call.run, &call.model] {
            check_name(name)?;
        }
        let reservation = self.price(call).map_err(LedgerError::Denied)?;
        let model = reservation.model.clone();
        let place = self.waiting.take(reservation.workspace.clone());
        let _place = place.map_err(|_| LedgerError::Denied(Denial::too_many_calls()))?;
        match self.write(AiStep::Reserve(Box::new(reservation))).await? {
            AiOutcome::Reserved(grant) => Ok(grant),
            AiOutcome::Denied(denial) => Err(LedgerError::Denied(Denial::by_ledger(&denial, &model))),
            AiOutcome::OtherRun => Err(LedgerError::OtherRun),
            AiOutcome::Settled(_) | AiOutcome::UnknownCall => Err(LedgerError::Unavailable),
        }
    }

    /// Settles a call, and returns its cost. A call that is settled stays as it is.
    ///
    /// # Errors
    /// [`LedgerError`]
    pub async fn settle(&self, call: AiSettlement) -> Result<Money, LedgerError> {
        check_name(&call.id)?;
        match self.write(AiStep::Settle(Box::new(call))).await? {
            AiOutcome::Settled(cost) => Ok(cost),
            AiOutcome::UnknownCall => Err(LedgerError::UnknownCall),
            AiOutcome::Reserved(_) | AiOutcome::Denied(_) | AiOutcome::OtherRun => {
                Err(LedgerError::Unavailable)
            }
        }
    }

    /// Lists the models of a provider that a workspace may use.
    ///
    /// # Errors
    /// [`LedgerError`]
    pub async fn models_of(
        &self,
        workspace: &WorkspaceId,
        provider: Provider,
    ) -> Result<Vec<String>, LedgerError> {
        let lists = self.store.ai_models_of(workspace).await.map_err(unavailable)?;
        let may_use = |id: &String| lists.iter().all(|list| list.is_empty() || list.contains(id));
        let current = self.models.current();
        let of_provider =
            current.iter().filter(|model| model.provider == provider).map(|model| model.id.clone());
        Ok(of_provider.filter(may_use).collect())
    }

    /// Finds the prices of a call.
    fn price(&self, call: Call) -> Result<AiReservation, Denial> {
        let models = self.models.current();
        let Some(model) = models.find(call.provider, &call.model) else {
            let id = printable(&call.model);
            return Err(Denial::unknown_model(format!(
                "The model `{id}` is not available here: it has no price."
            )));
        };
        let (prices, ask, limits) = terms_of(&call, model)?;
        Ok(AiReservation {
            id: call.id,
            run: call.run,
            workspace: call.workspace,
            provider: call.provider.as_str(),
            upstream: model.upstream.clone(),
            operation: call.operation.as_str(),
            model: call.model,
            prices,
            ask,
            limits,
            fetches_urls: call.fetches_urls,
        })
    }

    async fn write(&self, step: AiStep) -> Result<AiOutcome, LedgerError> {
        let (outcome, written) = oneshot::channel();
        self.queue.send(Waiting { step, outcome }).await.map_err(|_| LedgerError::Unavailable)?;
        written.await.map_err(|_| LedgerError::Unavailable)?
    }
}

/// Returns a call's prices, its size and the limits of its output.
fn terms_of(call: &Call, model: &Model) -> Result<(CallPrices, Ask, OutputLimits), Denial> {
    let entry = &model.entry;
    let without_output = Ask { output_tokens: Some(0), thinking_tokens: None, ..call.ask };
    let no_limits = OutputLimits { max: 0, floor: 0 };
    match (call.operation, entry.embeds) {
        (Operation::Count, _) => Ok((CallPrices::free(), without_output, no_limits)),
        (Operation::Generate, false) => {
            let limits = OutputLimits { max: entry.max_output_tokens, floor: entry.floor() };
            Ok((prices_of(call, model)?, call.ask, limits))
        }
        (Operation::Embed, true) => Ok((prices_of(call, model)?, without_output, no_limits)),
        (Operation::Generate, true) => {
            Err(Denial::unknown_model(format!("The model `{}` makes embeddings only.", model.id)))
        }
        (Operation::Embed, false) => {
            Err(Denial::unknown_model(format!("The model `{}` makes no embeddings.", model.id)))
        }
    }
}

fn prices_of(call: &Call, model: &Model) -> Result<CallPrices, Denial> {
    let options = call.options.iter().map(String::as_str);
    let prices = model.entry.prices.of_call(&model.entry.service_tiers, &model.entry.options, options);
    prices.map_err(|error| {
        let option = printable(&error.0);
        Denial::unknown_model(format!("The option `{option}` has no price for the model `{}`.", model.id))
    })
}

/// Returns a text of the proxy, safe to show.
fn printable(text: &str) -> String {
    text.chars().take(64).map(|c| if c.is_control() { '?' } else { c }).collect()
}

pub(super) fn check_name(name: &str) -> Result<(), LedgerError> {
    if name.is_empty() || name.len() > MAX_NAME_LEN { Err(LedgerError::InvalidName) } else { Ok(()) }
}

pub(super) fn unavailable(problem: rigbox_store::Error) -> LedgerError {
    error!(%problem, "the AI ledger's database failed");
    LedgerError::Unavailable
}

impl LedgerWriter {
    /// Writes steps, settles lost calls, and deletes old records, for as long as it is polled.
    pub async fn run(self) {
        let (store, retention) = (self.store.clone(), self.retention);
        let (_stop, stopped) = oneshot::channel();
        let runtime = Handle::current();
        // A thread of its own, which waits for the disk: to hand each write to another one and back would take longer than most of them do.
        let writing = spawn_blocking(move || runtime.block_on(self.write_steps(stopped)));
        tokio::select! {
            written = writing => if let Err(Ok(panic)) = written.map_err(JoinError::try_into_panic) {
                resume_unwind(panic);
            },
            () = delete_old(&store, retention) => {}
        }
    }

    /// Writes steps and settles lost calls until `stopped` resolves.
    async fn write_steps(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut expiry = tokio::time::interval(EXPIRY_INTERVAL);
        let mut batch = Vec::with_capacity(BATCH_LEN);
        loop {
            tokio::select! {
                biased;
                _ = &mut stopped => return,
                _ = expiry.tick() => self.expire(),
                received = self.queue.recv_many(&mut batch, BATCH_LEN) => {
                    if received == 0 {
                        return;
                    }
                    self.gather(&mut batch).await;
                    self.write(&mut batch);
                }
            }
        }
    }

    /// Adds to a batch of settlements what comes until there is a reservation, or until they have waited long enough.
    async fn gather(&mut self, batch: &mut Vec<Waiting>) {
        let until = Instant::now() + SETTLEMENT_DELAY;
        let is_settlement = |waiting: &Waiting| matches!(waiting.step, AiStep::Settle(_));
        while batch.len() < BATCH_LEN && batch.iter().all(is_settlement) {
            let more = self.queue.recv_many(batch, BATCH_LEN - batch.len());
            if !matches!(timeout_at(until, more).await, Ok(1..)) {
                return;
            }
        }
    }

    /// Writes a batch and tells each its outcome. If that fails, each step is written alone, so that none fails for another one.
    fn write(&self, batch: &mut Vec<Waiting>) {
        let (steps, outcomes): (Vec<_>, Vec<_>) =
            batch.drain(..).map(|waiting| (waiting.step, waiting.outcome)).unzip();
        if steps.len() > 1
            && let Ok(written) = self.try_write(&steps)
        {
            for (outcome, written) in outcomes.into_iter().zip(written) {
                // A caller that is gone settles the call, or its run ends.
                let _ = outcome.send(Ok(written));
            }
            return;
        }
        for (step, outcome) in steps.into_iter().zip(outcomes) {
            let written = self.try_write(std::slice::from_ref(&step));
            let written = written.and_then(|mut written| written.pop().ok_or(LedgerError::Unavailable));
            let _ = outcome.send(written);
        }
    }

    fn try_write(&self, steps: &[AiStep]) -> Result<Vec<AiOutcome>, LedgerError> {
        self.store.write_ai_steps(steps, &self.terms, self.store.now()).map_err(unavailable)
    }

    fn expire(&self) {
        let now = self.store.now();
        match self.store.expire_ai_calls(clock::earlier(now, CALL_TIMEOUT), now) {
            Ok(0) => {}
            Ok(calls) => info!(calls, "settled AI calls at their bound that were never settled"),
            Err(problem) => warn!(%problem, "failed to look for AI calls that were never settled"),
        }
    }
}

/// Deletes records of calls that are older than `retention`, for as long as it is polled.
async fn delete_old(store: &Store, retention: Duration) {
    let mut interval = tokio::time::interval(CLEANUP_INTERVAL);
    loop {
        interval.tick().await;
        let before = clock::earlier(store.now(), retention);
        loop {
            match store.delete_ai_calls(before, DELETE_BATCH_LEN).await {
                Ok(0) => break,
                Ok(calls) => info!(calls, "deleted old records of AI calls"),
                Err(problem) => {
                    warn!(%problem, "failed to delete old records of AI calls");
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
