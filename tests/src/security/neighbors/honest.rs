//! Honest tenant: what it does all day, and has to get done beside anybody.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rigbox_testkit::blocking::eventually;
use serde_json::{Value, json};

use crate::TestResult;
use crate::harness::installation::Installation;
use crate::harness::internet::GREETING;
use crate::harness::terminal::Terminal;
use crate::harness::visitor::Visitor;

const NAME: &str = "honest";
/// Limit for calls that take a fraction of a second here.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// Returns the id of a workspace by its name, if the caller has one.
pub(super) fn find(api: &crate::harness::api::Api, name: &str) -> Result<Option<String>> {
    let listed = api.get(&format!("/workspaces?name={name}"))?.expect(200)?;
    Ok(listed.pointer("/vms/0/id").and_then(Value::as_str).map(str::to_owned))
}

/// The owner's workspace, with an app.
pub(crate) struct Honest<'a> {
    installation: &'a Installation,
    pub(crate) id: String,
    app: Visitor,
}

impl<'a> Honest<'a> {
    /// Returns the workspace that all tests share.
    pub(crate) fn shared(installation: &'a Installation) -> Result<Self> {
        let api = &installation.api;
        let app = Visitor::new(NAME).with_key(&installation.key);
        if let Some(id) = find(api, NAME)? {
            return Ok(Self { installation, id, app });
        }
        let id = api.spawn(NAME)?;
        api.sh(&id, "mkdir -p site && cd site && echo 'an honest page' > index.html && setsid nohup python3 -m http.server 8000 > /dev/null 2>&1 < /dev/null &")?;
        let body = json!({"name": NAME, "workspace_id": id, "port": 8000});
        api.post("/apps", &body)?.expect(201)?;
        let honest = Self { installation, id, app };
        eventually("the honest app answers", Duration::from_secs(40), || {
            Ok(honest.app_answers().is_ok().then_some(()))
        })?;
        Ok(honest)
    }

    /// Uses everything that the tenant has; each has to work, in time.
    pub(crate) fn is_served(&self) -> TestResult {
        in_time("a command", || self.runs_a_command())?;
        in_time("a request to the app", || self.app_answers())?;
        in_time("a terminal", || {
            let mut terminal = Terminal::open(&self.installation.api, &self.id, &json!(["bash"]))?;
            terminal.send("echo $((40 + 2))-shown\n")?;
            terminal.wait_for("42-shown", TIMEOUT)
        })?;
        in_time("a request to the internet", || {
            let page = self.installation.api.sh(&self.id, "curl -s -m 20 http://server.example/")?;
            ensure!(page == GREETING, "{page:?}");
            Ok(())
        })
    }

    pub(crate) fn runs_a_command(&self) -> TestResult {
        ensure!(self.installation.api.sh(&self.id, "echo fine")? == "fine", "its output");
        Ok(())
    }

    pub(crate) fn app_answers(&self) -> TestResult {
        let page = self.app.get("/")?;
        ensure!(page.status == 200 && page.body.contains("an honest page"), "{page:?}");
        Ok(())
    }
}

/// Fails if `call` fails, or takes too long.
pub(super) fn in_time(what: &str, call: impl FnOnce() -> TestResult) -> TestResult {
    let started = Instant::now();
    call().with_context(|| what.to_owned())?;
    eprintln!("{what}: {:?}", started.elapsed());
    ensure!(started.elapsed() < TIMEOUT, "{what} took {:?}", started.elapsed());
    Ok(())
}
