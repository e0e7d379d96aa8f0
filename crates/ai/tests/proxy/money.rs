//! What is reserved, lowered, refused and settled.

use rigbox_proto::ai::{Denied, Ending, Reason};
use rigbox_testkit::eventually;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use crate::host::Host;

fn messages(text: &str, is_stream: bool) -> Value {
    json!({"model": "claude", "max_tokens": 9000, "stream": is_stream, "tools": [{"name": "write", "input_schema": {}}],
        "messages": [{"role": "user", "content": text}]})
}

/// Leaves credits for the input and some output, once no call is open.
async fn leave(host: &Host, output: u64) {
    host.control.all_settled().await;
    let input = u64::try_from(messages("[tokens:500]", true).to_string().len()).unwrap() + 4_096;
    host.control.with(|ledger| ledger.credits = ledger.spent + input + output + 10);
}

#[tokio::test]
async fn input_is_bounded_by_its_bytes_or_by_what_the_model_reads() {
    let host = Host::start().await;
    let body = messages("hello", false);
    host.post("/v1/messages", &body).await;
    let asked = host.control.with(|ledger| ledger.requests.pop().unwrap());
    assert_eq!(asked.input_tokens, u64::try_from(body.to_string().len()).unwrap() + 4_096);
    assert_eq!((asked.output_tokens, asked.candidates), (Some(9000), 1));
    host.control.settled(0).await;
    let document = json!({"model": "claude", "max_tokens": 5, "messages": [{"role": "user", "content": [
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "aaaa"}}]}]});
    host.post("/v1/messages", &document).await;
    assert_eq!(host.control.with(|ledger| ledger.requests.pop().unwrap().input_tokens), 200_000);
    let several = json!({"model": "gpt", "n": 3, "messages": [{"role": "user", "content": "a"}]});
    host.post("/v1/chat/completions", &several).await;
    let asked = host.control.with(|ledger| ledger.requests.pop().unwrap());
    assert_eq!((asked.output_tokens, asked.candidates), (None, 3));
}

#[tokio::test]
async fn limit_is_lowered_to_what_is_left_and_named() {
    let host = Host::start().await;
    leave(&host, 100).await;
    let answer = host.post("/v1/messages", &messages("hello", true)).await;
    let limit = host.provider.last().json()["max_tokens"].as_u64().unwrap();
    assert!((90..=120).contains(&limit), "{limit}");
    assert!(answer.head.contains(&format!("rigbox-ai-limit: {limit}")), "{answer:?}");
    assert!(answer.body.contains("end_turn"));
}

#[tokio::test]
async fn answer_that_our_limit_ended_is_not_taken_for_whole() {
    let host = Host::start().await;
    leave(&host, 50).await;
    let cut_call = host.post("/v1/messages", &messages("[tokens:500][tool]", true)).await;
    let last = cut_call.events().pop().unwrap();
    assert_eq!(
        (&last["type"], &last["error"]["type"]),
        (&json!("error"), &json!("billing_error")),
        "{cut_call:?}"
    );
    assert!(!cut_call.body.contains("message_stop"));
    // What it took is known all the same.
    let settled = host.control.settled(0).await;
    assert!(!settled.estimated && settled.usage.unwrap().output > 40, "{settled:?}");
    leave(&host, 50).await;
    let text = host.post("/v1/messages", &messages("[tokens:500]", true)).await;
    assert!(text.body.contains("max_tokens") && text.body.contains("message_stop"));
    leave(&host, 50).await;
    let whole = host.post("/v1/messages", &messages("[tokens:500]", false)).await;
    assert_eq!((whole.status, whole.json()["error"]["type"].as_str()), (402, Some("billing_error")));
    assert!(whole.head.contains("x-should-retry: false"));
    leave(&host, 50).await;
    let responses = json!({"model": "gpt", "stream": true, "input": "[tokens:500]"});
    let failed = host.post("/v1/responses", &responses).await;
    let last = failed.events().pop().unwrap();
    assert_eq!(last["type"], "response.failed");
    assert_eq!(last["response"]["error"]["code"], "insufficient_quota");
    // A limit that is the client's own is no matter of ours.
    host.control.with(|ledger| ledger.credits = ledger.spent + 1_000_000);
    let mut own = messages("[tokens:500]", false);
    own["max_tokens"] = json!(20);
    assert_eq!(host.post("/v1/messages", &own).await.json()["stop_reason"], "max_tokens");
}

#[tokio::test]
async fn provider_is_asked_for_its_count_where_the_bound_does_not_fit() {
    let host = Host::start().await;
    // 40,000 bytes, which are 10,000 tokens at this provider.
    let long = "word ".repeat(8_000);
    host.control.with(|ledger| ledger.credits = 20_000);
    let contents = json!([{"role": "user", "parts": [{"text": long}]}]);
    let calls = [
        ("/v1/messages", messages(&long, false), "/v1/messages/count_tokens"),
        (
            "/v1/responses",
            json!({"model": "gpt", "input": long, "store": false}),
            "/v1/responses/input_tokens",
        ),
        (
            "/google/v1beta/models/gemini:generateContent",
            json!({"contents": contents}),
            "/v1beta/models/gemini:countTokens",
        ),
    ];
    for (number, (path, body, count)) in calls.into_iter().enumerate() {
        let answer = host.post(path, &body).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        let seen = host.provider.seen();
        let counted = seen.iter().rev().nth(1).unwrap();
        assert_eq!(counted.path, count);
        assert_eq!(counted.json().get("stream"), None);
        let reserved = host.control.with(|ledger| ledger.requests.last().cloned()).unwrap();
        assert!((10_000..12_000).contains(&reserved.input_tokens), "{path}: {reserved:?}");
        host.control.settled(number).await;
        host.control.with(|ledger| ledger.credits = ledger.spent + 20_000);
    }
    // What the count does not fit into either is refused.
    host.control.with(|ledger| ledger.credits = ledger.spent + 5_000);
    assert_eq!(host.post("/v1/messages", &messages(&long, false)).await.status, 402);
}

#[tokio::test]
async fn empty_account_stops_each_client_at_once() {
    let host = Host::start().await;
    host.control.with(|ledger| ledger.credits = 0);
    let anthropic = host.post("/v1/messages", &messages("hello", true)).await;
    assert_eq!((anthropic.status, anthropic.json()["error"]["type"].as_str()), (402, Some("billing_error")));
    let responses = host.post("/v1/responses", &json!({"model": "gpt", "input": "a"})).await;
    assert_eq!(
        (responses.status, responses.json()["error"]["code"].as_str()),
        (429, Some("insufficient_quota"))
    );
    assert!(responses.head.contains("x-should-retry: false"));
    let google = host
        .post(
            "/google/v1beta/models/gemini:generateContent",
            &json!({"contents": [{"parts": [{"text": "a"}]}]}),
        )
        .await;
    assert_eq!((google.status, google.json()["error"]["status"].as_str()), (402, Some("RESOURCE_EXHAUSTED")));
    let denied = Denied { reason: Reason::ModelNotAllowed.into(), text: "Not for you.".into() };
    host.control.with(|ledger| ledger.denial = Some(denied));
    let refused = host.post("/v1/messages", &messages("hello", true)).await;
    assert_eq!((refused.status, refused.json()["error"]["message"].as_str()), (403, Some("Not for you.")));
    // Codex stops at this status, and would make the call five times more at another.
    let refused = host.post("/v1/responses", &json!({"model": "gpt", "input": "a"})).await;
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (400, Some("not_allowed")));
    host.control.with(|ledger| ledger.setup.stopped = true);
    let stopped = async || {
        let refused = host.post("/v1/messages", &messages("hello", true)).await;
        assert_eq!(refused.status, 403);
        refused.body.contains("stopped all AI calls")
    };
    eventually("calls are stopped", stopped).await;
    // Nothing but counts, which are for nothing.
    assert!(
        host.provider
            .seen()
            .iter()
            .all(|seen| seen.path.contains("ount") || seen.path.ends_with("input_tokens"))
    );
}

#[tokio::test]
async fn client_that_vanishes_while_its_call_is_reserved_leaves_nothing_reserved() {
    let host = Host::start().await;
    let (gate, closed) = watch::channel(false);
    host.control.with(|ledger| ledger.gate = Some(closed));
    let body = messages("hello", true).to_string();
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(host.open("POST", "/v1/messages", &[], body.as_bytes()).await);
    }
    eventually("all are being reserved", async || host.control.with(|ledger| ledger.asked == 10)).await;
    drop(streams);
    // Once a later request is answered, the proxy has seen that they are gone.
    assert_eq!(host.get("/v1/models").await.status, 200);
    gate.send_replace(true);
    eventually("all were reserved", async || host.control.with(|ledger| ledger.requests.len() == 10)).await;
    host.control.all_settled().await;
    let settled = host.control.with(|ledger| ledger.settled.clone());
    assert_eq!(settled.len(), 10);
    assert!(settled.iter().all(|settled| settled.ending() == Ending::NotSent), "{settled:?}");
    assert_eq!(host.provider.seen().len(), 0);
}

#[tokio::test]
async fn call_whose_reservation_was_lost_is_not_made_and_settled_as_not_sent() {
    let host = Host::start().await;
    let (gate, closed) = watch::channel(false);
    host.control.with(|ledger| ledger.gate = Some(closed));
    let body = messages("hello", false);
    let lose = async {
        eventually("it is being reserved", async || host.control.with(|ledger| ledger.asked == 1)).await;
        host.control.with(|ledger| ledger.breaks.send_replace(()));
    };
    let (answer, ()) = tokio::join!(host.post("/v1/messages", &body), lose);
    assert_eq!(answer.status, 503, "{answer:?}");
    let is_settled = async || host.control.with(|ledger| !ledger.unknown.is_empty());
    eventually("it is settled on another stream", is_settled).await;
    assert_eq!(host.control.with(|ledger| ledger.unknown[0].ending()), Ending::NotSent);
    assert_eq!(host.provider.seen().len(), 0);
    gate.send_replace(true);
    assert_eq!(host.post("/v1/messages", &body).await.status, 200);
}

#[tokio::test]
async fn client_that_hangs_up_pays_what_the_provider_says() {
    let host = Host::start().await;
    let body = messages("[tokens:40][pause:5]", true).to_string();
    let mut stream = host.open("POST", "/v1/messages", &[], body.as_bytes()).await;
    let mut first = [0; 200];
    stream.read_exact(&mut first).await.unwrap();
    drop(stream);
    let settled = host.control.settled(0).await;
    let billed = host.provider.billed().pop().unwrap();
    let usage = settled.usage.unwrap();
    assert_eq!((usage.input, usage.output, settled.estimated), (billed.input, billed.output, false));
    assert_eq!(settled.ending(), Ending::HungUp);
}

#[tokio::test]
async fn two_hundred_streams_with_clients_that_vanish_stay_within_the_cap() {
    let host = Host::start().await;
    host.control.with(|ledger| ledger.credits = 600_000);
    let calls = (0..200).map(|number| {
        let host = &host;
        async move {
            let body = messages(&format!("[tokens:60][pause:2] {number}"), true).to_string();
            let mut stream = host.open("POST", "/v1/messages", &[], body.as_bytes()).await;
            let mut read = vec![0; 100 + number * 7];
            let _ = stream.read(&mut read).await;
            if number % 2 == 0 {
                let _ = stream.read_to_end(&mut read).await;
            }
            host.control.with(|ledger| {
                let reserved: u64 = ledger.reserved.values().sum();
                assert!(ledger.spent + reserved <= ledger.credits);
            });
        }
    });
    futures_util::future::join_all(calls).await;
    host.control.all_settled().await;
    let billed = host.provider.billed();
    host.control.with(|ledger| {
        let made: Vec<_> = ledger.settled.iter().filter(|settled| settled.status == 200).collect();
        assert_eq!(made.len(), billed.len());
        for settled in made {
            let billed = billed.iter().find(|billed| billed.call_id == settled.call_id).unwrap();
            let usage = settled.usage.unwrap();
            let (counted, billed) = (usage.input + usage.output, billed.input + billed.output);
            // Few are read on without a client; of the others, not less counts than it can have been.
            assert!(if settled.estimated { counted >= billed } else { counted == billed }, "{settled:?}");
        }
        assert!(ledger.settled.iter().filter(|settled| !settled.estimated).count() >= 10);
    });
}
