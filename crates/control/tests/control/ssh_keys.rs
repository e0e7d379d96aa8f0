//! SSH keys of the account: registration, listing and removal.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use reqwest::Method;
use rigbox_control::Timeouts;
use rigbox_core::plans::{LimitOverrides, Plan, Plans};
use serde_json::{Value, json};

use crate::support::TestControl;

/// Fields of SSH's encoding, each with its length.
fn blob(fields: &[&[u8]]) -> Vec<u8> {
    let field = |field: &&[u8]| [&u32::try_from(field.len()).unwrap().to_be_bytes()[..], field].concat();
    fields.iter().flat_map(field).collect()
}

/// Returns the line of an Ed25519 key that differs by `n`.
fn ed25519(n: u8) -> String {
    format!("ssh-ed25519 {} ada@laptop-{n}", STANDARD.encode(blob(&[b"ssh-ed25519", &[n; 32]])))
}

/// Returns the line of an RSA key with a length in bits, which is a multiple of 8.
fn rsa(bits: usize) -> String {
    let modulus = [vec![0], vec![0xff; bits / 8]].concat();
    format!("ssh-rsa {}", STANDARD.encode(blob(&[b"ssh-rsa", &[1, 0, 1], &modulus])))
}

async fn add(rig: &TestControl, name: &str, public_key: &str) -> (u16, Value) {
    let body = json!({"name": name, "public_key": public_key});
    let (status, body) = rig.call(Method::POST, "/ssh-keys", Some(body)).await;
    (status.as_u16(), body)
}

async fn listed(rig: &TestControl) -> Vec<Value> {
    rig.get("/ssh-keys").await.1["ssh_keys"].as_array().unwrap().clone()
}

#[tokio::test]
async fn registered_key_is_listed_until_it_is_removed() {
    let rig = TestControl::new().await;
    let (status, added) = add(&rig, "laptop", &format!("  {}\n", ed25519(1))).await;
    assert_eq!(status, 201, "{added}");
    assert_eq!((&added["name"], &added["public_key"]), (&json!("laptop"), &json!(ed25519(1))));
    assert_eq!(added["user_id"], rig.get("/users/me").await.1["id"]);
    assert!(added["fingerprint"].as_str().unwrap().starts_with("SHA256:"), "{added}");
    assert_eq!(listed(&rig).await, std::slice::from_ref(&added));

    let path = format!("/ssh-keys/{}", added["id"].as_str().unwrap());
    assert_eq!(rig.call(Method::DELETE, &path, None).await.0, 200);
    assert_eq!(listed(&rig).await, Vec::<Value>::new());
    for path in [path.as_str(), "/ssh-keys/sh-aaaaaaaa", "/ssh-keys/laptop"] {
        let (status, body) = rig.call(Method::DELETE, path, None).await;
        assert_eq!(status, 404, "{path}");
        assert!(body["error"]["message"].as_str().unwrap().contains("not found"), "{body}");
    }
    let log = rig.get("/audit-log").await.1;
    let target = format!("{} {}", added["id"].as_str().unwrap(), added["fingerprint"].as_str().unwrap());
    for action in ["ssh_key.add", "ssh_key.remove"] {
        let entries = log["entries"].as_array().unwrap().iter().filter(|entry| entry["action"] == action);
        assert_eq!(entries.map(|entry| &entry["target"]).collect::<Vec<_>>(), [&target], "{log}");
    }
}

#[tokio::test]
async fn refused_key_is_answered_with_the_reason_and_not_stored() {
    let rig = TestControl::new().await;
    let secret = "c2VjcmV0c2VjcmV0";
    let private = format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{secret}\n-----END OPENSSH PRIVATE KEY-----");
    for (name, public_key, status, code, expected) in [
        ("", ed25519(1), 400, "bad_request", "name"),
        ("a\u{7}", ed25519(1), 400, "bad_request", "name"),
        ("x", rsa(2_048), 422, "weak_key", "2048 bits"),
        ("x", "ssh-dss AAAA".to_owned(), 422, "weak_key", "DSA"),
        ("x", private, 400, "bad_request", ".pub"),
        ("x", "hello".to_owned(), 400, "bad_request", "not a public key"),
        ("x", format!("{}\n{}", ed25519(1), ed25519(2)), 400, "bad_request", "one key at a time"),
        ("x", format!("no-touch-required {}", ed25519(1)), 400, "bad_request", "no-touch-required"),
        ("x", "x".repeat(20_000), 400, "bad_request", "too long"),
    ] {
        let (got, body) = add(&rig, name, &public_key).await;
        assert_eq!((got, &body["error"]["code"]), (status, &json!(code)), "{public_key:.40}: {body}");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains(expected) && !message.contains(secret), "{message}");
    }
    let unknown = json!({"name": "x", "public_key": ed25519(1), "color": "red"});
    assert_eq!(rig.call(Method::POST, "/ssh-keys", Some(unknown)).await.0, 400);
    assert_eq!(listed(&rig).await, Vec::<Value>::new());
    assert_eq!(add(&rig, "x", &rsa(3_072)).await.0, 201);
}

#[tokio::test]
async fn same_key_is_registered_once_by_each_user() {
    let mut rig = TestControl::new().await;
    let (_, first) = add(&rig, "laptop", &ed25519(1)).await;
    let (status, again) = add(&rig, "other name", &ed25519(1).replace("ada", "bob")).await;
    assert_eq!((status, &again["error"]["code"]), (409, &json!("key_exists")));
    assert_eq!(again["error"]["details"]["id"], first["id"]);
    assert!(again["error"]["message"].as_str().unwrap().contains("`laptop`"), "{again}");
    rig.key = rig.new_user("free@example.com", Plan::Free).await;
    assert_eq!(listed(&rig).await, Vec::<Value>::new());
    let (status, theirs) = add(&rig, "laptop", &ed25519(1)).await;
    assert_eq!((status, &theirs["fingerprint"]), (201, &first["fingerprint"]));
}

#[tokio::test]
async fn repeated_registration_gets_the_same_key() {
    let rig = TestControl::new().await;
    let add = || {
        let request = rig.request(Method::POST, "/ssh-keys").header("idempotency-key", "k");
        rig.fetch(request.json(&json!({"name": "laptop", "public_key": ed25519(1)})))
    };
    let (first, second) = (add().await, add().await);
    assert_eq!((first.0.as_u16(), second.0.as_u16()), (201, 201));
    assert_eq!(first.1, second.1);
    let path = format!("/ssh-keys/{}", first.1["id"].as_str().unwrap());
    assert_eq!(rig.call(Method::DELETE, &path, None).await.0, 200);
    assert_eq!(add().await.0, 404);
}

#[tokio::test]
async fn concurrent_registrations_stay_within_the_plan() {
    let rates =
        LimitOverrides { authentication_per_min: NonZeroU32::new(100_000), ..LimitOverrides::default() };
    let plans = Plans { free: rates, owner: rates, ..Plans::default() };
    let mut rig = TestControl::with_plans(Timeouts::default(), plans).await;
    for n in 0..64 {
        assert_eq!(add(&rig, "owner's", &ed25519(n)).await.0, 201, "{n}");
    }
    let (status, body) = add(&rig, "owner's", &ed25519(64)).await;
    assert_eq!((status, &body["error"]["details"]), (402, &json!({"limit": "max_ssh_keys", "max": 64})));

    rig.key = rig.new_user("free@example.com", Plan::Free).await;
    let names: Vec<String> = (0..20).map(ed25519).collect();
    let responses = join_all(names.iter().map(|line| add(&rig, "laptop", line))).await;
    let (added, refused): (Vec<_>, Vec<_>) = responses.into_iter().partition(|(status, _)| *status == 201);
    assert_eq!((added.len(), listed(&rig).await.len()), (5, 5));
    for (status, body) in refused {
        assert_eq!((status, &body["error"]["code"]), (402, &json!("limit_exceeded")), "{body}");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.starts_with("You have 5 of 5 SSH keys."), "{message}");
    }
}

#[tokio::test]
async fn workspace_names_the_keys_of_its_owner() {
    let rig = TestControl::new().await;
    let id = rig.provisioned("web").await;
    let (_, one) = add(&rig, "laptop", &ed25519(1)).await;
    let (_, two) = add(&rig, "server", &rsa(3_072)).await;
    let (status, body) = rig.get(&format!("/workspaces/{id}/ssh-keys")).await;
    assert_eq!(status, 200, "{body}");
    let mut keys = body["keys"].as_array().unwrap().clone();
    keys.sort_by_key(|key| key["key_type"].to_string());
    assert_eq!(
        keys,
        [
            json!({"fingerprint": one["fingerprint"], "key_type": "ssh-ed25519", "comment": "ada@laptop-1"}),
            json!({"fingerprint": two["fingerprint"], "key_type": "ssh-rsa", "comment": ""}),
        ]
    );
    assert_eq!(rig.get("/workspaces/ws-aaaaaaaa/ssh-keys").await.0, 404);
}
