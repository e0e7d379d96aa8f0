//! Reservations and settlements of calls. All that wait are written in one transaction, with an outcome for each.

use rigbox_core::time::Timestamp;

use super::reservation::AiTerms;
use super::step::{AiOutcome, AiStep};
use crate::{Error, Store};

impl Store {
    /// Writes steps of calls in their order and in one transaction. Returns the outcome of each.
    pub async fn write_ai_steps(
        &self,
        steps: &[AiStep],
        terms: &AiTerms,
        now: Timestamp,
    ) -> Result<Vec<AiOutcome>, Error> {
        let workspaces = steps.iter().filter_map(AiStep::reserves_for).collect();
        let calls = steps.iter().map(AiStep::call_id).collect();
        let (tx, mut batch) = self.begin_ai_batch(workspaces, calls, now).await?;
        let mut outcomes = Vec::with_capacity(steps.len());
        for step in steps {
            outcomes.push(match step {
                AiStep::Reserve(call) => batch.reserve(call, terms),
                AiStep::Settle(call) => batch.settle(call)?,
            });
        }
        self.commit_ai_batch(tx, batch).await?;
        Ok(outcomes)
    }
}
