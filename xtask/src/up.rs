//! `cargo xtask up`: from a checkout to the output of a command in a fresh VM. Idempotent: it keeps what exists.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::installation::{Installation, RIG_ENVIRONMENT, cli_config, field_of};
use crate::paths::program;
use crate::steps::step;
use crate::{build, command, image, ssh_keys};

/// Of this the probe for KVM takes up to 15 s, and copying an image some more.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
const EMAIL: &str = "admin@rigbox.invalid";
const WORKSPACE: &str = "hello";
const APP: &str = "hello-web";
/// Limit for a web server in a VM to listen.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(30);

/// Starts everything.
pub(crate) fn up(
    installation: &Installation,
    port_base: u16,
    uplink: &str,
    bin_dir: Option<&Path>,
    ssh_keys: &[PathBuf],
) -> Result<()> {
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "Rigbox needs root for VMs, namespaces and mounts: run `cargo xtask up` as root"
    );
    let port = port_base.checked_add(70).context("--port-base is too large")?;
    build::install_packages(&[build::RUN_PACKAGES, &rigbox_image::host_packages()])?;
    build::programs()?;
    let image = image::build("base")?;
    let url = format!("http://localhost:{port}");
    step("start Rigbox", &format!("read {}", installation.log().display()), || {
        start(installation, port, uplink, &image)
    })?;
    step("create the first user", "`cargo xtask down --purge` starts over", || {
        first_user(installation, &url)
    })?;
    save_cli_config(installation, &url)?;
    step("choose the virtual machine monitor", &format!("read {}", installation.log().display()), || {
        choose_vmm(installation, port, uplink, &image)
    })?;
    let rig = match bin_dir {
        Some(folder) => link_rig(folder)?,
        None => "target/release/rig".to_owned(),
    };
    let remedy = format!("run `target/release/rig doctor`, and read {}", installation.log().display());
    step("create a workspace", &remedy, || spawn(installation))?;
    step("run a command in it", &remedy, || show(installation))?;
    let app =
        step("publish a web server in it", &remedy, || show_app(installation, port.saturating_add(10)))?;
    step("register SSH keys", "name a public key with --ssh-key FILE", || {
        ssh_keys::register(installation, ssh_keys)
    })?;
    eprintln!();
    eprintln!("Rigbox is running at {url}. Try:");
    eprintln!("    {rig} status");
    eprintln!(
        "    curl -H \"X-Rigbox-Key: $(grep -o 'rb_[0-9A-Za-z]*' {})\" {app}   # or in a browser, after signing in with the link below",
        installation.admin().display()
    );
    eprintln!("    {rig} app share {APP} --public");
    eprintln!("    {rig} exec -it {WORKSPACE} -- bash");
    eprintln!(
        "    {rig} ssh {WORKSPACE}   # or ssh -p {} {WORKSPACE}@localhost, after {rig} ssh-key add",
        port.saturating_sub(48)
    );
    eprintln!("    {rig} workspace spawn -n another");
    eprintln!("    {rig} workspace rm -n {WORKSPACE} --force");
    match rigboxd(installation, &["admin", "login-link", EMAIL])? {
        Ok(link) => {
            eprintln!("Sign in to the console as {EMAIL} (works once, for 15 minutes): {}", link.trim())
        }
        Err(message) => anyhow::bail!(message),
    }
    eprintln!("Print another link with `target/release/rigboxd admin login-link {EMAIL}`.");
    eprintln!("The log is in {}. `cargo xtask down` stops everything.", installation.log().display());
    Ok(())
}

/// Links `rig` into a folder, and returns how to call it.
fn link_rig(folder: &Path) -> Result<String> {
    let (link, target) = (folder.join("rig"), program("rig").canonicalize()?);
    if fs::symlink_metadata(&link).is_ok_and(|found| !found.is_symlink()) {
        anyhow::bail!("{} exists and is not a link; choose another --bin-dir", link.display());
    }
    fs::create_dir_all(folder)?;
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(target, &link).with_context(|| link.display().to_string())?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_in_path = std::env::split_paths(&path).any(|one| one == folder);
    Ok(if is_in_path { "rig".to_owned() } else { link.display().to_string() })
}

fn start(installation: &Installation, port: u16, uplink: &str, image: &Path) -> Result<()> {
    fs::create_dir_all(&installation.state)?;
    let config = format!(
        "state = {:?}\n\n[api]\nlisten = \"127.0.0.1:{port}\"\n\n[apps]\nlisten = \"127.0.0.1:{}\"\n\n\
         [ssh]\nlisten = \"127.0.0.1:{}\"\n\n\
         [node]\nuplink = {uplink:?}\n\
         # For trying Rigbox out: without KVM, emulation runs workspaces, and QEMU does not promise isolation there.\n\
         allow_emulation = true\n",
        installation.state.display().to_string(),
        // 7080 and 7022 beside 7070.
        port.saturating_add(10),
        port.saturating_sub(48)
    );
    let changed = fs::read_to_string(installation.config()).map_or(true, |old| old != config);
    fs::write(installation.config(), config)?;
    if let Some(pid) = installation.supervisor()? {
        if !changed && is_current(installation, pid, image)? {
            eprintln!("    already running (pid {pid})");
            return wait_ready(installation, port, None);
        }
        eprintln!("    the programs, the image or the configuration changed: restarting; VMs keep running");
        crate::down::stop_supervisor(installation)?;
    }
    let log = fs::File::options().create(true).append(true).open(installation.log())?;
    let started = Command::new(program("rigboxd"))
        .args(["up", "--config"])
        .arg(installation.config())
        .stdin(Stdio::null())
        .stdout(Stdio::from(log.try_clone()?))
        .stderr(Stdio::from(log))
        // It must not end with this terminal.
        .process_group(0)
        .spawn()
        .context("rigboxd")?;
    wait_ready(installation, port, Some(started))
}

/// Returns whether the process runs the current programs and image. It read them when it took its lock.
fn is_current(installation: &Installation, pid: u32, image: &Path) -> Result<bool> {
    let (own, new) = (fs::metadata(format!("/proc/{pid}/exe"))?, fs::metadata(program("rigboxd"))?);
    // A rebuilt program has another inode.
    let mut current = (own.dev(), own.ino()) == (new.dev(), new.ino());
    let since = fs::metadata(installation.lock())?.modified()?;
    for path in [&program("guest/init"), &program("guest/rig"), image] {
        current &= fs::metadata(path)?.modified()? < since;
    }
    Ok(current)
}

/// Waits until the API is ready; fails at once when `started` has ended.
fn wait_ready(installation: &Installation, port: u16, mut started: Option<Child>) -> Result<()> {
    let deadline = Instant::now() + READY_TIMEOUT;
    while !is_ready(port).unwrap_or(false) {
        let ended = started.as_mut().and_then(|child| child.try_wait().ok().flatten());
        if ended.is_some() || Instant::now() > deadline {
            let log = fs::read_to_string(installation.log()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(10)..).unwrap_or_default().join("\n");
            anyhow::bail!("Rigbox is not ready; the end of its log:\n{tail}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn is_ready(port: u16) -> Result<bool> {
    Ok(get(&format!("localhost:{port}"), port, "/readyz", "")?.starts_with("HTTP/1.1 200"))
}

/// Installs Firecracker where KVM works and nothing else was chosen, and says what runs workspaces.
fn choose_vmm(installation: &Installation, port: u16, uplink: &str, image: &Path) -> Result<()> {
    let [driver, accelerator, reason] = vmm(installation)?;
    if driver == "firecracker" || accelerator != "kvm" || installation.firecracker().exists() {
        eprintln!("    {driver} with {accelerator}: {reason}");
        return Ok(());
    }
    if let Err(message) = rigboxd(installation, &["admin", "firecracker", "install"])? {
        eprintln!(
            "    {driver} with {accelerator}, because Firecracker was not installed: {}",
            message.trim()
        );
        return Ok(());
    }
    crate::down::stop_supervisor(installation)?;
    start(installation, port, uplink, image)?;
    let [driver, accelerator, reason] = vmm(installation)?;
    eprintln!("    {driver} with {accelerator}: {reason}");
    Ok(())
}

/// Returns the driver, the accelerator and the reason for them, as the node reports them.
fn vmm(installation: &Installation) -> Result<[String; 3]> {
    // It ends with 1 where something is wrong, which has nothing to do with these.
    let output = installation.rig()?.args(["doctor", "--output", "json"]).output()?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).context("rig doctor")?;
    let node = report.get("node").context("the node does not answer")?;
    let field = |name: &str| node.get(name).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    Ok([field("driver"), field("accelerator"), field("reason")])
}

fn first_user(installation: &Installation, url: &str) -> Result<()> {
    if let Some(key) = field_of(&installation.admin(), "api_key") {
        // The port may have changed.
        let admin = serde_json::json!({"api_url": url, "api_key": key, "user_email": EMAIL});
        write_private(&installation.admin(), &admin.to_string())?;
        if installation.rig()?.args(["workspace", "ls"]).output()?.status.success() {
            eprintln!("    exists already");
            return Ok(());
        }
    }
    // If there is a first user, its key was lost: issue another one.
    let key = match rigboxd(installation, &["bootstrap", "--email", EMAIL])? {
        Ok(key) => key,
        Err(message) if message.contains("first user") => {
            eprintln!("    the saved key is not valid: issuing another one");
            rigboxd(installation, &["admin", "key"])?.map_err(anyhow::Error::msg)?
        }
        Err(message) => anyhow::bail!(message),
    };
    let admin = serde_json::json!({"api_url": url, "api_key": key.trim(), "user_email": EMAIL});
    write_private(&installation.admin(), &admin.to_string())
}

/// Runs a `rigboxd` command; returns its output, or its error message.
fn rigboxd(installation: &Installation, arguments: &[&str]) -> Result<Result<String, String>> {
    let mut command = Command::new(program("rigboxd"));
    let output = command.args(arguments).arg("--config").arg(installation.config()).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) })
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    Ok(file.write_all(text.as_bytes())?)
}

/// Configures `rig` for this installation, unless it is configured for another server.
fn save_cli_config(installation: &Installation, url: &str) -> Result<()> {
    let Some(path) = cli_config() else { return Ok(()) };
    if path.exists() && field_of(&path, "api_url").as_deref() != Some(url) {
        eprintln!("    kept {}, which is for another server; for this one:", path.display());
        for (variable, field) in RIG_ENVIRONMENT {
            eprintln!("    export {variable}={}", field_of(&installation.admin(), field).unwrap_or_default());
        }
        return Ok(());
    }
    write_private(&path, &fs::read_to_string(installation.admin())?)
}

fn spawn(installation: &Installation) -> Result<()> {
    let output = installation.rig()?.args(["workspace", "ls", "--output", "json"]).output()?;
    anyhow::ensure!(output.status.success(), "rig workspace ls: {}", String::from_utf8_lossy(&output.stdout));
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let vms = listed
        .get("vms")
        .and_then(|vms| vms.as_array())
        .context("no `vms` in the output of `rig workspace ls`")?;
    let status = vms
        .iter()
        .find(|vm| vm.get("name").and_then(|name| name.as_str()) == Some(WORKSPACE))
        .and_then(|vm| vm.get("status")?.as_str());
    match status {
        None => command::run(installation.rig()?.args(["workspace", "spawn", "-n", WORKSPACE])),
        Some("running") => {
            eprintln!("    {WORKSPACE} is already running");
            Ok(())
        }
        Some(_) => command::run(installation.rig()?.args(["workspace", "start", "-n", WORKSPACE])),
    }
}

fn show(installation: &Installation) -> Result<()> {
    let host = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    eprintln!("    this host's kernel: {}", host.trim());
    eprintln!("    $ rig exec {WORKSPACE} -- uname -a");
    command::run(installation.rig()?.args(["exec", WORKSPACE, "--", "uname", "-a"]))
}

/// Publishes `python3 -m http.server` as an app, requests it with and without the owner's key, and returns its URL.
fn show_app(installation: &Installation, port: u16) -> Result<String> {
    const SERVE: &str = "cd ~ && test -e index.html || echo 'Hello from a micro-VM.' > index.html; \
                         curl -s -o /dev/null http://127.0.0.1:8000/ || setsid nohup python3 -m http.server 8000 > /dev/null 2>&1 < /dev/null &";
    command::run(installation.rig()?.args(["exec", WORKSPACE, "--", "bash", "-c", SERVE]))?;
    let listed = installation.rig()?.args(["app", "ls", "--output", "json"]).output()?;
    if !String::from_utf8_lossy(&listed.stdout).contains(&format!("\"name\":\"{APP}\"")) {
        eprintln!("    $ rig app new {APP} --port 8000 -w {WORKSPACE}");
        command::run(installation.rig()?.args(["app", "new", APP, "--port", "8000", "-w", WORKSPACE]))?;
    }
    let host = format!("{APP}.rigbox.localhost:{port}");
    let key = field_of(&installation.admin(), "api_key").context("no api_key")?;
    let deadline = Instant::now() + LISTEN_TIMEOUT;
    let owner = loop {
        let response = get(&host, port, "/", &format!("X-Rigbox-Key: {key}\r\n"))?;
        if response.starts_with("HTTP/1.1 200") || Instant::now() > deadline {
            break response;
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    anyhow::ensure!(owner.starts_with("HTTP/1.1 200"), "the app refused its owner: {owner}");
    let anonymous = get(&host, port, "/", "")?;
    anyhow::ensure!(
        anonymous.starts_with("HTTP/1.1 403"),
        "the app did not refuse an anonymous request: {anonymous}"
    );
    let page = owner.rsplit("\r\n").next().unwrap_or_default().trim();
    eprintln!("    http://{host}/ responds to its owner with \"{page}\", to everyone else with 403");
    Ok(format!("http://{host}/"))
}

/// Sends one plain request, so that this program needs no HTTP library.
fn get(host: &str, port: u16, path: &str, header: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n{header}Connection: close\r\n\r\n")?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}
