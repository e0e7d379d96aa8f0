//! AI calls from inside of a workspace: official SDKs, unmodified, through the proxy to the provider of the tests.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rigbox_test_provider::Provider;
use rigbox_testkit::blocking::eventually;
use serde_json::{Value, json};

use super::{SHARED, copy_in, shared};
use crate::TestResult;
use crate::harness::installation::{AI_PORT, Installation};
use crate::harness::internet::API;
use crate::harness::is_soak;

tests![
    calls_without_credits_are_refused,
    processes_find_the_proxy_or_the_users_own_key,
    own_key_that_stays_outside_reaches_the_provider_without_credits,
    proxied_secret_reaches_its_host_and_no_workspace,
    switched_off_proxy_leaves_no_way_out,
    operators_keys_are_tested_by_the_proxy,
    python_sdks_work_unmodified,
    older_python_sdks_work_unmodified,
    javascript_sdks_work_unmodified,
    calls_are_counted_as_the_provider_counts_them,
    call_that_a_killed_proxy_leaves_counts_at_its_bound,
    call_goes_on_while_control_is_away,
    switch_stops_calls_at_once,
];

/// Folder of the SDKs, which `cargo xtask test` installs.
const CLIENTS: &str = "RIGBOX_AI_CLIENTS";
/// Programs that use them.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ai");
/// Key that no workspace may see.
pub(crate) const KEY: &str = "sk-test-of-the-operator-8f1c2";
/// Key of the user's own, which stays outside.
const OWN_KEY: &str = "sk-test-of-the-user-outside-5b9d";

/// Provider at the address that the installation's configuration has, started once.
pub(crate) fn provider() -> Result<&'static Provider> {
    static PROVIDER: OnceLock<Result<Provider, String>> = OnceLock::new();
    let started = PROVIDER.get_or_init(|| {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, AI_PORT)).map_err(|error| error.to_string())?;
        serve(listener).map_err(|error| error.to_string())
    });
    started.as_ref().map_err(|error| anyhow::anyhow!("the provider does not listen: {error}"))
}

/// Starts a provider on a thread of its own.
pub(super) fn serve(listener: TcpListener) -> Result<Provider> {
    listener.set_nonblocking(true)?;
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener);
            let _ = sender.send(listener.and_then(Provider::listen));
            std::future::pending::<()>().await;
        });
    });
    Ok(receiver.recv()??)
}

/// Sets the operator's keys, once.
pub(super) fn set_keys(installation: &Installation) -> TestResult {
    if installation.admin(&["provider-key", "ls"])?.contains("anthropic") {
        return Ok(());
    }
    for upstream in ["anthropic", "openai", "google"] {
        set_key(installation, upstream, KEY)?;
    }
    Ok(())
}

/// Sets the operator's key for an upstream.
pub(crate) fn set_key(installation: &Installation, upstream: &str, key: &str) -> TestResult {
    let mut command = installation.command("rigboxd");
    command.args(["admin", "provider-key", "set", upstream, "--config"]).arg(installation.config());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    child.stdin.take().context("no input")?.write_all(key.as_bytes())?;
    ensure!(child.wait()?.success(), "the key for {upstream} is not set");
    Ok(())
}

/// Runs a command in the workspace.
fn run(installation: &Installation, line: &str) -> Result<(String, i64)> {
    let id = shared(installation)?;
    let ran = installation.api.exec(&id, &json!({"command": line}))?;
    let code = ran.exit_code().context("it did not end")?;
    Ok((format!("{}{}", ran.out(), String::from_utf8_lossy(&ran.stderr)), code))
}

/// Makes a call by curl, and returns status and body.
pub(crate) fn call(installation: &Installation, body: &Value) -> Result<(u16, String)> {
    let line = format!(
        "curl -sS -w '\\n%{{http_code}}' -H 'content-type: application/json' -H 'x-api-key: mine' \
         -d '{body}' http://172.16.0.1:9090/v1/messages"
    );
    let (printed, code) = run(installation, &line)?;
    ensure!(code == 0, "{printed}");
    let (body, status) = printed.rsplit_once('\n').context("no status")?;
    Ok((status.parse()?, body.to_owned()))
}

pub(crate) fn message(text: &str) -> Value {
    json!({"model": "claude-haiku-4-5", "max_tokens": 500, "messages": [{"role": "user", "content": text}]})
}

fn credits(installation: &Installation) -> Result<(i64, i64)> {
    let credits = installation.api.get("/users/me/credits")?.expect(200)?;
    let number = |name: &str| credits.get(name).and_then(Value::as_i64).context("no number");
    Ok((number("remaining_micro")?, number("total_micro")?))
}

/// Waits until no call is open.
pub(crate) fn settled(installation: &Installation) -> TestResult {
    eventually("all calls are settled", Duration::from_secs(60), || {
        let status = installation.admin(&["ai", "status"])?;
        Ok(status.lines().any(|line| line.starts_with("open      0 ")).then_some(()))
    })
}

fn installed() -> Result<PathBuf> {
    let folder = std::env::var_os(CLIENTS).map(PathBuf::from);
    folder.with_context(|| format!("{CLIENTS} is not set: run `cargo xtask test`"))
}

fn calls_without_credits_are_refused(installation: &Installation) -> TestResult {
    let provider = provider()?;
    set_keys(installation)?;
    let (status, body) = eventually("the proxy knows its keys", Duration::from_secs(30), || {
        let (status, body) = call(installation, &message("hello"))?;
        Ok((status != 503).then_some((status, body)))
    })?;
    ensure!(status == 402 && body.contains("billing_error"), "{status} {body}");
    // It has been asked for its count, which costs nothing.
    let is_count = |seen: &rigbox_test_provider::Seen| seen.path.ends_with("/count_tokens");
    ensure!(provider.seen().iter().all(is_count), "a call without credits reaches the provider");
    let (text, _) =
        run(installation, "curl -sS -o /dev/null -w '%{http_code}' http://172.16.0.1:9090/v1/files")?;
    ensure!(text == "404", "{text}");
    // The API of the workspace is at the same address.
    let (text, code) = run(installation, "rig ws ls")?;
    ensure!(code == 0 && text.contains("shared"), "{text}");
    installation.admin(&["ai", "grant", "owner@example.org", "5"]).map(drop)
}

fn processes_find_the_proxy_or_the_users_own_key(installation: &Installation) -> TestResult {
    const OWN: &str = "AIza-test-of-the-user-4c7e";
    let id = shared(installation)?;
    // A command, a login shell, a service, and Codex's file.
    let show = r#"echo "exec $OPENAI_BASE_URL $GEMINI_API_KEY"
        env -i HOME=/home/developer PATH=/usr/bin bash -lc 'echo "login $OPENAI_BASE_URL $GEMINI_API_KEY"'
        sudo systemd-run --quiet --wait --pipe -p EnvironmentFile=/run/rigbox/env \
            sh -c 'echo "service $OPENAI_BASE_URL $GEMINI_API_KEY"'
        grep -c 172.16.0.1 /etc/codex/config.toml 2>/dev/null || echo no file"#;
    let shown = || -> Result<Vec<String>> {
        Ok(installation.api.sh(&id, show)?.lines().map(|line| line.trim_end().to_owned()).collect())
    };
    let with = |rest: &str| ["exec", "login", "service"].map(|kind| format!("{kind} {rest}"));
    let through_proxy = with("http://172.16.0.1:9090/v1 managed-by-rigbox");
    let now = shown()?;
    ensure!(now.starts_with(&through_proxy) && now.last().is_some_and(|last| last == "1"), "{now:?}");

    let set = |body: Value| configure(installation, &id, &body);
    set(json!({"mode": "byok", "provider": "google", "api_key": OWN}))?;
    let now = shown()?;
    let own = with(&format!(" {OWN}"));
    ensure!(now.starts_with(&own) && now.last().is_some_and(|last| last == "no file"), "{now:?}");
    let (status, _) = call(installation, &message("hello"))?;
    ensure!(status == 403, "a managed call in byok mode: {status}");
    set(json!({"mode": null, "provider": null, "api_key": null}))?;
    let now = shown()?;
    ensure!(now.starts_with(&through_proxy) && !now.concat().contains(OWN), "{now:?}");
    Ok(())
}

/// Sets a workspace's AI settings, which are live then.
pub(crate) fn configure(installation: &Installation, id: &str, body: &Value) -> TestResult {
    let path = format!("/workspaces/{id}/ai-config");
    let response = installation.api.send("PUT", &path, serde_json::to_vec(body)?)?.expect(200)?;
    ensure!(response.get("live") == Some(&Value::Bool(true)), "{response}");
    Ok(())
}

/// Makes a call to Anthropic with what the environment says, and returns status and body.
pub(crate) fn call_by_environment(
    installation: &Installation,
    id: &str,
    body: &Value,
) -> Result<(u16, String)> {
    let line = format!(
        "curl -sS -w '\\n%{{http_code}}' -H 'content-type: application/json' -H \"x-api-key: $ANTHROPIC_API_KEY\" \
         -d '{body}' $ANTHROPIC_BASE_URL/v1/messages"
    );
    let printed = installation.api.sh(id, &line)?;
    let (body, status) = printed.rsplit_once('\n').context("no status")?;
    Ok((status.trim().parse()?, body.to_owned()))
}

fn own_key_that_stays_outside_reaches_the_provider_without_credits(
    installation: &Installation,
) -> TestResult {
    let (id, provider, before) = (shared(installation)?, provider()?, credits(installation)?);
    let own = json!({"mode": "byok", "provider": "anthropic", "api_key": OWN_KEY, "key_delivery": "proxy"});
    configure(installation, &id, &own)?;
    let environment = installation.api.sh(&id, "env")?;
    ensure!(
        environment.contains("ANTHROPIC_BASE_URL=http://172.16.0.1:9090/own")
            && !environment.contains(OWN_KEY),
        "{environment}"
    );
    let unpriced = json!({"model": "claude-of-tomorrow", "max_tokens": 500,
        "messages": [{"role": "user", "content": "hello"}]});
    let (status, body) = call_by_environment(installation, &id, &unpriced)?;
    ensure!(status == 200 && provider.last().header("x-api-key") == OWN_KEY, "{status} {body}");
    // A call for credits is refused, and the other way round.
    ensure!(call(installation, &message("hello"))?.0 == 403, "a managed call in byok mode");
    configure(installation, &id, &json!({"mode": null}))?;
    let line = format!(
        "curl -sS -o /dev/null -w '%{{http_code}}' -d '{unpriced}' http://172.16.0.1:9090/own/v1/messages"
    );
    let status = installation.api.sh(&id, &line)?;
    ensure!(status == "403", "a call with an own key in managed mode: {status}");
    ensure!(credits(installation)? == before, "an own key costs no credits");
    configure(installation, &id, &json!({"provider": null, "api_key": null, "key_delivery": null}))
}

/// Stores a proxied secret by `rig`.
pub(crate) fn store_secret(installation: &Installation, arguments: &[&str], value: &str) -> TestResult {
    let mut command = installation.rig(&[&["secret", "proxy", "add"], arguments].concat());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    child.stdin.take().context("no input")?.write_all(value.as_bytes())?;
    ensure!(child.wait()?.success(), "rig secret proxy add {arguments:?}");
    Ok(())
}

fn proxied_secret_reaches_its_host_and_no_workspace(installation: &Installation) -> TestResult {
    const TOKEN: &str = "ghp_test-of-the-user-9a2e41c7";
    let id = shared(installation)?;
    let host = format!("server.example:{API}");
    store_secret(installation, &["tracker", "--host", &host, "-w", "shared"], TOKEN)?;
    let get = |name: &str, path: &str| {
        installation
            .api
            .sh(&id, &format!("curl -sS -i http://172.16.0.1:9090/proxy/{name}{path} 2>&1 || true"))
    };
    let answer = get("tracker", "/v1/issues?page=2")?;
    ensure!(answer.ends_with("GET /v1/issues?page=2 HTTP/1.1: true"), "{answer}");
    let echo = get("tracker", "/echo")?;
    ensure!(echo.contains("secret_echoed") && !echo.contains(&TOKEN[..8]), "the host's echo: {echo}");
    // Names that lead elsewhere: none at all, cloud metadata, and a private address beside a public one, which is taken.
    for (name, host, expected) in [
        ("nowhere", "nowhere.example".to_owned(), "502"),
        ("metadata", format!("metadata.example:{API}"), "502"),
        ("inside", format!("inside.example:{API}"), "200"),
    ] {
        store_secret(installation, &[name, "--host", &host], TOKEN)?;
        let answer = get(name, "/")?;
        ensure!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{name}: {answer}");
    }
    installation.api.set_egress(&id, &json!({"mode": "none"}))?;
    let answer = get("tracker", "/")?;
    ensure!(answer.starts_with("HTTP/1.1 403") && answer.contains("network policy"), "{answer}");
    installation.api.set_egress(&id, &json!({"mode": "internet"}))?;
    let listed = installation.rig(&["secret", "proxy", "ls"]).output()?;
    let listed = String::from_utf8(listed.stdout)?;
    ensure!(listed.contains("tracker") && listed.contains(&host) && !listed.contains(TOKEN), "{listed}");
    let removed =
        installation.rig(&["secret", "proxy", "rm", "tracker", "nowhere", "metadata", "inside"]).output()?;
    ensure!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    let answer = get("tracker", "/")?;
    ensure!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    Ok(())
}

fn switched_off_proxy_leaves_no_way_out(installation: &Installation) -> TestResult {
    let (id, provider) = (shared(installation)?, provider()?);
    let rig = |line: &str| installation.api.sh(&id, line);
    ensure!(rig("rig proxy status")?.contains("on"), "the proxy is on at first");
    let seen = provider.seen().len();
    ensure!(rig("rig proxy off")?.contains("off"), "code in the workspace may switch it off");
    let (status, body) = call(installation, &message("hello"))?;
    ensure!(status == 403 && body.contains("rig proxy on"), "{status} {body}");
    let line = "curl -sS -o /dev/null -w '%{http_code}' -d '{\"model\":\"m\",\"max_tokens\":1,\"messages\":[]}' \
                http://172.16.0.1:9090/own/v1/messages";
    ensure!(rig(line)? == "403", "a call with an own key");
    ensure!(rig("env | grep -c 172.16.0.1 || true")? == "0", "the environment has no address of it");
    ensure!(provider.seen().len() == seen, "a call reached the provider");
    ensure!(rig("rig proxy on")?.contains("on"), "code in the workspace may switch it on again");
    ensure!(call(installation, &message("hello"))?.0 == 200, "calls are made again");
    Ok(())
}

fn operators_keys_are_tested_by_the_proxy(installation: &Installation) -> TestResult {
    for upstream in ["anthropic", "openai", "google"] {
        let printed = installation.admin(&["provider-key", "test", upstream])?;
        ensure!(printed.lines().all(|line| line.ends_with("  accepted")) && !printed.is_empty(), "{printed}");
    }
    Ok(())
}

fn python_sdks_work_unmodified(installation: &Installation) -> TestResult {
    copy_in(installation, SHARED, Path::new(SOURCES), "ai-programs", &[])?;
    python_sdks(installation, "venv", "ai-python")
}

fn older_python_sdks_work_unmodified(installation: &Installation) -> TestResult {
    if !is_soak() {
        println!("skipped: only with --soak");
        return Ok(());
    }
    python_sdks(installation, "venv-older", "ai-python-older")
}

/// Copies the SDKs of an environment to a folder in the workspace, and runs the program that uses them.
fn python_sdks(installation: &Installation, environment: &str, folder: &str) -> TestResult {
    let packages = installed()?.join(environment).join("lib");
    let packages = std::fs::read_dir(packages)?.next().context("no Python")??.path();
    let without = ["__pycache__", "pip*", "setuptools*", "*/discovery_cache"];
    copy_in(installation, SHARED, &packages.join("site-packages"), folder, &without)?;
    let line = format!("PYTHONPATH=$HOME/{folder} python3 ~/ai-programs/python_sdks.py");
    let (text, code) = run(installation, &line)?;
    ensure!(code == 0 && text.starts_with("ok"), "{text}");
    eprintln!("{}", text.trim());
    Ok(())
}

fn javascript_sdks_work_unmodified(installation: &Installation) -> TestResult {
    let without = ["*.ts", "*.mts", "*.cts", "*.map", "*.md"];
    copy_in(installation, SHARED, &installed()?.join("node_modules"), "ai-programs/node_modules", &without)?;
    let (text, code) = run(installation, "cd ~/ai-programs && node javascript_sdks.js")?;
    ensure!(code == 0 && text.starts_with("ok"), "{text}");
    Ok(())
}

fn calls_are_counted_as_the_provider_counts_them(installation: &Installation) -> TestResult {
    let (provider, id) = (provider()?, shared(installation)?);
    settled(installation)?;
    let usage = installation.api.get("/users/me/ai-usage")?.expect(200)?;
    let of_workspace = usage.get("by_workspace").and_then(Value::as_array).into_iter().flatten();
    let counted =
        of_workspace.filter(|total| total.get("workspace_id") == Some(&json!(id))).collect::<Vec<_>>();
    let number = |name: &str| counted.iter().filter_map(|total| total.get(name)?.as_u64()).sum::<u64>();
    let billed = provider.billed();
    let (input, output) =
        billed.iter().fold((0, 0), |(input, output), call| (input + call.input, output + call.output));
    ensure!((number("input_tokens"), number("output_tokens")) == (input, output), "{usage} {input} {output}");
    ensure!(!billed.is_empty(), "the SDKs have made no call");
    let seen = provider.seen();
    let is_known =
        |seen: &rigbox_test_provider::Seen| seen.has_key(KEY) || seen.header("x-api-key") == OWN_KEY;
    ensure!(seen.iter().all(is_known), "a call with a key from the workspace");
    ensure!(
        !seen.iter().any(|seen| format!("{:?}", seen.headers).contains("managed-by-rigbox")),
        "a placeholder"
    );
    let printed = installation.rig(&["ai", "credits", "--output", "json"]).output()?;
    let printed: Value = serde_json::from_slice(&printed.stdout)?;
    ensure!(
        printed.get("remaining_micro").and_then(Value::as_i64) == Some(credits(installation)?.0),
        "{printed}"
    );
    Ok(())
}

/// Begins a long call, does something, and returns what it cost.
fn cost_of_a_long_call(
    installation: &Installation,
    tokens: u64,
    meanwhile: impl FnOnce() -> TestResult,
) -> Result<i64> {
    let (provider, id) = (provider()?, shared(installation)?);
    settled(installation)?;
    let (before, calls) = (credits(installation)?.0, provider.billed().len());
    let mut body = message(&format!("[tokens:{tokens}][pause:100]"));
    body["stream"] = json!(true);
    // In a session of its own, which goes on when control, and with it the command, is gone.
    let line = format!(
        "setsid -f curl -sSN -H 'content-type: application/json' -d '{body}' http://172.16.0.1:9090/v1/messages \
         > /tmp/stream 2>&1 < /dev/null"
    );
    installation.api.sh(&id, &line)?;
    eventually("the provider answers", Duration::from_secs(30), || {
        Ok((provider.billed().len() > calls).then_some(()))
    })?;
    meanwhile()?;
    installation.wait_ready()?;
    settled(installation)?;
    Ok(before - credits(installation)?.0)
}

fn call_that_a_killed_proxy_leaves_counts_at_its_bound(installation: &Installation) -> TestResult {
    let cost = cost_of_a_long_call(installation, 100, || installation.kill_role("ai"))?;
    // 500 tokens of output at 5 dollars a million, and at least the overhead of the input at 1.
    ensure!(cost >= 2_500 + 4_096, "{cost} millionths of a dollar");
    eventually("calls go on", Duration::from_secs(60), || {
        Ok((call(installation, &message("hello"))?.0 == 200).then_some(()))
    })
}

fn call_goes_on_while_control_is_away(installation: &Installation) -> TestResult {
    let cost = cost_of_a_long_call(installation, 60, || installation.kill_role("control"))?;
    // 60 tokens of output, and an input of a few tokens.
    ensure!((300..1_000).contains(&cost), "{cost} millionths of a dollar");
    let text = installation.api.sh(&shared(installation)?, "cat /tmp/stream")?;
    ensure!(text.contains("message_stop"), "{text}");
    Ok(())
}

fn switch_stops_calls_at_once(installation: &Installation) -> TestResult {
    installation.admin(&["ai", "stop"])?;
    let refused = eventually("calls are stopped", Duration::from_secs(5), || {
        let (status, body) = call(installation, &message("hello"))?;
        Ok((status != 200).then_some((status, body)))
    })?;
    ensure!(refused.0 == 403 && refused.1.contains("stopped"), "{refused:?}");
    installation.admin(&["ai", "resume"])?;
    eventually("calls go on", Duration::from_secs(10), || {
        Ok((call(installation, &message("hello"))?.0 == 200).then_some(()))
    })
}
