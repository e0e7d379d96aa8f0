//! The platform's headers do not reach an app, and the app's own pass.

use rigbox_proto::gateway::Visibility;

use crate::support::http::{NAVIGATES, ask, get};
use crate::support::{ORIGIN, World};
use rigbox_testkit::gateway::shown;

#[tokio::test(flavor = "multi_thread")]
async fn no_credential_of_the_platform_reaches_an_app() {
    let world = World::new().await;
    let (key, session) = (shown("key", "owner"), shown("cookie", "owner"));
    let cookie = format!(
        "a=1; rigbox_app={session};b=2; rigbox_state=S3CRET; rigbox_session=S3CRET; =rigbox_app=S3CRET"
    );
    let bearer = format!("Bearer {}", shown("key", "stranger"));
    let deploy = format!("bearer rbd_{}", "D".repeat(43));
    for visibility in [Visibility::Private, Visibility::Privileged, Visibility::Public] {
        world.app(visibility);
        world.gateway.workspace_changed().await;
        let mut by_cookie = NAVIGATES.to_vec();
        by_cookie.push(("cookie", &cookie));
        let cases: Vec<(&str, Vec<(&str, &str)>)> = vec![
            ("GET", vec![("x-rigbox-key", &key), ("cookie", &cookie)]),
            ("GET", vec![("X-Rigbox-Key", &key), ("x_rigbox_key", &key), ("authorization", &bearer)]),
            ("POST", vec![("x-rigbox-key", &key), ("authorization", &deploy)]),
            ("GET", by_cookie),
            ("POST", vec![("cookie", &cookie), ("origin", ORIGIN)]),
            ("GET", vec![("x-rigbox-key", &key), ("connection", "close, x-rigbox-key, cookie")]),
        ];
        for (method, headers) in cases {
            let reply = ask(world.edge, method, "/x", &headers).await;
            assert_eq!(reply.status, 200, "{headers:?} {}", reply.body);
            let got = world.backend.take();
            for secret in [&key, &session, &"S3CRET".to_owned(), &shown("key", "stranger"), &"D".repeat(43)] {
                assert!(!got.contains(secret.as_str()), "{visibility:?} {headers:?}: {got}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn apps_own_bytes_pass_unchanged() {
    let world = World::new().await;
    let key = shown("key", "owner");
    let cookie = format!("a=1;  b = \"x y\" ;rigbox_app={}; c=d=e", shown("cookie", "owner"));
    let reply = get(
        world.edge,
        "/path/%2e%2E/x?y=%20z",
        &[
            ("x-rigbox-key", &key),
            ("cookie", &cookie),
            ("authorization", "Basic dXNlcjpwYXNz"),
            ("x-own", "  va lue\t"),
            ("accept-encoding", "br"),
        ],
    )
    .await;
    let lines: Vec<&str> = reply.body.lines().map(str::trim_end).collect();
    for line in [
        "GET /path/%2e%2E/x?y=%20z",
        "cookie: a=1;  b = \"x y\" ; c=d=e",
        "authorization: Basic dXNlcjpwYXNz",
        "x-own: va lue",
        "accept-encoding: br",
    ] {
        assert!(lines.contains(&line), "{line}: {}", reply.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_headers_cannot_be_forged() {
    let world = World::new().await;
    let key = shown("key", "owner");
    let lies = [
        ("x-rigbox-user", "us-evilevil"),
        ("X-RIGBOX-EMAIL", "evil@example.org"),
        ("x_rigbox_user", "us-evilevil"),
        ("x-rigbox_assertion", "evil"),
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-host", "evil.example"),
        ("x_forwarded_proto", "evil"),
        ("forwarded", "for=evil"),
        ("x-real-ip", "evil"),
    ];
    let mut headers =
        vec![("x-rigbox-key", key.as_str()), ("connection", "close, x-rigbox-user, x-forwarded-for")];
    headers.extend(lies);
    let reply = get(world.edge, "/", &headers).await;
    assert!(!reply.body.contains("evil") && !reply.body.contains("203.0.113.9"), "{}", reply.body);
    for line in [
        "x-rigbox-user: us-aaaaaaaa",
        "x-rigbox-email: owner@example.org",
        "x-rigbox-assertion: assertion.of.owner",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: web.rigbox.localhost:7080",
        "host: web.rigbox.localhost:7080",
    ] {
        assert!(reply.body.lines().any(|one| one == line), "{line}: {}", reply.body);
    }
    // On a public app a user is forwarded only if the cookie was intended.
    world.app(Visibility::Public);
    world.gateway.workspace_changed().await;
    let reply = get(world.edge, "/", &lies).await;
    assert!(!reply.body.contains("x-rigbox") && !reply.body.contains("x_rigbox"), "{}", reply.body);
    let session = format!("rigbox_app={}", shown("cookie", "owner"));
    let foreign =
        [("cookie", session.as_str()), ("sec-fetch-site", "same-site"), ("sec-fetch-mode", "no-cors")];
    let reply = get(world.edge, "/", &foreign).await;
    assert!(reply.status == 200 && !reply.body.contains("x-rigbox"), "{}", reply.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn app_cannot_set_reserved_headers_or_cookies() {
    let world = World::new().await;
    world.app(Visibility::Public);
    world.gateway.workspace_changed().await;
    let reply = get(world.edge, "/cookies", &[]).await;
    assert_eq!(reply.all("set-cookie"), ["mine=1; Path=/", "other=2; HttpOnly"]);
    assert_eq!((reply.header("x-rigbox-user"), reply.header("keep-alive")), ("", ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn key_in_url_is_refused_and_reserved_paths_reach_no_app() {
    let world = World::new().await;
    world.app(Visibility::Public);
    world.gateway.workspace_changed().await;
    let key = shown("key", "owner");
    for path in [format!("/?key={key}"), format!("/{key}/x"), format!("/?key={}", key.replace('_', "%5f"))] {
        let reply = get(world.edge, &path, &[]).await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "key_in_url"), "{path}");
        assert!(!reply.body.contains(&key));
    }
    for path in [
        "/.rigbox/x",
        "/.rigbox/../x",
        "/.rigbox",
        "//.rigbox/keys",
        "/.RIGBOX/keys",
        "/%2erigbox/keys",
        "/x/../.rigbox/keys",
        "/x/%2e%2e/.rigbox/keys",
        "/%252erigbox/keys",
        "/.rigbox;x/keys",
    ] {
        let reply = get(world.edge, path, &[]).await;
        assert_eq!(reply.status, 404, "{path} {}", reply.body);
    }
    assert_eq!(world.backend.requests(), 0);
    let reply = get(world.edge, "/.rigbox/keys", &[]).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, r#"{"keys":[{"kid":"test"}]}"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn cookie_that_is_no_text_passes_and_hides_no_session() {
    let world = World::new().await;
    let cookie = format!("a=\u{e9}; rigbox_app={}; b=\u{1f980}", shown("cookie", "owner"));
    let mut headers = NAVIGATES.to_vec();
    headers.push(("cookie", &cookie));
    let reply = get(world.edge, "/", &headers).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(reply.body.contains("\ncookie: a=\u{e9}; b=\u{1f980}\n"), "{}", reply.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn forwardings_are_counted_and_named() {
    let world = World::new().await;
    world.app(Visibility::Public);
    world.gateway.workspace_changed().await;
    for (method, forwards, status) in
        [("OPTIONS", "0", 204), ("TRACE", "0", 405), ("OPTIONS", "1", 200), ("GET", "0", 200)]
    {
        let before = world.backend.requests();
        let reply = ask(world.edge, method, "/", &[("max-forwards", forwards), ("via", "1.0 other")]).await;
        assert_eq!(reply.status, status, "{method} {forwards}");
        let reached = status == 200;
        assert_eq!(world.backend.requests() - before, usize::from(reached), "{method} {forwards}");
        assert_eq!(reply.header("allow").is_empty(), reached);
        assert!(!reached || reply.body.contains("max-forwards: 0\n"), "{}", reply.body);
        assert!(!reached || reply.body.contains("via: 1.0 other\nvia: 1.1 rigbox\n"), "{}", reply.body);
    }
}
