//! What a provider gets, and what a client gets back.

use rigbox_proto::ai::FieldTable;
use rigbox_testkit::eventually;
use serde_json::{Value, json};

use crate::host::{Host, KEY};

fn messages(text: &str) -> Value {
    json!({"model": "claude", "max_tokens": 1000, "messages": [{"role": "user", "content": text}]})
}

#[tokio::test]
async fn each_dialect_is_answered_whole_and_as_events() {
    let host = Host::start().await;
    let input = json!([{"role": "user", "content": "hello"}]);
    let google = json!({"contents": [{"role": "user", "parts": [{"text": "hello"}]}]});
    let calls = [
        ("/v1/messages", messages("hello"), "/content/0/text"),
        ("/v1/chat/completions", json!({"model": "gpt", "messages": input}), "/choices/0/message/content"),
        ("/v1/responses", json!({"model": "gpt", "input": "hello"}), "/output/0/content/0/text"),
        (
            "/google/v1beta/models/gemini:generateContent",
            google.clone(),
            "/candidates/0/content/parts/0/text",
        ),
        (
            "/openrouter/api/v1/chat/completions",
            json!({"model": "some/model", "messages": input}),
            "/choices/0/message/content",
        ),
    ];
    for (number, (path, body, text)) in calls.iter().enumerate() {
        let answer = host.post(path, body).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert_eq!(answer.json().pointer(text).unwrap(), "Hello w1 w2 w3 w4 w5 w6 w7", "{path}");
        let settled = host.control.settled(number).await;
        let billed = host.provider.billed().pop().unwrap();
        let usage = settled.usage.unwrap();
        assert_eq!(
            (usage.input, usage.output, settled.estimated),
            (billed.input, billed.output, false),
            "{path}"
        );
    }
    for (number, (path, mut body, _)) in calls.into_iter().enumerate() {
        let path = if path.starts_with("/google") {
            "/google/v1/models/gemini:streamGenerateContent?alt=sse".to_owned()
        } else {
            body["stream"] = json!(true);
            path.to_owned()
        };
        let answer = host.post(&path, &body).await;
        assert!(
            answer.is_whole && answer.body.contains("w7") && !answer.body.contains("error\":{"),
            "{path}: {answer:?}"
        );
        let settled = host.control.settled(5 + number).await;
        let billed = host.provider.billed().pop().unwrap();
        let usage = settled.usage.unwrap();
        assert_eq!(
            (usage.input, usage.output, settled.estimated),
            (billed.input, billed.output, false),
            "{path}"
        );
    }
    let embeddings = host.post("/v1/embeddings", &json!({"model": "embed", "input": ["a"]})).await;
    assert_eq!(embeddings.json()["data"][0]["embedding"], json!([0.5, 0.25]));
    let count = host.post("/v1/messages/count_tokens", &json!({"model": "claude", "messages": input})).await;
    assert!(count.json()["input_tokens"].as_u64().unwrap() > 0, "{count:?}");
}

#[tokio::test]
async fn provider_gets_the_operators_key_and_none_of_the_clients_headers() {
    let host = Host::start().await;
    let headers = [
        ("x-api-key", "sk-of-the-client"),
        ("authorization", "Bearer of-the-client"),
        ("cookie", "session=1"),
        ("openai-organization", "org-x"),
        ("openai-project", "proj-x"),
        ("anthropic-workspace-id", "ws-x"),
        ("x-goog-user-project", "p"),
        ("anthropic-version", "2023-06-01"),
        ("anthropic-beta", "a,b"),
        ("x-stainless-lang", "js"),
        ("x-other", "1"),
        ("sec-fetch-mode", "cors"),
    ];
    let path = "/v1/messages?beta=true&key=sk-of-the-client&fields=usage";
    let answer = host.send("POST", path, &headers, messages("hello").to_string().as_bytes()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = host.provider.last();
    assert_eq!(seen.path, "/v1/messages?beta=true");
    assert_eq!((seen.header("x-api-key"), seen.header("authorization")), (KEY, ""));
    assert_eq!((seen.header("anthropic-version"), seen.header("anthropic-beta")), ("2023-06-01", "a,b"));
    assert_eq!((seen.header("x-stainless-lang"), seen.header("accept-encoding")), ("js", "identity"));
    for name in [
        "cookie",
        "openai-organization",
        "openai-project",
        "anthropic-workspace-id",
        "x-goog-user-project",
        "x-other",
    ] {
        assert_eq!(seen.header(name), "", "{name}");
    }
    assert!(answer.head.contains(&format!("rigbox-call-id: {}", seen.header("x-client-request-id"))));
    // The bytes of a body that nothing is changed in are the client's.
    let body =
        r#"{ "model":"claude", "max_tokens" : 1000,"messages":[{"role":"user","content":"a\u0062"}] }"#;
    host.send("POST", "/v1/messages", &[], body.as_bytes()).await;
    assert_eq!(host.provider.last().body, body.as_bytes());
    // Newer SDKs send a bearer token, and their API wants one.
    let body = messages("hello").to_string();
    host.send("POST", "/v1/messages", &[("authorization", "Bearer x")], body.as_bytes()).await;
    assert_eq!(host.provider.last().header("authorization"), format!("Bearer {KEY}"));
}

#[tokio::test]
async fn nothing_is_kept_at_the_provider_and_usage_is_asked_for() {
    let host = Host::start().await;
    let chat = json!({"model": "gpt", "stream": true, "store": true, "metadata": {"a": "b"},
        "messages": [{"role": "user", "content": "hello"}]});
    let answer = host.post("/v1/chat/completions", &chat).await;
    let sent = host.provider.last().json();
    assert_eq!((&sent["store"], &sent["stream_options"]), (&json!(false), &json!({"include_usage": true})));
    assert_eq!(sent.get("metadata"), None);
    assert!(answer.head.contains("rigbox-ai-stripped: metadata"));
    // The client has not asked for that chunk.
    assert!(answer.events().iter().all(|event| event["choices"] != json!([])), "{answer:?}");
    let responses = json!({"model": "gpt", "input": "hello", "store": true});
    host.post("/v1/responses", &responses).await;
    let sent = host.provider.last().json();
    assert_eq!((&sent["store"], &sent["include"]), (&json!(false), &json!(["reasoning.encrypted_content"])));
}

#[tokio::test]
async fn openrouter_asks_no_seller_that_is_dearer_than_the_table() {
    let host = Host::start().await;
    let mut chat = json!({"model": "some/model", "messages": [{"role": "user", "content": "hello"}],
        "provider": {"order": ["dear"], "max_price": {"prompt": 99}}});
    let path = "/openrouter/api/v1/chat/completions";
    assert_eq!(host.post(path, &chat).await.status, 200);
    let seen = host.provider.last();
    assert!(seen.path.starts_with("/api/v1/"), "{}", seen.path);
    assert_eq!(seen.json()["provider"], json!({"max_price": {"prompt": 0.3, "completion": 1.25}}));
    for field in ["models", "plugins", "preset", "route"] {
        chat[field] = json!(["x"]);
        assert_eq!(host.post(path, &chat).await.status, 400, "{field}");
        chat[field] = json!(null);
    }
    chat["model"] = json!("openrouter/auto");
    assert_eq!(host.post(path, &chat).await.status, 404);
}

#[tokio::test]
async fn second_key_is_used_where_the_first_is_not_taken() {
    let host = Host::start().await;
    host.provider.refuse_key(KEY, 429);
    let answer = host.post("/v1/messages", &messages("hello")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(host.control.settled(0).await.key_id, "key-2");
    let before = host.provider.seen().len();
    host.post("/v1/messages", &messages("hello")).await;
    assert_eq!(host.provider.seen().len(), before + 1, "the first key rests");
}

#[tokio::test]
async fn models_are_listed_in_the_callers_dialect() {
    let host = Host::start().await;
    let openai = host.get("/v1/models").await.json();
    assert_eq!(openai["object"], "list");
    let anthropic = host.send("GET", "/v1/models", &[("anthropic-version", "2023-06-01")], b"").await.json();
    assert_eq!(
        (&anthropic["data"][0]["type"], &anthropic["data"][0]["id"]),
        (&json!("model"), &json!("claude"))
    );
    assert_eq!(host.get("/google/v1beta/models").await.json()["models"][0]["name"], "models/gemini");
    assert_eq!(host.get("/v1/models/gpt").await.json()["id"], "gpt");
    assert_eq!(host.get("/v1/models/claude").await.status, 404);
    assert_eq!(host.provider.seen().len(), 0);
}

#[tokio::test]
async fn operators_table_replaces_the_one_that_ships_and_a_broken_one_changes_nothing() {
    let host = Host::start().await;
    let body = json!({"model": "claude", "max_tokens": 100, "of_tomorrow": 1,
        "messages": [{"role": "user", "content": "hello"}]});
    let passes = async || {
        assert_eq!(host.post("/v1/messages", &body).await.status, 200);
        host.provider.last().json()["of_tomorrow"] == 1
    };
    assert!(!passes().await, "an unknown field is taken out");
    let table = |text: &str| FieldTable { name: "anthropic".into(), text: text.into() };
    let shipped = include_str!("../../tables/anthropic.toml");
    let added = shipped.replacen("[Request]", "[Request]\nof_tomorrow = \"number\"", 1);
    host.control.with(|ledger| ledger.setup.tables = vec![table(&added)]);
    eventually("the new table holds", passes).await;
    host.control.with(|ledger| {
        ledger.setup.tables = vec![table("[Request]\nmodel = \"nothing like a rule\"")];
        ledger.setup.models.iter_mut().for_each(|model| model.max_output_tokens += 1);
    });
    // The rest of that setup counts.
    eventually("the setup with the broken table has arrived", async || {
        host.get("/google/v1beta/models").await.body.contains("10001")
    })
    .await;
    assert!(passes().await, "the table of before stays");
    host.control.with(|ledger| ledger.setup.tables = Vec::new());
    eventually("the table that ships holds again", async || !passes().await).await;
}
