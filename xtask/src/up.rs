//! `cargo xtask up`: from a checkout to the output of a command in a fresh VM. Idempotent: what is there is kept.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::place::{Place, RIG_ENVIRONMENT, cli_config, field_of, program};
use crate::steps::step;
use crate::{build, image};

/// The probe for KVM takes up to 15 s of it, copying an image some more.
const READY_WITHIN: Duration = Duration::from_secs(120);
const EMAIL: &str = "admin@rigbox.invalid";
const WORKSPACE: &str = "hello";
const APP: &str = "hello-web";
/// How long a web server in a VM may take to listen.
const LISTENS_WITHIN: Duration = Duration::from_secs(30);

/// Brings everything up.
pub(crate) fn up(place: &Place, port_base: u16, uplink: &str) -> Result<()> {
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "Rigbox makes VMs, namespaces and mounts: run `cargo xtask up` as root"
    );
    let port = port_base.checked_add(70).context("--port-base is too large")?;
    build::install_packages(&[build::RUN_PACKAGES, rigbox_image::HOST_PACKAGES])?;
    build::everything()?;
    let image = image::build("base")?;
    let url = format!("http://localhost:{port}");
    step("start Rigbox", &format!("read {}", place.log().display()), || start(place, port, uplink, &image))?;
    step("create the first user", "`cargo xtask down --purge` begins anew", || first_user(place, &url))?;
    save_cli_config(place, &url)?;
    let look = format!("`target/release/rig doctor`, and {}", place.log().display());
    step("spawn a workspace", &look, || spawn(place))?;
    step("run a command in it", &look, || show(place))?;
    let app = step("give a web server in it a URL", &look, || show_app(place, port.saturating_add(10)))?;
    eprintln!();
    eprintln!("Rigbox runs at {url}. Try:");
    eprintln!("    target/release/rig status");
    eprintln!(
        "    curl -H \"X-Rigbox-Key: $RIG_API_KEY\" {app}   # or in a browser, signed in by the link below"
    );
    eprintln!("    target/release/rig app share {APP} --public");
    eprintln!("    target/release/rig exec -it {WORKSPACE} -- bash");
    eprintln!("    target/release/rig workspace spawn -n another");
    eprintln!("    target/release/rig workspace rm -n {WORKSPACE} --force");
    eprintln!("    target/release/rigboxd admin login-link {EMAIL} --config {}", place.config().display());
    eprintln!("The log is {}. `cargo xtask down` stops everything.", place.log().display());
    Ok(())
}

fn start(place: &Place, port: u16, uplink: &str, image: &Path) -> Result<()> {
    fs::create_dir_all(&place.state)?;
    let config = format!(
        "state = {:?}\n\n[api]\nlisten = \"127.0.0.1:{port}\"\n\n[apps]\nlisten = \"127.0.0.1:{}\"\n\n\
         [node]\nuplink = {uplink:?}\n",
        place.state.display().to_string(),
        // 7080 beside 7070.
        port.saturating_add(10)
    );
    let changed = fs::read_to_string(place.config()).map_or(true, |old| old != config);
    fs::write(place.config(), config)?;
    if let Some(pid) = place.supervisor()? {
        if !changed && is_current(place, pid, image)? {
            eprintln!("    it runs already (pid {pid})");
            return wait_ready(place, port, None);
        }
        eprintln!("    the program, the image or the configuration is new: starting it again; VMs stay");
        crate::down::stop_supervisor(place)?;
    }
    let log = fs::File::options().create(true).append(true).open(place.log())?;
    let started = Command::new(program("rigboxd"))
        .args(["up", "--config"])
        .arg(place.config())
        .stdin(Stdio::null())
        .stdout(Stdio::from(log.try_clone()?))
        .stderr(Stdio::from(log))
        // It must not end with this terminal.
        .process_group(0)
        .spawn()
        .context("rigboxd")?;
    wait_ready(place, port, Some(started))
}

/// Whether the process was started from the programs and the image that are there now. It read them when it took its lock.
fn is_current(place: &Place, pid: u32, image: &Path) -> Result<bool> {
    let (own, new) = (fs::metadata(format!("/proc/{pid}/exe"))?, fs::metadata(program("rigboxd"))?);
    // A rebuilt program has another inode.
    let mut current = (own.dev(), own.ino()) == (new.dev(), new.ino());
    let since = fs::metadata(place.lock())?.modified()?;
    for path in [&program("guest/init"), &program("guest/rig"), image] {
        current &= fs::metadata(path)?.modified()? < since;
    }
    Ok(current)
}

/// Waits until the API answers; gives up at once when `started` has ended.
fn wait_ready(place: &Place, port: u16, mut started: Option<Child>) -> Result<()> {
    let deadline = Instant::now() + READY_WITHIN;
    while !answers_ready(port).unwrap_or(false) {
        let ended = started.as_mut().and_then(|child| child.try_wait().ok().flatten());
        if ended.is_some() || Instant::now() > deadline {
            let log = fs::read_to_string(place.log()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(10)..).unwrap_or_default().join("\n");
            anyhow::bail!("Rigbox did not become ready; the end of its log:\n{tail}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn answers_ready(port: u16) -> Result<bool> {
    Ok(get(&format!("localhost:{port}"), port, "/readyz", "")?.starts_with("HTTP/1.1 200"))
}

fn first_user(place: &Place, url: &str) -> Result<()> {
    if let Some(key) = field_of(&place.admin(), "api_key") {
        // Under the port of this time, which may be another one.
        let admin = serde_json::json!({"api_url": url, "api_key": key, "user_email": EMAIL});
        write_private(&place.admin(), &admin.to_string())?;
        if place.rig()?.args(["workspace", "ls"]).output()?.status.success() {
            eprintln!("    there is one already");
            return Ok(());
        }
    }
    // A key that was lost is replaced; before the first user there is none to be lost.
    let key = match rigboxd(place, &["bootstrap", "--email", EMAIL])? {
        Ok(key) => key,
        Err(said) if said.contains("there is a first user already") => {
            eprintln!("    the saved key is not valid: making another one");
            rigboxd(place, &["admin", "key"])?.map_err(anyhow::Error::msg)?
        }
        Err(said) => anyhow::bail!(said),
    };
    let admin = serde_json::json!({"api_url": url, "api_key": key.trim(), "user_email": EMAIL});
    write_private(&place.admin(), &admin.to_string())
}

/// What a command of `rigboxd` prints, or what it says of its failure.
fn rigboxd(place: &Place, arguments: &[&str]) -> Result<Result<String, String>> {
    let mut command = Command::new(program("rigboxd"));
    let output = command.args(arguments).arg("--config").arg(place.config()).output()?;
    let said = if output.status.success() { output.stdout } else { output.stderr };
    let said = String::from_utf8_lossy(&said).into_owned();
    Ok(if output.status.success() { Ok(said) } else { Err(said) })
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    Ok(file.write_all(text.as_bytes())?)
}

/// Makes `rig` work at once, without touching a configuration for another server.
fn save_cli_config(place: &Place, url: &str) -> Result<()> {
    let Some(path) = cli_config() else { return Ok(()) };
    if path.exists() && field_of(&path, "api_url").as_deref() != Some(url) {
        eprintln!("    {} is for another server and is left alone; for this one:", path.display());
        for (variable, field) in RIG_ENVIRONMENT {
            eprintln!("    export {variable}={}", field_of(&place.admin(), field).unwrap_or_default());
        }
        return Ok(());
    }
    write_private(&path, &fs::read_to_string(place.admin())?)
}

fn spawn(place: &Place) -> Result<()> {
    let output = place.rig()?.args(["workspace", "ls", "--output", "json"]).output()?;
    anyhow::ensure!(output.status.success(), "rig workspace ls: {}", String::from_utf8_lossy(&output.stdout));
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let vms = listed.get("vms").and_then(|vms| vms.as_array()).context("rig workspace ls said no `vms`")?;
    let status = vms
        .iter()
        .find(|vm| vm.get("name").and_then(|name| name.as_str()) == Some(WORKSPACE))
        .and_then(|vm| vm.get("status")?.as_str());
    match status {
        None => build::run(place.rig()?.args(["workspace", "spawn", "-n", WORKSPACE])),
        Some("running") => {
            eprintln!("    {WORKSPACE} runs already");
            Ok(())
        }
        Some(_) => build::run(place.rig()?.args(["workspace", "start", "-n", WORKSPACE])),
    }
}

fn show(place: &Place) -> Result<()> {
    let host = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    eprintln!("    this host's kernel: {}", host.trim());
    eprintln!("    $ rig exec {WORKSPACE} -- uname -a");
    build::run(place.rig()?.args(["exec", WORKSPACE, "--", "uname", "-a"]))
}

/// An app over `python3 -m http.server`, asked at its URL by its owner and by nobody; its URL.
fn show_app(place: &Place, port: u16) -> Result<String> {
    const SERVE: &str = "cd ~ && test -e index.html || echo 'Hello from a micro-VM.' > index.html; \
                         curl -s -o /dev/null http://127.0.0.1:8000/ || setsid nohup python3 -m http.server 8000 > /dev/null 2>&1 < /dev/null &";
    build::run(place.rig()?.args(["exec", WORKSPACE, "--", "bash", "-c", SERVE]))?;
    let listed = place.rig()?.args(["app", "ls", "--output", "json"]).output()?;
    if !String::from_utf8_lossy(&listed.stdout).contains(&format!("\"name\":\"{APP}\"")) {
        eprintln!("    $ rig app new {APP} --port 8000 -w {WORKSPACE}");
        build::run(place.rig()?.args(["app", "new", APP, "--port", "8000", "-w", WORKSPACE]))?;
    }
    let host = format!("{APP}.rigbox.localhost:{port}");
    let key = field_of(&place.admin(), "api_key").context("no api_key")?;
    let deadline = Instant::now() + LISTENS_WITHIN;
    let owner = loop {
        let answer = get(&host, port, "/", &format!("X-Rigbox-Key: {key}\r\n"))?;
        if answer.starts_with("HTTP/1.1 200") || Instant::now() > deadline {
            break answer;
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    anyhow::ensure!(owner.starts_with("HTTP/1.1 200"), "the app does not answer its owner: {owner}");
    let nobody = get(&host, port, "/", "")?;
    anyhow::ensure!(nobody.starts_with("HTTP/1.1 403"), "the app answers others than its owner: {nobody}");
    let said = owner.rsplit("\r\n").next().unwrap_or_default().trim();
    eprintln!("    http://{host}/ answers its owner \"{said}\", and everybody else 403");
    Ok(format!("http://{host}/"))
}

/// One plain request, so that this program needs no HTTP library.
fn get(host: &str, port: u16, path: &str, header: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n{header}Connection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
