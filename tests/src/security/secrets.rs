//! Environment and key of a workspace: delivered into its memory, live and at each boot, and removed when they should be.

use std::time::Duration;

use anyhow::{Context, ensure};
use rigbox_testkit::blocking::eventually;
use serde_json::{Value, json};

use crate::TestResult;
use crate::harness::installation::Installation;

tests![
    environment_reaches_commands_login_shells_and_services,
    environment_change_is_live_and_survives_a_reboot,
    master_key_rotates_without_downtime,
    workspace_key_grants_access_to_its_workspace_only,
];

/// Everything that a shell or systemd could take for something else.
const TRICKY: &str = "a b\n\"q\" 'q' $HOME `id` \\n \\ # ! ä\r\tend";

/// The workspace that this module shares.
fn shared(installation: &Installation) -> anyhow::Result<String> {
    let listed = installation.api.get("/workspaces?name=secrets")?.expect(200)?;
    if let Some(id) = listed.pointer("/vms/0/id").and_then(Value::as_str) {
        return Ok(id.to_owned());
    }
    let id = installation.api.create("secrets")?;
    installation.api.set_env(&id, &json!({"TRICKY": TRICKY, "PLAIN": "one"}))?;
    installation.api.start(&id)?;
    Ok(id)
}

/// Returns the exact output of a program.
fn printed(installation: &Installation, id: &str, body: &Value) -> anyhow::Result<String> {
    let ran = installation.api.exec(id, body)?;
    ensure!(ran.exit_code() == Some(0), "{body}: {ran:?}");
    Ok(String::from_utf8(ran.stdout)?)
}

fn environment_reaches_commands_login_shells_and_services(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let command = json!(["printenv", "TRICKY"]);
    // The first command that there can be.
    ensure!(printed(installation, &id, &json!({"command": command}))? == format!("{TRICKY}\n"), "a command");
    for user in ["developer", "root"] {
        let body = json!({"command": command, "user": user});
        ensure!(printed(installation, &id, &body)? == format!("{TRICKY}\n"), "a command of {user}");
        for shell in ["bash", "sh"] {
            let login = ["env", "-i", shell, "-lc", "printf %s \"$TRICKY\""];
            let body = json!({"command": login, "user": user});
            ensure!(printed(installation, &id, &body)? == TRICKY, "a login {shell} of {user}");
        }
    }
    let own = json!({"command": "printf %s \"$PLAIN\"; bash -lc 'printf %s \"$PLAIN\"'; env | grep RIGBOX_ || true", "env": {"PLAIN": "own"}});
    ensure!(
        printed(installation, &id, &own)? == "ownone",
        "a command's own variable is not its login shells'"
    );
    let place = "stat -c '%a %U %G' /run/rigbox/env /run/rigbox/key; stat -f -c %T /run/rigbox; cat /proc/sys/kernel/core_pattern";
    let place = installation.api.sh(&id, place)?;
    ensure!(place == "640 root developer\n640 root developer\ntmpfs\n|/bin/false", "{place}");

    let service = "printf '#!/bin/sh\\nprintf %%s \"$TRICKY\" > /run/heard\\n' > /usr/local/bin/hear; chmod +x /usr/local/bin/hear; \
        printf '[Service]\\nType=oneshot\\nExecStart=/usr/local/bin/hear\\n' > /etc/systemd/system/rigbox-svc-hear.service; \
        systemctl daemon-reload && systemctl start rigbox-svc-hear";
    eventually("systemd runs the service", Duration::from_secs(120), || {
        Ok(installation.api.sudo(&id, service).ok().map(drop))
    })?;
    ensure!(printed(installation, &id, &json!({"command": ["cat", "/run/heard"]}))? == TRICKY, "a service");
    Ok(())
}

fn environment_change_is_live_and_survives_a_reboot(installation: &Installation) -> TestResult {
    let (api, id) = (&installation.api, shared(installation)?);
    let set = installation
        .rig(&["workspace", "env", "set", "secrets", "PLAIN=two", "--output", "json"])
        .output()?;
    let event: Value = serde_json::from_slice(&set.stdout)?;
    ensure!(event == json!({"event": "set", "workspace": "secrets", "keys": ["PLAIN"]}), "{event}");
    ensure!(api.sh(&id, "echo $PLAIN")? == "two", "a command after the change");
    ensure!(api.sh(&id, "env -i bash -lc 'echo $PLAIN'")? == "two", "a login shell after the change");
    let key = api.sh(&id, "cat /run/rigbox/key")?;
    // Any role may be killed.
    for role in ["control", "guestio", "node"] {
        installation.kill_role(role)?;
        eventually("a change is live again", Duration::from_secs(60), || {
            let changed = api.set_env(&id, &json!({"ROLE": role})).ok();
            Ok(changed.filter(|response| response.get("live") == Some(&Value::Bool(true))))
        })?;
        ensure!(api.sh(&id, "echo $ROLE")? == role, "after {role} was killed");
    }
    ensure!(api.sh(&id, "cat /run/rigbox/key")? == key, "the key of a boot stays");

    api.reboot_by(&id, "reboot -f")?;
    ensure!(api.sh(&id, "echo $PLAIN $ROLE")? == "two node", "after the reboot");
    let new_key = api.sh(&id, "cat /run/rigbox/key")?;
    ensure!(new_key != key && new_key.starts_with("rb_ws_"), "each boot has a key of its own");
    ensure!(
        api.with_key(&key)?.get(&format!("/workspaces/{id}"))?.status == 401,
        "the key of the boot before"
    );

    let unset = installation.rig(&["workspace", "env", "unset", "-n", "secrets", "PLAIN"]).output()?;
    ensure!(unset.status.success(), "{unset:?}");
    let left = "printenv PLAIN; env -i bash -lc 'printenv PLAIN'; grep -c PLAIN /run/rigbox/env; true";
    ensure!(api.sh(&id, left)? == "0", "after it was removed");
    Ok(())
}

fn master_key_rotates_without_downtime(installation: &Installation) -> TestResult {
    let (api, id) = (&installation.api, shared(installation)?);
    let file = installation.state().join("control/master.key");
    let before = std::fs::read(&file)?;
    let output = installation.admin(&["rotate-master-key"])?;
    ensure!(output.starts_with("rotated: "), "{output}");
    let after = std::fs::read(&file)?;
    ensure!(before != after && before.len() == after.len(), "one key in place of the other");
    // Control meets the new key by itself, also after it was started again.
    for value in ["three", "four"] {
        eventually("a change is live", Duration::from_secs(60), || {
            let changed = api.set_env(&id, &json!({"ROTATED": value})).ok();
            Ok(changed.filter(|response| response.get("live") == Some(&Value::Bool(true))))
        })?;
        let seen = api.sh(&id, "printf '%s %s' \"$ROTATED\" \"$TRICKY\"")?;
        ensure!(seen == format!("{value} {TRICKY}"), "{seen}");
        installation.kill_role("control")?;
        installation.wait_ready()?;
    }
    Ok(())
}

fn workspace_key_grants_access_to_its_workspace_only(installation: &Installation) -> TestResult {
    let (api, id) = (&installation.api, shared(installation)?);
    let other = api.create("other")?;
    let own = api.with_key(&api.sh(&id, "cat /run/rigbox/key")?)?;
    let path = format!("/workspaces/{id}");
    own.get(&path)?.expect(200)?;
    let listed = own.get("/workspaces")?.expect(200)?;
    ensure!(listed.pointer("/vms").and_then(Value::as_array).context("vms")?.len() == 1, "{listed}");
    ensure!(own.get(&format!("/workspaces/{other}"))?.status == 404, "another workspace");
    for (refused, what) in [
        (own.post(&format!("{path}/stop"), &json!({}))?, "stop"),
        (own.post(&format!("{path}/exec"), &json!({"command": "true"}))?, "exec"),
        (own.post(&format!("{path}/env"), &json!({"env_vars": {"A": "x"}}))?, "env"),
        (own.delete(&path)?, "delete"),
        (own.get("/api-keys")?, "keys"),
        (own.post("/workspaces", &json!({"name": "more"}))?, "create"),
    ] {
        ensure!(refused.status == 403, "{what}: {} {}", refused.status, refused.body);
    }
    api.stop(&id)?;
    ensure!(own.get(&path)?.status == 401, "after the stop");
    api.remove(&other)?;
    api.remove(&id)
}
