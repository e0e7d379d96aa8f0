//! Authorization matrix: every route of the server's own document with every kind of credential. A refusal is
//! checked by status, code and body, and must leave everything of the owner unchanged. Hidden resources must
//! look like missing ones.

mod callers;
mod table;

use std::collections::BTreeSet;

use callers::{ALL, Caller, Fixture};
use serde_json::Value;
use table::{ROUTES, Route};

use crate::support::TestControl;

/// Expected outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// One of the route's own responses.
    Response,
    /// This status and code.
    Refusal(u16, &'static str),
}

fn expected_outcome(route: &Route, caller: Caller) -> Expected {
    use table::Target::*;
    let unknown = Expected::Refusal(401, "unauthorized");
    let forbidden = Expected::Refusal(403, "forbidden");
    let hidden = Expected::Refusal(404, "not_found");
    let allowed_if = |allowed: bool| if allowed { Expected::Response } else { forbidden };
    match (caller, route.target) {
        (Caller::KeyInUrl, _) => Expected::Refusal(400, "key_in_url"),
        (_, Anything | Page) => Expected::Response,
        (Caller::Anonymous | Caller::Revoked | Caller::Expired | Caller::ExpiredSession, _) => unknown,
        (Caller::CrossSite, _) => Expected::Refusal(403, "cross_site"),
        (Caller::Owner | Caller::Session, _) => Expected::Response,
        // Another user may act on their own account, but cannot see the owner's resources.
        (Caller::OtherUser, Account) => Expected::Response,
        (Caller::OtherUser, Key | SshKey | Workspace | App | NewApp) => hidden,
        (Caller::OtherUser, Installation) => forbidden,
        (Caller::ScopedElsewhere | Caller::OtherWorkspace, Workspace | App | NewApp) => hidden,
        (Caller::Read, _) => allowed_if(route.read),
        (Caller::Operate | Caller::ScopedElsewhere, _) => allowed_if(route.operate),
        (Caller::OwnWorkspace | Caller::OtherWorkspace, _) => allowed_if(route.own_workspace),
    }
}

#[tokio::test]
async fn every_route_is_in_the_matrix() {
    let rig = TestControl::new().await;
    let (_, document) = rig.fetch(rig.client.get(rig.url("/api-docs/openapi.json"))).await;
    let documented: BTreeSet<String> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let tested: BTreeSet<String> =
        ROUTES.iter().map(|route| format!("{} {}", route.method, route.path)).collect();
    assert_eq!(documented, tested);
    // The document and the matrix agree on which routes need a credential.
    for route in ROUTES {
        let operation = &document["paths"][route.path][route.method.to_lowercase()];
        assert_eq!(
            operation["security"].as_array().is_some_and(|schemes| !schemes.is_empty()),
            route.needs_credential(),
            "{} {}",
            route.method,
            route.path
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_credential_gets_the_expected_outcome_and_changes_nothing_else() {
    for route in ROUTES {
        // Each route gets its own fixture, because some permitted calls remove what the next one needs.
        let fixture = Fixture::new().await;
        // Refusals first: they must leave everything unchanged for permitted callers.
        let (refused, permitted): (Vec<Caller>, Vec<Caller>) =
            ALL.iter().partition(|caller| expected_outcome(route, **caller) != Expected::Response);
        for caller in refused.into_iter().chain(permitted) {
            check(&fixture, route, caller).await;
        }
    }
}

/// Returns status and text of the response. A stream of events does not end, so its text is not read.
async fn request(fixture: &Fixture, route: &Route, path: &str, caller: Caller) -> (u16, String) {
    let request = fixture.request(route, path, caller);
    if !route.path.ends_with("/stream") {
        let response = fixture.rig.send(request).await;
        return (response.status.as_u16(), String::from_utf8_lossy(&response.body).into_owned());
    }
    let response = fixture.rig.send_streaming(request).await;
    let (status, kind) = (response.status().as_u16(), response.headers().get("content-type").cloned());
    let endless = kind.is_some_and(|kind| kind == "text/event-stream");
    (status, if endless { String::new() } else { response.text().await.unwrap() })
}

async fn check(fixture: &Fixture, route: &Route, caller: Caller) {
    let what = format!("{} {} by {caller:?}", route.method, route.path);
    let path = fixture.path(route, &fixture.mine);
    let before = fixture.owner_state().await;
    let (status, text) = request(fixture, route, &path, caller).await;
    match expected_outcome(route, caller) {
        Expected::Response => {
            let expected = route.responses(caller);
            assert!(expected.contains(&status), "{what}: {status} is not in {expected:?}: {text}");
        }
        Expected::Refusal(refusal, code) => {
            let body: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((status, &body["error"]["code"]), (refusal, &Value::from(code)), "{what}: {text}");
            assert!(body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{what}");
            if status == 404 {
                assert!(text.contains("not found"), "{what}: {text}");
                // As for a resource that never existed.
                let (own, missing) = fixture.with_and_without(route);
                let (_, other) = request(fixture, route, &fixture.path(route, &missing), caller).await;
                let other = other.replace(&missing, &own);
                assert_eq!(text, other, "{what}");
            }
        }
    }
    if !caller.acts_for_owner() || expected_outcome(route, caller) != Expected::Response {
        assert_eq!(fixture.owner_state().await, before, "{what} changed something");
    }
}
