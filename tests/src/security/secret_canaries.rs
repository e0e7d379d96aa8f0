//! Canary values as secrets: a workspace is created, used and stopped, and then its memory, its disk, the logs, the state folder and the
//! database are searched for them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rigbox_testkit::blocking::eventually;
use serde_json::json;

use crate::TestResult;
use crate::clients::{ai, shared};
use crate::harness::installation::Installation;
use crate::harness::internet::API;
use crate::harness::search::{Findings, Needle, Search};

tests![
    secrets_are_only_in_the_memory_of_their_workspace,
    providers_keys_are_only_in_the_memory_of_the_proxy,
    users_keys_are_only_where_they_are_to_be,
];

/// Secrets that are allowed in the workspace's memory; no secret is allowed elsewhere.
const IN_MEMORY: [&str; 2] = ["environment value", "workspace key"];
/// Not secrets: these show that the search works.
const ON_DISK_MARK: &str = "mark in a file";
const IN_PROCESS_MARK: &str = "mark in a process";
/// Time after a hand-over for which control, and guestio for a workspace's, may have a key in its memory.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(5);
/// Files that contain a secret by design.
const SECRET_FILES: [(&str, &str); 2] = [("token key", "token.key"), ("master key", "master.key")];

fn unique(prefix: &str) -> anyhow::Result<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(format!("{prefix}{}", id.trim().replace('-', "")))
}

fn needle(kind: &'static str, text: &str) -> Needle {
    Needle { kind, bytes: text.as_bytes().to_vec() }
}

fn kinds(seen: &Findings) -> Vec<&'static str> {
    let mut kinds: Vec<_> = seen.iter().map(|(kind, _)| *kind).collect();
    kinds.dedup();
    kinds
}

fn secrets_are_only_in_the_memory_of_their_workspace(installation: &Installation) -> TestResult {
    let api = &installation.api;
    let (value, in_file, in_process) = (unique("canary")?, unique("infile")?, unique("inproc")?);
    let before = installation.vmm_pids()?;
    let id = api.create("canary")?;
    api.set_env(&id, &json!({"CANARY": value}))?;
    api.start(&id)?;
    let vmm =
        installation.vmm_pids()?.into_iter().find(|pid| !before.contains(pid)).context("the new VMM")?;

    // Uses them in all ways, so that every component has a chance to leak.
    ensure!(api.sh(&id, "printf %s \"$CANARY\"")? == value, "the value is there");
    api.sudo(&id, "env -i bash -lc 'test -n \"$CANARY\"'; sync")?;
    let key = api.sh(&id, "cat /run/rigbox/key")?;
    ensure!(api.with_key(&key)?.get(&format!("/workspaces/{id}"))?.status == 200, "the workspace's own key");
    let rig = installation.rig(&["exec", "canary", "--", "sh", "-c", "kill -ABRT $$"]).output()?;
    ensure!(rig.status.code() == Some(134), "{}", crate::harness::host::ending(rig.status));
    api.sh(&id, &format!("printf %s {in_file} > file; sync; sleep 1000 {in_process} & true"))?;
    api.set_env(&id, &json!({"OTHER": "x"}))?;

    // Secrets of the account: a session, an unused sign-in link, a pending device login.
    let link = || installation.admin(&["login-link", "owner@example.org"]);
    let mut browser = crate::harness::console::Console::new(installation)?;
    browser.follow(&link()?)?;
    let session = browser.cookie.as_deref().and_then(|cookie| cookie.split_once('=')).context("no cookie")?;
    let (session, link) = (session.1.to_owned(), link()?);
    let link = link.split_once("token=").context("no token")?.1.to_owned();
    let device = api.post("/auth/device", &json!({"machine": "canary"}))?.expect(201)?;
    let device =
        device.get("device_secret").and_then(|secret| secret.as_str()).context("no secret")?.to_owned();

    let control = installation.state().join("control");
    let token_key = std::fs::read(control.join("token.key"))?;
    let master_key = std::fs::read_to_string(control.join("master.key"))?;
    let master_key = STANDARD.decode(master_key.trim()).context("the master key")?;
    let search = Search::new(&[
        needle("API key", &installation.key),
        needle("workspace key", &key),
        needle("environment value", &value),
        Needle { kind: "token key", bytes: token_key },
        Needle { kind: "master key", bytes: master_key },
        needle("session", &session),
        needle("login link", &link),
        needle("device secret", &device),
        needle(ON_DISK_MARK, &in_file),
        needle(IN_PROCESS_MARK, &in_process),
    ])?;

    let mut memory = Findings::new();
    let searched = search.memory(vmm, &mut memory)?;
    eprintln!("{} MiB of memory", searched >> 20);
    ensure!(searched > 512 << 20, "that is less than the guest has");
    let expected = ["environment value", IN_PROCESS_MARK, ON_DISK_MARK, "workspace key"];
    let (mut found, mut wanted) = (kinds(&memory), expected.to_vec());
    found.sort_unstable();
    wanted.sort_unstable();
    ensure!(found == wanted, "in the memory of the VM: {memory:?}");

    api.stop(&id)?;
    let disk = installation.run_dir().join("node/own/volume/disks").join(format!("{id}.ext4"));
    let mut on_disk = Findings::new();
    let searched = search.file(&disk, &mut on_disk)?;
    eprintln!("{} MiB of disk", searched >> 20);
    ensure!(searched > 500 << 20, "that is less than the image has");
    ensure!(kinds(&on_disk) == [ON_DISK_MARK], "on the disk: {on_disk:?}");

    // The state folder (with all disks once more where they are files of a volume), the logs, whatever else the suite has written, and
    // the run folder. The two keys' own files show that the search covers these folders.
    let (mut strays, mut own) = (Vec::new(), Vec::new());
    let mut with = |path: &Path, seen: Findings| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for (kind, form) in seen {
            if SECRET_FILES.contains(&(kind, name.as_str())) && path.starts_with(&control) {
                own.push(kind);
            } else if kind != ON_DISK_MARK {
                strays.push(format!("{kind} ({form}) in {}", path.display()));
            }
        }
    };
    let mut searched = search.folder(&installation.scratch, &mut with)?;
    searched += search.folder(&installation.run_dir(), &mut with)?;
    eprintln!("{} MiB of files", searched >> 20);
    own.sort_unstable();
    own.dedup();
    ensure!(own == ["master key", "token key"], "the search has not seen the keys' own files: {own:?}");
    ensure!(strays.is_empty(), "leaked secrets:\n{}", strays.join("\n"));
    ensure!(
        memory.iter().all(|(kind, _)| IN_MEMORY.contains(kind) || kind.starts_with("mark")),
        "{memory:?}"
    );
    let log = std::fs::read_to_string(installation.log())?;
    ensure!(log.contains(&id), "the log that was searched is the one that is written");
    api.remove(&id)
}

fn providers_keys_are_only_in_the_memory_of_the_proxy(installation: &Installation) -> TestResult {
    let (provider, key, mark) = (ai::provider()?, unique("sk-canary")?, unique("prompt")?);
    // Keys of others, of an earlier module, would be used first.
    for listed in
        installation.admin(&["provider-key", "ls"])?.lines().filter(|line| line.contains("anthropic"))
    {
        let id = listed.split_whitespace().next().context("no id")?;
        installation.admin(&["provider-key", "rm", id])?;
    }
    ai::set_key(installation, "anthropic", &key)?;
    installation.admin(&["ai", "grant", "owner@example.org", "1"])?;
    let id = shared(installation)?;
    // Earlier modules have stopped it.
    if installation.api.status(&id)? != "running" {
        installation.api.start(&id)?;
    }
    eventually("the key is used", Duration::from_secs(60), || {
        let (status, _) = ai::call(installation, &ai::message(&mark))?;
        Ok((status == 200 && provider.last().header("x-api-key") == key).then_some(()))
    })?;
    // What the provider says of a key that it refuses does not reach the workspace with the key in it.
    provider.refuse_key(&key, 401);
    let (status, body) = ai::call(installation, &ai::message("again"))?;
    ensure!(status == 401 && !body.contains(&key), "{status} {body}");

    // Shows that the search works, also when the memory of the call is used for something else.
    installation
        .api
        .sh(&id, &format!("setsid -f sh -c ': {mark}; sleep 600' > /dev/null 2>&1 < /dev/null"))?;
    let search = Search::new(&[needle("provider key", &key), needle(IN_PROCESS_MARK, &mark)])?;
    let roles = installation.role_pids()?;
    for (role, pid) in &roles {
        let has_key = || {
            let mut memory = Findings::new();
            search.memory(*pid, &mut memory)?;
            anyhow::Ok(kinds(&memory).contains(&"provider key"))
        };
        if role == "control" {
            eventually("control has handed the key over", HAND_OVER_TIMEOUT, || {
                Ok((!has_key()?).then_some(()))
            })?;
        } else {
            ensure!(has_key()? == (role == "ai"), "{role} has the key, or ai has not");
        }
    }
    let mut in_vm = Findings::new();
    for pid in installation.vmm_pids()? {
        search.memory(pid, &mut in_vm)?;
    }
    ensure!(kinds(&in_vm) == [IN_PROCESS_MARK], "in the memory of a VM: {in_vm:?}");
    installation.api.sudo(&id, "sync")?;
    let mut strays = Vec::new();
    let mut with = |path: &Path, seen: Findings| {
        let seen = seen.into_iter().filter(|(kind, _)| *kind == "provider key");
        strays.extend(seen.map(|(kind, form)| format!("{kind} ({form}) in {}", path.display())));
    };
    search.folder(&installation.scratch, &mut with)?;
    search.folder(&installation.run_dir(), &mut with)?;
    ensure!(strays.is_empty(), "leaked keys:\n{}", strays.join("\n"));
    let log = std::fs::read_to_string(installation.log())?;
    ensure!(!log.contains(&mark), "a prompt is in the log");
    Ok(())
}

/// Checks that of all roles only `holder` has secrets of these kinds, soon after they were handed over.
fn is_only_in_role(installation: &Installation, search: &Search, holder: &str) -> TestResult {
    for (role, pid) in installation.role_pids()? {
        if role == holder {
            continue;
        }
        let what = format!("{role} has no key");
        eventually(&what, HAND_OVER_TIMEOUT, || {
            let mut memory = Findings::new();
            search.memory(pid, &mut memory)?;
            Ok(memory.is_empty().then_some(()))
        })?;
    }
    Ok(())
}

fn in_vms(installation: &Installation, search: &Search) -> anyhow::Result<Vec<&'static str>> {
    let mut memory = Findings::new();
    for pid in installation.vmm_pids()? {
        search.memory(pid, &mut memory)?;
    }
    Ok(kinds(&memory))
}

fn users_keys_are_only_where_they_are_to_be(installation: &Installation) -> TestResult {
    const IN_ENV: &str = "key in the environment";
    const OUTSIDE: &str = "key outside";
    const TOKEN: &str = "proxied secret";
    let (api, provider, id) = (&installation.api, ai::provider()?, shared(installation)?);
    let (in_env, outside, token) = (unique("sk-env")?, unique("sk-out")?, unique("ghp_")?);
    let everything =
        Search::new(&[needle(IN_ENV, &in_env), needle(OUTSIDE, &outside), needle(TOKEN, &token)])?;
    let only = |kind, text: &str| Search::new(&[needle(kind, text)]);

    let own = json!({"mode": "byok", "provider": "anthropic", "api_key": in_env});
    ai::configure(installation, &id, &own)?;
    // Its hash, because what a command prints passes through the roles.
    let hash = digest(&SHA256, in_env.as_bytes());
    let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let printed = api.sh(&id, "printf %s \"$ANTHROPIC_API_KEY\" | sha256sum")?;
    ensure!(printed.starts_with(&hash), "the key is in the environment");
    is_only_in_role(installation, &only(IN_ENV, &in_env)?, "none")?;
    ensure!(in_vms(installation, &everything)? == [IN_ENV], "in the memory of VMs");

    ai::configure(installation, &id, &json!({"api_key": outside, "key_delivery": "proxy"}))?;
    let (status, body) = ai::call_by_environment(installation, &id, &ai::message("hello"))?;
    ensure!(status == 200 && provider.last().header("x-api-key") == outside, "{status} {body}");
    provider.refuse_key(&outside, 401);
    let (status, body) = ai::call_by_environment(installation, &id, &ai::message("again"))?;
    ensure!(status == 401 && !body.contains(&outside), "{status} {body}");
    ai::store_secret(installation, &["canary", "--host", &format!("server.example:{API}")], &token)?;
    let get = |path: &str| {
        api.sh(&id, &format!("curl -sS -i http://172.16.0.1:9090/proxy/canary{path} 2>&1 || true"))
    };
    let (answer, echo) = (get("/issues")?, get("/echo")?);
    ensure!(
        answer.ends_with(": true") && !answer.contains(&token) && !echo.contains(&token),
        "{answer} {echo}"
    );
    is_only_in_role(installation, &everything, "ai")?;
    ensure!(in_vms(installation, &everything)? == [IN_ENV], "in the memory of VMs");

    api.sudo(&id, "sync")?;
    let mut strays = Vec::new();
    let mut with = |path: &Path, seen: Findings| {
        strays.extend(seen.into_iter().map(|(kind, form)| format!("{kind} ({form}) in {}", path.display())));
    };
    everything.folder(&installation.scratch, &mut with)?;
    everything.folder(&installation.run_dir(), &mut with)?;
    ensure!(strays.is_empty(), "leaked keys:\n{}", strays.join("\n"));
    let answers =
        [&format!("/workspaces/{id}/ai-config"), "/users/me/proxied-secrets", "/audit-log?limit=1000"]
            .into_iter()
            .map(|path| Ok(api.get(path)?.expect(200)?.to_string()))
            .collect::<anyhow::Result<String>>()?;
    ensure!(
        [&in_env, &outside, &token].iter().all(|secret| !answers.contains(*secret)),
        "a key is in an answer"
    );

    // Cleared, they are gone: outside at once, and in the workspace with what had them.
    ai::configure(
        installation,
        &id,
        &json!({"mode": null, "provider": null, "api_key": null, "key_delivery": null}),
    )?;
    ensure!(
        installation.rig(&["secret", "proxy", "rm", "canary"]).output()?.status.success(),
        "it is removed"
    );
    is_only_in_role(installation, &everything, "none")?;
    api.stop(&id)?;
    api.start(&id)?;
    api.sh(&id, "env")?;
    ensure!(in_vms(installation, &everything)?.is_empty(), "in the memory of VMs after a restart");
    Ok(())
}
