//! Upgrades of `rigboxd` under running VMs, and back.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rigbox_testkit::blocking::eventually;
use serde_json::{Value, json};

use super::crashes::wait_for_exec;
use crate::TestResult;
use crate::harness::installation::Installation;

/// Version of a schema that no `rigboxd` has yet.
const NEWER_SCHEMA: i64 = 99_990_101_000_000;

/// Rewrites a record as the version before wrote it: without a target.
fn write_earlier_record(path: &Path) -> Result<()> {
    let mut record: Value = serde_json::from_slice(&fs::read(path)?)?;
    let fields = record.as_object_mut().context("a record is an object")?;
    let target = fields.remove("target").context("the record has no target")?;
    fields.remove("spec").context("the record has no spec")?;
    fields.insert("generation".to_owned(), target.get("generation").cloned().context("no generation")?);
    let boot = fields.get_mut("boot").and_then(Value::as_object_mut).context("the record has no boot")?;
    boot.remove("generation").context("the boot has no generation")?;
    if let Some(end) = fields.get_mut("last_end").and_then(Value::as_object_mut) {
        end.remove("generation");
        end.remove("code");
    }
    Ok(fs::write(path, record.to_string())?)
}

/// Takes away what later versions have added to the schema of version 24.
fn write_earlier_database(path: &Path) -> Result<()> {
    let database = rusqlite::Connection::open(path)?;
    Ok(database.execute_batch(
        "DROP TABLE ssh_sessions; DROP TABLE proxied_secrets; DROP TABLE ai_own_keys; DROP TABLE ai_configs; \
         ALTER TABLE ai_calls DROP COLUMN own_key; ALTER TABLE workspaces DROP COLUMN ai_proxy_off; \
         DELETE FROM _sqlx_migrations WHERE version > 24;",
    )?)
}

/// The new copy has another path, and finds journal and database as earlier versions have left them.
pub(super) fn another_copy_of_rigboxd_takes_over_running_vms(installation: &Installation) -> TestResult {
    let api = &installation.api;
    let before = installation.vmm_pids()?;
    let id = api.spawn("upgraded")?;
    let boot = wait_for_exec(installation, &id)?;
    let vmms = installation.vmm_pids()?;
    ensure!(vmms.len() == before.len() + 1, "VMMs: {vmms:?}");
    let process = api.sh(&id, "setsid sleep 100000 > /dev/null 2>&1 < /dev/null & echo $!")?;
    let start_time = format!("cut -d' ' -f22 /proc/{process}/stat");
    let started = api.sh(&id, &start_time)?;

    let app = json!({"name": "upgraded", "workspace_id": id, "port": 4714});
    api.post("/apps", &app)?.expect(201)?;

    installation.stop_supervisor()?;
    ensure!(installation.vmm_pids()? == vmms, "VMMs after the stop: {:?}", installation.vmm_pids()?);
    write_earlier_database(&installation.state().join("control/rigbox.db"))?;
    write_earlier_record(&installation.state().join("node/journal").join(format!("{id}.json")))?;
    let upgraded = installation.scratch.join("upgraded");
    installation.copy_programs(&upgraded)?;
    installation.start_supervisor_of(&upgraded)?;
    installation.wait_ready()?;

    ensure!(wait_for_exec(installation, &id)? == boot, "the VM booted again");
    ensure!(api.sh(&id, &start_time)? == started, "the process is another one");
    ensure!(installation.vmm_pids()? == vmms, "VMMs after the start: {:?}", installation.vmm_pids()?);
    ensure!(api.status(&id)? == "running", "it is {}", api.status(&id)?);
    let apps = api.get("/apps")?.expect(200)?;
    ensure!(apps.to_string().contains("upgraded"), "{apps}");
    api.stop(&id)?;
    ensure!(installation.vmm_pids()?.len() == before.len(), "VMMs: {:?}", installation.vmm_pids()?);
    api.start(&id)?;
    ensure!(wait_for_exec(installation, &id)? != boot, "the same boot");
    api.remove(&id)?;
    installation.stop_supervisor()?;
    installation.start_supervisor()?;
    installation.wait_ready()?;
    Ok(fs::remove_dir_all(&upgraded)?)
}

/// It is refused by the commands and by the role, which changes nothing; VMs run on.
pub(super) fn database_of_a_newer_version_is_refused_with_the_remedy(
    installation: &Installation,
) -> TestResult {
    let api = &installation.api;
    let id = api.spawn("newer")?;
    let boot = wait_for_exec(installation, &id)?;
    let execute = |statement: &str| {
        let database = rusqlite::Connection::open(installation.state().join("control/rigbox.db"))?;
        database.busy_timeout(Duration::from_secs(10))?;
        anyhow::Ok(database.execute(statement, [NEWER_SCHEMA])?)
    };
    execute(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (?1, 'newer', TRUE, x'00', 0)",
    )?;
    let refused = installation.admin(&["orphans", "ls"]);
    installation.kill_role("control")?;
    let logged = eventually("control refuses the database", Duration::from_secs(30), || {
        Ok(installation.log_tail(50).contains(&NEWER_SCHEMA.to_string()).then_some(()))
    });
    execute("DELETE FROM _sqlx_migrations WHERE version = ?1")?;
    let message = refused.err().context("the command opened it")?.to_string();
    for part in [NEWER_SCHEMA.to_string().as_str(), "start the newer version, or restore a backup"] {
        ensure!(message.contains(part), "{message}");
    }
    logged?;
    installation.wait_ready()?;
    ensure!(wait_for_exec(installation, &id)? == boot, "the VM booted again");
    api.remove(&id)
}
