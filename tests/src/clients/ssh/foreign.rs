//! Clients that are not OpenSSH's, and programs that use OpenSSH's in their own way.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::client::{self, Client, remove_key, shown, succeed, target};
use crate::TestResult;
use crate::clients::shared;
use crate::harness::installation::{Installation, SSH_PORT};
use crate::harness::is_soak;

tests![
    dropbear_and_putty_log_in,
    paramiko_works_as_with_a_plain_server,
    asyncssh_works_as_with_a_plain_server,
    ssh2_of_node_works_as_with_a_plain_server,
    ansible_runs_its_tasks,
    lftp_and_sshfs_read_and_write_files,
    ssh_audit_finds_no_failure,
];

/// Folder of the clients, which `cargo xtask test` installs.
const CLIENTS: &str = "RIGBOX_SSH_CLIENTS";
/// Programs that use them.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ssh");

fn installed() -> Result<PathBuf> {
    let folder = std::env::var_os(CLIENTS).map(PathBuf::from);
    folder.with_context(|| format!("{CLIENTS} is not set: run `cargo xtask test`"))
}

fn dropbear_and_putty_log_in(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let (user, port) = (target("shared", &id), SSH_PORT.to_string());
    let folder = Client::unregistered(installation, "others", "ed25519")?.folder;
    let path = |name: &str| folder.join(name).display().to_string();
    let run = |program: &str, arguments: &[&str]| -> Result<Output> {
        client::run(Command::new(program).args(arguments).env("HOME", &folder))
    };
    let register = |name: &str, printed: &Output| -> TestResult {
        let text = String::from_utf8_lossy(&printed.stdout);
        let line = text.lines().find(|line| line.starts_with("ssh-")).with_context(|| shown(printed))?;
        let key = json!({"name": name, "public_key": line});
        installation.api.post("/ssh-keys", &key)?.expect(201).map(drop)
    };
    let dropbear = path("dropbear");
    register("dropbear", &run("dropbearkey", &["-t", "ed25519", "-f", &dropbear])?)?;
    let ran = run("dbclient", &["-y", "-T", "-i", &dropbear, "-p", &port, &user, "echo dropbear; exit 4"])?;
    ensure!(ran.stdout == b"dropbear\n" && ran.status.code() == Some(4), "{}", shown(&ran));

    let putty = path("key.ppk");
    fs::write(path("passphrase"), "")?;
    let made =
        run("puttygen", &["-q", "-t", "ed25519", "-o", &putty, "--new-passphrase", &path("passphrase")])?;
    ensure!(made.status.success(), "{}", shown(&made));
    register("putty", &run("puttygen", &["-O", "public-openssh", &putty])?)?;
    // PuTTY takes no host key unseen.
    let scanned = run("ssh-keyscan", &["-p", &port, "127.0.0.1"])?;
    fs::write(path("scanned"), &scanned.stdout)?;
    let listed = run("ssh-keygen", &["-l", "-f", &path("scanned")])?;
    let listed = String::from_utf8(listed.stdout)?;
    let fingerprint = listed.split_whitespace().nth(1).context("no fingerprint")?;
    let options = ["-batch", "-P", &port, "-i", &putty, "-hostkey", fingerprint];
    let ran = run("plink", &[&options[..], &["-T", &user, "echo putty; exit 5"]].concat())?;
    ensure!(ran.stdout == b"putty\n" && ran.status.code() == Some(5), "{}", shown(&ran));
    fs::write(path("batch"), format!("put {} from-psftp\nls\nquit\n", path("passphrase")))?;
    let ran = run("psftp", &[&options[..], &["-b", &path("batch"), &user]].concat())?;
    let text = String::from_utf8_lossy(&ran.stdout);
    ensure!(ran.status.success() && text.contains("from-psftp"), "{}", shown(&ran));
    ["dropbear", "putty"].iter().try_for_each(|name| remove_key(installation, name))
}

/// Where a program logs in: address, port, user and key.
struct LogIn {
    client: Client,
    arguments: Vec<String>,
}

impl LogIn {
    fn new(installation: &Installation, name: &str) -> Result<Self> {
        let client = Client::registered(installation, name, "ed25519")?;
        let user = target("shared", &shared(installation)?).replace("@127.0.0.1", "");
        let key = client.path("key").display().to_string();
        Ok(Self { arguments: vec!["127.0.0.1".into(), SSH_PORT.to_string(), user, key], client })
    }

    /// Runs a program of the checkout, which has to say `ok`.
    fn says_ok(&self, interpreter: &Path, program: &Path, more: &[&str]) -> TestResult {
        let mut command = Command::new(interpreter);
        command.arg(program).args(&self.arguments).args(more).env("HOME", &self.client.folder);
        let output = client::run(command.current_dir(&self.client.folder))?;
        ensure!(output.status.success() && output.stdout == b"ok\n", "{}", shown(&output));
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

fn paramiko_works_as_with_a_plain_server(installation: &Installation) -> TestResult {
    let log_in = LogIn::new(installation, "paramiko")?;
    let other = Client::unregistered(installation, "paramiko-other", "ed25519")?.path("key");
    let python = installed()?.join("venv/bin/python");
    let program = Path::new(SOURCES).join("paramiko_client.py");
    log_in.says_ok(&python, &program, &[&other.display().to_string()])?;
    remove_key(installation, "paramiko")
}

fn asyncssh_works_as_with_a_plain_server(installation: &Installation) -> TestResult {
    let log_in = LogIn::new(installation, "asyncssh")?;
    let program = Path::new(SOURCES).join("asyncssh_client.py");
    log_in.says_ok(&installed()?.join("venv/bin/python"), &program, &[])?;
    remove_key(installation, "asyncssh")
}

fn ssh2_of_node_works_as_with_a_plain_server(installation: &Installation) -> TestResult {
    let log_in = LogIn::new(installation, "ssh2")?;
    // Node.js looks for packages beside the program.
    let folder = &log_in.client.folder;
    std::os::unix::fs::symlink(installed()?.join("node_modules"), folder.join("node_modules"))?;
    for name in ["ssh2_client.js", "package.json"] {
        fs::copy(Path::new(SOURCES).join(name), folder.join(name))?;
    }
    log_in.says_ok(Path::new("node"), &folder.join("ssh2_client.js"), &[])?;
    remove_key(installation, "ssh2")
}

fn ansible_runs_its_tasks(installation: &Installation) -> TestResult {
    if !is_soak() {
        println!("skipped: only with --soak");
        return Ok(());
    }
    // Each module takes seconds of an emulated VM.
    const HOSTS: u32 = 2;
    const RAW_HOSTS: u32 = 5;
    let id = shared(installation)?;
    let client = Client::registered(installation, "ansible", "ed25519")?;
    let user = target("shared", &id).replace("@127.0.0.1", "");
    let inventory = client.path("inventory");
    fs::write(&inventory, (1..=RAW_HOSTS).map(|number| format!("host{number}\n")).collect::<String>())?;
    // As `rig ssh config` has it. A user in the inventory would be one whose home Ansible looks for in the workspace.
    let names = format!("Host host*\nHostName 127.0.0.1\nUser {user}\n");
    File::options().append(true).open(client.path("config"))?.write_all(names.as_bytes())?;
    let config = client.path("config").display().to_string();
    let ansible = |program: &str, ssh: &str, arguments: &[&str]| -> Result<String> {
        let mut command = Command::new(installed()?.join("venv/bin").join(program));
        command.arg("--inventory").arg(&inventory).args(arguments).current_dir(&client.folder);
        command.env("ANSIBLE_CONFIG", format!("{SOURCES}/ansible.cfg")).env("LC_ALL", "C.UTF-8");
        command.env("ANSIBLE_HOME", client.path("ansible")).env("HOME", &client.folder);
        command.env("ANSIBLE_SSH_CONTROL_PATH_DIR", &client.folder);
        succeed(command.env("ANSIBLE_SSH_ARGS", format!("-F {config} {ssh}")))
    };
    let since = std::time::Instant::now();
    let apart = ["all", "--module-name", "ansible.builtin.raw", "--args", "hostname"];
    let ran = ansible("ansible", "-o ControlMaster=no -o ControlPath=none", &apart)?;
    ensure!(ran.matches("rc=0 >>\nshared").count() == RAW_HOSTS as usize, "{ran}");
    eprintln!("ansible: connections of their own: {:.1} s", since.elapsed().as_secs_f32());
    let since = std::time::Instant::now();
    let played = ansible(
        "ansible-playbook",
        "-o ControlMaster=auto -o ControlPersist=10s",
        &["--limit", "host1,host2", &format!("{SOURCES}/playbook.yml")],
    )?;
    ensure!(played.matches("ok=3").count() == HOSTS as usize, "{played}");
    eprintln!("ansible: one connection: {:.1} s", since.elapsed().as_secs_f32());
    let copied = installation.api.sh(&id, "cat ansible-host*; rm ansible-host*")?;
    ensure!(copied == (1..=HOSTS).map(|number| format!("of host{number}")).collect::<String>(), "{copied}");
    remove_key(installation, "ansible")
}

fn lftp_and_sshfs_read_and_write_files(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let client = Client::registered(installation, "mounts", "ed25519")?;
    let host = target("shared", &id);
    let config = client.path("config").display().to_string();
    let (sent, returned) = (client.path("sent"), client.path("returned"));
    let content: Vec<u8> =
        (0..1_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(&sent, &content)?;
    let (user, folder) = (host.replace("@127.0.0.1", ""), client.folder.display());
    let script = format!(
        "set sftp:connect-program \"ssh -a -x -F {config}\"; set net:max-retries 1; set cmd:fail-exit yes; \
         open --user {user} --password '' sftp://127.0.0.1:{SSH_PORT}; mkdir lftp; cd lftp; lcd {folder}; \
         put sent; get sent -o returned; rm sent; cd ..; rmdir lftp"
    );
    succeed(Command::new("lftp").args(["--norc", "-c", &script]).env("HOME", &client.folder))?;
    ensure!(fs::read(&returned)? == content, "lftp: another file came back");

    if !Path::new("/dev/fuse").exists() {
        println!("skipped: sshfs: no /dev/fuse");
        return remove_key(installation, "mounts");
    }
    installation.api.sh(&id, "mkdir mounted")?;
    let mount = client.path("mount");
    fs::create_dir(&mount)?;
    let path = mount.display().to_string();
    succeed(Command::new("sshfs").args(["-F", &config, &format!("{host}:mounted"), &path]))?;
    let used = || -> TestResult {
        fs::create_dir(mount.join("folder"))?;
        fs::write(mount.join("folder/file"), &content)?;
        fs::rename(mount.join("folder/file"), mount.join("renamed"))?;
        ensure!(fs::read(mount.join("renamed"))? == content, "sshfs: another file came back");
        let there =
            installation.api.sh(&id, "ls mounted; stat -c %s mounted/renamed; echo there > mounted/new")?;
        ensure!(there == "folder\nrenamed\n1000000", "{there}");
        ensure!(fs::read(mount.join("new"))? == b"there\n", "sshfs: a new file");
        fs::remove_file(mount.join("renamed"))?;
        ensure!(fs::metadata(mount.join("renamed")).is_err(), "sshfs: a removed file");
        Ok(())
    }();
    succeed(Command::new("fusermount3").args(["-u", &path]))?;
    used?;
    installation.api.sh(&id, "rm -r mounted")?;
    remove_key(installation, "mounts")
}

fn ssh_audit_finds_no_failure(_installation: &Installation) -> TestResult {
    let mut audit = Command::new(installed()?.join("venv/bin/ssh-audit"));
    let output = client::run(audit.args([
        "--json",
        "--skip-rate-test",
        "--port",
        &SSH_PORT.to_string(),
        "127.0.0.1",
    ]))?;
    let found: Value = serde_json::from_slice(&output.stdout).with_context(|| shown(&output))?;
    let mut notes = Vec::new();
    for list in ["kex", "key", "enc", "mac"] {
        let algorithms = found.get(list).and_then(Value::as_array).with_context(|| shown(&output))?;
        ensure!(!algorithms.is_empty(), "no {list}: {found}");
        for algorithm in algorithms {
            for kind in ["fail", "warn"] {
                let said = algorithm.pointer(&format!("/notes/{kind}")).and_then(Value::as_array);
                notes.extend(
                    said.into_iter().flatten().map(|note| (kind, algorithm["algorithm"].clone(), note)),
                );
            }
        }
    }
    eprintln!("ssh-audit: {notes:?}, exit code {:?}", output.status.code());
    ensure!(!notes.iter().any(|(kind, ..)| *kind == "fail"), "{notes:?}");
    // 3 would be a failure, 1 no connection.
    ensure!(matches!(output.status.code(), Some(0 | 2)), "{}", shown(&output));
    Ok(())
}
