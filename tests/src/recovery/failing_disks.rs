//! Disks that are full or fail, below the node's journal and below the database: requests wait or are refused, and nothing that was
//! acknowledged is lost.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rigbox_testkit::blocking::eventually;
use serde_json::{Value, json};

use super::crashes::wait_for_exec;
use crate::TestResult;
use crate::harness::installation::Installation;

/// Space beside what a folder has, before its disk is filled, KiB.
const SPARE_KB: u64 = 1024;
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(20);

/// Small file system that takes the place of a folder of the installation, until it is dropped. What is written to it is kept.
struct SmallDisk<'a> {
    installation: &'a Installation,
    /// Folder of the installation.
    folder: PathBuf,
    /// Mount point of the file system, which the content and what fills it share.
    root: PathBuf,
}

impl<'a> SmallDisk<'a> {
    /// Moves a folder to a small file system while no role runs.
    fn under(installation: &'a Installation, folder: PathBuf) -> Result<Self> {
        let disk = Self { installation, folder, root: installation.scratch.join("small-disk") };
        stop_supervisor(installation)?;
        fs::create_dir(&disk.root)?;
        let mut size_kb = SPARE_KB;
        for entry in fs::read_dir(&disk.folder)? {
            size_kb += entry?.metadata()?.len().div_ceil(4096) * 4;
        }
        let options = format!("mode=0755,size={size_kb}k");
        mount(Some("tmpfs"), &disk.root, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))?;
        copy(&disk.folder, &disk.content())?;
        let none = None::<&str>;
        mount(Some(&disk.content()), &disk.folder, none, MsFlags::MS_BIND, none)?;
        installation.start_supervisor()?;
        installation.wait_ready()?;
        Ok(disk)
    }

    fn content(&self) -> PathBuf {
        self.root.join("content")
    }

    fn filler(&self) -> PathBuf {
        self.root.join("filler")
    }

    /// Takes all space that is left.
    fn fill(&self) -> Result<()> {
        let mut filler = File::create(self.filler())?;
        loop {
            match filler.write_all(&[1; 4096]) {
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                written => written?,
            }
        }
    }

    fn make_space(&self) -> Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }

    /// Puts the content back where it was.
    fn close(&self) -> Result<()> {
        self.installation.kill_supervisor()?;
        umount2(&self.folder, MntFlags::empty()).context("the folder")?;
        fs::remove_dir_all(&self.folder)?;
        copy(&self.content(), &self.folder)?;
        umount2(&self.root, MntFlags::empty()).context("the small disk")?;
        fs::remove_dir(&self.root)?;
        self.installation.start_supervisor()?;
        self.installation.wait_ready()
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            eprintln!("the folder {} is still on a small disk: {error:#}", self.folder.display());
        }
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").arg("-aT").args([from, to]).status()?;
    ensure!(copied.success(), "cp: {copied}");
    Ok(())
}

/// Ends the supervisor in order, so that control merges the write-ahead log into the database.
fn stop_supervisor(installation: &Installation) -> Result<()> {
    let pid: i32 = fs::read_to_string(installation.state().join("lock"))?.trim().parse()?;
    rigbox_sys::spawn::send_signal(pid, 15)?;
    eventually("the roles have stopped", Duration::from_secs(30), || {
        Ok(installation.role_pids()?.is_empty().then_some(()))
    })?;
    installation.kill_supervisor()
}

/// Failure of system calls of a role, until it is dropped.
struct FailingCalls {
    strace: Child,
}

impl FailingCalls {
    /// Makes all that a role syncs fail with EIO.
    fn of_syncs(installation: &Installation, role: &str) -> Result<Self> {
        let pid = role_pid(installation, role)?;
        let mut strace = Command::new("strace");
        strace.args(["-qq", "-f", "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO"]);
        strace.args(["-o", "/dev/null", "-p", &pid.to_string()]).stdin(Stdio::null());
        let mut failing = Self { strace: strace.spawn().context("strace")? };
        eventually("every thread is traced", Duration::from_secs(20), || {
            if let Some(ended) = failing.strace.try_wait()? {
                bail!("strace ended with {ended}");
            }
            for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                let status = fs::read_to_string(task?.path().join("status")).unwrap_or_default();
                if status.contains("TracerPid:\t0\n") {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })?;
        Ok(failing)
    }
}

impl Drop for FailingCalls {
    fn drop(&mut self) {
        // By SIGTERM it lets go of the process, which runs on.
        let _ = rigbox_sys::spawn::send_signal(self.strace.id().cast_signed(), 15);
        let _ = self.strace.wait();
    }
}

fn role_pid(installation: &Installation, role: &str) -> Result<i32> {
    let found = installation.role_pids()?.into_iter().find(|(name, _)| name == role);
    Ok(found.with_context(|| format!("{role} does not run"))?.1)
}

/// Part of the installation's log that is written from now on.
struct LogSince<'a> {
    installation: &'a Installation,
    start: usize,
}

impl<'a> LogSince<'a> {
    fn now(installation: &'a Installation) -> Result<Self> {
        Ok(Self { installation, start: fs::read(installation.log())?.len() })
    }

    /// Waits for a line that has all of these words.
    fn wait_for(&self, words: &[&str]) -> Result<()> {
        eventually(&format!("a line with {words:?}"), MESSAGE_TIMEOUT, || {
            let log = fs::read(self.installation.log())?;
            let new = String::from_utf8_lossy(log.get(self.start..).unwrap_or_default()).into_owned();
            Ok(new.lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(()))
        })
    }
}

/// Requests `verb` while the journal cannot be written: it waits, the log says why, and it is carried out once `mend` was called.
fn request_waits_for_the_journal(
    installation: &Installation,
    id: &str,
    (verb, transient, resting): (&str, &str, &str),
    problem: &str,
    mend: impl FnOnce() -> Result<()>,
) -> TestResult {
    let api = &installation.api;
    let log = LogSince::now(installation)?;
    api.post(&format!("/workspaces/{id}/{verb}"), &json!({}))?.expect(200)?;
    log.wait_for(&[id, "set the target", problem])?;
    ensure!(api.status(id)? == transient, "it is {}", api.status(id)?);
    mend()?;
    api.wait(id, resting)
}

pub(crate) fn requests_wait_for_space_below_the_journal(installation: &Installation) -> TestResult {
    let api = &installation.api;
    let disk = SmallDisk::under(installation, installation.state().join("node/journal"))?;
    let id = api.create("full")?;
    for request in [("start", "starting", "running"), ("stop", "stopping", "stopped")] {
        disk.fill()?;
        request_waits_for_the_journal(installation, &id, request, "No space left on device", || {
            // A node that starts on the full disk knows the workspace, too.
            let log = LogSince::now(installation)?;
            installation.kill_role("node")?;
            log.wait_for(&[&id, "set the target", "No space left on device"])?;
            ensure!(api.status(&id)? == request.1, "it is {}", api.status(&id)?);
            disk.make_space()
        })?;
        if request.0 == "start" {
            wait_for_exec(installation, &id)?;
        }
    }
    disk.fill()?;
    let log = LogSince::now(installation)?;
    api.delete(&format!("/workspaces/{id}"))?.expect(200)?;
    log.wait_for(&[&id, "set the target", "No space left on device"])?;
    ensure!(api.status(&id)? == "deleting", "it is {}", api.status(&id)?);
    disk.make_space()?;
    api.wait_gone(&id)
}

pub(crate) fn requests_wait_for_a_journal_that_fails_to_sync(installation: &Installation) -> TestResult {
    let api = &installation.api;
    let id = api.create("unsynced")?;
    for request in [("start", "starting", "running"), ("stop", "stopping", "stopped")] {
        let failing = FailingCalls::of_syncs(installation, "node")?;
        request_waits_for_the_journal(installation, &id, request, "Input/output error", || {
            drop(failing);
            Ok(())
        })?;
        if request.0 == "start" {
            wait_for_exec(installation, &id)?;
        }
    }
    api.remove(&id)
}

/// Creates a workspace while nothing can be written to the database: that is refused.
fn creation_is_refused(installation: &Installation, name: &str, problem: &str) -> TestResult {
    let log = LogSince::now(installation)?;
    let refused = installation.api.post("/workspaces", &json!({ "name": name }))?;
    ensure!(refused.status == 503 && refused.code() == "database_unavailable", "{refused:?}");
    log.wait_for(&["database", problem])
}

/// Returns the names of all workspaces.
fn names(installation: &Installation) -> Result<Vec<String>> {
    let listed = installation.api.get("/workspaces?limit=1000")?.expect(200)?;
    let vms = listed.get("vms").and_then(Value::as_array).context("no list")?;
    Ok(vms.iter().filter_map(|vm| Some(vm.get("name")?.as_str()?.to_owned())).collect())
}

pub(crate) fn acknowledged_changes_outlive_a_full_disk_below_the_database(
    installation: &Installation,
) -> TestResult {
    let api = &installation.api;
    let disk = SmallDisk::under(installation, installation.state().join("control"))?;
    let mut ids = vec![api.create("acknowledged-1")?];
    let control = role_pid(installation, "control")?;
    disk.fill()?;
    creation_is_refused(installation, "refused-1", "full")?;
    ensure!(api.status(&ids[0])? == "provisioned", "what is there can be read");
    disk.make_space()?;
    ids.push(api.create("acknowledged-2")?);
    ensure!(role_pid(installation, "control")? == control, "control ended");

    disk.fill()?;
    creation_is_refused(installation, "refused-2", "full")?;
    installation.kill_role("control")?;
    eventually("control is started again", Duration::from_secs(20), || {
        Ok(role_pid(installation, "control").ok().filter(|pid| *pid != control))
    })?;
    disk.make_space()?;
    installation.wait_ready()?;
    ids.push(api.create("acknowledged-3")?);
    let names = names(installation)?;
    for number in 1..=3 {
        ensure!(names.contains(&format!("acknowledged-{number}")), "{names:?}");
        ensure!(!names.contains(&format!("refused-{number}")), "{names:?}");
    }
    drop(disk);
    ids.iter().try_for_each(|id| api.remove(id))
}

pub(crate) fn acknowledged_changes_outlive_a_database_that_fails_to_sync(
    installation: &Installation,
) -> TestResult {
    let api = &installation.api;
    let control = role_pid(installation, "control")?;
    let mut ids = vec![api.create("synced-1")?];
    let failing = FailingCalls::of_syncs(installation, "control")?;
    creation_is_refused(installation, "unsynced-1", "disk I/O error")?;
    ensure!(api.status(&ids[0])? == "provisioned", "what is there can be read");
    drop(failing);
    ids.push(api.create("synced-2")?);
    ensure!(role_pid(installation, "control")? == control, "control ended");
    installation.kill_role("control")?;
    installation.wait_ready()?;
    let names = names(installation)?;
    ensure!(names.contains(&"synced-1".to_owned()) && names.contains(&"synced-2".to_owned()), "{names:?}");
    ensure!(!names.contains(&"unsynced-1".to_owned()), "{names:?}");
    ids.iter().try_for_each(|id| api.remove(id))
}
