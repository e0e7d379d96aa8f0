//! `rig app`.

use serde_json::{Value, json};

use crate::support::Server;

fn server() -> Server {
    Server::start().with_workspace("ws-aaaaaaaa", "web", "running")
}

fn last_body(server: &Server) -> Value {
    server.state.with(|state| state.received.last().cloned().unwrap())
}

#[test]
fn apps_are_listed_with_the_documented_fields() {
    let server = server();
    let app = json!({"id": "ap-aaaaaaaa", "name": "web", "workspace_id": "ws-aaaaaaaa", "url": "http://web.x",
        "port": 8000, "status": "active", "visibility": "private"});
    for line in [&["app", "ls"][..], &["app", "ls", "-w", "web"]] {
        assert_eq!(server.json(line).events(), [json!({"event": "apps", "apps": [app]})]);
    }
    let listed = server.run(&["app", "ls"]);
    let table = listed.text();
    assert!(table.contains("web   ap-aaaaaaaa  active  8000  private"), "{table}");
}

#[test]
fn app_is_created_and_shared() {
    let server = server();
    let created = server.run(&["app", "new", "web", "--port", "8000", "-w", "web"]);
    assert!(created.text().contains("web: http://web.x (private;"), "{created:?}");
    assert_eq!(last_body(&server), json!({"name": "web", "workspace_id": "ws-aaaaaaaa", "port": 8000}));
    for (line, body) in [
        (&["--public"][..], json!({"visibility": "public"})),
        (&["--private"], json!({"visibility": "private"})),
        (
            &["--with", "a@x.y", "--with", "b@x.y"],
            json!({"visibility": "privileged", "allowed_emails": ["a@x.y", "b@x.y"]}),
        ),
    ] {
        let shared = server.run(&[&["app", "share", "web"], line].concat());
        assert_eq!(shared.code, Some(0), "{shared:?}");
        assert!(shared.text().starts_with("web is now "), "{shared:?}");
        assert_eq!(last_body(&server), body);
    }
    // Exactly one audience, and a port, are required.
    for line in [
        &["app", "share", "web"][..],
        &["app", "share", "web", "--public", "--private"],
        &["app", "new", "web", "-w", "web"],
    ] {
        assert_eq!(server.run(line).code, Some(1), "{line:?}");
    }
}

#[test]
fn operations_on_an_app_are_reported() {
    let server = server();
    let refused = server.json(&["app", "rm", "web"]);
    assert_eq!(refused.events()[0]["code"], "confirmation_required");
    for operation in ["start", "stop", "restart", "rm"] {
        let force: &[&str] = if operation == "rm" { &["--force"] } else { &[] };
        let output = server.json(&[&["app", operation, "web"], force].concat());
        assert_eq!(
            output.events(),
            [json!({"event": format!("app_{operation}"), "message": "it is done"})],
            "{output:?}"
        );
    }
    assert_eq!(
        server.json(&["app", "open", "ap-aaaaaaaa"]).events(),
        [json!({"event": "app_open", "url": "http://web.x"})]
    );
    let log = server.json(&["app", "logs", "web"]);
    assert_eq!(
        log.events(),
        [json!({"event": "log", "timestamp": "2026-01-01T00:00:00Z", "message": "\u{1b}[2Jhello"})]
    );
    assert_eq!(server.json(&["workspace", "logs", "web"]).events(), log.events());
    // Text of a guest is escaped for the terminal.
    assert!(server.run(&["app", "logs", "web"]).text().contains("\\u{1b}[2Jhello"));
    assert!(server.run(&["app", "health", "web"]).text().contains("0.0.0.0"));
    server.run(&["app", "param", "set", "web", "A=b=c"]);
    assert_eq!(last_body(&server), json!({"params": {"A": "b=c"}}));
    server.run(&["app", "param", "unset", "web", "A"]);
    assert_eq!(last_body(&server), json!({"params": {"A": null}}));
    let missing = server.json(&["app", "open", "other"]);
    assert_eq!((missing.code, missing.events()[0]["code"].as_str()), (Some(1), Some("not_found")));
}
