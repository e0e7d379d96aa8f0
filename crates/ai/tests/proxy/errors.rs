//! What goes wrong, on either side.

use rigbox_ai::Limits;
use rigbox_testkit::eventually;
use serde_json::{Value, json};

use crate::host::Host;

fn messages(text: &str) -> Value {
    json!({"model": "claude", "max_tokens": 1000, "messages": [{"role": "user", "content": text}]})
}

#[tokio::test]
async fn what_does_not_exist_or_is_not_allowed_never_reaches_a_provider() {
    let host = Host::start().await;
    for path in [
        "/v1/files",
        "/v1/messages/batches",
        "/v1/responses/r",
        "/google/v1beta/interactions",
        "/v1/conversations",
    ] {
        assert_eq!(host.post(path, &messages("hello")).await.status, 404, "{path}");
    }
    let refusals = [
        (r#"{"model":"claude","max_tokens":1,"max_tokens":9000,"messages":[]}"#, "twice"),
        (r#"{"model":"claude","max_tokens":1,"max_\u0074okens":9000,"messages":[]}"#, "twice"),
        (r#"{"model":"claude","max_tokens":1,"messages":[]} {}"#, "not valid"),
        (r#"{"model":"claude","max_tokens":1,"messages":[],"container":"c"}"#, "container"),
        (r#"{"model":"claude","max_tokens":-1,"messages":[]}"#, "max_tokens"),
        (r#"{"model":"../x","max_tokens":1,"messages":[]}"#, "model"),
        ("", "not valid"),
    ];
    for (body, text) in refusals {
        let answer = host.send("POST", "/v1/messages", &[], body.as_bytes()).await;
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        let error = answer.json();
        assert_eq!(error["error"]["type"], "invalid_request_error");
        assert!(error["error"]["message"].as_str().unwrap().contains(text), "{body}: {error}");
    }
    let unknown = json!({"model": "claude-9", "max_tokens": 1, "messages": []});
    assert_eq!(host.post("/v1/messages", &unknown).await.json()["error"]["type"], "not_found_error");
    // A model of another provider is none of this one's.
    let other = json!({"model": "claude", "messages": [{"role": "user", "content": "a"}]});
    assert_eq!(host.post("/v1/chat/completions", &other).await.status, 404);
    let upgrade = host.send("GET", "/v1/responses", &[("upgrade", "websocket")], b"").await;
    assert_eq!(upgrade.status, 426);
    let page = host.send("POST", "/v1/messages", &[("origin", "https://x.example")], b"{}").await;
    assert_eq!(page.status, 403);
    assert_eq!(host.provider.seen().len(), 0);
    assert_eq!(host.control.with(|ledger| ledger.requests.len()), 0);
}

#[tokio::test]
async fn providers_errors_pass_through_and_cost_nothing() {
    let host = Host::start().await;
    for (number, status) in [400, 500, 529].into_iter().enumerate() {
        let answer = host.post("/v1/messages", &messages(&format!("[status:{status}]"))).await;
        assert_eq!((answer.status, answer.json()["error"]["message"].as_str()), (status, Some("asked for")));
        let settled = host.control.settled(number).await;
        let nothing = Some(rigbox_proto::ai::Usage::default());
        assert_eq!((settled.usage, settled.at_bound, settled.status), (nothing, false, u32::from(status)));
    }
    assert_eq!(host.control.with(|ledger| ledger.spent), 0);
}

#[tokio::test]
async fn stream_that_breaks_off_never_looks_whole() {
    let host = Host::start().await;
    let chat = json!({"model": "gpt", "stream": true, "messages": [{"role": "user", "content": "[cut] [tokens:50]"}]});
    let responses = json!({"model": "gpt", "stream": true, "input": "[cut] [tokens:50]"});
    let google = json!({"contents": [{"parts": [{"text": "[cut] [tokens:50]"}]}]});
    let mut anthropic = messages("[cut] [tokens:50]");
    anthropic["stream"] = json!(true);
    let calls = [
        ("/v1/messages", anthropic, "/error/type", "api_error"),
        ("/v1/chat/completions", chat, "/error/type", "server_error"),
        ("/v1/responses", responses, "/type", "error"),
        ("/google/v1beta/models/gemini:streamGenerateContent?alt=sse", google, "/error/status", "INTERNAL"),
    ];
    for (number, (path, body, pointer, expected)) in calls.into_iter().enumerate() {
        let answer = host.post(path, &body).await;
        let last = answer.events().pop().unwrap();
        assert_eq!(last.pointer(pointer).unwrap(), expected, "{path}: {last}");
        let settled = host.control.settled(number).await;
        let billed = host.provider.billed().pop().unwrap();
        assert!(settled.estimated && !settled.at_bound, "{path}: {settled:?}");
        // Not less than it was.
        let usage = settled.usage.unwrap();
        assert!(usage.input >= billed.input && usage.output >= billed.output, "{path}: {usage:?} {billed:?}");
    }
    let whole = host.post("/v1/messages", &messages("[cut] [tokens:50]")).await;
    assert!(!whole.is_whole, "{whole:?}");
}

#[tokio::test]
async fn stream_that_fails_without_figures_costs_what_it_can_have_been() {
    let host = Host::start().await;
    let body = json!({"model": "gpt", "stream": true, "input": "[fail] [tokens:50]"});
    let events = host.post("/v1/responses", &body).await.events();
    let errors: Vec<_> = events.iter().filter(|event| event["type"] == "error").collect();
    assert_eq!((errors.len(), &errors[0]["message"]), (1, &json!("asked for")), "{events:?}");
    let settled = host.control.settled(0).await;
    assert!(settled.estimated && !settled.at_bound, "{settled:?}");
    let (usage, billed) = (settled.usage.unwrap(), host.provider.billed().pop().unwrap());
    assert!(usage.input >= billed.input && usage.output >= billed.output, "{usage:?} {billed:?}");
    assert!(usage.output < 10_000, "the bound is counted: {usage:?}");
}

#[tokio::test]
async fn provider_that_is_away_silent_or_talks_nonsense_is_an_error() {
    let limits = Limits { first_byte: std::time::Duration::from_millis(300), ..Limits::default() };
    let host = Host::start_with(limits).await;
    assert_eq!(host.post("/v1/messages", &messages("[silent]")).await.status, 504);
    // It may have worked on it for all that time.
    assert!(host.control.settled(0).await.at_bound);
    assert_eq!(host.post("/v1/messages", &messages("[gzip]")).await.status, 502);
    assert!(host.control.settled(1).await.at_bound);
    host.post("/v1/messages", &messages("[garbage]")).await;
    assert!(host.control.settled(2).await.at_bound);
    host.control.with(|ledger| {
        for upstream in &mut ledger.setup.upstreams {
            // Nobody listens on port 1.
            upstream.base_url = "http://127.0.0.1:1".into();
        }
    });
    let is_away = async || host.post("/v1/messages", &messages("hello")).await.status == 502;
    eventually("the provider is not reached", is_away).await;
    host.control.all_settled().await;
    let settled = host.control.with(|ledger| ledger.settled.last().cloned()).unwrap();
    assert!(!settled.at_bound && settled.usage.is_some(), "nothing was sent: {settled:?}");
}

#[tokio::test]
async fn keys_stand_in_no_answer() {
    let host = Host::start().await;
    for text in ["hello", "[status:401]", "[status:500]", "[gzip]", "[garbage]"] {
        let answer = host.post("/v1/messages", &messages(text)).await;
        assert!(!format!("{answer:?}").contains("sk-operator"), "{answer:?}");
    }
}
