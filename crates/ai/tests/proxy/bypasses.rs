//! Ways to get more from a provider than was reserved, each of which is closed.

use std::num::NonZeroU32;
use std::time::Duration;

use rigbox_ai::Limits;
use rigbox_proto::ai::Operation;
use serde_json::{Value, json};

use crate::host::Host;

fn hello() -> Value {
    json!([{"role": "user", "content": "hello"}])
}

#[tokio::test]
async fn field_that_is_not_forwarded_takes_no_other_one_with_it() {
    let host = Host::start().await;
    let long = "x".repeat(70);
    for name in ["max_completion_tokens\\u0000", "max_completion_\\u007ftokens", long.as_str()] {
        let body =
            format!(r#"{{"model":"gpt","max_completion_tokens":20,"messages":{},"{name}":1}}"#, hello());
        let answer = host.send("POST", "/v1/chat/completions", &[], body.as_bytes()).await;
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        let sent = host.provider.last().json();
        assert_eq!(sent["max_completion_tokens"], 20, "{name}: {sent}");
        assert_eq!(sent.as_object().unwrap().len(), 4, "{name}: {sent}");
        assert!(answer.head.contains("rigbox-ai-stripped: "), "{name}: {answer:?}");
    }
}

#[tokio::test]
async fn limit_of_nothing_is_no_limit() {
    let host = Host::start().await;
    let asked = || host.control.with(|ledger| ledger.requests.last().unwrap().output_tokens);
    host.post("/v1/chat/completions", &json!({"model": "gpt", "max_tokens": 0, "messages": hello()})).await;
    assert_eq!(asked(), None);
    host.post("/v1/responses", &json!({"model": "gpt", "max_output_tokens": 0, "input": "a"})).await;
    assert_eq!(asked(), None);
    let google =
        json!({"contents": [{"parts": [{"text": "a"}]}], "generationConfig": {"maxOutputTokens": 0}});
    host.post("/google/v1beta/models/gemini:generateContent", &google).await;
    assert_eq!(asked(), None);
    host.control.all_settled().await;
    // Where ours is lower than what the model can do, it is in the nought's place.
    host.control.with(|ledger| ledger.credits = ledger.spent + 6_000);
    host.post("/google/v1beta/models/gemini:generateContent", &google).await;
    let sent = host.provider.last().json();
    assert!(sent["generationConfig"]["maxOutputTokens"].as_u64().unwrap() > 100, "{sent}");
    host.control.all_settled().await;
    host.control.with(|ledger| ledger.credits = ledger.spent + 6_000);
    host.post("/v1/chat/completions", &json!({"model": "gpt", "max_tokens": 0, "messages": hello()})).await;
    assert!(host.provider.last().json()["max_tokens"].as_u64().unwrap() > 100);
}

#[tokio::test]
async fn each_input_of_embeddings_may_be_as_long_as_the_model_reads() {
    let host = Host::start().await;
    host.control.with(|ledger| {
        let embed = ledger.setup.models.iter_mut().find(|model| model.id == "embed").unwrap();
        embed.context_tokens = 100;
    });
    let bound = async |input: Value| {
        // The setup is told within moments.
        let body = json!({"model": "embed", "input": input});
        rigbox_testkit::eventually("the context is told", async || {
            host.post("/v1/embeddings", &json!({"model": "embed", "input": "a"})).await;
            host.control.with(|ledger| ledger.requests.last().unwrap().input_tokens) == 100
        })
        .await;
        host.post("/v1/embeddings", &body).await;
        let asked = host.control.with(|ledger| ledger.requests.pop().unwrap());
        assert_eq!(asked.operation(), Operation::Embed);
        asked.input_tokens
    };
    let long = "word ".repeat(1_000);
    assert_eq!(bound(json!(long)).await, 100);
    assert_eq!(bound(json!([long, long, long])).await, 300);
    assert_eq!(bound(json!([[1, 2], [3, 4]])).await, 200);
    assert_eq!(bound(json!([1, 2, 3])).await, 100);
}

#[tokio::test]
async fn provider_does_not_count_what_it_would_fetch_again() {
    let host = Host::start().await;
    host.control.with(|ledger| ledger.credits = 50_000);
    let image =
        json!({"type": "image", "source": {"type": "url", "url": "https://files.example/changes.png"}});
    let body =
        json!({"model": "claude", "max_tokens": 100, "messages": [{"role": "user", "content": [image]}]});
    // Another file may be at the URL when the call is made.
    assert_eq!(host.post("/v1/messages", &body).await.status, 402);
    assert_eq!(host.provider.seen().len(), 0);
}

#[tokio::test]
async fn body_is_json_whatever_its_client_calls_it() {
    let host = Host::start().await;
    for kind in
        ["application/x-www-form-urlencoded", "application/json; charset=utf-7", "multipart/form-data"]
    {
        let body = json!({"model": "gpt", "messages": hello()}).to_string();
        host.send("POST", "/v1/chat/completions", &[("content-type", kind)], body.as_bytes()).await;
        let seen = host.provider.last();
        let sent: Vec<_> = seen.headers.get_all("content-type").iter().collect();
        assert_eq!(sent, ["application/json"], "{kind}");
    }
}

#[tokio::test]
async fn time_before_the_first_byte_counts_where_an_answer_breaks_off() {
    let host = Host::start().await;
    let body = json!({"model": "claude", "max_tokens": 9000, "messages": [
        {"role": "user", "content": "[tokens:1500][wait:2500][cut]"}]});
    let answer = host.post("/v1/messages", &body).await;
    assert!(!answer.is_whole, "{answer:?}");
    let settled = host.control.settled(0).await;
    // At 500 tokens a second.
    let output = settled.usage.unwrap().output;
    assert!(settled.estimated && output >= 1_500, "{output}");
}

#[tokio::test]
async fn every_call_at_openrouter_has_the_tables_prices_and_costs_what_it_says() {
    let host = Host::start().await;
    let calls = [
        ("/openrouter/api/v1/responses", json!({"model": "some/model", "input": "a"})),
        ("/openrouter/api/v1/embeddings", json!({"model": "some/model", "input": "a"})),
    ];
    for (path, body) in calls {
        host.post(path, &body).await;
        let sent = host.provider.last().json();
        assert_eq!(
            sent["provider"]["max_price"],
            json!({"prompt": 0.3, "completion": 1.25}),
            "{path}: {sent}"
        );
    }
}

#[tokio::test]
async fn cost_is_taken_from_openrouter_only() {
    let host = Host::start().await;
    let body =
        |model: &str| json!({"model": model, "messages": [{"role": "user", "content": "[cost:500000]"}]});
    host.post("/openrouter/api/v1/chat/completions", &body("some/model")).await;
    assert_eq!(host.control.settled(0).await.cost_micro, Some(500_000));
    let responses = json!({"model": "some/model", "stream": true, "input": "[cost:700000]"});
    host.post("/openrouter/api/v1/responses", &responses).await;
    assert_eq!(host.control.settled(1).await.cost_micro, Some(700_000));
    // Elsewhere a field of this name is in an unknown unit.
    host.post("/v1/chat/completions", &body("gpt")).await;
    assert_eq!(host.control.settled(2).await.cost_micro, None);
}

#[tokio::test]
async fn path_with_more_slashes_is_another_one() {
    let host = Host::start().await;
    let body = json!({"model": "claude", "max_tokens": 10, "messages": hello()});
    for path in [
        "//v1/messages",
        "///v1/messages",
        "//messages",
        "/V1/messages",
        "/v1/messages/",
        "/v1/./messages",
        "/v1/%6dessages",
        "/anthropic//v1/messages",
        "/v1/v1/messages",
        "/v1/../v1/messages",
    ] {
        assert_eq!(host.post(path, &body).await.status, 404, "{path}");
    }
    assert_eq!(host.provider.seen().len(), 0);
}

#[tokio::test]
async fn use_of_a_long_answer_is_known() {
    let host = Host::start().await;
    for (number, is_stream) in [true, false].into_iter().enumerate() {
        let body = json!({"model": "gpt", "stream": is_stream, "input": "[long:17000000]"});
        let answer = host.post("/v1/responses", &body).await;
        assert!(answer.is_whole && answer.body.len() > 17_000_000, "{}", answer.head);
        if is_stream {
            assert_eq!(answer.events().pop().unwrap()["type"], "response.completed");
        }
        let settled = host.control.settled(number).await;
        let billed = host.provider.billed().pop().unwrap();
        let usage = settled.usage.unwrap();
        assert!(!settled.estimated && !settled.at_bound, "{settled:?}");
        assert_eq!((usage.input, usage.output), (billed.input, billed.output));
    }
}

#[tokio::test]
async fn answer_that_our_limit_ended_is_not_taken_for_whole_however_long_it_is() {
    let host = Host::start().await;
    host.control.with(|ledger| ledger.credits = 5_000);
    let body = json!({"model": "gpt", "stream": true, "input": "[long:3000000][tokens:9000]"});
    let answer = host.post("/v1/responses", &body).await;
    assert!(answer.head.contains("rigbox-ai-limit"), "{}", answer.head);
    assert!(!answer.is_whole);
}

#[tokio::test]
async fn upload_that_drips_keeps_the_place_of_a_large_body_for_a_time_only() {
    let limits = Limits { upload: Duration::from_millis(500), ..Limits::default() };
    let host = Host::start_with(limits).await;
    let mut slow = Vec::new();
    for _ in 0..4 {
        slow.push(host.begin("/v1/messages", 9_000_000, &vec![b' '; 2 << 20]).await);
    }
    let text = "word ".repeat(300_000);
    let body = json!({"model": "claude", "max_tokens": 10, "messages": [{"role": "user", "content": text}]});
    // It waits for one of them, and not for 30 s as for one that stands still.
    let answered = tokio::time::timeout(Duration::from_secs(10), host.post("/v1/messages", &body)).await;
    assert_eq!(answered.expect("it gets a place").status, 200);
    drop(slow);
}

#[tokio::test]
async fn model_reads_no_more_than_its_bound_says() {
    let host = Host::start().await;
    let body = json!({"model": "claude", "max_tokens": 10, "messages": hello()}).to_string();
    let beta = async |options: &str| {
        host.send("POST", "/v1/messages", &[("anthropic-beta", options)], body.as_bytes()).await;
        host.provider.last().header("anthropic-beta").to_owned()
    };
    assert_eq!(beta("a-1, context-1m-2025-08-07,b-2").await, "a-1,b-2");
    assert_eq!(beta("context-1m-2025-08-07").await, "");
    // Others pass as they are, and so does this one where the table has a million.
    assert_eq!(beta("a-1, b-2").await, "a-1, b-2");
    host.control.with(|ledger| {
        ledger.setup.models.iter_mut().for_each(|model| model.context_tokens = 1_000_000);
    });
    let passes = async || beta("context-1m-2025-08-07").await == "context-1m-2025-08-07";
    rigbox_testkit::eventually("the option passes", passes).await;
}

#[tokio::test]
async fn calls_that_cannot_be_recorded_do_not_pile_up() {
    let host = Host::start_with(Limits { calls_per_workspace: 3, ..Limits::default() }).await;
    host.control.with(|ledger| ledger.is_full = true);
    let body = json!({"model": "claude", "max_tokens": 10, "messages": hello()});
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(host.post("/v1/messages", &body).await.status);
    }
    assert_eq!(statuses, [503, 503, 503, 429, 429, 429]);
    host.control.with(|ledger| ledger.is_full = false);
    let is_served = async || host.post("/v1/messages", &body).await.status == 200;
    rigbox_testkit::eventually("calls are served again", is_served).await;
    let are_told = async || host.control.with(|ledger| ledger.unknown.len()) == 3;
    rigbox_testkit::eventually("control has heard that none of the others was made", are_told).await;
}

#[tokio::test]
async fn calls_that_use_nothing_have_a_rate_of_their_own() {
    let limits = Limits { free_calls_per_minute: NonZeroU32::MIN, ..Limits::default() };
    let host = Host::start_with(limits).await;
    let body = json!({"model": "claude", "max_tokens": 10, "messages": hello()});
    let count = json!({"model": "claude", "messages": hello()});
    let refused = json!({"model": "claude", "max_tokens": 10, "messages": [{"role": "user", "content": "[status:400]"}]});
    // Those that use something do not count.
    for _ in 0..12 {
        assert_eq!(host.post("/v1/messages", &body).await.status, 200);
    }
    for number in 0..11 {
        let (path, body) =
            if number % 2 == 0 { ("/v1/messages/count_tokens", &count) } else { ("/v1/messages", &refused) };
        assert_ne!(host.post(path, body).await.status, 429, "call {number}");
        host.control.settled(12 + number).await;
    }
    let answer = host.post("/v1/messages", &body).await;
    assert_eq!(answer.status, 429);
    assert!(answer.head.contains("retry-after: 1") && answer.body.contains("used nothing"), "{answer:?}");
    let (seen, neighbor) = (host.provider.seen().len(), host.neighbor().await);
    let stream = Host::open_at(neighbor, "POST", "/v1/messages", &[], body.to_string().as_bytes()).await;
    assert_eq!(Host::read(stream).await.status, 200);
    assert_eq!(host.provider.seen().len(), seen + 1);
}
