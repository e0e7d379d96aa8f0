//! Tests of the operator's keys, as the operator's command asks for them.

use rigbox_proto::ai::KeyVerdict;
use rigbox_testkit::eventually;

use crate::host::{Host, KEY};

/// Starts with ids of keys that name their upstream.
async fn start() -> Host {
    let host = Host::start().await;
    host.control.with(|ledger| {
        for upstream in &mut ledger.setup.upstreams {
            for key in &mut upstream.keys {
                key.id = format!("{}-{}", upstream.name, key.id);
            }
        }
    });
    let is_known = async || host.test_keys(&["google-key-1"]).await[0].verdict() == KeyVerdict::Accepted;
    eventually("the proxy has the setup", is_known).await;
    host
}

#[tokio::test]
async fn each_providers_keys_are_tried_by_what_costs_nothing() {
    let cases = [
        ("anthropic", "/v1/models?limit=1", "x-api-key", 401, "authentication_error"),
        ("openai", "/v1/models", "authorization", 401, "invalid_api_key"),
        ("google", "/v1beta/models?pageSize=1", "x-goog-api-key", 400, "API_KEY_INVALID"),
        ("openrouter", "/api/v1/key", "authorization", 403, "invalid_api_key"),
    ];
    for (name, path, header, status, code) in cases {
        let host = start().await;
        host.provider.refuse_key(KEY, status);
        let ids = [format!("{name}-key-1"), format!("{name}-key-2"), "key-3".to_owned()];
        let tests = host.test_keys(&ids.each_ref().map(String::as_str)).await;
        let verdicts: Vec<_> = tests.iter().map(|test| (test.key_id.clone(), test.verdict())).collect();
        let expected = [KeyVerdict::Refused, KeyVerdict::Accepted, KeyVerdict::Unknown];
        assert_eq!(verdicts, ids.into_iter().zip(expected).collect::<Vec<_>>(), "{name}");
        assert_eq!((tests[0].status, tests[0].detail.as_str()), (status.into(), code), "{name}");
        assert_eq!((tests[1].status, tests[1].detail.as_str()), (200, ""), "{name}");
        let seen = host.provider.last();
        assert_eq!((seen.method.as_str(), seen.path.as_str()), ("GET", path), "{name}");
        assert!(seen.header(header).contains("sk-operator"), "{name}");
        assert!(!format!("{tests:?}").contains("sk-operator"), "{tests:?}");
        assert!(host.provider.billed().is_empty());
    }
}

#[tokio::test]
async fn key_that_is_limited_or_of_a_provider_that_is_away_is_not_called_refused() {
    let host = start().await;
    host.provider.refuse_key(KEY, 429);
    let tests = host.test_keys(&["openai-key-1"]).await;
    assert_eq!((tests[0].verdict(), tests[0].status), (KeyVerdict::Unclear, 429));
    host.control.with(|ledger| {
        for upstream in &mut ledger.setup.upstreams {
            // Nobody listens on port 1.
            upstream.base_url = "http://127.0.0.1:1".into();
        }
    });
    let is_away = async || {
        let tests = host.test_keys(&["openai-key-1"]).await;
        tests[0].verdict() == KeyVerdict::Unreachable && tests[0].detail.contains("refused")
    };
    eventually("the provider is not reached, and the reason is told", is_away).await;
}
