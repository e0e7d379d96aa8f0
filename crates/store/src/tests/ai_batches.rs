//! Batches of the AI ledger: steps that share a transaction have the outcomes, and leave the tables, that they have one by one.

use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use rigbox_core::ai::money::Money;
use rigbox_core::ai::prices::{CallPrices, Prices, Rates, Usage};
use rigbox_core::ai::reservation::{Ask, OutputLimits};
use rigbox_core::plans::{LimitOverrides, Plan, Plans};
use sqlx::Row;

use super::*;
use crate::ai::batch::Batch;

/// Day in milliseconds.
const DAY: i64 = 86_400_000;

/// Step of a call, by small numbers so that steps meet each other.
#[derive(Debug, Clone)]
enum Op {
    Reserve {
        id: u8,
        workspace: usize,
        output: u64,
        of_other_run: bool,
        fetches_urls: bool,
        other_model: bool,
    },
    Settle {
        id: u8,
        output: u64,
        told: Option<u64>,
        at_bound: bool,
        key: Option<u8>,
    },
}

/// Change by the operator between two batches.
#[derive(Debug, Clone)]
enum Change {
    Nothing,
    Credits { user: usize, amount: u64, takes: bool },
    UserBudget { user: usize, amount: Option<u64> },
    WorkspaceBudget { workspace: usize, amount: Option<u64> },
    Models { workspace: usize, models: Vec<String> },
    Stopped(bool),
    Disabled { user: usize, disabled: bool },
    DeletedWorkspace(usize),
    NextMonth,
}

fn amount() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(1), Just(100), Just(70_000), Just(400_000), Just(u64::MAX)]
}

fn op() -> impl Strategy<Value = Op> {
    let rare = || prop::bool::weighted(0.05);
    let reserve = (0..24_u8, 0..4_usize, amount(), rare(), rare(), rare()).prop_map(
        |(id, workspace, output, of_other_run, fetches_urls, other_model)| Op::Reserve {
            id,
            workspace,
            output,
            of_other_run,
            fetches_urls,
            other_model,
        },
    );
    let settle =
        (0..24_u8, amount(), prop::option::weighted(0.1, amount()), rare(), prop::option::of(0..2_u8))
            .prop_map(|(id, output, told, at_bound, key)| Op::Settle { id, output, told, at_bound, key });
    prop_oneof![reserve, settle]
}

fn change() -> impl Strategy<Value = Change> {
    let budget = || prop::option::of(prop_oneof![Just(0), Just(150), Just(100_000), Just(900_000)]);
    prop_oneof![
        2 => Just(Change::Nothing),
        2 => Just(Change::NextMonth),
        2 => (0..2_usize, prop_oneof![Just(500), Just(3_000_000)], any::<bool>())
            .prop_map(|(user, amount, takes)| Change::Credits { user, amount, takes }),
        2 => (0..2_usize, budget()).prop_map(|(user, amount)| Change::UserBudget { user, amount }),
        2 => (0..3_usize, budget()).prop_map(|(workspace, amount)| Change::WorkspaceBudget { workspace, amount }),
        1 => (0..3_usize, prop::sample::subsequence(vec!["model".to_owned(), "other".to_owned()], 0..=2))
            .prop_map(|(workspace, models)| Change::Models { workspace, models }),
        1 => any::<bool>().prop_map(Change::Stopped),
        1 => (0..2_usize, any::<bool>()).prop_map(|(user, disabled)| Change::Disabled { user, disabled }),
        1 => (0..3_usize).prop_map(Change::DeletedWorkspace),
    ]
}

/// Users and workspaces of both stores. The last workspace does not exist.
struct Callers {
    users: [UserId; 2],
    workspaces: [WorkspaceId; 4],
    terms: AiTerms,
}

impl Callers {
    fn step(&self, op: &Op) -> AiStep {
        match op.clone() {
            Op::Reserve { id, workspace, output, of_other_run, fetches_urls, other_model } => {
                AiStep::Reserve(Box::new(AiReservation {
                    run: if of_other_run { "other" } else { "run" }.to_owned(),
                    model: if other_model { "other" } else { "model" }.to_owned(),
                    fetches_urls,
                    ..reservation(id, &self.workspaces[workspace], output)
                }))
            }
            Op::Settle { id, output, told, at_bound, key } => AiStep::Settle(Box::new(AiSettlement {
                id: format!("call {id}"),
                usage: Usage { input: 7, output, reasoning: output / 2, ..Usage::default() },
                estimated: output == 1,
                at_bound,
                status: 200,
                ending: AiEnding::Completed,
                key: key.map(|key| format!("key {key}")),
                provider_request_id: (output > 0).then(|| "a \"quoted\" id, \u{e9}\\".to_owned()),
                duration_ms: output,
                told_cost: told.map(Money::from_micro),
            })),
        }
    }

    async fn change(&self, store: &Store, change: &Change, now: &mut Timestamp) {
        let workspace_subject = |workspace: usize| {
            AiSubject::Workspace(self.workspaces[workspace].clone(), self.users[0].clone())
        };
        let at = *now;
        match change {
            Change::Nothing => {}
            Change::Credits { user, amount, takes } => {
                let amount = Money::from_micro(*amount);
                let plans = &self.terms.plans;
                store.grant_ai_credits(&self.users[*user], amount, *takes, plans, at).await.unwrap();
            }
            Change::UserBudget { user, amount } => {
                let subject = AiSubject::User(self.users[*user].clone());
                store.set_ai_budget(&subject, amount.map(Money::from_micro), at).await.unwrap();
            }
            Change::WorkspaceBudget { workspace, amount } => {
                let subject = workspace_subject(*workspace);
                store.set_ai_budget(&subject, amount.map(Money::from_micro), at).await.unwrap();
            }
            Change::Models { workspace, models } => {
                store.set_ai_models(&workspace_subject(*workspace), models, at).await.unwrap();
            }
            Change::Stopped(stopped) => store.set_ai_stopped(*stopped, &self.users[0], at).await.unwrap(),
            Change::Disabled { user, disabled } => {
                store.set_disabled(&self.users[*user], *disabled, at).await.unwrap();
            }
            Change::DeletedWorkspace(workspace) => {
                let query = sqlx::query("DELETE FROM workspaces WHERE id = $1");
                query.bind(self.workspaces[*workspace].as_str()).execute(&store.writer).await.unwrap();
            }
            Change::NextMonth => *now = Timestamp::from_unix_ms(at.unix_ms() + 31 * DAY),
        }
    }
}

/// Reservation of a call with a millionth of a dollar for each token.
fn reservation(id: u8, workspace: &WorkspaceId, output: u64) -> AiReservation {
    let rate = if id == 0 { 0 } else { 1_000_000 };
    let rates =
        Rates { input: rate, cache_read: rate, cache_write_5m: rate, cache_write_1h: rate, output: rate };
    AiReservation {
        id: format!("call {id}"),
        run: "run".to_owned(),
        workspace: workspace.clone(),
        provider: "anthropic",
        upstream: "anthropic".to_owned(),
        operation: "generate",
        model: "model".to_owned(),
        prices: CallPrices::recorded(Prices { rates, tiers: Vec::new() }),
        ask: Ask {
            input_tokens: 10,
            output_tokens: (output < u64::MAX).then_some(output),
            candidates: 1,
            thinking_tokens: None,
        },
        limits: OutputLimits { max: 1_000_000, floor: 100 },
        fetches_urls: false,
    }
}

/// Two databases that are the same, with the folder that they are in.
async fn twins() -> (Fixture, [Store; 2], Callers) {
    let f = fixture().await;
    let second = f.store.add_user("b@example.com", Plan::Pro, now()).await.unwrap();
    let users = [f.user.clone(), second];
    for (number, user) in [(1, &users[0]), (2, &users[0]), (3, &users[1])] {
        let made = new(user, number, &format!("w{number}"));
        f.store.create_workspace(&made, QUOTA, None, &event()).await.unwrap();
    }
    for key in ["key 0", "key 1"] {
        let query = "INSERT INTO ai_provider_keys (id, upstream, label, organization, secret, master_key, created_at) \
             VALUES ($1, 'anthropic', '', '', x'00', '', 0)";
        sqlx::query(query).bind(key).execute(&f.store.writer).await.unwrap();
    }
    f.store.begin_ai_run("run", now()).unwrap();
    f.store.copy_to(&f.folder.path().join("copy.db")).await.unwrap();
    let mut stores = Vec::new();
    for name in ["batches", "alone"] {
        let folder = f.folder.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::copy(f.folder.path().join("copy.db"), folder.join("rigbox.db")).unwrap();
        stores.push(Store::open(&folder.join("rigbox.db"), &f.token_key).await.unwrap());
    }
    let owner = LimitOverrides { ai_credits_usd: Some(1), ..LimitOverrides::default() };
    let terms = AiTerms {
        plans: Plans { owner, ..Plans::default() },
        user_budget: None,
        workspace_budget: Some(Money::from_micro(1_500_000)),
        max_open_calls: 6,
    };
    let workspaces = [1, 2, 3, 4].map(|number| WorkspaceId::from_random([number; 5]));
    (f, stores.try_into().unwrap(), Callers { users, workspaces, terms })
}

/// Returns all that the ledger has written.
async fn tables(store: &Store) -> Vec<String> {
    let mut all = Vec::new();
    for table in ["ai_calls", "ai_accounts", "ai_months", "ai_provider_keys"] {
        let query = sqlx::AssertSqlSafe(format!("SELECT * FROM {table} ORDER BY 1, 2, 3"));
        for row in sqlx::query(query).fetch_all(&store.pool).await.unwrap() {
            let text = |column| row.try_get_unchecked::<Option<String>, _>(column).unwrap();
            let columns: Vec<_> = (0..row.len()).map(text).collect();
            all.push(format!("{table}: {columns:?}"));
        }
    }
    all
}

/// Returns the changes in the log of revocations, of which one transaction writes one entry.
fn logged(folder: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(folder.join("revocations.log")).unwrap();
    let entries = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    entries.filter_map(|entry| entry["changes"].as_array().cloned()).flatten().collect()
}

async fn compare(rounds: &[(Change, Vec<Op>)]) -> Result<(), TestCaseError> {
    let (f, [batches, alone], callers) = twins().await;
    let mut now = now();
    for (change, ops) in rounds {
        let mut later = now;
        callers.change(&batches, change, &mut later).await;
        callers.change(&alone, change, &mut now).await;
        let steps: Vec<AiStep> = ops.iter().map(|op| callers.step(op)).collect();
        let together = batches.write_ai_steps(&steps, &callers.terms, now).unwrap();
        let mut one_by_one = Vec::new();
        for step in &steps {
            let outcomes = alone.write_ai_steps(std::slice::from_ref(step), &callers.terms, now);
            one_by_one.extend(outcomes.unwrap());
        }
        prop_assert_eq!(together, one_by_one);
        prop_assert_eq!(tables(&batches).await, tables(&alone).await);
    }
    let folder = f.folder.path();
    prop_assert_eq!(logged(&folder.join("batches")), logged(&folder.join("alone")));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn batch_is_written_as_its_steps_one_by_one(
        rounds in prop::collection::vec((change(), prop::collection::vec(op(), 1..24)), 1..6),
    ) {
        tokio::runtime::Runtime::new().unwrap().block_on(compare(&rounds))?;
    }
}

/// Reserves a call and changes the database before it is written.
async fn reserve_above(statement: &'static str) -> Result<(), Error> {
    let (_f, [store, _], callers) = twins().await;
    let first = AiStep::Reserve(Box::new(reservation(1, &callers.workspaces[0], 100)));
    store.write_ai_steps(&[first], &callers.terms, now()).unwrap();
    let call = reservation(2, &callers.workspaces[0], 100);
    let workspaces = BTreeSet::from([call.workspace.as_str()]);
    store.inline_writer.transact(|tx| {
        let mut batch = Batch::read(&tx, &workspaces, &[&call.id], now()).unwrap();
        assert!(matches!(batch.reserve(&call, &callers.terms), AiOutcome::Reserved(_)));
        tx.execute_batch(statement).unwrap();
        batch.write(&tx)?;
        Ok(tx.commit()?)
    })
}

#[tokio::test]
async fn sums_that_changed_since_they_were_read_are_not_exceeded() {
    reserve_above("SELECT 1").await.unwrap();
    for statement in [
        "UPDATE ai_months SET spent = 1499999 WHERE kind = 'workspace'",
        "UPDATE ai_accounts SET spent = granted - reserved",
    ] {
        reserve_above(statement).await.unwrap_err();
    }
}
