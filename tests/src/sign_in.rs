//! A user signs in by a letter, lets a machine in, and is put out again: with a real mail server, the real command lines, and a
//! browser's requests.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::console::Console;
use crate::installation::{MAIL_PORT, eventually};
use crate::{Kept, World};

pub(crate) const PROMISES: &[crate::Promise] = &[
    ("a_user_signs_in_by_letter_and_lets_a_machine_in", a_user_signs_in_by_letter_and_lets_a_machine_in),
    ("the_operator_is_told_what_is_wrong", the_operator_is_told_what_is_wrong),
];

const USER: &str = "bob@example.org";

/// A mail server (Debian's aiosmtpd) that prints what it gets; it ends with this value.
struct MailServer {
    child: Child,
    letters: std::path::PathBuf,
}

impl MailServer {
    fn start(world: &World) -> Result<Self> {
        let letters = world.scratch.join("letters");
        let child = Command::new("/usr/bin/python3")
            .args(["-u", "-m", "aiosmtpd", "-n", "-l", &format!("127.0.0.1:{MAIL_PORT}")])
            .args(["-c", "aiosmtpd.handlers.Debugging", "stdout"])
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&letters)?)
            .spawn()
            .context("aiosmtpd")?;
        let server = Self { child, letters };
        eventually("the mail server listens", Duration::from_secs(20), || {
            Ok(TcpStream::connect(("127.0.0.1", MAIL_PORT)).ok().map(drop))
        })?;
        Ok(server)
    }

    /// The sign-in link in the letter to `address`.
    fn link_to(&self, address: &str) -> Result<String> {
        eventually("a letter with a link", Duration::from_secs(20), || {
            let letters = std::fs::read_to_string(&self.letters)?;
            // RFC 2045, section 6.7: lines are broken softly, and `=` stands for itself as `=3D`.
            let letters = letters.replace("=\n", "").replace("=3D", "=");
            let letter =
                letters.split("MESSAGE FOLLOWS").find(|letter| letter.contains(&format!("To: {address}")));
            let link = letter.and_then(|letter| letter.lines().find(|line| line.starts_with("http")));
            Ok(link.map(str::to_owned))
        })
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn a_user_signs_in_by_letter_and_lets_a_machine_in(world: &World) -> Kept {
    let mail = MailServer::start(world)?;
    world.admin(&["user", "add", USER, "--plan", "pro"])?;
    let listed = world.admin(&["user", "ls"])?;
    ensure!(listed.lines().any(|line| line.contains(USER) && line.contains("pro")), "{listed}");

    let mut browser = Console::new(world)?;
    let asked = browser.submit("/sign-in", &[("email", "Bob@Example.org")])?;
    ensure!(asked.status == 200, "{} {}", asked.status, asked.text);
    let link = mail.link_to(USER)?;
    ensure!(!std::fs::read_to_string(world.log())?.contains("rbl_"), "a link that was sent is in the log");
    browser.follow(&link)?;
    ensure!(browser.open("/sign-in")?.text.contains(USER), "signed in");

    // `rig login` on a machine without any key.
    let home = world.scratch.join("bob");
    std::fs::create_dir(&home)?;
    let rig = |arguments: &[&str]| {
        let mut command = world.command("rig");
        command.args(["--output", "json"]).args(arguments).env_clear().env("HOME", &home);
        command.env("RIG_API_URL", &world.api.url).stdin(Stdio::null());
        command
    };
    let mut login = rig(&["login"]).stdout(Stdio::piped()).spawn()?;
    let mut events = BufReader::new(login.stdout.take().context("stdout")?).lines();
    let mut next = |wanted: &str| -> Result<Value> {
        for line in &mut events {
            let event: Value = serde_json::from_str(&line?)?;
            if event.get("event").and_then(Value::as_str) == Some(wanted) {
                return Ok(event);
            }
        }
        anyhow::bail!("no event {wanted}")
    };
    let code = next("session_created")?;
    let code = code.get("code").and_then(Value::as_str).context("no code")?.to_owned();
    let shown = browser.open(&format!("/device?code={code}"))?;
    ensure!(shown.status == 200 && shown.text.contains(&code), "{} {}", shown.status, shown.text);
    let approved = browser.submit("/device", &[("code", &code), ("decision", "approve")])?;
    ensure!(approved.status == 200, "{} {}", approved.status, approved.text);
    ensure!(next("approved")?.get("user_email").and_then(Value::as_str) == Some(USER), "whose");
    ensure!(login.wait()?.success(), "rig login");

    let whoami = || -> Result<Value> { Ok(serde_json::from_slice(&rig(&["whoami"]).output()?.stdout)?) };
    let who = whoami()?;
    ensure!(who.get("user_email").and_then(Value::as_str) == Some(USER), "{who}");
    ensure!(who.get("subscription").and_then(Value::as_str) == Some("pro"), "{who}");
    // Limits for this user alone count at once.
    world.admin(&["user", "set-limits", USER, "--max-vms", "0"])?;
    let refused = rig(&["workspace", "new", "mine"]).output()?;
    ensure!(String::from_utf8_lossy(&refused.stdout).contains("limit_exceeded"), "{refused:?}");

    world.admin(&["user", "disable", USER])?;
    ensure!(browser.open("/device")?.location.as_deref() == Some("/sign-in"), "the session still opens");
    ensure!(whoami()?.get("authed") == Some(&Value::Bool(false)), "the key still opens");
    world.admin(&["user", "enable", USER])?;
    ensure!(whoami()?.get("authed") == Some(&Value::Bool(true)), "the key is good again");
    ensure!(rig(&["logout"]).output()?.status.success(), "rig logout");
    ensure!(whoami()?.get("authed") == Some(&Value::Bool(false)), "logged out");
    world.admin(&["user", "disable", USER])?;
    ensure!(world.admin(&["audit", "verify"])?.contains("is whole"), "the audit log");
    Ok(())
}

fn the_operator_is_told_what_is_wrong(world: &World) -> Kept {
    for (arguments, says) in [
        (&["user", "add", "nobody"][..], "no e-mail address"),
        (&["user", "add", "owner@example.org"], "already"),
        (&["user", "add", "x@example.org", "--plan", "owner"], "expected free or pro"),
        (&["user", "disable", "owner@example.org"], "administrator"),
        (&["login-link", "stranger@example.org"], "not found"),
    ] {
        let error =
            world.admin(arguments).err().with_context(|| format!("{arguments:?} was done"))?.to_string();
        ensure!(error.contains(says), "{arguments:?}: {error}");
    }
    Ok(())
}
