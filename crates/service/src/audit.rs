//! Audit log of an account, read by its owner. Changes are recorded in the transaction that makes them, by the services that act; what
//! happens inside a workspace, and what was refused, is recorded beside it by the [`AuditRecorder`].

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use rigbox_core::authz::{Permit, Principal, ReadAudit};
use rigbox_core::ids::{UserId, WorkspaceId};
use rigbox_core::time::Timestamp;
use rigbox_store::{AuditEntry, AuditEvent, Store};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{error, info, warn};

use crate::clock;
use crate::error::ServiceError;

/// Entries that wait to be written.
const QUEUE_LEN: usize = 4096;
/// Entries written in one transaction.
const BATCH_LEN: usize = 256;
/// Interval at which entries beyond a user's rate are recorded as a number, and old ones are deleted.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(60);
/// Entries of a user a minute, after a burst: 20 add up to some gigabytes a year at most.
const ACTIVITY: Quota = quota(20, 1_000);
/// Refusals of a user a minute, after a burst.
const REFUSALS: Quota = quota(2, 20);
/// Kinds of entries that are counted at once; more are counted without their action.
const MAX_SUMMARIES: usize = 10_000;
/// Maximum length of a text from a client in a target.
const MAX_DETAIL_CHARS: usize = 128;
/// Old entries deleted at once.
const DELETE_BATCH_LEN: u32 = 1_000;

const fn quota(per_minute: u32, burst: u32) -> Quota {
    match (NonZeroU32::new(per_minute), NonZeroU32::new(burst)) {
        (Some(per_minute), Some(burst)) => Quota::per_minute(per_minute).allow_burst(burst),
        _ => Quota::per_minute(NonZeroU32::MIN),
    }
}

/// Service for the audit log.
#[derive(Clone)]
pub struct Audit {
    store: Store,
}

impl Audit {
    /// Creates the service.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Returns entries before `before`, newest first.
    pub async fn list(
        &self,
        permit: &Permit<ReadAudit>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, ServiceError> {
        Ok(self.store.audit_of(&permit.principal().user, before, limit).await?)
    }
}

/// Entry on its way to the log.
struct Pending {
    principal: Principal,
    action: String,
    target: String,
    at: Timestamp,
    is_refusal: bool,
}

/// Recorder of what happens inside workspaces and of refused attempts. It makes no caller wait, and a caller adds only so many entries: what
/// is beyond its rate is recorded as a number.
#[derive(Clone)]
pub struct AuditRecorder(Arc<Recorder>);

struct Recorder {
    queue: mpsc::Sender<Pending>,
    /// Entries that found the queue full.
    lost: AtomicU64,
}

/// Entries on their way to the log, for [`AuditWriter::run`].
pub struct AuditWriter {
    store: Store,
    queue: mpsc::Receiver<Pending>,
    recorder: AuditRecorder,
    activity: DefaultKeyedRateLimiter<UserId>,
    refusals: DefaultKeyedRateLimiter<UserId>,
    /// Entries beyond the rate since the last summary, by user, credential and action, with a principal of each kind.
    summaries: HashMap<(UserId, String, String), (Principal, u64)>,
    retention: Duration,
}

/// Use of a workspace, recorded at its start and, when dropped, at its end.
pub struct AuditedUse {
    recorder: AuditRecorder,
    principal: Principal,
    action: &'static str,
    target: String,
}

impl AuditRecorder {
    /// Creates a recorder and its writer, which keeps entries for `retention`.
    pub fn new(store: Store, retention: Duration) -> (Self, AuditWriter) {
        #[expect(
            clippy::disallowed_methods,
            reason = "bound: audit entries to write; each user has a rate before, and the rest are counted"
        )]
        let (sender, queue) = mpsc::channel(QUEUE_LEN);
        let recorder = Self(Arc::new(Recorder { queue: sender, lost: AtomicU64::new(0) }));
        let writer = AuditWriter {
            store,
            queue,
            recorder: recorder.clone(),
            activity: RateLimiter::keyed(ACTIVITY),
            refusals: RateLimiter::keyed(REFUSALS),
            summaries: HashMap::new(),
            retention,
        };
        (recorder, writer)
    }

    /// Records `action` in a workspace. Of `detail`, a text from the client, only the beginning is kept.
    pub fn record(&self, principal: &Principal, action: &str, workspace: &WorkspaceId, detail: &str) {
        self.send(principal, action.to_owned(), target_of(workspace, detail), false);
    }

    /// Records the start of a use, e.g. `exec` as `exec.open`, and returns what records its end.
    #[must_use]
    pub fn open(
        &self,
        principal: &Principal,
        action: &'static str,
        workspace: &WorkspaceId,
        detail: &str,
    ) -> AuditedUse {
        let target = target_of(workspace, detail);
        self.send(principal, format!("{action}.open"), target.clone(), false);
        AuditedUse { recorder: self.clone(), principal: principal.clone(), action, target }
    }

    /// Records that `action` on `target`, a text from the client, was refused.
    pub fn refused(&self, principal: &Principal, action: &str, target: &str) {
        self.send(principal, format!("{action}.refused"), printable(target), true);
    }

    fn send(&self, principal: &Principal, action: String, target: String, is_refusal: bool) {
        let entry = Pending { principal: principal.clone(), action, target, at: clock::now(), is_refusal };
        if self.0.queue.try_send(entry).is_err() {
            self.0.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for AuditedUse {
    fn drop(&mut self) {
        let target = std::mem::take(&mut self.target);
        self.recorder.send(&self.principal, format!("{}.close", self.action), target, false);
    }
}

impl AuditWriter {
    /// Writes entries, and deletes old ones, for as long as it is polled.
    pub async fn run(mut self) {
        let mut summary = tokio::time::interval_at(Instant::now() + SUMMARY_INTERVAL, SUMMARY_INTERVAL);
        summary.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH_LEN);
        self.delete_old().await;
        loop {
            tokio::select! {
                received = self.queue.recv_many(&mut batch, BATCH_LEN) => {
                    if received == 0 {
                        return;
                    }
                    let events = batch.drain(..).filter_map(|entry| self.admit(entry)).collect::<Vec<_>>();
                    self.write(&events).await;
                }
                _ = summary.tick() => {
                    let events = self.summarize();
                    self.write(&events).await;
                    self.delete_old().await;
                }
            }
        }
    }

    /// Returns the event of an entry within its user's rate, or counts it.
    fn admit(&mut self, entry: Pending) -> Option<(AuditEvent, Timestamp)> {
        let Pending { principal, action, target, at, is_refusal } = entry;
        let limiter = if is_refusal { &self.refusals } else { &self.activity };
        if limiter.check_key(&principal.user).is_ok() {
            return Some((AuditEvent::by(&principal, action, target), at));
        }
        let action = if self.summaries.len() < MAX_SUMMARIES { action } else { "activity".to_owned() };
        let key = (principal.user.clone(), principal.credential.to_string(), action);
        self.summaries.entry(key).or_insert((principal, 0)).1 += 1;
        None
    }

    /// Returns an event for each kind of entries that were only counted.
    fn summarize(&mut self) -> Vec<(AuditEvent, Timestamp)> {
        let now = clock::now();
        for limiter in [&self.activity, &self.refusals] {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
        let lost = self.recorder.0.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            error!(entries = lost, "lost entries of the audit log, because the database is too slow");
        }
        let events = std::mem::take(&mut self.summaries).into_iter();
        let event = |((_, _, action), (principal, count)): ((_, _, String), (Principal, u64))| {
            (AuditEvent::by(&principal, action, format!("{count} more")), now)
        };
        events.map(event).collect()
    }

    async fn write(&self, events: &[(AuditEvent, Timestamp)]) {
        for batch in events.chunks(BATCH_LEN) {
            if let Err(error) = self.store.add_audit_events(batch).await {
                error!(%error, entries = batch.len(), "failed to write to the audit log");
            }
        }
    }

    /// Deletes entries that are older than the retention, a bounded number at once.
    async fn delete_old(&self) {
        let before = clock::earlier(clock::now(), self.retention);
        match self.store.delete_audit_before(before, DELETE_BATCH_LEN).await {
            Ok(0) => {}
            Ok(entries) => info!(entries, "deleted old entries of the audit log"),
            Err(error) => warn!(%error, "failed to delete old entries of the audit log"),
        }
    }
}

fn target_of(workspace: &WorkspaceId, detail: &str) -> String {
    match printable(detail) {
        detail if detail.is_empty() => workspace.to_string(),
        detail => format!("{workspace} {detail}"),
    }
}

/// Returns the beginning of a text, without characters that act on terminals.
fn printable(text: &str) -> String {
    let shown = text.chars().take(MAX_DETAIL_CHARS);
    shown.map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

/// Returns the first word of a command line, without the value of an assignment: what follows may be a secret.
pub fn first_word(command: &str) -> &str {
    let word = command.split_whitespace().next().unwrap_or_default();
    word.split_once('=').map_or(word, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use rigbox_core::authz::{Credential, Scope};
    use rigbox_core::ids::KeyId;
    use rigbox_core::plans::{LimitOverrides, Plan};
    use rigbox_store::tokens::TokenKey;

    use super::*;

    fn principal(n: u8) -> Principal {
        Principal {
            user: UserId::from_random([n; 5]),
            plan: Plan::Free,
            limits: LimitOverrides::default(),
            credential: Credential::Key(KeyId::from_random([n; 5])),
            scope: Scope::Account,
            from: None,
        }
    }

    #[test]
    fn only_the_first_word_of_a_command_is_recorded() {
        for (command, word) in [
            ("git clone https://user:secret@example.org", "git"),
            ("  TOKEN=secret curl", "TOKEN"),
            ("PATH=/x;rm", "PATH"),
            ("", ""),
        ] {
            assert_eq!(first_word(command), word);
        }
        assert_eq!(printable("a\u{1b}[2Jb"), "a\u{fffd}[2Jb");
        assert_eq!(printable(&"x".repeat(10_000)).len(), MAX_DETAIL_CHARS);
    }

    #[tokio::test]
    async fn entries_beyond_a_users_rate_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let token_key = TokenKey::load_or_create(&folder.path().join("key")).unwrap();
        let store = Store::open(&folder.path().join("db"), &token_key).await.unwrap();
        let (recorder, mut writer) = AuditRecorder::new(store, Duration::from_secs(60));
        let (busy, other) = (principal(1), principal(2));
        let id = WorkspaceId::from_random([3; 5]);
        for _ in 0..1_500 {
            recorder.record(&busy, "file.write", &id, "/tmp/x");
        }
        for _ in 0..50 {
            recorder.refused(&busy, "workspace.exec", id.as_str());
        }
        recorder.record(&other, "file.write", &id, "/tmp/x");
        let mut events = Vec::new();
        while let Ok(entry) = writer.queue.try_recv() {
            events.extend(writer.admit(entry));
        }
        assert_eq!(events.len(), 1_000 + 20 + 1);
        let mut summaries: Vec<String> =
            writer.summarize().iter().map(|(event, _)| format!("{event:?}")).collect();
        summaries.sort();
        assert_eq!(summaries.len(), 2);
        assert!(summaries.iter().any(|text| text.contains("\"500 more\"")), "{summaries:?}");
        assert!(summaries.iter().any(|text| text.contains("\"30 more\"")), "{summaries:?}");
    }
}
