//! Reservations and settlements of calls. All that wait are written in one transaction, with an outcome for each.

use rigbox_core::time::Timestamp;

use super::reservation::AiTerms;
use super::step::{AiOutcome, AiStep};
use crate::{Error, Store};

impl Store {
    /// Writes steps of calls in their order and in one transaction. Returns the outcome of each. The caller's thread waits for the disk.
    pub fn write_ai_steps<'a>(
        &self,
        steps: &'a [AiStep],
        terms: &AiTerms,
        now: Timestamp,
    ) -> Result<Vec<AiOutcome>, Error> {
        let workspaces = steps.iter().filter_map(AiStep::reserves_for).collect();
        let calls: Vec<_> = steps.iter().map(AiStep::call_id).collect();
        self.in_ai_batch(&workspaces, &calls, now, |batch| {
            let decide = |step: &'a AiStep| match step {
                AiStep::Reserve(call) => Ok(batch.reserve(call, terms)),
                AiStep::Settle(call) => batch.settle(call),
            };
            steps.iter().map(decide).collect()
        })
    }
}
