//! Handoff from the console: valid for the browser that started it, for one app, once, and back to that app
//! only.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use rigbox_proto::gateway::Visibility;

use crate::support::http::{NAVIGATES, Reply, ask, get};
use crate::support::{HOST, ORIGIN, SIBLING, World, route};
use rigbox_testkit::gateway::shown;

/// Returns the state that passes through the console, and the browser's cookie.
fn begun(reply: &Reply) -> (String, String) {
    assert_eq!(reply.status, 302, "{reply:?}");
    let (console, query) = reply.header("location").split_once("?state=").unwrap();
    assert_eq!(console, "http://console.localhost:7070/apps/web/sign-in");
    let (state, _) = query.split_once("&host=").unwrap();
    let cookie = reply.header("set-cookie");
    assert!(cookie.ends_with("; Path=/; Max-Age=600; HttpOnly; SameSite=Lax"), "{cookie}");
    let (pair, _) = cookie.split_once(';').unwrap();
    (state.to_owned(), pair.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn browser_returns_to_its_page_after_sign_in() {
    let world = World::new().await;
    let (state, cookie) = begun(&get(world.edge, "/deep/page?x=1", &NAVIGATES).await);
    let (name, value) = cookie.split_once('=').unwrap();
    let nonce = value.split('.').next().unwrap();
    assert_eq!(state, BASE64.encode(digest(&SHA256, nonce.as_bytes())));
    world.gateway.table().codes.insert("C0DE".to_owned(), (state.clone(), shown("cookie", "owner")));
    let back = format!("/.rigbox/callback?code=C0DE&state={state}");
    let reply = get(world.edge, &back, &[("cookie", &cookie)]).await;
    assert_eq!((reply.status, reply.header("location")), (302, "/deep/page?x=1"), "{reply:?}");
    let cookies = reply.all("set-cookie");
    let [session, forgotten, seen] = cookies[..] else { panic!("{cookies:?}") };
    assert!(seen.starts_with("rigbox_seen=ap"), "{seen}");
    assert_eq!(reply.header("clear-site-data"), "\"cache\", \"storage\"");
    let age = session.split("; ").find_map(|part| part.strip_prefix("Max-Age=")?.parse::<u64>().ok());
    assert!(age.is_some_and(|age| (3590..=3600).contains(&age)), "{session}");
    assert!(session.starts_with("rigbox_app=session-of-owner; Path=/; "), "{session}");
    assert!(session.ends_with("; HttpOnly; SameSite=Lax"));
    assert!(name.starts_with("rigbox_state_"), "{name}");
    assert!(forgotten.starts_with(&format!("{name}=; Path=/; Max-Age=0")), "{forgotten}");
    let mut headers = NAVIGATES.to_vec();
    headers.push(("cookie", "rigbox_app=session-of-owner"));
    assert_eq!(get(world.edge, "/deep/page?x=1", &headers).await.status, 200);
    // Only once.
    assert_eq!(get(world.edge, &back, &[("cookie", &cookie)]).await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_app_left_at_the_host_is_removed_at_the_first_sign_in() {
    let world = World::new().await;
    let sign_in = async |more: &str| {
        let (state, cookie) = begun(&get(world.edge, "/", &NAVIGATES).await);
        world.gateway.table().codes.insert("C0DE".to_owned(), (state.clone(), shown("cookie", "owner")));
        let cookies = format!("{cookie}{more}");
        get(world.edge, &format!("/.rigbox/callback?code=C0DE&state={state}"), &[("cookie", &cookies)]).await
    };
    let first = sign_in("").await;
    let seen = first.all("set-cookie").into_iter().find(|cookie| cookie.starts_with("rigbox_seen=")).unwrap();
    let seen = seen.split(';').next().unwrap().to_owned();
    // The same app again leaves everything alone.
    let again = sign_in(&format!("; {seen}; own=1")).await;
    assert_eq!((again.status, again.all("set-cookie").len()), (302, 2), "{again:?}");
    assert!(!again.headers.contains_key("clear-site-data"));
    let other = sign_in("; rigbox_seen=ap-bbbbbbbb; own=1").await;
    assert_eq!(other.header("clear-site-data"), "\"cache\", \"storage\"");
    assert!(other.all("set-cookie").iter().any(|cookie| cookie.starts_with("own=; Path=/; Max-Age=0")));
}

#[tokio::test(flavor = "multi_thread")]
async fn code_is_bound_to_its_browser() {
    let world = World::new().await;
    let (state, cookie) = begun(&get(world.edge, "/", &NAVIGATES).await);
    let (other_state, other_cookie) = begun(&get(world.edge, "/", &NAVIGATES).await);
    world.gateway.table().codes.insert("C0DE".to_owned(), (state.clone(), shown("cookie", "owner")));
    let twice = format!("{cookie}; {cookie}");
    for (query, cookie) in [
        (format!("code=C0DE&state={state}"), ""),
        (format!("code=C0DE&state={state}"), other_cookie.as_str()),
        (format!("code=C0DE&state={state}"), twice.as_str()),
        (format!("code=C0DE&state={other_state}"), cookie.as_str()),
        ("code=C0DE".to_owned(), cookie.as_str()),
        (format!("code=C0DE&state={state}&state={state}"), cookie.as_str()),
        (format!("code={}&state={state}", "x".repeat(600)), cookie.as_str()),
    ] {
        let reply = get(world.edge, &format!("/.rigbox/callback?{query}"), &[("cookie", cookie)]).await;
        assert_eq!(reply.status, 403, "{query} {cookie}");
        assert!(reply.all("set-cookie").is_empty());
    }
    assert_eq!(world.gateway.table().redeemed, 0, "control is not asked about what cannot be valid");
    // In its own browser it is asked, and has the last word.
    let query = format!("code=C0DE&state={other_state}");
    let reply = get(world.edge, &format!("/.rigbox/callback?{query}"), &[("cookie", &other_cookie)]).await;
    assert_eq!((reply.status, world.gateway.table().redeemed), (403, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_in_names_the_host_where_it_began_and_the_code_that_where_it_came() {
    const DOMAIN: &str = "shop.example.org";
    let world = World::new().await;
    world.gateway.set_route(DOMAIN, Some(route(Visibility::Private)));
    for (began_at, came_to) in [(HOST, HOST), (DOMAIN, DOMAIN), (DOMAIN, HOST)] {
        let mut headers = NAVIGATES.to_vec();
        headers.push(("host", began_at));
        let reply = get(world.edge, "/", &headers).await;
        let (state, cookie) = begun(&reply);
        assert_eq!(reply.header("location").split_once("&host=").unwrap().1, began_at);
        world.gateway.table().codes.insert("C0DE".to_owned(), (state.clone(), shown("cookie", "owner")));
        let headers = [("host", came_to), ("cookie", &cookie)];
        get(world.edge, &format!("/.rigbox/callback?code=C0DE&state={state}"), &headers).await;
        // Control, which knows where the sign-in began, compares.
        assert_eq!(world.gateway.table().redeemed_at, came_to);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_in_link_opened_in_another_browser_starts_a_sign_in_there() {
    let world = World::new().await;
    let (state, _) = begun(&get(world.edge, "/deep", &NAVIGATES).await);
    world.gateway.table().codes.insert("C0DE".to_owned(), (state.clone(), shown("cookie", "owner")));
    let (own_state, own_cookie) =
        begun(&get(world.edge, &format!("/.rigbox/callback?code=C0DE&state={state}"), &NAVIGATES).await);
    assert_ne!(own_state, state);
    assert_eq!(world.gateway.table().redeemed, 0, "the other browser's code is not used");
    world.gateway.table().codes.insert("0WN".to_owned(), (own_state.clone(), shown("cookie", "owner")));
    let back = format!("/.rigbox/callback?code=0WN&state={own_state}");
    let reply = get(world.edge, &back, &[("cookie", &own_cookie)]).await;
    assert_eq!((reply.status, reply.header("location")), (302, "/"), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_tab_ends_at_its_own_page() {
    let world = World::new().await;
    // A browser opens the tabs of yesterday: all requests leave before the first response comes.
    let mut flows = Vec::new();
    for page in ["/one", "/two", "/three"] {
        flows.push((page, begun(&get(world.edge, page, &NAVIGATES).await)));
    }
    let mut jar: Vec<String> = flows.iter().map(|(_, (_, cookie))| cookie.clone()).collect();
    for (page, (state, cookie)) in &flows {
        world.gateway.table().codes.insert("C0DE".to_owned(), (state.clone(), shown("cookie", "owner")));
        let mut headers = NAVIGATES.to_vec();
        let cookies = jar.join("; ");
        headers.push(("cookie", &cookies));
        let back = format!("/.rigbox/callback?code=C0DE&state={state}");
        let reply = get(world.edge, &back, &headers).await;
        assert_eq!((reply.status, reply.header("location")), (302, *page), "{reply:?}");
        jar.retain(|one| one != cookie);
    }
    assert_eq!(jar.len(), 0);
    // Who is signed in never sees a 403: not with a code that was used, and not with somebody else's.
    let session = format!("rigbox_app={}", shown("cookie", "owner"));
    let (_, (state, cookie)) = &flows[1];
    for (cookies, query, to) in [
        (format!("{session}; {cookie}"), format!("code=C0DE&state={state}"), "/two"),
        (session.clone(), format!("code=C0DE&state={state}"), "/"),
        (session.clone(), "code=C0DE".to_owned(), "/"),
    ] {
        let mut headers = NAVIGATES.to_vec();
        headers.push(("cookie", &cookies));
        let reply = get(world.edge, &format!("/.rigbox/callback?{query}"), &headers).await;
        assert_eq!((reply.status, reply.header("location")), (302, to), "{query} {reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_in_does_not_redirect_elsewhere() {
    let world = World::new().await;
    for (to, returned) in [
        ("%2Fpage", "/page"),
        ("%2F%2Fevil.example", "/"),
        ("%2F%5Cevil.example", "/"),
        ("https%3A%2F%2Fevil.example", "/"),
        ("%2Fa%0d%0aSet-Cookie:%20x=y", "/"),
        ("/.rigbox/sign-in", "/"),
        ("", "/"),
    ] {
        let (state, cookie) = begun(&get(world.edge, &format!("/.rigbox/sign-in?to={to}"), &[]).await);
        world.gateway.table().codes.insert("C0DE".to_owned(), (state.clone(), "s".to_owned()));
        let back = format!("/.rigbox/callback?code=C0DE&state={state}");
        let reply = get(world.edge, &back, &[("cookie", &cookie)]).await;
        assert_eq!((reply.status, reply.header("location")), (302, returned), "{to}");
    }
    // The browser's owner may have put something else into the cookie; that leads nowhere else either.
    let (state, cookie) = begun(&get(world.edge, "/.rigbox/sign-in", &[]).await);
    world.gateway.table().codes.insert("C0DE".to_owned(), (state.clone(), "s".to_owned()));
    let nonce = cookie.split('.').next().unwrap();
    let forged = format!("{nonce}.{}", BASE64.encode("//evil.example"));
    let reply =
        get(world.edge, &format!("/.rigbox/callback?code=C0DE&state={state}"), &[("cookie", &forged)]).await;
    assert_eq!(reply.header("location"), "/");
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_out_is_asked_for_by_the_apps_own_pages() {
    let world = World::new().await;
    let out = "/.rigbox/sign-out";
    assert_eq!(get(world.edge, out, &[]).await.status, 405);
    for origin in [SIBLING, "null"] {
        assert_eq!(ask(world.edge, "POST", out, &[("origin", origin)]).await.status, 403);
    }
    assert_eq!(ask(world.edge, "POST", out, &[]).await.status, 403);
    let reply = ask(world.edge, "POST", out, &[("origin", ORIGIN)]).await;
    assert_eq!(reply.status, 200);
    assert!(reply.header("set-cookie").starts_with("rigbox_app=; Path=/; Max-Age=0"));
    assert_eq!(world.backend.requests(), 0);
}
