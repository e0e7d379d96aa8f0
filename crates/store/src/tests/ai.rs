//! AI ledger: a call is reserved within every bound and settled once, and records add up to accounts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rigbox_core::ai::mode::AiMode;
use rigbox_core::ai::money::Money;
use rigbox_core::ai::prices::{CallPrices, Prices, Rates, Usage};
use rigbox_core::ai::reservation::{Ask, Grant, OutputLimits};
use rigbox_core::plans::{LimitOverrides, Plans};

use super::*;

/// Terms without credits of a plan.
fn terms() -> AiTerms {
    AiTerms { plans: Plans::default(), user_budget: None, workspace_budget: None, max_open_calls: 3 }
}

fn money(micro: u64) -> Money {
    Money::from_micro(micro)
}

/// Call of a model with a millionth of a dollar for each token. It asks for 100 tokens of output.
fn call(id: &str, workspace: &WorkspaceId) -> AiReservation {
    let rate = 1_000_000;
    let rates =
        Rates { input: rate, cache_read: rate, cache_write_5m: rate, cache_write_1h: rate, output: rate };
    AiReservation {
        id: id.to_owned(),
        run: "run".to_owned(),
        workspace: workspace.clone(),
        provider: "anthropic",
        upstream: "anthropic".to_owned(),
        operation: "generate",
        model: "model".to_owned(),
        prices: CallPrices::recorded(Prices { rates, tiers: Vec::new() }),
        ask: Ask { input_tokens: 0, output_tokens: Some(100), candidates: 1, thinking_tokens: None },
        limits: OutputLimits { max: 1_000, floor: 1_000 },
        fetches_urls: false,
    }
}

fn settlement(id: &str, output: u64) -> AiSettlement {
    AiSettlement {
        id: id.to_owned(),
        usage: Usage { output, ..Usage::default() },
        estimated: false,
        at_bound: false,
        status: 200,
        ending: AiEnding::Completed,
        key: None,
        provider_request_id: Some("req".to_owned()),
        duration_ms: 5,
        told_cost: None,
    }
}

fn granted(micro: u64) -> AiOutcome {
    AiOutcome::Reserved(Grant { reserved: money(micro), output_tokens: micro, lowered: false })
}

/// Installation with a workspace whose owner has credits, and a run of the proxy.
struct Ledger {
    fixture: Fixture,
    workspace: WorkspaceId,
    terms: AiTerms,
}

impl Ledger {
    async fn new(credits: u64) -> Self {
        let fixture = fixture().await;
        let made = new(&fixture.user, 1, "one");
        fixture.store.create_workspace(&made, QUOTA, None, &event()).await.unwrap();
        let ledger = Self { fixture, workspace: made.id, terms: terms() };
        ledger.grant(credits).await;
        ledger.store().begin_ai_run("run", now()).unwrap();
        ledger
    }

    fn store(&self) -> &Store {
        &self.fixture.store
    }

    async fn grant(&self, micro: u64) {
        let plans = &self.terms.plans;
        self.store()
            .grant_ai_credits(&self.fixture.user, money(micro), false, plans, now())
            .await
            .unwrap()
            .unwrap();
    }

    async fn step(&self, step: AiStep) -> AiOutcome {
        self.store().write_ai_steps(&[step], &self.terms, now()).unwrap().pop().unwrap()
    }

    async fn reserve(&self, id: &str) -> AiOutcome {
        self.step(AiStep::Reserve(Box::new(call(id, &self.workspace)))).await
    }

    async fn settle(&self, id: &str, output: u64) -> AiOutcome {
        self.step(AiStep::Settle(Box::new(settlement(id, output)))).await
    }

    /// Returns what is granted, spent and reserved.
    async fn account(&self) -> (u64, u64, u64) {
        let credits = self.store().ai_credits(&self.fixture.user, &self.terms.plans, now()).await;
        let account = credits.unwrap().unwrap().account;
        (account.granted.micro(), account.spent.micro(), account.reserved.micro())
    }
}

#[tokio::test]
async fn call_is_reserved_and_settled_once() {
    let ledger = Ledger::new(1_000).await;
    assert_eq!(ledger.reserve("a").await, granted(100));
    assert_eq!(ledger.account().await, (1_000, 0, 100));
    // With the same id it is the same call.
    assert_eq!(ledger.reserve("a").await, granted(100));
    assert_eq!(ledger.account().await, (1_000, 0, 100));
    assert_eq!(ledger.settle("a", 30).await, AiOutcome::Settled(money(30)));
    assert_eq!(ledger.settle("a", 99).await, AiOutcome::Settled(money(30)));
    assert_eq!(ledger.account().await, (1_000, 30, 0));
    assert_eq!(ledger.settle("b", 1).await, AiOutcome::UnknownCall);
}

#[tokio::test]
async fn cost_is_never_above_the_reservation() {
    let ledger = Ledger::new(1_000).await;
    ledger.reserve("a").await;
    assert_eq!(ledger.settle("a", u64::MAX).await, AiOutcome::Settled(money(100)));
    ledger.reserve("b").await;
    let told = AiSettlement { told_cost: Some(money(7)), ..settlement("b", 50) };
    assert_eq!(ledger.step(AiStep::Settle(Box::new(told))).await, AiOutcome::Settled(money(7)));
    ledger.reserve("c").await;
    let bound = AiSettlement { at_bound: true, ..settlement("c", 1) };
    assert_eq!(ledger.step(AiStep::Settle(Box::new(bound))).await, AiOutcome::Settled(money(100)));
    assert_eq!(ledger.account().await, (1_000, 207, 0));
}

#[tokio::test]
async fn calls_that_wait_together_share_what_is_left() {
    let ledger = Ledger::new(250).await;
    let steps: Vec<AiStep> =
        ["a", "b", "c"].map(|id| AiStep::Reserve(Box::new(call(id, &ledger.workspace)))).into();
    let outcomes = ledger.store().write_ai_steps(&steps, &ledger.terms, now()).unwrap();
    let refused = AiDenial::Insufficient { cap: AiCap::Credits, needed: money(100), left: money(50) };
    assert_eq!(outcomes, [granted(100), granted(100), AiOutcome::Denied(refused)]);
    assert_eq!(ledger.account().await, (250, 0, 200));
}

#[tokio::test]
async fn budgets_of_the_month_bound_calls_beside_credits() {
    let mut ledger = Ledger::new(10_000).await;
    ledger.terms.workspace_budget = Some(money(150));
    assert_eq!(ledger.reserve("a").await, granted(100));
    let insufficient =
        |cap, left| AiOutcome::Denied(AiDenial::Insufficient { cap, needed: money(100), left: money(left) });
    assert_eq!(ledger.reserve("b").await, insufficient(AiCap::WorkspaceBudget, 50));
    let user = AiSubject::User(ledger.fixture.user.clone());
    let workspace = AiSubject::Workspace(ledger.workspace.clone(), ledger.fixture.user.clone());
    ledger.store().set_ai_budget(&user, Some(money(120)), now()).await.unwrap();
    assert_eq!(ledger.reserve("b").await, insufficient(AiCap::UserBudget, 20));
    ledger.store().set_ai_budget(&user, None, now()).await.unwrap();
    ledger.store().set_ai_budget(&workspace, Some(money(200)), now()).await.unwrap();
    assert_eq!(ledger.reserve("b").await, granted(100));
    assert_eq!(ledger.reserve("c").await, insufficient(AiCap::WorkspaceBudget, 0));
    // Another month has its own budget.
    let later = Timestamp::from_unix_ms(40 * 86_400_000);
    let step = AiStep::Reserve(Box::new(call("c", &ledger.workspace)));
    let outcomes = ledger.store().write_ai_steps(&[step], &ledger.terms, later).unwrap();
    assert_eq!(outcomes, [granted(100)]);
}

#[tokio::test]
async fn credits_of_the_plan_are_for_one_month() {
    let mut ledger = Ledger::new(0).await;
    let owner = LimitOverrides { ai_credits_usd: Some(1), ..LimitOverrides::default() };
    ledger.terms.plans = Plans { owner, ..Plans::default() };
    assert_eq!(ledger.account().await, (1_000_000, 0, 0));
    assert_eq!(ledger.reserve("a").await, granted(100));
    ledger.settle("a", 100).await;
    assert_eq!(ledger.account().await, (1_000_000, 100, 0));
    let later = Timestamp::from_unix_ms(40 * 86_400_000);
    let credits = ledger.store().ai_credits(&ledger.fixture.user, &ledger.terms.plans, later).await;
    assert_eq!(credits.unwrap().unwrap().account.left(), Money::from_dollars(1));
}

#[tokio::test]
async fn credits_that_are_taken_back_leave_what_is_reserved() {
    let ledger = Ledger::new(1_000).await;
    ledger.reserve("a").await;
    let (user, plans) = (&ledger.fixture.user, &ledger.terms.plans);
    ledger.store().grant_ai_credits(user, money(5_000), true, plans, now()).await.unwrap().unwrap();
    assert_eq!(ledger.account().await, (100, 0, 100));
    assert_eq!(ledger.settle("a", 100).await, AiOutcome::Settled(money(100)));
}

#[tokio::test]
async fn another_run_reserves_nothing_and_its_open_calls_are_settled_at_their_bound() {
    let ledger = Ledger::new(1_000).await;
    ledger.reserve("a").await;
    assert_eq!(ledger.store().begin_ai_run("run", now()).unwrap(), 0);
    assert_eq!(ledger.store().begin_ai_run("next", now()).unwrap(), 1);
    assert_eq!(ledger.account().await, (1_000, 100, 0));
    assert_eq!(ledger.reserve("b").await, AiOutcome::OtherRun);
    assert_eq!(ledger.settle("a", 1).await, AiOutcome::Settled(money(100)));
}

#[tokio::test]
async fn call_that_is_never_settled_expires_at_its_bound() {
    let ledger = Ledger::new(1_000).await;
    ledger.reserve("a").await;
    let expire = |before| ledger.store().expire_ai_calls(Timestamp::from_unix_ms(before), now());
    assert_eq!(expire(1_000).unwrap(), 0);
    assert_eq!(expire(1_001).unwrap(), 1);
    assert_eq!(ledger.account().await, (1_000, 100, 0));
}

#[tokio::test]
async fn older_database_revives_no_credits_that_were_spent_since() {
    let ledger = Ledger::new(3_000_000).await;
    let spend = async |id: &str| {
        let mut call = call(id, &ledger.workspace);
        call.ask.output_tokens = Some(500_000);
        call.limits.floor = 500_000;
        ledger.step(AiStep::Reserve(Box::new(call))).await;
        assert_eq!(ledger.settle(id, 400_000).await, AiOutcome::Settled(money(400_000)));
    };
    spend("before").await;
    ledger.fixture.copy().await;
    for id in ["a", "b", "c"] {
        spend(id).await;
    }
    assert_eq!(ledger.account().await, (3_000_000, 1_600_000, 0));
    let of = async |store: &Store| {
        let credits = store.ai_credits(&ledger.fixture.user, &ledger.terms.plans, now()).await;
        credits.unwrap().unwrap().account.spent.micro()
    };
    let [without, with] = ledger.fixture.without_and_with_log().await;
    assert_eq!(of(&without).await, 400_000);
    // At most a dollar more than was spent, so that few settlements write to the log.
    let spent = of(&with).await;
    assert!((1_600_000..=2_600_000).contains(&spent), "{spent}");
    // Nobody was signed out for it.
    assert!(
        with.key_holder(&ledger.fixture.token_key.hash(ledger.fixture.key.reveal()), now())
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn call_that_may_not_be_made_is_refused_with_the_reason() {
    let ledger = Ledger::new(10_000).await;
    let store = ledger.store();
    let denied = async |call: AiReservation| match ledger.step(AiStep::Reserve(Box::new(call))).await {
        AiOutcome::Denied(denial) => Some(denial),
        _ => None,
    };
    let plain = || call("x", &ledger.workspace);
    let elsewhere = call("x", &WorkspaceId::from_random([9; 5]));
    assert_eq!(denied(elsewhere).await, Some(AiDenial::NoWorkspace));

    let models = |name: &str| vec![name.to_owned()];
    for subject in [
        AiSubject::User(ledger.fixture.user.clone()),
        AiSubject::Workspace(ledger.workspace.clone(), ledger.fixture.user.clone()),
    ] {
        store.set_ai_models(&subject, &models("other"), now()).await.unwrap();
        assert_eq!(denied(plain()).await, Some(AiDenial::ModelNotAllowed));
        store.set_ai_models(&subject, &models("model"), now()).await.unwrap();
    }
    assert_eq!(store.ai_models_of(&ledger.workspace).await.unwrap(), [models("model"), models("model")]);

    let restricted = |settings: &mut NetworkSettings| settings.egress = rigbox_core::egress::Egress::None;
    store.change_network(&ledger.workspace, restricted, &event(), now()).await.unwrap();
    let fetches = AiReservation { fetches_urls: true, ..plain() };
    assert_eq!(denied(fetches).await, Some(AiDenial::UrlNotAllowed));

    let set = async |subject: AiSubject, mode| {
        let change = AiConfigChange { mode: Some(mode), ..AiConfigChange::default() };
        store.change_ai_config(&subject, &change, &event(), now()).await.unwrap();
    };
    let user = || ledger.fixture.user.clone();
    let own = async |mode| set(AiSubject::Workspace(ledger.workspace.clone(), user()), mode).await;
    own(Some(AiMode::Byok)).await;
    assert_eq!(denied(plain()).await, Some(AiDenial::NotManaged));
    own(None).await;
    set(AiSubject::User(user()), Some(AiMode::Byok)).await;
    assert_eq!(denied(plain()).await, Some(AiDenial::NotManaged));
    own(Some(AiMode::Managed)).await;

    store.set_ai_stopped(true, &ledger.fixture.user, now()).await.unwrap();
    assert_eq!(denied(plain()).await, Some(AiDenial::Stopped));
    store.set_ai_stopped(false, &ledger.fixture.user, now()).await.unwrap();

    for id in ["a", "b", "c"] {
        assert_eq!(ledger.reserve(id).await, granted(100));
    }
    assert_eq!(denied(plain()).await, Some(AiDenial::TooManyCalls(3)));
}

#[tokio::test]
async fn records_outlive_the_workspace_and_add_up() {
    let ledger = Ledger::new(10_000).await;
    for (id, output) in [("a", 10), ("b", 20)] {
        ledger.reserve(id).await;
        ledger.settle(id, output).await;
    }
    ledger.reserve("open").await;
    let (store, user) = (ledger.store(), &ledger.fixture.user);
    let sums = AiSums { requests: 2, input_tokens: 0, output_tokens: 30, cost: money(30) };
    assert_eq!(store.ai_days(user, 0).await.unwrap(), [AiDay { day: 0, sums }]);
    assert_eq!(store.ai_days(user, 1).await.unwrap(), []);
    let of_workspace = || async { store.ai_workspace_sums(user, 0).await.unwrap() };
    let expected =
        AiWorkspaceSum { workspace_id: ledger.workspace.to_string(), name: "one".to_owned(), sums };
    assert_eq!(of_workspace().await, std::slice::from_ref(&expected));
    sqlx::query("DELETE FROM workspaces").execute(&store.writer).await.unwrap();
    assert_eq!(of_workspace().await, [expected]);
    let until = Timestamp::from_unix_ms(86_400_000);
    let models = store.ai_model_sums("anthropic", now(), until).await.unwrap();
    assert_eq!(models, [AiModelSum { model: "model".to_owned(), sums, estimated: 0 }]);
    assert_eq!(store.open_ai_calls().await.unwrap(), (1, money(100)));
    assert_eq!(ledger.settle("open", 5).await, AiOutcome::Settled(money(5)));
}

#[tokio::test]
async fn old_records_are_deleted_and_stay_spent() {
    let ledger = Ledger::new(10_000).await;
    for id in ["a", "b", "open"] {
        ledger.reserve(id).await;
    }
    for id in ["a", "b"] {
        ledger.settle(id, 10).await;
    }
    let (store, began) = (ledger.store(), now().unix_ms());
    assert_eq!(store.delete_ai_calls(Timestamp::from_unix_ms(began), 5).await.unwrap(), 0);
    let later = Timestamp::from_unix_ms(began + 1);
    for deleted in [1, 1, 0] {
        assert_eq!(store.delete_ai_calls(later, 1).await.unwrap(), deleted);
    }
    assert_eq!(store.ai_days(&ledger.fixture.user, 0).await.unwrap(), []);
    assert_eq!(ledger.account().await, (10_000, 20, 100));
    assert_eq!(ledger.settle("open", 5).await, AiOutcome::Settled(money(5)));
    assert_eq!(ledger.account().await, (10_000, 25, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_writers_take_turns_with_a_busy_ledger() {
    let ledger = Arc::new(Ledger::new(0).await);
    let (written, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let busy = {
        let (ledger, written, is_over) = (ledger.clone(), written.clone(), is_over.clone());
        std::thread::spawn(move || {
            while !is_over.load(Ordering::SeqCst) {
                let step = AiStep::Settle(Box::new(settlement("unknown", 1)));
                ledger.store().write_ai_steps(&[step], &ledger.terms, now()).unwrap();
                written.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    let mut came_first = Vec::new();
    for _ in 0..21 {
        let before = written.load(Ordering::SeqCst);
        ledger.store().begin_write().await.unwrap().commit().await.unwrap();
        came_first.push(written.load(Ordering::SeqCst) - before);
    }
    is_over.store(true, Ordering::SeqCst);
    busy.join().unwrap();
    came_first.sort_unstable();
    // Those that were being written. Where this thread had to wait for a processor, more.
    assert!(came_first[10] <= 3, "so many writes of the ledger came first: {came_first:?}");
}

#[tokio::test]
async fn ledger_is_written_however_often_in_one_turn_of_a_task() {
    let ledger = Ledger::new(0).await;
    for _ in 0..200 {
        let step = AiStep::Settle(Box::new(settlement("unknown", 1)));
        let outcomes = ledger.store().write_ai_steps(&[step], &ledger.terms, now()).unwrap();
        assert_eq!(outcomes, [AiOutcome::UnknownCall]);
    }
}
