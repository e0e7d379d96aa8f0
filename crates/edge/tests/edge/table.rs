//! Access to apps over the wire: who is forwarded, and what the others are told.

use rigbox_proto::gateway::{AppState, Visibility};

use crate::support::http::{NAVIGATES, ask, get};
use crate::support::{HOST, ORIGIN, SIBLING, World, route};
use rigbox_testkit::gateway::shown;

/// Expected outcomes: forwarded to the app, or a status.
type Says = [Option<u16>; 3];
/// Method, headers, and the outcome of private, privileged and public.
type Row = (&'static str, Vec<(String, String)>, Says);

#[tokio::test(flavor = "multi_thread")]
async fn access_table_holds() {
    const F: Option<u16> = None;
    let world = World::new().await;
    let key = |name: &str| vec![("x-rigbox-key".to_owned(), shown("key", name))];
    let cookie = |name: &str, also: &[(&str, &str)]| {
        let mut headers = vec![("cookie".to_owned(), format!("rigbox_app={}", shown("cookie", name)))];
        headers.extend(also.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        headers
    };
    let plain = |also: &[(&str, &str)]| -> Vec<(String, String)> {
        also.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let refused = |status: u16| -> Says { [Some(status), Some(status), F] };
    let preflight = |origin: &str| {
        plain(&[
            ("origin", origin),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-rigbox-key"),
        ])
    };
    let rows: Vec<Row> = vec![
        ("GET", plain(&NAVIGATES), refused(302)),
        ("GET", plain(&[("accept", "text/html")]), refused(302)),
        ("GET", plain(&[]), refused(403)),
        ("POST", plain(&NAVIGATES), refused(403)),
        ("GET", plain(&[("accept", "text/html"), ("sec-fetch-mode", "cors")]), refused(403)),
        ("GET", key("owner"), [F, F, F]),
        ("POST", key("owner"), [F, F, F]),
        ("GET", key("friend"), [Some(403), F, F]),
        ("GET", key("unverified"), refused(403)),
        ("GET", key("stranger"), refused(403)),
        ("GET", key("elsewhere"), refused(403)),
        ("GET", key("workspace"), refused(403)),
        ("GET", key("unknown"), refused(403)),
        ("GET", cookie("owner", &NAVIGATES), [F, F, F]),
        ("GET", cookie("friend", &NAVIGATES), [Some(403), F, F]),
        ("GET", cookie("stranger", &NAVIGATES), refused(403)),
        ("GET", cookie("unknown", &NAVIGATES), refused(403)),
        ("POST", cookie("owner", &[("origin", ORIGIN)]), [F, F, F]),
        ("GET", cookie("owner", &[("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors")]), [F, F, F]),
        ("POST", cookie("owner", &[("origin", SIBLING)]), refused(403)),
        (
            "GET",
            cookie("owner", &[("sec-fetch-site", "same-site"), ("sec-fetch-mode", "no-cors")]),
            refused(403),
        ),
        ("POST", cookie("owner", &[]), refused(403)),
        // Without Fetch Metadata, as on plain HTTP.
        ("GET", cookie("owner", &[("accept", "text/html"), ("referer", ORIGIN)]), [F, F, F]),
        ("GET", cookie("owner", &[("accept", "text/html"), ("referer", SIBLING)]), refused(403)),
        ("GET", cookie("owner", &[("accept", "text/html")]), refused(403)),
        ("HEAD", cookie("owner", &[("accept", "text/html")]), refused(403)),
        ("OPTIONS", preflight("https://front.example"), refused(204)),
        ("OPTIONS", preflight("https://evil.example"), refused(403)),
    ];
    for (at, visibility) in
        [Visibility::Private, Visibility::Privileged, Visibility::Public].into_iter().enumerate()
    {
        world.app(visibility);
        world.gateway.workspace_changed().await;
        for (method, headers, says) in &rows {
            let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            let before = world.backend.requests();
            let reply = ask(world.edge, method, "/page", &headers).await;
            let reached = world.backend.requests() - before;
            let case = format!("{visibility:?}: {method} {headers:?}: {} {}", reply.status, reply.body);
            assert_eq!(reply.status, says[at].unwrap_or(200), "{case}");
            assert_eq!(reached, usize::from(says[at].is_none()), "{case}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn preflight_is_answered_for_listed_origins() {
    let world = World::new().await;
    let reply = ask(
        world.edge,
        "OPTIONS",
        "/x",
        &[
            ("origin", "https://front.example"),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-rigbox-key, x-own"),
        ],
    )
    .await;
    assert_eq!(reply.status, 204);
    assert_eq!(reply.header("access-control-allow-origin"), "https://front.example");
    assert_eq!(reply.header("access-control-allow-methods"), "PUT");
    assert_eq!(reply.header("access-control-allow-headers"), "x-rigbox-key, x-own");
    assert_eq!(reply.header("vary"), "origin");
    assert_eq!(reply.header("access-control-allow-credentials"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn key_precedes_cookie_and_two_keys_are_refused() {
    let world = World::new().await;
    let (owner, stranger) = (shown("key", "owner"), shown("key", "stranger"));
    let cookie = format!("rigbox_app={}", shown("cookie", "owner"));
    for (headers, status) in [
        (vec![("x-rigbox-key", stranger.as_str()), ("cookie", &cookie), ("origin", ORIGIN)], 403),
        (vec![("x-rigbox-key", owner.as_str()), ("x-rigbox-key", &owner)], 403),
        (vec![("x-rigbox-key", owner.as_str()), ("cookie", "rigbox_app=wrong")], 200),
    ] {
        assert_eq!(get(world.edge, "/", &headers).await.status, status, "{headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tossed_cookie_is_not_a_session() {
    let world = World::new().await;
    let owner = shown("cookie", "owner");
    let twice = format!("rigbox_app={owner}; rigbox_app=other");
    let mut headers = NAVIGATES.to_vec();
    headers.push(("cookie", &twice));
    assert_eq!(get(world.edge, "/", &headers).await.status, 302);
    let apart = [("cookie", format!("rigbox_app={owner}")), ("cookie", "rigbox_app=other".to_owned())];
    let mut headers = NAVIGATES.to_vec();
    headers.extend(apart.iter().map(|(name, value)| (*name, value.as_str())));
    assert_eq!(get(world.edge, "/", &headers).await.status, 302);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_session_cookie_is_cleared() {
    let world = World::new().await;
    let mut headers = NAVIGATES.to_vec();
    headers.push(("cookie", "rigbox_app=revoked"));
    let reply = get(world.edge, "/", &headers).await;
    assert_eq!(reply.status, 403);
    assert!(reply.header("set-cookie").starts_with("rigbox_app=; Path=/; Max-Age=0"), "{reply:?}");
    assert!(reply.body.contains("/.rigbox/sign-in"), "{}", reply.body);
    assert_eq!(reply.header("cache-control"), "no-store");
    assert!(reply.header("content-security-policy").contains("default-src 'none'"));
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_app_is_explained() {
    let world = World::new().await;
    let key = shown("key", "owner");
    let headers = [("x-rigbox-key", key.as_str())];
    let set = async |change: fn(&mut rigbox_proto::gateway::Route)| {
        let mut changed = route(Visibility::Private);
        change(&mut changed);
        world.gateway.set_route(HOST, Some(changed));
        world.gateway.workspace_changed().await;
    };
    set(|route| route.state = AppState::AppStopped.into()).await;
    let reply = get(world.edge, "/", &headers).await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "app_stopped"));
    // A caller without access does not learn that either.
    assert_eq!(get(world.edge, "/", &[]).await.status, 403);
    set(|route| {
        route.state = AppState::WorkspaceNotRunning.into();
        route.boot_id.clear();
    })
    .await;
    let reply = get(world.edge, "/", &headers).await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "workspace_down"));
    // Nothing listens on port 1 of this machine.
    world.node.listens(crate::support::WORKSPACE, crate::support::BOOT, 1, ([127, 0, 0, 1], 1).into());
    set(|route| route.port = 1).await;
    let reply = get(world.edge, "/", &headers).await;
    assert_eq!((reply.status, reply.code().as_str()), (502, "app_not_listening"), "{}", reply.body);
    let mut page = headers.to_vec();
    page.push(("accept", "text/html"));
    let reply = get(world.edge, "/", &page).await;
    assert!(reply.header("content-type").starts_with("text/html") && reply.body.contains("0.0.0.0:1"));
    set(|_| ()).await;
    world.node.forget();
    world.gateway.everything_changed().await;
    let reply = get(world.edge, "/", &headers).await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "workspace_down"));
    for (host, status, code) in
        [("nothing.rigbox.localhost", 404, "app_not_found"), ("other.example", 421, "unknown_host")]
    {
        let reply = get(world.edge, "/", &[("host", host)]).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_app_is_reachable_immediately() {
    let world = World::new().await;
    let host = [("host", "new.rigbox.localhost")];
    assert_eq!(get(world.edge, "/", &host).await.status, 404);
    world.gateway.set_route("new.rigbox.localhost", Some(route(Visibility::Public)));
    assert_eq!(get(world.edge, "/", &host).await.status, 404, "the absence is cached");
    world.gateway.workspace_changed().await;
    assert_eq!(get(world.edge, "/", &host).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn decision_is_cached_until_revoked() {
    let world = World::new().await;
    let key = shown("key", "owner");
    let headers = [("x-rigbox-key", key.as_str())];
    assert_eq!(get(world.edge, "/", &headers).await.status, 200);
    let asked = world.gateway.table().asked;
    for _ in 0..20 {
        assert_eq!(get(world.edge, "/", &headers).await.status, 200);
    }
    assert_eq!(world.gateway.table().asked, asked);
    world.gateway.table().identities.remove(&key);
    world.gateway.grants_changed().await;
    assert_eq!(get(world.edge, "/", &headers).await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn navigation_without_fetch_metadata_is_bounced_once() {
    let world = World::new().await;
    let cookie = format!("rigbox_app={}", shown("cookie", "owner"));
    let page = [("cookie", cookie.as_str()), ("accept", "text/html")];
    let from = |referer| [page[0], page[1], ("referer", referer)];
    // As typed, or as a sibling's page has it fetched: no sibling can follow, or show it in a frame.
    for bounced in [
        get(world.edge, "/page?a=b&c=%26", &page).await,
        get(world.edge, "/page?a=b&c=%26", &from(SIBLING)).await,
    ] {
        assert_eq!(bounced.header("refresh"), "0; url=/.rigbox/continue?to=/page%3Fa%3Db%26c%3D%2526");
        assert!(bounced.header("content-security-policy").contains("frame-ancestors 'none'"));
        assert_eq!(bounced.header("referrer-policy"), "same-origin");
        assert!(
            bounced.body.contains(r#"href="/.rigbox/continue?to=/page%3Fa%3Db%26c%3D%2526""#),
            "{bounced:?}"
        );
    }
    let next = "/.rigbox/continue?to=/page%3Fa%3Db%26c%3D%2526";
    for refused in [get(world.edge, next, &page).await, get(world.edge, next, &from(SIBLING)).await] {
        assert_eq!((refused.status, refused.header("refresh")), (403, ""), "{refused:?}");
    }
    assert_eq!(world.backend.requests(), 0);
    let own = format!("{ORIGIN}/page?a=b&c=%26");
    let continued = get(world.edge, next, &from(&own)).await;
    assert_eq!((continued.status, continued.header("location")), (302, "/page?a=b&c=%26"));
    assert_eq!(continued.header("referrer-policy"), "same-origin");
    let arrived = get(world.edge, "/page?a=b&c=%26", &from(&own)).await;
    assert_eq!((arrived.status, world.backend.requests()), (200, 1));
    let elsewhere = get(world.edge, "/.rigbox/continue?to=//evil.example", &from(&own)).await;
    assert_eq!(elsewhere.header("location"), "/");
}
