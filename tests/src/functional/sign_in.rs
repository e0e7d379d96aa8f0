//! Sign-in by email, login of a machine, and revocation of both, with a real mail server, the real command lines, and a browser's requests.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rigbox_testkit::blocking::eventually;
use serde_json::{Value, json};

use crate::TestResult;
use crate::harness::console::Console;
use crate::harness::installation::Installation;
use crate::harness::installation::MAIL_PORT;

tests![
    user_signs_in_by_email_and_authorizes_a_machine,
    people_with_whom_an_app_is_shared_get_an_email,
    admin_commands_report_errors_to_the_operator,
];

const USER: &str = "bob@example.org";

/// SMTP server (Debian's aiosmtpd) that prints its emails. Ends when dropped.
struct MailServer {
    child: Child,
    emails: std::path::PathBuf,
}

impl MailServer {
    fn start(installation: &Installation) -> Result<Self> {
        let emails = installation.scratch.join("emails");
        let child = Command::new("/usr/bin/python3")
            .args(["-u", "-m", "aiosmtpd", "-n", "-l", &format!("127.0.0.1:{MAIL_PORT}")])
            .args(["-c", "aiosmtpd.handlers.Debugging", "stdout"])
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&emails)?)
            .spawn()
            .context("aiosmtpd")?;
        let server = Self { child, emails };
        eventually("the mail server listens", Duration::from_secs(20), || {
            Ok(TcpStream::connect(("127.0.0.1", MAIL_PORT)).ok().map(drop))
        })?;
        Ok(server)
    }

    /// Returns the sign-in link in the email to `address`.
    fn link_to(&self, address: &str) -> Result<String> {
        eventually("an email with a link", Duration::from_secs(20), || {
            let emails = std::fs::read_to_string(&self.emails)?;
            // RFC 2045, section 6.7: lines are broken softly, and `=` stands for itself as `=3D`.
            let emails = emails.replace("=\n", "").replace("=3D", "=");
            let email =
                emails.split("MESSAGE FOLLOWS").find(|email| email.contains(&format!("To: {address}")));
            let link = email.and_then(|email| email.lines().find(|line| line.starts_with("http")));
            Ok(link.map(str::to_owned))
        })
    }
}

impl MailServer {
    /// Returns the number of emails to `address`.
    fn count_to(&self, address: &str) -> Result<usize> {
        Ok(std::fs::read_to_string(&self.emails)?.matches(&format!("To: {address}")).count())
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn user_signs_in_by_email_and_authorizes_a_machine(installation: &Installation) -> TestResult {
    let mail = MailServer::start(installation)?;
    installation.admin(&["user", "add", USER, "--plan", "pro"])?;
    let listed = installation.admin(&["user", "ls"])?;
    ensure!(listed.lines().any(|line| line.contains(USER) && line.contains("pro")), "{listed}");

    let mut browser = Console::new(installation)?;
    let asked = browser.submit("/sign-in", &[("email", "Bob@Example.org")])?;
    ensure!(asked.status == 200, "{} {}", asked.status, asked.text);
    let link = mail.link_to(USER)?;
    ensure!(
        !std::fs::read_to_string(installation.log())?.contains("rbl_"),
        "a link that was sent is in the log"
    );
    browser.follow(&link)?;
    ensure!(browser.open("/sign-in")?.text.contains(USER), "signed in");

    // `rig login` on a machine without any key.
    let home = installation.scratch.join("bob");
    std::fs::create_dir(&home)?;
    let rig = |arguments: &[&str]| {
        let mut command = installation.command("rig");
        command.args(["--output", "json"]).args(arguments).env_clear().env("HOME", &home);
        command.env("RIG_API_URL", &installation.api.url).stdin(Stdio::null());
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
    let page = browser.open("/device")?;
    ensure!(page.status == 200 && page.text.contains("rig login"), "{} {}", page.status, page.text);
    let approved = browser.submit("/device", &[("code", &code), ("decision", "approve")])?;
    ensure!(approved.status == 200, "{} {}", approved.status, approved.text);
    ensure!(next("approved")?.get("user_email").and_then(Value::as_str) == Some(USER), "whose");
    ensure!(login.wait()?.success(), "rig login");

    let whoami = || -> Result<Value> { Ok(serde_json::from_slice(&rig(&["whoami"]).output()?.stdout)?) };
    let who = whoami()?;
    ensure!(who.get("user_email").and_then(Value::as_str) == Some(USER), "{who}");
    ensure!(who.get("subscription").and_then(Value::as_str) == Some("pro"), "{who}");
    // Limits for this user alone count at once.
    installation.admin(&["user", "set-limits", USER, "--max-vms", "0"])?;
    let refused = rig(&["workspace", "new", "mine"]).output()?;
    ensure!(String::from_utf8_lossy(&refused.stdout).contains("limit_exceeded"), "{refused:?}");

    installation.admin(&["user", "disable", USER])?;
    let device = browser.open("/device")?;
    ensure!(
        device.location.as_deref().is_some_and(|location| location.starts_with("/sign-in")),
        "the session still opens: {} {:?}",
        device.status,
        device.location
    );
    ensure!(whoami()?.get("authed") == Some(&Value::Bool(false)), "the key still opens");
    installation.admin(&["user", "enable", USER])?;
    ensure!(whoami()?.get("authed") == Some(&Value::Bool(true)), "the key is good again");
    ensure!(rig(&["logout"]).output()?.status.success(), "rig logout");
    ensure!(whoami()?.get("authed") == Some(&Value::Bool(false)), "logged out");
    installation.admin(&["user", "disable", USER])?;
    ensure!(installation.admin(&["audit", "verify"])?.contains("is valid"), "the audit log");
    Ok(())
}

fn people_with_whom_an_app_is_shared_get_an_email(installation: &Installation) -> TestResult {
    const WITH: [&str; 2] = [USER, "nobody-yet@example.org"];
    let mail = MailServer::start(installation)?;
    let workspace = installation.api.create("mailed")?;
    let app = json!({"name": "shared-by-mail", "port": 8000, "workspace_id": workspace});
    let created = installation.api.post("/apps", &app)?.expect(201)?;
    let url = created.pointer("/app/url").and_then(Value::as_str).context("no URL")?;
    let shared = installation
        .rig(&["app", "share", "shared-by-mail", "--with", WITH[0], "--with", WITH[1]])
        .output()?;
    // The administrator alone learns who has no account. The emails go to all alike.
    let said = String::from_utf8(shared.stdout)?;
    ensure!(
        said.contains(&format!("rigboxd admin user add {}", WITH[1]))
            && !said.contains(&format!("add {USER}")),
        "{said}"
    );
    for address in WITH {
        ensure!(mail.link_to(address)? == url, "the app's address");
    }
    // Setting the same list again lets nobody in who could not get in before.
    installation.rig(&["app", "share", "shared-by-mail", "--add", "third@example.org"]).output()?;
    ensure!(mail.link_to("third@example.org")? == url, "the app's address");
    ensure!(mail.count_to(USER)? == 1, "a second email to {USER}");
    installation.api.remove(&workspace)
}

fn admin_commands_report_errors_to_the_operator(installation: &Installation) -> TestResult {
    for (arguments, says) in [
        (&["user", "add", "nobody"][..], "not an email address"),
        (&["user", "add", "owner@example.org"], "already"),
        (&["user", "add", "x@example.org", "--plan", "owner"], "expected free or pro"),
        (&["user", "disable", "owner@example.org"], "administrator"),
        (&["login-link", "unknown@example.org"], "not found"),
    ] {
        let error = installation
            .admin(arguments)
            .err()
            .with_context(|| format!("{arguments:?} was done"))?
            .to_string();
        ensure!(error.contains(says), "{arguments:?}: {error}");
    }
    Ok(())
}
