//! The ledger with a real database: many callers at once, crashes of the proxy and of control, and sums that add up.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rigbox_core::ai::prices::Usage;
use rigbox_core::ids::{NodeId, UserId};
use rigbox_core::lifecycle::Lifecycle;
use rigbox_core::resources::Resources;
use rigbox_core::time::Timestamp;
use rigbox_store::tokens::{ApiKey, TokenKey};
use rigbox_store::{AiDay, AiEnding, AuditEvent, EnvironmentNames, NewKey, Quota, Workspace};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;
use crate::ai::DenialReason;
use crate::ai::models::{PriceFiles, Upstream};

const QUOTA: Quota = Quota { max_vms: 100, max_ram_total_mb: 1_000_000, max_disk_total_mb: 1_000_000 };
/// Credits of the user, and the budget of each workspace, in dollars.
const CREDITS: u32 = 3;
const WORKSPACE_BUDGET: u32 = 1;

/// Database with workspaces of one user.
struct Installation {
    folder: TempDir,
    user: UserId,
    workspaces: Vec<WorkspaceId>,
}

/// Ledger of a process of control, which ends when it is dropped.
struct Process {
    ledger: Ledger,
    store: Store,
    writer: tokio::task::JoinHandle<()>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

fn token_key(folder: &Path) -> TokenKey {
    TokenKey::load_or_create(&folder.join("token.key")).unwrap()
}

fn workspace(user: &UserId, number: u8) -> Workspace {
    let now = Timestamp::from_unix_ms(1_000);
    Workspace {
        id: WorkspaceId::from_random([number; 5]),
        user_id: user.clone(),
        node_id: NodeId::from_random([1; 5]),
        name: format!("w{number}").parse().unwrap(),
        template_id: "base".to_owned(),
        image: "base".to_owned(),
        resources: Resources::new(512, 1, 4_096).unwrap(),
        revision: 0,
        lifecycle: Lifecycle::created(now),
        environment: EnvironmentNames::default(),
        created_at: now,
        updated_at: now,
    }
}

impl Installation {
    async fn new(workspaces: u8) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let token_key = token_key(folder.path());
        let store = Store::open(&folder.path().join("rigbox.db"), &token_key).await.unwrap();
        let key = NewKey::of(&ApiKey::mint().unwrap(), "first", &token_key);
        let user = store.create_first_user("a@example.com", &key, store.now()).await.unwrap();
        let event = AuditEvent::by_operator(&user, "test", "");
        let mut ids = Vec::new();
        for number in 1..=workspaces {
            let made = workspace(&user, number);
            store.create_workspace(&made, QUOTA, None, &event).await.unwrap();
            ids.push(made.id);
        }
        let credits = Money::from_dollars(CREDITS);
        store.grant_ai_credits(&user, credits, false, &Plans::default(), store.now()).await.unwrap();
        store.close().await;
        Self { folder, user, workspaces: ids }
    }

    async fn start(&self) -> Process {
        let (ledger, writer, store) = self.open().await;
        Process { ledger, store, writer: tokio::spawn(writer.run()) }
    }

    /// Opens the ledger without its writer.
    async fn open(&self) -> (Ledger, LedgerWriter, Store) {
        let path = self.folder.path().join("rigbox.db");
        let store = Store::open(&path, &token_key(self.folder.path())).await.unwrap();
        let upstream = Upstream {
            name: "anthropic".to_owned(),
            provider: Provider::Anthropic,
            base_url: "http://127.0.0.1:1".to_owned(),
            stops_billing_on_abort: false,
        };
        let models = Models::new(vec![upstream], PriceFiles::default());
        let budgets = DefaultBudgets { user: None, workspace: Some(Money::from_dollars(WORKSPACE_BUDGET)) };
        let (ledger, writer) = Ledger::new(store.clone(), models, Plans::default(), budgets, Duration::MAX);
        (ledger, writer, store)
    }
}

impl Process {
    /// Returns granted, spent and reserved.
    async fn account(&self, user: &UserId) -> (Money, Money, Money) {
        let credits = self.store.ai_credits(user, &Plans::default(), self.store.now()).await;
        let account = credits.unwrap().unwrap().account;
        (account.granted, account.spent, account.reserved)
    }
}

fn call(id: &str, run: &str, workspace: &WorkspaceId) -> Call {
    Call {
        id: id.to_owned(),
        run: run.to_owned(),
        workspace: workspace.clone(),
        provider: Provider::Anthropic,
        operation: Operation::Generate,
        model: "claude-opus-4-6".to_owned(),
        ask: Ask { input_tokens: 1_000, output_tokens: Some(1_000), candidates: 1, thinking_tokens: None },
        fetches_urls: false,
        options: Vec::new(),
    }
}

fn settlement(id: &str, output: u64) -> AiSettlement {
    AiSettlement {
        id: id.to_owned(),
        usage: Usage { input: 900, output, ..Usage::default() },
        estimated: false,
        at_bound: false,
        status: 200,
        ending: AiEnding::Completed,
        key: None,
        provider_request_id: None,
        duration_ms: 1,
        told_cost: None,
    }
}

/// Small generator of numbers, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Calls of one task: some settled, some repeated, some left open. Returns the number of steps and the cost of what it has settled.
async fn work(
    ledger: Ledger,
    run: String,
    workspace: WorkspaceId,
    seed: u64,
    calls: u64,
) -> (u64, BTreeMap<String, Money>) {
    let mut random = Random(seed);
    let (mut steps, mut costs) = (0, BTreeMap::new());
    for number in 0..calls {
        let id = format!("{run}-{seed}-{number}");
        let mut call = call(&id, &run, &workspace);
        call.ask.output_tokens = Some(random.below(3_000));
        steps += 1;
        let grant = match ledger.reserve(call.clone()).await {
            Ok(grant) => grant,
            Err(LedgerError::Denied(_) | LedgerError::OtherRun | LedgerError::Unavailable) => continue,
            Err(other) => panic!("{other}"),
        };
        if random.below(5) == 0 {
            steps += 1;
            if let Ok(again) = ledger.reserve(call).await {
                assert_eq!(again, grant);
            }
        }
        let used = match random.below(10) {
            // The proxy has lost it.
            0 => continue,
            // A provider that counts more than it was allowed.
            1 => grant.output_tokens + 5_000,
            _ => random.below(grant.output_tokens + 1),
        };
        for _ in 0..=random.below(2) {
            steps += 1;
            if let Ok(cost) = ledger.settle(settlement(&id, used)).await {
                assert!(cost <= grant.reserved);
                // A repetition does not change it.
                assert_eq!(*costs.entry(id.clone()).or_insert(cost), cost);
            }
        }
    }
    (steps, costs)
}

#[tokio::test]
async fn settlements_wait_for_the_next_reservation_and_reservations_for_nothing() {
    let installation = Installation::new(1).await;
    let (ledger, mut writer, _store) = installation.open().await;
    let waiting = |step| Waiting { step, outcome: oneshot::channel().0 };
    let settle = || waiting(AiStep::Settle(Box::new(settlement("a", 1))));
    let reserve = || {
        let call = ledger.price(call("b", "run", &installation.workspaces[0])).unwrap();
        waiting(AiStep::Reserve(Box::new(call)))
    };
    let mut alone = vec![settle()];
    writer.gather(&mut alone).await;
    assert_eq!(alone.len(), 1, "after a while it is written alone");

    let mut reservation = vec![reserve()];
    ledger.queue.send(settle()).await.ok().unwrap();
    writer.gather(&mut reservation).await;
    assert_eq!(reservation.len(), 1, "it is written at once");

    let mut joined = vec![settle()];
    ledger.queue.send(reserve()).await.ok().unwrap();
    ledger.queue.send(settle()).await.ok().unwrap();
    writer.gather(&mut joined).await;
    assert_eq!(joined.len(), 4, "one more had waited since before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_bound_is_exceeded_at_any_moment_and_records_add_up() {
    let installation = Installation::new(5).await;
    let steps = Arc::new(AtomicU64::new(0));
    let mut known = BTreeMap::new();
    for round in 0..4 {
        let process = installation.start().await;
        let run = format!("run-{round}");
        process.ledger.begin_run(&run).await.unwrap();
        let (granted, spent, reserved) = process.account(&installation.user).await;
        assert_eq!(reserved, Money::ZERO, "what the last run left open is settled");
        assert!(spent <= granted);
        let mut tasks = JoinSet::new();
        for seed in 0..25 {
            let workspace = installation.workspaces[usize::try_from(seed).unwrap() % 5].clone();
            tasks.spawn(work(process.ledger.clone(), run.clone(), workspace, seed, 25));
        }
        let watched = async {
            loop {
                let (granted, spent, reserved) = process.account(&installation.user).await;
                assert!(spent.plus(reserved) <= granted, "{spent} + {reserved} > {granted}");
                tokio::task::yield_now().await;
            }
        };
        let worked = async {
            while let Some(done) = tasks.join_next().await {
                let (count, costs) = done.unwrap();
                steps.fetch_add(count, Ordering::Relaxed);
                known.extend(costs);
                // In the middle of the third round control is killed.
                if round == 2 && steps.load(Ordering::Relaxed) > 2_500 {
                    process.writer.abort();
                }
            }
        };
        tokio::select! {
            () = watched => {}
            () = worked => {}
        }
        process.store.close().await;
    }
    let process = installation.start().await;
    process.ledger.begin_run("last").await.unwrap();
    let (granted, spent, reserved) = process.account(&installation.user).await;
    assert_eq!((granted, reserved), (Money::from_dollars(CREDITS), Money::ZERO));
    let days: Vec<AiDay> = process.store.ai_days(&installation.user, 0).await.unwrap();
    let recorded = days.iter().fold(Money::ZERO, |sum, day| sum.plus(day.sums.cost));
    assert_eq!(recorded, spent, "the records are the account");
    let of_workspaces = process.store.ai_workspace_sums(&installation.user, 0).await.unwrap();
    for workspace in &of_workspaces {
        assert!(workspace.sums.cost <= Money::from_dollars(WORKSPACE_BUDGET), "{workspace:?}");
    }
    let told = known.values().fold(Money::ZERO, |sum, cost| sum.plus(*cost));
    assert!(told <= spent && told > Money::ZERO, "what was told is part of the account");
    assert!(steps.load(Ordering::Relaxed) > 2_500, "{steps:?} steps");
    assert!(
        of_workspaces.len() == 5 && spent.plus(Money::from_dollars(1)) > granted,
        "the bounds were reached"
    );
}

#[tokio::test]
async fn waiting_reservations_of_one_workspace_leave_room_for_others() {
    let installation = Installation::new(2).await;
    let (ledger, writer, _) = installation.open().await;
    ledger.begin_run("run").await.unwrap();
    let [one, other] = &installation.workspaces[..] else { panic!("two workspaces") };
    let reserve = |id: usize, workspace| Box::pin(ledger.reserve(call(&id.to_string(), "run", workspace)));
    let mut waiting: Vec<_> = (0..WAITING.per_key).map(|id| reserve(id, one)).collect();
    for call in &mut waiting {
        assert!(futures_util::poll!(call).is_pending());
    }
    let denied = reserve(1_000, one).await;
    let is_share =
        matches!(&denied, Err(LedgerError::Denied(denial)) if denial.reason == DenialReason::TooManyCalls);
    assert!(is_share, "{denied:?}");
    let mut of_other = reserve(1_001, other);
    assert!(futures_util::poll!(&mut of_other).is_pending());
    let writer = tokio::spawn(writer.run());
    of_other.await.unwrap();
    waiting.remove(0).await.unwrap();
    writer.abort();
}

#[tokio::test]
async fn nothing_is_written_once_the_writer_is_dropped() {
    let installation = Installation::new(1).await;
    let mut process = installation.start().await;
    process.ledger.begin_run("run").await.unwrap();
    let reserve = async |id| process.ledger.reserve(call(id, "run", &installation.workspaces[0])).await;
    reserve("a").await.unwrap();
    process.writer.abort();
    assert!((&mut process.writer).await.unwrap_err().is_cancelled());
    assert!(matches!(reserve("b").await, Err(LedgerError::Unavailable)));
}

#[tokio::test]
async fn call_without_a_price_is_refused_by_name() {
    let installation = Installation::new(1).await;
    let process = installation.start().await;
    process.ledger.begin_run("run").await.unwrap();
    let refusal = async |change: fn(&mut Call)| {
        let mut call = call("id", "run", &installation.workspaces[0]);
        change(&mut call);
        match process.ledger.reserve(call).await {
            Err(LedgerError::Denied(denial)) => (denial.reason, denial.text),
            other => panic!("{other:?}"),
        }
    };
    let (reason, text) = refusal(|call| call.model = "claude-opus-4-6:free".to_owned()).await;
    assert_eq!(reason, DenialReason::UnknownModel);
    assert!(text.contains("claude-opus-4-6:free"), "{text}");
    let (_, text) = refusal(|call| call.options = vec!["fast".to_owned()]).await;
    assert!(text.contains("`fast` has no price for the model `claude-opus-4-6`"), "{text}");
    let (_, text) = refusal(|call| call.operation = Operation::Embed).await;
    assert!(text.contains("no embeddings"), "{text}");
    let (reason, text) = refusal(|call| call.ask.input_tokens = 200_000_000).await;
    assert_eq!(reason, DenialReason::InsufficientCredits);
    assert!(text.contains("$1.00 is left"), "{text}");
}

#[tokio::test]
async fn counting_tokens_costs_nothing_and_leaves_a_record() {
    let installation = Installation::new(1).await;
    let process = installation.start().await;
    process.ledger.begin_run("run").await.unwrap();
    let mut count = call("count", "run", &installation.workspaces[0]);
    (count.operation, count.ask.input_tokens) = (Operation::Count, u64::MAX);
    let grant = process.ledger.reserve(count).await.unwrap();
    assert_eq!((grant.reserved, grant.output_tokens), (Money::ZERO, 0));
    assert_eq!(process.ledger.settle(settlement("count", 0)).await.unwrap(), Money::ZERO);
    let days = process.store.ai_days(&installation.user, 0).await.unwrap();
    assert_eq!(days.iter().map(|day| day.sums.requests).sum::<u64>(), 1);
}

#[tokio::test]
async fn models_are_listed_as_far_as_they_are_allowed() {
    let installation = Installation::new(1).await;
    let process = installation.start().await;
    let (workspace, user) = (&installation.workspaces[0], &installation.user);
    let listed = async |provider| process.ledger.models_of(workspace, provider).await.unwrap();
    assert!(listed(Provider::Anthropic).await.contains(&"claude-opus-4-6".to_owned()));
    assert!(listed(Provider::OpenAi).await.is_empty(), "no upstream");
    let subject = rigbox_store::AiSubject::User(user.clone());
    let allowed = ["claude-opus-4-6".to_owned(), "gpt-5.4".to_owned()];
    process.store.set_ai_models(&subject, &allowed, process.store.now()).await.unwrap();
    assert_eq!(listed(Provider::Anthropic).await, ["claude-opus-4-6"]);
}
