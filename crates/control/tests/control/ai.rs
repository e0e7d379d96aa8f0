//! Control's side of the AI proxy: setups and their changes, reservations and settlements, the operator's commands, and what users see.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use rigbox_control::admin::ai::{self, Bounded};
use rigbox_control::admin::provider_keys;
use rigbox_core::ai::money::Money;
use rigbox_proto::ai::ai_client::AiClient;
use rigbox_proto::ai::ledger_request::Request;
use rigbox_proto::ai::ledger_response::Response;
use rigbox_proto::ai::reserve_response::Outcome;
use rigbox_proto::ai::{
    Ending, FailureReason, GetSetupRequest, Granted, ListModelsRequest, Operation, Provider, Reason,
    ReserveRequest, SettleRequest, Setup, SetupNotice, Usage, WatchRequest,
};
use rigbox_proto::transport::client::Channel;
use serde_json::{Value, json};
use tonic::Streaming;

use crate::support::TestControl;
use crate::support::ai_ledger::ask;

const EMAIL: &str = "a@example.com";
const MODEL: &str = "claude-opus-4-6";
/// Time within which the proxy is told of a change.
const TELL_TIMEOUT: Duration = Duration::from_secs(10);

fn proxy(rig: &TestControl) -> AiClient<Channel> {
    AiClient::new(rigbox_proto::transport::unix::channel(&rig.path("ai.sock")))
}

/// Setups as a proxy gets them.
struct Setups {
    control: AiClient<Channel>,
    notices: Streaming<SetupNotice>,
    latest: Setup,
}

async fn watch(rig: &TestControl, run: &str) -> Setups {
    let mut control = proxy(rig);
    let notices = control.watch(WatchRequest { run_id: run.to_owned() }).await.unwrap().into_inner();
    Setups { control, notices, latest: Setup::default() }
}

/// Returns the setup after the next notice with which it fulfils a condition, with the time that it took.
async fn until(setups: &mut Setups, holds: impl Fn(&Setup) -> bool) -> (Setup, Duration) {
    let began = Instant::now();
    let wait = async {
        loop {
            let notice = setups.notices.message().await.unwrap().expect("the stream goes on");
            if notice.changed {
                setups.latest = setups.control.get_setup(GetSetupRequest {}).await.unwrap().into_inner();
            }
            if holds(&setups.latest) {
                return setups.latest.clone();
            }
        }
    };
    (tokio::time::timeout(TELL_TIMEOUT, wait).await.expect("the proxy is told"), began.elapsed())
}

fn call(id: &str, workspace: &str) -> ReserveRequest {
    ReserveRequest {
        run_id: "run".to_owned(),
        call_id: id.to_owned(),
        workspace_id: workspace.to_owned(),
        provider: Provider::Anthropic.into(),
        operation: Operation::Generate.into(),
        model: MODEL.to_owned(),
        input_tokens: 1_000,
        output_tokens: Some(1_000),
        candidates: 1,
        ..ReserveRequest::default()
    }
}

fn settlement(id: &str) -> SettleRequest {
    SettleRequest {
        run_id: "run".to_owned(),
        call_id: id.to_owned(),
        usage: Some(Usage { input: 900, output: 100, ..Usage::default() }),
        status: 200,
        ending: Ending::Completed.into(),
        provider_request_id: "req_1".to_owned(),
        duration_ms: 12,
        ..SettleRequest::default()
    }
}

async fn reserve(rig: &TestControl, request: ReserveRequest) -> Result<Granted, (Reason, String)> {
    let Response::Reserve(response) = ask(&mut proxy(rig), Request::Reserve(request)).await else {
        panic!("no reservation")
    };
    match response.outcome.unwrap() {
        Outcome::Granted(granted) => Ok(granted),
        Outcome::Denied(denied) => Err((denied.reason(), denied.text)),
    }
}

/// Settles a call, and returns its cost.
async fn settle(rig: &TestControl, request: SettleRequest) -> Result<u64, FailureReason> {
    match ask(&mut proxy(rig), Request::Settle(request)).await {
        Response::Settle(response) => Ok(response.cost_micro),
        Response::Failure(failure) => Err(failure.reason()),
        Response::Reserve(_) => panic!("a reservation"),
    }
}

/// Returns why a call cannot be reserved now.
async fn not_reserved(rig: &TestControl, request: ReserveRequest) -> FailureReason {
    match ask(&mut proxy(rig), Request::Reserve(request)).await {
        Response::Failure(failure) => failure.reason(),
        other => panic!("{other:?}"),
    }
}

async fn grant(rig: &TestControl, dollars: u32) {
    ai::grant(&rig.config(), EMAIL, Money::from_dollars(dollars), false).await.unwrap();
}

async fn get(rig: &TestControl, path: &str) -> Value {
    let (status, body) = rig.get(path).await;
    assert_eq!(status, 200, "{body}");
    body
}

#[tokio::test]
async fn call_is_reserved_settled_and_shown_to_its_user() {
    let rig = TestControl::new().await;
    let workspace = rig.provisioned("web").await;
    let mut setups = watch(&rig, "run").await;
    until(&mut setups, |_| true).await;
    let (reason, text) = reserve(&rig, call("a", &workspace)).await.unwrap_err();
    assert_eq!(reason, Reason::InsufficientCredits, "a new user has no credits");
    assert!(text.contains("$0.00 is left"), "{text}");
    grant(&rig, 10).await;
    let granted = reserve(&rig, call("a", &workspace)).await.unwrap();
    // 1,000 tokens at the price of a cache write, and 1,000 of output.
    assert_eq!(
        (granted.reserved_micro, granted.output_tokens, granted.lowered),
        (6_250 + 25_000, 1_000, false)
    );
    assert_eq!(reserve(&rig, call("a", &workspace)).await.unwrap(), granted);
    assert_eq!(get(&rig, "/users/me/credits").await["remaining_micro"], 10_000_000 - 31_250);
    assert_eq!(settle(&rig, settlement("a")).await, Ok(900 * 5 + 100 * 25));
    let credits = get(&rig, "/users/me/credits").await;
    let expected = json!({"remaining": 9.993, "total": 10.0, "remaining_micro": 9_993_000, "total_micro": 10_000_000,
        "mode": "managed"});
    assert_eq!(credits, expected);
    let usage = get(&rig, "/users/me/ai-usage").await;
    assert_eq!(usage["window_days"], 30);
    assert_eq!(usage["daily"].as_array().unwrap().len(), 1);
    for sums in [&usage["daily"][0], &usage["by_workspace"][0]] {
        let read = ["input_tokens", "output_tokens", "credits_micro", "requests"].map(|field| &sums[field]);
        assert_eq!(read, [&json!(900), &json!(100), &json!(7_000), &json!(1)]);
    }
    assert_eq!(usage["by_workspace"][0]["workspace_name"], "web");
    assert_eq!(settle(&rig, settlement("b")).await, Err(FailureReason::UnknownCall));
}

#[tokio::test]
async fn proxy_is_told_of_changes_by_other_processes_and_of_none_each_second() {
    let rig = TestControl::new().await;
    let config = rig.config();
    let mut setups = watch(&rig, "run").await;
    let (first, _) = until(&mut setups, |_| true).await;
    assert!(!first.stopped && first.upstreams[0].keys.is_empty());
    let model = first.models.iter().find(|model| model.id == MODEL).unwrap();
    assert_eq!((model.upstream.as_str(), model.floor_tokens, model.reasons), ("anthropic", 25_000, true));
    let (_, keepalive) = until(&mut setups, |_| true).await;
    assert!(keepalive < Duration::from_secs(3), "{keepalive:?}");

    let secret = "sk-ant-canary".into();
    let key = provider_keys::set_provider_key(&config, "anthropic", "main", "org", &secret).await.unwrap();
    let (setup, _) = until(&mut setups, |setup| !setup.upstreams[0].keys.is_empty()).await;
    let told = &setup.upstreams[0].keys[0];
    assert_eq!(
        (told.id.as_str(), told.secret.as_str(), told.organization.as_str()),
        (key.id.as_str(), "sk-ant-canary", "org")
    );
    assert!(!format!("{setup:?}").contains("canary"), "keys are not printed");

    ai::set_stopped(&config, true).await.unwrap();
    until(&mut setups, |setup| setup.stopped).await;
    assert!(ai::status(&config).await.unwrap().stopped);
    ai::set_stopped(&config, false).await.unwrap();
    until(&mut setups, |setup| !setup.stopped).await;
    provider_keys::remove_provider_key(&config, &key.id).await.unwrap();
    until(&mut setups, |setup| setup.upstreams[0].keys.is_empty()).await;
}

#[tokio::test]
async fn changed_prices_reach_the_proxy_without_a_restart() {
    let rig = TestControl::new().await;
    let mut setups = watch(&rig, "run").await;
    let has_new = |setup: &Setup| setup.models.iter().any(|model| model.id == "claude-next");
    assert!(!has_new(&until(&mut setups, |_| true).await.0));
    let rates = json!({"input": 1, "cache_read": 1, "cache_write_5m": 1, "cache_write_1h": 1, "output": 1});
    let model = json!({"context_tokens": 9, "max_output_tokens": 9, "prices": {"rates": rates}});
    let table = json!({"date": "d", "source": "s", "models": {"anthropic": {"claude-next": model}}});
    std::fs::write(rig.path("more-ai-prices.json"), table.to_string()).unwrap();
    until(&mut setups, has_new).await;
    std::fs::write(rig.path("more-ai-prices.json"), "{").unwrap();
    let problem = ai::status(&rig.config()).await.unwrap().problem.unwrap();
    assert!(problem.contains("more-ai-prices.json"), "{problem}");
    assert!(has_new(&until(&mut setups, |_| true).await.0));
}

#[tokio::test]
async fn calls_of_a_killed_proxy_cost_their_bound_and_those_of_a_killed_control_go_on() {
    let mut rig = TestControl::new().await;
    let workspace = rig.provisioned("web").await;
    grant(&rig, 10).await;
    let refused = not_reserved(&rig, call("early", &workspace)).await;
    assert_eq!(refused, FailureReason::OtherRun, "the run has not announced itself");
    let mut setups = watch(&rig, "run").await;
    until(&mut setups, |_| true).await;
    let granted = reserve(&rig, call("a", &workspace)).await.unwrap();
    reserve(&rig, call("b", &workspace)).await.unwrap();
    rig.kill_control();
    rig.start_control().await;
    let mut setups = watch(&rig, "run").await;
    until(&mut setups, |_| true).await;
    // The proxy still knows the call.
    assert_eq!(settle(&rig, settlement("a")).await, Ok(7_000));
    let mut of_next = watch(&rig, "next").await;
    until(&mut of_next, |_| true).await;
    let spent = 7_000 + granted.reserved_micro;
    assert_eq!(get(&rig, "/users/me/credits").await["remaining_micro"], 10_000_000 - spent);
    assert_eq!(not_reserved(&rig, call("c", &workspace)).await, FailureReason::OtherRun);
}

#[tokio::test]
async fn operator_bounds_calls_by_budget_and_models() {
    let rig = TestControl::new().await;
    let (workspace, config) = (rig.provisioned("web").await, rig.config());
    let mut setups = watch(&rig, "run").await;
    until(&mut setups, |_| true).await;
    grant(&rig, 10).await;
    let whom = Bounded::Workspace(workspace.parse().unwrap());
    ai::set_budget(&config, &whom, Some(Money::from_micro(40_000))).await.unwrap();
    reserve(&rig, call("a", &workspace)).await.unwrap();
    let (reason, text) = reserve(&rig, call("b", &workspace)).await.unwrap_err();
    assert_eq!(reason, Reason::InsufficientCredits);
    assert!(text.starts_with("The AI budget of this workspace"), "{text}");
    ai::set_budget(&config, &whom, None).await.unwrap();
    reserve(&rig, call("b", &workspace)).await.unwrap();

    let list = || async {
        let request =
            ListModelsRequest { workspace_id: workspace.clone(), provider: Provider::Anthropic.into() };
        proxy(&rig).list_models(request).await.unwrap().into_inner().models
    };
    assert!(list().await.len() > 10);
    ai::set_models(&config, &Bounded::User(EMAIL.to_owned()), &["claude-haiku-4-5".to_owned()])
        .await
        .unwrap();
    assert_eq!(list().await, ["claude-haiku-4-5"]);
    assert_eq!(reserve(&rig, call("c", &workspace)).await.unwrap_err().0, Reason::ModelNotAllowed);
    let unknown = ReserveRequest { model: "claude-opus-4-6:free".to_owned(), ..call("c", &workspace) };
    assert_eq!(reserve(&rig, unknown).await.unwrap_err().0, Reason::UnknownModel);
    let refused = provider_keys::set_provider_key(&config, "nowhere", "", "", &"x".into()).await.unwrap_err();
    assert!(refused.to_string().contains("the configuration has: anthropic"), "{refused}");
}

#[tokio::test]
async fn mode_of_the_workspace_or_else_of_the_account_decides_and_is_audited() {
    let rig = TestControl::new().await;
    let workspace = rig.provisioned("web").await;
    let mut setups = watch(&rig, "run").await;
    until(&mut setups, |_| true).await;
    grant(&rig, 10).await;
    let mode = |body: Value| rig.call(Method::PUT, "/users/me/ai-mode", Some(body));
    let path = format!("/workspaces/{workspace}/mode");
    let own = |body: Value| rig.call(Method::PUT, &path, Some(body));
    assert_eq!(get(&rig, &path).await, json!({"mode": "managed", "source": "user_default"}));
    assert_eq!(mode(json!({"mode": "byok"})).await.1["mode"], "byok");
    assert_eq!(get(&rig, &path).await, json!({"mode": "byok", "source": "user_default"}));
    assert_eq!(reserve(&rig, call("a", &workspace)).await.unwrap_err().0, Reason::NotManaged);
    let set = own(json!({"mode": "managed"})).await;
    assert_eq!(set, (StatusCode::OK, json!({"mode": "managed", "source": "workspace"})));
    reserve(&rig, call("a", &workspace)).await.unwrap();
    assert_eq!(own(json!({"mode": null})).await.1, json!({"mode": "byok", "source": "user_default"}));
    assert_eq!(reserve(&rig, call("b", &workspace)).await.unwrap_err().0, Reason::NotManaged);
    for (status, body) in [
        mode(json!({"mode": "free"})).await,
        own(json!({"mode": "free"})).await,
        mode(json!({})).await,
        own(json!({"moed": "byok"})).await,
    ] {
        assert_eq!(status, 400, "{body}");
    }
    let log = get(&rig, "/audit-log").await;
    let entries = log["entries"].as_array().unwrap();
    let targets: Vec<_> = entries.iter().filter(|entry| entry["action"] == "workspace.ai_mode").collect();
    assert_eq!(targets.len(), 2);
    assert!(entries.iter().any(|entry| entry["action"] == "ai.mode" && entry["target"] == "byok"), "{log}");
}

#[tokio::test]
async fn days_records_are_compared_with_the_providers_report() {
    let rig = TestControl::new().await;
    let workspace = rig.provisioned("web").await;
    let mut setups = watch(&rig, "run").await;
    until(&mut setups, |_| true).await;
    grant(&rig, 10).await;
    reserve(&rig, call("a", &workspace)).await.unwrap();
    settle(&rig, settlement("a")).await.unwrap();
    let usage = get(&rig, "/users/me/ai-usage").await;
    let day = rigbox_control::parse_day(usage["daily"][0]["day"].as_str().unwrap()).unwrap();
    let compare = async |output: u32| {
        let report = format!("model,input_tokens,output_tokens,cost\n{MODEL},900,{output},0.007\n");
        let provider = rigbox_core::ai::provider::Provider::Anthropic;
        ai::reconcile(&rig.config(), provider, day, &report).await.unwrap()
    };
    assert!(compare(100).await.iter().all(rigbox_control::Comparison::agrees));
    let differing = compare(101).await;
    assert_eq!((differing.len(), differing[0].agrees()), (1, false));
}
