//! Queue of boots. Boots that share too few CPUs all miss their deadline, after a restart of the host for example, so a node boots few VMs
//! at once. Who has to wait asks again when the queue has changed and from time to time, and loses its place by not asking. Owners take
//! turns, by start-time fair queueing (Goyal, Vin and Cheng, 1996): one with many workspaces delays another's by one boot.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rigbox_core::ids::WorkspaceId;
use tokio::sync::watch;
use tokio::time::Instant;

/// Time without asking after which a place in the queue is lost. Who waits asks every second.
const MAX_SILENCE: Duration = Duration::from_secs(5);

/// Boots in progress and those that wait.
#[derive(Debug)]
pub struct BootQueue {
    max_boots: NonZeroUsize,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Notified when a boot has ended or a place was given up.
    changes: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    booting: BTreeSet<WorkspaceId>,
    /// In the order of arrival. Each workspace is in it once.
    waiting: Vec<Waiting>,
    /// Round of the latest boot. An owner has one boot in each round.
    round: u64,
    /// Last round that each owner has taken, while it is not over.
    taken: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Waiting {
    workspace: WorkspaceId,
    round: u64,
    asked_at: Instant,
}

/// Boot in progress, until dropped.
#[derive(Debug)]
pub(crate) struct BootPermit {
    workspace: WorkspaceId,
    shared: Arc<Shared>,
}

impl BootQueue {
    /// Creates a queue of which `max_boots` are admitted at once.
    pub fn new(max_boots: NonZeroUsize) -> Self {
        let shared = Shared { state: Mutex::default(), changes: watch::Sender::new(()) };
        Self { max_boots, shared: Arc::new(shared) }
    }

    /// Returns a receiver of changes that may shorten someone's wait.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.shared.changes.subscribe()
    }

    /// Asks to boot a workspace now. If it has to wait, returns how many boots have to end before its turn.
    pub(crate) fn ask(&self, workspace: &WorkspaceId, owner: &str, now: Instant) -> Result<BootPermit, u32> {
        let mut state = self.shared.lock();
        match state.waiting.iter_mut().find(|waiting| waiting.workspace == *workspace) {
            Some(waiting) => waiting.asked_at = now,
            None => {
                let round = state.take_round(owner);
                state.waiting.push(Waiting { workspace: workspace.clone(), round, asked_at: now });
            }
        }
        state.waiting.retain(|waiting| now.duration_since(waiting.asked_at) < MAX_SILENCE);
        let free = self.max_boots.get().saturating_sub(state.booting.len());
        let (turn, round) = state.turn_of(workspace);
        if turn >= free {
            return Err(u32::try_from(turn - free + 1).unwrap_or(u32::MAX));
        }
        state.begin_round(round);
        drop(state);
        Ok(self.admit(workspace))
    }

    /// Counts a boot without asking: it is in progress already.
    pub(crate) fn admit(&self, workspace: &WorkspaceId) -> BootPermit {
        let mut state = self.shared.lock();
        state.remove(workspace);
        state.booting.insert(workspace.clone());
        BootPermit { workspace: workspace.clone(), shared: Arc::clone(&self.shared) }
    }

    /// Gives up a workspace's place in the queue.
    pub(crate) fn leave(&self, workspace: &WorkspaceId) {
        if self.shared.lock().remove(workspace) {
            self.shared.changes.send_replace(());
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Removes a workspace from those that wait. Returns whether it was one of them.
    fn remove(&mut self, workspace: &WorkspaceId) -> bool {
        let count = self.waiting.len();
        self.waiting.retain(|waiting| waiting.workspace != *workspace);
        self.waiting.len() < count
    }

    /// Takes the owner's next round.
    fn take_round(&mut self, owner: &str) -> u64 {
        let next = self.taken.get(owner).map_or(self.round, |taken| self.round.max(taken.saturating_add(1)));
        self.taken.insert(owner.to_owned(), next);
        next
    }

    /// Begins a round, if it has not begun. Who has taken no later one is as good as new.
    fn begin_round(&mut self, round: u64) {
        self.round = self.round.max(round);
        self.taken.retain(|_, taken| *taken >= self.round);
    }

    /// Returns how many of those that wait come before this one, and its round.
    fn turn_of(&self, workspace: &WorkspaceId) -> (usize, u64) {
        let mut order: Vec<&Waiting> = self.waiting.iter().collect();
        // Stable: within a round, who came first.
        order.sort_by_key(|waiting| waiting.round);
        let turn = order.iter().position(|waiting| waiting.workspace == *workspace);
        turn.and_then(|turn| Some((turn, order.get(turn)?.round))).unwrap_or((order.len(), self.round))
    }
}

impl Drop for BootPermit {
    fn drop(&mut self) {
        self.shared.lock().booting.remove(&self.workspace);
        self.shared.changes.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> WorkspaceId {
        WorkspaceId::from_random([number; 5])
    }

    fn queue(max_boots: usize) -> (BootQueue, impl Fn(u64) -> Instant) {
        let begin = Instant::now();
        (BootQueue::new(max_boots.try_into().unwrap()), move |s| begin + Duration::from_secs(s))
    }

    #[test]
    fn boots_begin_in_the_order_of_arrival() {
        let (queue, at) = queue(2);
        let ask = |number, s| queue.ask(&id(number), "anna", at(s));
        let (first, second) = (ask(1, 0).unwrap(), ask(2, 0).unwrap());
        assert_eq!(ask(3, 0).unwrap_err(), 1);
        assert_eq!(ask(4, 0).unwrap_err(), 2);
        drop(first);
        // The place is kept for the one that came first.
        assert_eq!(ask(4, 1).unwrap_err(), 1);
        let third = ask(3, 1).unwrap();
        drop((second, third));
        ask(4, 2).unwrap();
    }

    #[test]
    fn who_stops_asking_or_gives_up_delays_no_one() {
        let (queue, at) = queue(1);
        let ask = |number, s| queue.ask(&id(number), "anna", at(s));
        let first = ask(1, 0).unwrap();
        assert_eq!(ask(2, 0).unwrap_err(), 1);
        assert_eq!(ask(3, 3).unwrap_err(), 2);
        assert_eq!(ask(3, 6).unwrap_err(), 1, "2 has not asked for 6 s");
        assert_eq!(ask(4, 6).unwrap_err(), 2);
        queue.leave(&id(3));
        assert_eq!(ask(4, 7).unwrap_err(), 1);
        drop(first);
        ask(4, 7).unwrap();
    }

    #[test]
    fn owners_take_turns() {
        let (queue, at) = queue(1);
        let ask = |number, owner| queue.ask(&id(number), owner, at(0));
        let first = ask(1, "anna").unwrap();
        for (number, turn) in [(2, 1), (3, 2), (4, 3)] {
            assert_eq!(ask(number, "anna").unwrap_err(), turn);
        }
        assert_eq!(ask(5, "ben").unwrap_err(), 1, "it has no boot yet");
        assert_eq!(ask(6, "ben").unwrap_err(), 3, "after one more of each");
        assert_eq!(ask(2, "anna").unwrap_err(), 2);
        drop(first);
        assert!(ask(2, "anna").is_err());
        drop(ask(5, "ben").unwrap());
        assert!(ask(6, "ben").is_err());
        drop(ask(2, "anna").unwrap());
        drop(ask(6, "ben").unwrap());
        // Having waited gives no claim to more than one boot a round.
        assert_eq!(ask(7, "ben").unwrap_err(), 1);
        drop(ask(3, "anna").unwrap());
        ask(7, "ben").unwrap();
    }

    #[test]
    fn boot_that_was_taken_over_counts() {
        let (queue, at) = queue(1);
        let taken_over = queue.admit(&id(1));
        assert_eq!(queue.ask(&id(2), "anna", at(0)).unwrap_err(), 1);
        drop(taken_over);
        queue.ask(&id(2), "anna", at(0)).unwrap();
    }
}
