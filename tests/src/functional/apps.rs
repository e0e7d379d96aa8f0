//! Apps in real VMs behind edge: who can open them, the headers that they get, and the credentials that never reach them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rigbox_testkit::blocking::eventually;
use serde_json::{Value, json};

use crate::TestResult;
use crate::harness::console::Console;
use crate::harness::installation::Installation;
use crate::harness::visitor::{AppResponse, Visitor};

tests![
    private_app_is_reachable_by_its_owner_only,
    share_change_applies_to_next_request_and_ends_open_streams,
    rig_works_inside_a_workspace_as_its_owner_allows,
    no_credential_of_the_platform_reaches_an_app,
    app_follows_its_workspace_and_becomes_a_service,
];

/// Returns the workspace that this module and `browser` share, with `python3 -m http.server` on port 8000.
pub(crate) fn shared(installation: &Installation) -> Result<String> {
    let listed = installation.api.get("/workspaces?name=apps")?.expect(200)?;
    if let Some(id) = listed.pointer("/vms/0/id").and_then(Value::as_str) {
        return Ok(id.to_owned());
    }
    let id = installation.api.spawn("apps")?;
    serve_files(installation, &id)?;
    Ok(id)
}

/// Starts the file server, and waits until it is listening.
fn serve_files(installation: &Installation, id: &str) -> Result<()> {
    let start = "mkdir -p /home/developer/site && cd /home/developer/site && echo 'hello from the app' > index.html && \
                 setsid nohup python3 -m http.server 8000 > /dev/null 2>&1 < /dev/null &";
    installation.api.sh(id, start)?;
    wait_until_listening(installation, id, 8000)
}

fn wait_until_listening(installation: &Installation, id: &str, port: u16) -> Result<()> {
    eventually(&format!("port {port} is listening"), Duration::from_secs(40), || {
        let ports = installation.api.get(&format!("/workspaces/{id}/listening-ports"))?.expect(200)?;
        let ports = ports.get("ports").and_then(Value::as_array).cloned().unwrap_or_default();
        Ok(ports.iter().any(|one| one.get("port") == Some(&json!(port))).then_some(()))
    })
}

/// Creates an app of the shared workspace, and returns its id.
pub(crate) fn app(installation: &Installation, name: &str, port: u16) -> Result<String> {
    let workspace = shared(installation)?;
    let body = json!({"name": name, "workspace_id": workspace, "port": port});
    let created = installation.api.post("/apps", &body)?.expect(201)?;
    Ok(created.pointer("/app/id").and_then(Value::as_str).context("no id")?.to_owned())
}

pub(crate) fn set_visibility(
    installation: &Installation,
    app: &str,
    visibility: &str,
    emails: &[&str],
) -> Result<()> {
    let body = json!({"visibility": visibility, "allowed_emails": emails}).to_string();
    installation.api.send_json("PUT", &format!("/apps/{app}/visibility"), &body)?.expect(200)?;
    Ok(())
}

/// Creates a user whose address is verified by a sign-in, and returns a key.
pub(crate) fn user(installation: &Installation, email: &str) -> Result<String> {
    if !installation.admin(&["user", "ls"])?.contains(email) {
        installation.admin(&["user", "add", email])?;
    }
    let mut console = Console::new(installation)?;
    console.follow(&installation.admin(&["login-link", email])?)?;
    console.create_key("apps")
}

fn private_app_is_reachable_by_its_owner_only(installation: &Installation) -> TestResult {
    shared(installation)?;
    let created = installation.rig(&["app", "new", "web", "--port", "8000", "-w", "apps"]).output()?;
    ensure!(created.status.success(), "rig app new: {created:?}");
    let output = String::from_utf8_lossy(&created.stdout);
    ensure!(output.contains("http://web.rigbox.localhost:7080"), "{output}");
    let app = installation.api.get("/apps?name=web")?.expect(200)?;
    let app = app.pointer("/apps/0/id").and_then(Value::as_str).context("no app")?.to_owned();
    let web = Visitor::new("web");

    let owner = web.with_key(&installation.key).get("/")?;
    ensure!(owner.status == 200 && owner.body.contains("hello from the app"), "{owner:?}");
    let missing = web.with_key(&installation.key).get("/nothing-here")?;
    ensure!(
        missing.status == 404 && missing.header("server").is_some_and(|by| by.contains("SimpleHTTP")),
        "{missing:?}"
    );

    // Other users, for every visibility.
    let (friend, outsider) =
        (user(installation, "friend@example.org")?, user(installation, "outsider@example.org")?);
    let workspace_key = installation.api.sh(&shared(installation)?, "cat /run/rigbox/key")?;
    let unknown = format!("rb_{}", "a".repeat(43));
    for (visibility, emails, friend_sees, all_see) in [
        ("private", &[][..], false, false),
        ("privileged", &["friend@example.org"], true, false),
        ("public", &[], true, true),
        ("private", &["friend@example.org"], false, false),
    ] {
        set_visibility(installation, &app, visibility, emails)?;
        let is_visible = |visitor: &Visitor| -> Result<bool> {
            let asked = visitor.get("/")?;
            ensure!(asked.status == 200 || asked.status == 403, "{visibility}: {asked:?}");
            ensure!(
                (asked.status == 200) == asked.body.contains("hello from the app"),
                "{visibility}: {asked:?}"
            );
            Ok(asked.status == 200)
        };
        ensure!(is_visible(&web.with_key(&installation.key))?, "{visibility}: its owner");
        ensure!(is_visible(&web.with_key(&friend))? == friend_sees, "{visibility}: a friend");
        for other in
            [web.clone(), web.with_key(&outsider), web.with_key(&workspace_key), web.with_key(&unknown)]
        {
            ensure!(is_visible(&other)? == all_see, "{visibility}: {other:?}");
        }
        // A browser without a session is redirected to sign in, unless the app is public.
        let page = web
            .clone()
            .with("accept", "text/html")
            .with("sec-fetch-mode", "navigate")
            .with("sec-fetch-dest", "document");
        let page = page.get("/a?b=c")?;
        let sent = page
            .header("location")
            .is_some_and(|to| to.starts_with(&format!("http://console.localhost:7070/open/{app}?state=")));
        ensure!(sent != all_see && (page.status == 302) == sent, "{visibility}: {page:?}");
    }
    let nowhere = Visitor::new("nothing-here").get("/")?;
    ensure!(nowhere.status == 404 && nowhere.body.contains("not_found"), "{nowhere:?}");
    installation.api.delete(&format!("/apps/{app}"))?.expect(200)?;
    let gone = web.with_key(&installation.key).get("/")?;
    ensure!(gone.status == 404, "{gone:?}");
    Ok(())
}

fn share_change_applies_to_next_request_and_ends_open_streams(installation: &Installation) -> TestResult {
    let workspace = shared(installation)?;
    // Sends a line every tenth of a second, for ever.
    let endless = "import http.server, time\n\
        class H(http.server.BaseHTTPRequestHandler):\n    def do_GET(self):\n        self.send_response(200); self.end_headers()\n        \
        while True: self.wfile.write(b'tick\\n'); self.wfile.flush(); time.sleep(0.1)\n\
        http.server.ThreadingHTTPServer(('', 8001), H).serve_forever()";
    let write = format!(
        "cat > /tmp/endless.py <<'EOF'\n{endless}\nEOF\nsetsid nohup python3 /tmp/endless.py > /dev/null 2>&1 < /dev/null &"
    );
    installation.api.sh(&workspace, &write)?;
    wait_until_listening(installation, &workspace, 8001)?;
    let app = app(installation, "endless", 8001)?;
    let endless = Visitor::new("endless");
    let friend = user(installation, "friend@example.org")?;
    set_visibility(installation, &app, "privileged", &["friend@example.org"])?;
    let mut own = endless.with_key(&installation.key).open("/")?;
    let mut friends = endless.with_key(&friend).open("/")?;
    own.read_some()?;
    friends.read_some()?;
    set_visibility(installation, &app, "private", &[])?;
    ensure!(endless.with_key(&friend).get("/")?.status == 403, "the next request");
    friends.read_to_end(Duration::from_secs(3)).context("the friend's stream goes on")?;
    own.read_some().context("the owner's stream ended")?;

    // A key that is revoked ends its streams too.
    let created = installation.api.post("/api-keys", &json!({"name": "short"}))?.expect(201)?;
    let text = |at: &str| created.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut short = endless.with_key(&text("/key")).open("/")?;
    short.read_some()?;
    installation.api.delete(&format!("/api-keys/{}", text("/api_key/id")))?.expect(200)?;
    ensure!(endless.with_key(&text("/key")).get("/")?.status == 403, "a revoked key");
    short.read_to_end(Duration::from_secs(3)).context("the stream of a revoked key goes on")?;
    // So does a stop, and a user that the operator disables.
    installation.api.post(&format!("/apps/{app}/stop"), &json!({}))?.expect(200)?;
    own.read_to_end(Duration::from_secs(3)).context("the stream of a stopped app goes on")?;
    let stopped = endless.with_key(&installation.key).get("/")?;
    ensure!(stopped.status == 503, "{stopped:?}");
    installation.api.post(&format!("/apps/{app}/start"), &json!({}))?.expect(200)?;
    set_visibility(installation, &app, "privileged", &["friend@example.org"])?;
    let mut friends = endless.with_key(&friend).open("/")?;
    friends.read_some()?;
    installation.admin(&["user", "disable", "friend@example.org"])?;
    friends.read_to_end(Duration::from_secs(3)).context("the stream of a disabled user goes on")?;
    installation.admin(&["user", "enable", "friend@example.org"])?;
    installation.api.delete(&format!("/apps/{app}"))?.expect(200)?;
    Ok(())
}

fn rig_works_inside_a_workspace_as_its_owner_allows(installation: &Installation) -> TestResult {
    let workspace = shared(installation)?;
    let inside = |line: &str| {
        installation.api.exec(&workspace, &json!({"command": format!("rig --output json {line}")}))
    };
    let who = inside("whoami")?.out();
    ensure!(who.contains(r#""source":"bridge""#) && who.contains(&workspace), "{who}");
    let listed = inside("workspace ls")?.out();
    ensure!(listed.matches(r#""id":"ws-"#).count() == 1 && listed.contains(&workspace), "{listed}");
    let created = inside("app new inside --port 8000")?;
    ensure!(
        created.exit_code() == Some(0) && created.out().contains("http://inside.rigbox.localhost:7080"),
        "{created:?}"
    );
    let anonymous = Visitor::new("inside");
    let refused = inside("app share inside --public")?;
    ensure!(refused.exit_code() == Some(1) && refused.out().contains("forbidden"), "{refused:?}");
    ensure!(anonymous.get("/")?.status == 403, "code in a VM published its app");
    for line in ["api-key ls", "workspace stop apps", "workspace spawn -n other", "login"] {
        ensure!(inside(line)?.exit_code() == Some(1), "rig {line}");
    }
    let network = format!("/workspaces/{workspace}/network");
    installation.api.send_json("PATCH", &network, r#"{"apps_from_inside":"any"}"#)?.expect(200)?;
    ensure!(inside("app share inside --public")?.exit_code() == Some(0), "its owner lets it");
    ensure!(anonymous.get("/")?.status == 200, "a public app");
    ensure!(inside("app rm inside --force")?.exit_code() == Some(0), "rig app rm");

    // A restriction by the owner applies at once, and the refusal is reported.
    let fetch = format!("curl -s -m 5 http://{}/", crate::harness::internet::SERVER);
    ensure!(installation.api.sh(&workspace, &fetch)? == crate::harness::internet::GREETING, "the internet");
    let set = |egress: &str| {
        installation.api.send_json("PATCH", &network, &format!(r#"{{"egress":{egress}}}"#))?.expect(200)
    };
    let set_to = set(r#"{"mode":"none"}"#)?;
    ensure!(set_to.get("live") == Some(&json!(true)), "{set_to}");
    ensure!(
        installation.api.exec(&workspace, &json!({"command": fetch}))?.exit_code() != Some(0),
        "none is none"
    );
    let wanted = format!("Network policy blocked tcp to {} port 80", crate::harness::internet::SERVER);
    eventually("the refusal is in the log", Duration::from_secs(30), || {
        let log = installation.rig(&["workspace", "logs", "apps"]).output()?;
        Ok(String::from_utf8_lossy(&log.stdout).contains(&wanted).then_some(()))
    })?;
    set(r#"{"mode":"internet"}"#)?;
    ensure!(
        installation.api.sh(&workspace, &fetch)? == crate::harness::internet::GREETING,
        "the internet again"
    );
    Ok(())
}

/// Server that records every byte of its requests.
const RECORDER: &str = r#"
import socketserver
class H(socketserver.StreamRequestHandler):
    def handle(self):
        while True:
            head = b''
            while not head.endswith(b'\r\n\r\n'):
                byte = self.rfile.read(1)
                if not byte: return
                head += byte
            length = 0
            for line in head.split(b'\r\n'):
                if line.lower().startswith(b'content-length:'): length = int(line.split(b':')[1])
            body = self.rfile.read(length)
            with open('/tmp/record', 'ab') as record: record.write(head + body)
            self.wfile.write(b'HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok'); self.wfile.flush()
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(('', 8002), H).serve_forever()
"#;

fn no_credential_of_the_platform_reaches_an_app(installation: &Installation) -> TestResult {
    let workspace = shared(installation)?;
    let start = format!(
        "cat > /tmp/recorder.py <<'EOF'\n{RECORDER}\nEOF\nsetsid nohup python3 /tmp/recorder.py > /tmp/recorder.log 2>&1 < /dev/null &"
    );
    installation.api.sh(&workspace, &start)?;
    wait_until_listening(installation, &workspace, 8002)?;
    let app = app(installation, "recorder", 8002)?;
    let recorder = Visitor::new("recorder");
    let friend = user(installation, "friend@example.org")?;
    let workspace_key = installation.api.sh(&workspace, "cat /run/rigbox/key")?;

    // A session of the app, by the way that a browser goes.
    let mut console = Console::new(installation)?;
    console.follow(&installation.admin(&["login-link", "owner@example.org"])?)?;
    let page = recorder.clone().with("sec-fetch-mode", "navigate").with("sec-fetch-dest", "document");
    let sent = page.get("/deep/page?x=1")?;
    let (state_name, state_cookie) = sent.cookie_like("rigbox_state_").context("no state cookie")?;
    let to = sent.header("location").context("no location")?;
    let response =
        console.open(to.strip_prefix("http://console.localhost:7070").context("not the console")?)?;
    let callback = response.location.context("the console sends nowhere")?;
    let path =
        callback.strip_prefix("http://recorder.rigbox.localhost:7080").context("not the app")?.to_owned();
    let back = recorder.clone().with("cookie", &format!("{state_name}={state_cookie}")).get(&path)?;
    ensure!(back.header("location") == Some("/deep/page?x=1"), "{back:?}");
    let session = back.cookie("rigbox_app").context("no session cookie")?;
    // The code is used up, and was another browser's anyway.
    ensure!(recorder.get(&path)?.cookie("rigbox_app").is_none(), "a code without its state");

    let secrets: Vec<String> = vec![
        installation.key.clone(),
        friend.clone(),
        workspace_key.clone(),
        session.clone(),
        state_cookie.clone(),
        console
            .cookie
            .clone()
            .and_then(|cookie| cookie.split_once('=').map(|(_, value)| value.to_owned()))
            .context("no session")?,
    ];
    let cookies =
        format!("own=1; rigbox_app={session}; a=b; {state_name}={state_cookie}; __Host-rigbox_app={session}");
    for visibility in ["public", "private", "privileged"] {
        set_visibility(installation, &app, visibility, &["friend@example.org"])?;
        for key in [Some(installation.key.as_str()), Some(&friend), Some(&workspace_key), None] {
            for (name, value) in [
                ("x-ordinary", "1".to_owned()),
                ("cookie", cookies.clone()),
                ("authorization", format!("Bearer {}", installation.key)),
                ("authorization", "Bearer the-apps-own".to_owned()),
                ("x-rigbox-user", "us-forged".to_owned()),
                ("x_rigbox_user", "us-forged".to_owned()),
                ("connection", "x-rigbox-key, x-rigbox-user".to_owned()),
            ] {
                let mut visitor = recorder
                    .clone()
                    .with(name, &value)
                    .with("origin", "http://recorder.rigbox.localhost:7080");
                if let Some(key) = key {
                    visitor = visitor.with_key(key);
                }
                let asked = visitor.get("/some/path")?;
                ensure!(matches!(asked.status, 200 | 403), "{visibility}, {name}: {asked:?}");
                visitor.with("upgrade", "websocket").with("connection", "upgrade").get("/socket")?;
            }
        }
        let asked = recorder.get(&format!("/path?key={}", installation.key))?;
        ensure!(asked.status == 400, "a key in a URL: {asked:?}");
    }
    let record = installation.api.sh(&workspace, "cat /tmp/record")?;
    ensure!(record.matches("GET /some/path").count() > 40, "the recorder records: {record}");
    for secret in &secrets {
        ensure!(!record.contains(secret.as_str()), "a credential reached the app");
    }
    for (what, text) in
        [("a forged name", "us-forged"), ("our header", "x-rigbox-key"), ("our cookie", "rigbox_app")]
    {
        ensure!(!record.to_lowercase().contains(text), "{what} reached the app: {record}");
    }
    for (what, text) in [
        ("its own cookies", "cookie: own=1; a=b\r\n"),
        ("its own authorization", "authorization: Bearer the-apps-own\r\n"),
        ("who asks", "x-rigbox-email: owner@example.org\r\n"),
        ("a friend", "x-rigbox-email: friend@example.org\r\n"),
        ("an assertion", "x-rigbox-assertion: ey"),
    ] {
        ensure!(
            record.to_lowercase().contains(&text.to_lowercase()),
            "{what} did not reach the app: {record}"
        );
    }
    installation.api.delete(&format!("/apps/{app}"))?.expect(200)?;
    Ok(())
}

fn app_follows_its_workspace_and_becomes_a_service(installation: &Installation) -> TestResult {
    let workspace = shared(installation)?;
    let expose = |body: &Value| installation.api.post(&format!("/workspaces/{workspace}/expose-port"), body);
    let detected = expose(&json!({"port": 8000, "step": "detect"}))?.expect(200)?;
    ensure!(detected.get("command") == Some(&json!("python3 -m http.server 8000")), "{detected}");
    ensure!(detected.get("cwd") == Some(&json!("/home/developer/site")), "{detected}");
    // systemd in the guest may still be starting.
    let wrapped = eventually("a service is created", Duration::from_secs(90), || {
        let asked = expose(&json!({"port": 8000, "step": "wrap", "name": "files"}))?;
        if asked.status == 409 && asked.code() == "name_taken" {
            let found = installation.api.get("/apps?name=files")?.expect(200)?;
            let id = found.pointer("/apps/0/id").and_then(Value::as_str).unwrap_or_default().to_owned();
            installation.api.delete(&format!("/apps/{id}"))?.expect(200)?;
        }
        Ok((asked.status == 200).then_some(asked.body))
    })?;
    let app = wrapped.pointer("/app/id").and_then(Value::as_str).context("no app")?.to_owned();
    let files = Visitor::new("files").with_key(&installation.key);
    ensure!(files.get("/")?.status == 200, "it goes on as it was");
    installation
        .api
        .sudo(&workspace, "kill $(ss -Hltnp 'sport = :8000' | grep -o 'pid=[0-9]*' | cut -d= -f2)")?;
    let started = |act: &str| -> Result<()> {
        installation.api.post(&format!("/apps/{app}/{act}"), &json!({}))?.expect(200)?;
        wait_until_listening(installation, &workspace, 8000)
    };
    started("start")?;
    let health = installation.api.get(&format!("/apps/{app}/health"))?.expect(200)?;
    ensure!(
        health
            == json!({"live": true, "port_open": true, "port_drift": false, "service_status": "active",
                "listening_on": ["0.0.0.0"]}),
        "{health}"
    );
    ensure!(files.get("/logged-path")?.status == 404, "it serves");
    eventually("its log has the request", Duration::from_secs(20), || {
        let logs = installation.api.get(&format!("/apps/{app}/logs"))?.expect(200)?;
        Ok(logs.to_string().contains("logged-path").then_some(()))
    })?;

    // The workspace's end and its next boot.
    installation.api.stop(&workspace)?;
    let down = files.get("/")?;
    ensure!(down.status == 503, "{down:?}");
    installation.api.start(&workspace)?;
    // The service starts with the workspace; until then the response names the reason.
    eventually("it is back by itself", Duration::from_secs(120), || {
        let asked: AppResponse = files.get("/")?;
        ensure!(matches!(asked.status, 200 | 502 | 503), "{asked:?}");
        Ok((asked.status == 200 && asked.body.contains("hello from the app")).then_some(()))
    })?;
    installation.api.delete(&format!("/apps/{app}"))?.expect(200)?;
    Ok(())
}
