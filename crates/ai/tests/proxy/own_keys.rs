//! Calls with the user's own key, which stays outside of the workspace.

use rigbox_proto::ai::{Ending, OwnKey, Provider};
use rigbox_testkit::eventually;
use serde_json::json;

use crate::host::{Host, KEY};

const OWN: &str = "sk-ada-own-key";

fn own_key(upstream: &str) -> Option<OwnKey> {
    Some(OwnKey { upstream: upstream.to_owned(), secret: OWN.to_owned() })
}

#[tokio::test]
async fn own_key_reaches_each_provider_and_is_counted_without_a_reservation() {
    let host = Host::start().await;
    let input = json!([{"role": "user", "content": "hello"}]);
    let google = json!({"contents": [{"role": "user", "parts": [{"text": "hello"}]}]});
    // Of the models, none is in the operator's list.
    let calls = [
        (
            "anthropic",
            "/own/v1/messages",
            json!({"model": "new", "max_tokens": 100, "messages": input}),
            "x-api-key",
        ),
        ("openai", "/own/v1/chat/completions", json!({"model": "new", "messages": input}), "authorization"),
        ("google", "/own/google/v1beta/models/new:generateContent", google, "x-goog-api-key"),
    ];
    for (number, (upstream, path, body, header)) in calls.iter().enumerate() {
        host.control.with(|ledger| ledger.own_key = own_key(upstream));
        let answer =
            host.send("POST", path, &[(header, "managed-by-rigbox")], body.to_string().as_bytes()).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        let seen = host.provider.last();
        assert!(seen.header(header).ends_with(OWN), "{path}");
        assert!(!format!("{seen:?}").contains(KEY), "{path}");
        let (settled, billed) = (host.control.settled(number).await, host.provider.billed().pop().unwrap());
        let usage = settled.usage.unwrap();
        assert_eq!((usage.input, usage.output), (billed.input, billed.output), "{path}");
        assert_eq!((settled.key_id.as_str(), settled.ending()), ("", Ending::Completed), "{path}");
    }
    host.control.with(|ledger| {
        let opened: Vec<_> =
            ledger.own_calls.iter().map(|call| (call.provider(), call.model.as_str())).collect();
        let expected =
            [Provider::Anthropic, Provider::Openai, Provider::Google].map(|provider| (provider, "new"));
        assert_eq!(opened, expected);
        assert!(ledger.requests.is_empty() && ledger.spent == 0, "nothing is reserved");
    });
}

#[tokio::test]
async fn what_is_the_users_own_stays_as_the_user_wants_it() {
    let host = Host::start().await;
    host.control.with(|ledger| ledger.own_key = own_key("openai"));
    let body = json!({"model": "new", "input": "hello", "store": true});
    assert_eq!(host.post("/own/v1/responses", &body).await.status, 200);
    assert_eq!(host.provider.last().json(), body);
    // What a provider fetches or runs evades the workspace's network policy with any key.
    let hosted = json!({"model": "new", "input": "hello", "tools": [{"type": "web_search"}]});
    let answer = host.post("/own/v1/responses", &hosted).await;
    assert!(answer.status == 400 && answer.body.contains("runs at the provider"), "{answer:?}");
}

#[tokio::test]
async fn operators_paths_never_use_the_own_key_nor_the_own_paths_the_operators() {
    let host = Host::start().await;
    let body =
        json!({"model": "claude", "max_tokens": 100, "messages": [{"role": "user", "content": "hello"}]});
    host.control.with(|ledger| ledger.own_key = own_key("anthropic"));
    assert_eq!(host.post("/v1/messages", &body).await.status, 200);
    assert_eq!(host.provider.last().header("x-api-key"), KEY);
    host.control.with(|ledger| ledger.own_key = None);
    let seen = host.provider.seen().len();
    let answer = host.post("/own/v1/messages", &body).await;
    assert!(answer.status == 403 && answer.body.contains("no key of your own"), "{answer:?}");
    // An upstream that the setup does not have.
    host.control.with(|ledger| ledger.own_key = own_key("elsewhere"));
    assert_eq!(host.post("/own/v1/messages", &body).await.status, 503);
    assert_eq!(host.provider.seen().len(), seen);
    host.control.all_settled().await;
    for path in ["/own", "/own/", "/ownership/v1/messages", "/own/own/v1/messages", "/own/rig/v1/workspaces"]
    {
        assert_eq!(host.post(path, &body).await.status, 404, "{path}");
    }
    assert_eq!(host.get("/own/v1/models").await.status, 404);
}

#[tokio::test]
async fn refused_own_key_is_told_as_the_provider_tells_it_and_tried_again() {
    let host = Host::start().await;
    host.control.with(|ledger| ledger.own_key = own_key("anthropic"));
    host.provider.refuse_key(OWN, 401);
    let body =
        json!({"model": "claude", "max_tokens": 100, "messages": [{"role": "user", "content": "hello"}]});
    for number in 0..2 {
        let answer = host.post("/own/v1/messages", &body).await;
        assert!(answer.status == 401 && answer.body.contains("authentication_error"), "{answer:?}");
        assert_eq!(host.control.settled(number).await.ending(), Ending::Refused);
    }
    eventually("both tries reach the provider", async || host.provider.seen().len() == 2).await;
}

#[tokio::test]
async fn key_in_a_providers_answer_does_not_reach_the_workspace() {
    let host = Host::start().await;
    host.control.with(|ledger| ledger.own_key = own_key("anthropic"));
    let messages = json!([{"role": "user", "content": "[echo]"}]);
    let body = json!({"model": "claude", "max_tokens": 100, "messages": messages});
    for (number, (path, key)) in [("/own/v1/messages", OWN), ("/v1/messages", KEY)].into_iter().enumerate() {
        let answer = host.post(path, &body).await;
        assert!(!answer.is_whole || !answer.body.contains(key), "{answer:?}");
        assert!(!answer.body.contains(&key[..8]) && !answer.head.contains(key), "{answer:?}");
        assert_eq!(host.control.settled(number).await.ending(), Ending::Refused);
    }
}
