//! The authorisation matrix: every route of the server's own document by every kind of credential. A refusal is checked by status,
//! code and body, and must leave everything of the owner's as it was; what is hidden must look like what does not exist.

// clippy's exemption for tests does not reach helpers beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod matrix {
    pub(crate) mod callers;
    pub(crate) mod table;
}
mod support;

use std::collections::BTreeSet;

use matrix::callers::{ALL, Caller, World};
use matrix::table::{ROUTES, Route};
use serde_json::Value;
use support::Rig;

/// What a caller has to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NewWorkspace {
    /// One of the route's own answers.
    Answer,
    /// This status and code.
    Refusal(u16, &'static str),
}

fn wanted(route: &Route, caller: Caller) -> NewWorkspace {
    use matrix::table::On::*;
    let unknown = NewWorkspace::Refusal(401, "unauthorized");
    let forbidden = NewWorkspace::Refusal(403, "forbidden");
    let hidden = NewWorkspace::Refusal(404, "not_found");
    let allowed = |allowed: bool| if allowed { NewWorkspace::Answer } else { forbidden };
    match (caller, route.on) {
        (Caller::KeyInUrl, _) => NewWorkspace::Refusal(400, "key_in_url"),
        (_, Anything | Page) => NewWorkspace::Answer,
        (Caller::Anonymous | Caller::Revoked | Caller::Expired | Caller::ExpiredSession, _) => unknown,
        (Caller::CrossSite, _) => NewWorkspace::Refusal(403, "cross_site"),
        (Caller::Owner | Caller::Session, _) => NewWorkspace::Answer,
        // Their own account is theirs to event on; what is the owner's is not there.
        (Caller::OtherUser, Account) => NewWorkspace::Answer,
        (Caller::OtherUser, Key | Workspace | App | NewApp) => hidden,
        (Caller::OtherUser, Installation) => forbidden,
        (Caller::ScopedElsewhere | Caller::OtherWorkspace, Workspace | App | NewApp) => hidden,
        (Caller::Read, _) => allowed(route.read),
        (Caller::Operate | Caller::ScopedElsewhere, _) => allowed(route.operate),
        (Caller::OwnWorkspace | Caller::OtherWorkspace, _) => allowed(route.within),
    }
}

#[tokio::test]
async fn every_route_is_in_the_matrix() {
    let rig = Rig::new().await;
    let (_, document) = rig.answer(rig.client.get(rig.url("/api-docs/openapi.json"))).await;
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
    // What the document says of who needs a credential is what the matrix tests.
    for route in ROUTES {
        let operation = &document["paths"][route.path][route.method.to_lowercase()];
        assert_eq!(
            operation.get("security").is_some(),
            route.needs_credential(),
            "{} {}",
            route.method,
            route.path
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_credential_gets_what_the_table_says_and_changes_nothing_else() {
    for route in ROUTES {
        // Each route in a world of its own, because some of what is allowed removes what the next one would need.
        let world = World::new().await;
        // Refusals first: they must leave everything as it is for those who may.
        let (refused, answered): (Vec<Caller>, Vec<Caller>) =
            ALL.iter().partition(|caller| wanted(route, **caller) != NewWorkspace::Answer);
        for caller in refused.into_iter().chain(answered) {
            check(&world, route, caller).await;
        }
    }
}

/// Status and text of the answer; a stream of events has no end, so its text is not read.
async fn ask(world: &World, route: &Route, path: &str, caller: Caller) -> (u16, String) {
    let request = world.request(route, path, caller);
    if !route.path.ends_with("/stream") {
        let answer = world.rig.send(request).await;
        return (answer.status.as_u16(), String::from_utf8_lossy(&answer.body).into_owned());
    }
    let response = world.rig.begin(request).await;
    let (status, kind) = (response.status().as_u16(), response.headers().get("content-type").cloned());
    let endless = kind.is_some_and(|kind| kind == "text/event-stream");
    (status, if endless { String::new() } else { response.text().await.unwrap() })
}

async fn check(world: &World, route: &Route, caller: Caller) {
    let what = format!("{} {} by {caller:?}", route.method, route.path);
    let path = world.path(route, &world.mine);
    let before = world.owners().await;
    let (status, text) = ask(world, route, &path, caller).await;
    match wanted(route, caller) {
        NewWorkspace::Answer => {
            let expected = route.answers(caller);
            assert!(expected.contains(&status), "{what}: {status} is none of {expected:?}: {text}");
        }
        NewWorkspace::Refusal(refusal, code) => {
            let body: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((status, &body["error"]["code"]), (refusal, &Value::from(code)), "{what}: {text}");
            assert!(body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{what}");
            if status == 404 {
                assert!(text.contains("not found"), "{what}: {text}");
                // As if it had never been.
                let (own, nobodys) = world.with_and_without(route);
                let (_, other) = ask(world, route, &world.path(route, &nobodys), caller).await;
                let other = other.replace(&nobodys, &own);
                assert_eq!(text, other, "{what}");
            }
        }
    }
    if !caller.acts_for_owner() || wanted(route, caller) != NewWorkspace::Answer {
        assert_eq!(world.owners().await, before, "{what} changed something");
    }
}
