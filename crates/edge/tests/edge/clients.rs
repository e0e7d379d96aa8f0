//! Foreign clients: two of WebSocket, curl and nghttp2's. `cargo xtask test` installs them; a test whose
//! client is missing is skipped, and says so.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rigbox_proto::gateway::Visibility;

use crate::support::{HOST, World, skipped};
use rigbox_testkit::gateway::shown;

/// Folder of the WebSocket clients.
pub(crate) const FOLDER: &str = "RIGBOX_WEBSOCKET_CLIENTS";

/// Runs a program beside this runtime. Returns `None` if there is none of the name.
async fn run<A: AsRef<OsStr>>(program: &Path, arguments: &[A], folder: Option<&Path>) -> Option<Output> {
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    match tokio::task::spawn_blocking(move || command.output()).await.unwrap() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            skipped(&format!("{} is not installed", program.display()));
            None
        }
        output => Some(output.unwrap()),
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn frames(program: &str, script: &str) {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        skipped(&format!("{FOLDER} is not set"));
        return;
    };
    let world = World::new().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/edge/clients").join(script);
    let program = if program.contains('/') { folder.join(program) } else { PathBuf::from(program) };
    let arguments = [script.display().to_string(), world.edge.port().to_string(), shown("key", "owner")];
    if let Some(output) = run(&program, &arguments, Some(&folder)).await {
        assert!(output.status.success() && output.stdout == b"ok\n", "{}", text(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_frame_of_rfc_6455_passes_with_pythons_websockets() {
    frames("venv/bin/python", "client.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_frame_of_rfc_6455_passes_with_nodes_ws() {
    frames("node", "client.mjs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_speaks_both_versions_of_http() {
    let world = World::new().await;
    let url = format!("http://{HOST}:{}/a?b=c", world.edge.port());
    let resolve = format!("{HOST}:{}:127.0.0.1", world.edge.port());
    let key = format!("X-Rigbox-Key: {}", shown("key", "owner"));
    for (version, said) in
        [("--http1.0", "1"), ("--http1.1", "1.1"), ("--http2-prior-knowledge", "2"), ("--http2", "1.1")]
    {
        let arguments =
            ["-sS", "--resolve", &resolve, version, "-H", &key, "-w", "%{http_version} %{http_code}", &url];
        let Some(output) = run(Path::new("curl"), &arguments, None).await else { return };
        let text = text(&output);
        assert!(text.starts_with("GET /a?b=c\n"), "{version}: {text}");
        assert!(text.ends_with(&format!("{said} 200")), "{version}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nghttp2s_tools_are_answered_by_the_hundred() {
    let world = World::new().await;
    world.app(Visibility::Public);
    let url = format!("http://127.0.0.1:{}/", world.edge.port());
    let authority = format!(":authority: {HOST}");
    let load = ["-n", "2000", "-c", "4", "-m", "100", "-H", &authority, &url];
    let Some(output) = run(Path::new("h2load"), &load, None).await else { return };
    assert!(text(&output).contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{}", text(&output));
    let Some(output) = run(Path::new("nghttp"), &["-nv", "-H", &authority, &url], None).await else { return };
    assert!(text(&output).contains(":status: 200"), "{}", text(&output));
}
