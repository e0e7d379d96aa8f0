//! A real browser (Chromium, over the W3C's WebDriver protocol) signs in to an app, and loses access when the app is no longer shared.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rigbox_testkit::blocking::eventually;
use serde_json::{Value, json};

use crate::TestResult;
use crate::functional::apps::{app, set_visibility, user};
use crate::harness::installation::Installation;

tests![browser_sees_only_apps_shared_with_its_user,];

const PORT: u16 = 9515;

/// Chromium with a profile of its own. Ends when dropped.
struct Browser {
    driver: Child,
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
    session: String,
}

impl Browser {
    fn start(installation: &Installation) -> Result<Self> {
        let log = std::fs::File::create(installation.scratch.join("chromedriver.log"))?;
        let driver = Command::new("chromedriver")
            .args([&format!("--port={PORT}"), "--allowed-ips=127.0.0.1"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .env("HOME", &installation.scratch)
            .spawn()
            .context("chromedriver")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(90)).build()?;
        let mut browser = Self { driver, client, runtime, session: String::new() };
        eventually("chromedriver answers", Duration::from_secs(60), || {
            let status = browser.ask("GET", "/status", None).ok();
            Ok(status.filter(|status| status.get("ready") == Some(&json!(true))).map(drop))
        })?;
        // Without a sandbox of its own, because tests run as root; the network namespace around it leads nowhere.
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": {"args": arguments}}}});
        let created = browser.ask("POST", "/session", Some(wanted)).context("Chromium does not start")?;
        browser.session = created.get("sessionId").and_then(Value::as_str).context("no session")?.to_owned();
        Ok(browser)
    }

    /// Sends a WebDriver command (W3C Recommendation, section 6), and returns its value.
    fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value> {
        let url = format!("http://127.0.0.1:{PORT}{path}");
        let mut request = self.client.request(method.parse()?, url);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let (status, response) = self.runtime.block_on(async {
            let response = request.send().await?;
            Ok::<_, reqwest::Error>((response.status(), response.json::<Value>().await?))
        })?;
        let value = response.get("value").cloned().unwrap_or_default();
        ensure!(status.is_success(), "{method} {path}: {value}");
        Ok(value)
    }

    fn command(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value> {
        self.ask(method, &format!("/session/{}{path}", self.session), body)
    }

    /// Goes to an address and waits until the page is there.
    fn go(&self, url: &str) -> Result<()> {
        self.command("POST", "/url", Some(json!({"url": url}))).map(drop)
    }

    fn url(&self) -> Result<String> {
        Ok(self.command("GET", "/url", None)?.as_str().unwrap_or_default().to_owned())
    }

    /// Returns the visible text.
    fn text(&self) -> Result<String> {
        Ok(self.run("return (document.body?.innerText ?? '')")?.as_str().unwrap_or_default().to_owned())
    }

    fn run(&self, script: &str) -> Result<Value> {
        self.command("POST", "/execute/sync", Some(json!({"script": script, "args": []})))
    }

    /// Runs a script, and returns the value of its promise.
    fn wait_for(&self, script: &str) -> Result<Value> {
        let script = format!(
            "const done = arguments[arguments.length - 1]; ({script})().then(done, e => done(String(e)));"
        );
        self.command("POST", "/execute/async", Some(json!({"script": script, "args": []})))
    }

    fn find(&self, selector: &str) -> Result<String> {
        let found =
            self.command("POST", "/element", Some(json!({"using": "css selector", "value": selector})))?;
        let ids = found.as_object().context("no element")?;
        Ok(ids.values().next().and_then(Value::as_str).context("no element")?.to_owned())
    }

    fn click(&self, selector: &str) -> Result<()> {
        let element = self.find(selector)?;
        self.command("POST", &format!("/element/{element}/click"), Some(json!({}))).map(drop)
    }

    fn type_into(&self, selector: &str, text: &str) -> Result<()> {
        let element = self.find(selector)?;
        self.command("POST", &format!("/element/{element}/value"), Some(json!({"text": text}))).map(drop)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let _ = self.command("DELETE", "", None);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

const FRIEND: &str = "reader@example.org";

fn browser_sees_only_apps_shared_with_its_user(installation: &Installation) -> TestResult {
    let private = app(installation, "private-page", 8000)?;
    let sibling = app(installation, "sibling", 8000)?;
    user(installation, FRIEND)?;
    set_visibility(installation, &private, "privileged", &[FRIEND])?;
    set_visibility(installation, &sibling, "public", &[])?;
    let browser = Browser::start(installation)?;

    // Nobody is signed in: the browser is sent to the console, through the emailed link, and back to the same page.
    browser.go("http://private-page.rigbox.localhost:7080/index.html?a=b")?;
    ensure!(browser.url()?.starts_with("http://console.localhost:7070/sign-in?app="), "{}", browser.url()?);
    let asked = browser.url()?;
    let (_, query) = asked.split_once('?').context("no query")?;
    browser.type_into("input[name=email]", FRIEND)?;
    browser.click("button")?;
    // A click does not wait for the page that it leads to.
    eventually("we have sent a sign-in link", Duration::from_secs(20), || {
        Ok(browser.text()?.contains("we have sent a sign-in link").then_some(()))
    })?;
    // As the email's link does; the email itself is another test's.
    let link = installation.admin(&["login-link", FRIEND])?;
    browser.go(&format!("{link}&{query}"))?;
    browser.click("form[action='/sign-in/link'] button")?;
    // The console goes on by itself.
    eventually("the page of the app", Duration::from_secs(20), || {
        let is_there = browser.url()? == "http://private-page.rigbox.localhost:7080/index.html?a=b";
        Ok((is_there && browser.text()?.contains("hello from the app")).then_some(()))
    })?;
    // What the page itself asks is answered; its scripts do not see the session.
    let own = browser.wait_for("async () => (await fetch('/index.html')).status")?;
    ensure!(own == json!(200), "{own}");
    let cookies = browser.run("return document.cookie")?;
    ensure!(cookies == json!(""), "a script sees {cookies}");

    // A page of a sibling app is another site to it, though a browser sends the cookie along.
    browser.go("http://sibling.rigbox.localhost:7080/")?;
    ensure!(browser.text()?.contains("hello from the app"), "a public app needs no sign-in");
    let across = "async () => { try { const r = await fetch('http://private-page.rigbox.localhost:7080/', \
                  {credentials: 'include', mode: 'no-cors'}); return r.type + ' ' + r.status; } catch (e) { return 'refused'; } }";
    browser.wait_for(across)?;
    let framed = "async () => { const f = document.createElement('img'); return await new Promise(r => { f.onload = () => r('seen'); \
                  f.onerror = () => r('not seen'); f.src = 'http://private-page.rigbox.localhost:7080/index.html'; document.body.append(f); }); }";
    ensure!(browser.wait_for(framed)? == json!("not seen"), "a sibling's page shows what is private");
    let socket = "async () => await new Promise(r => { const s = new WebSocket('ws://private-page.rigbox.localhost:7080/'); \
                  s.onopen = () => r('open'); s.onerror = () => r('refused'); })";
    ensure!(browser.wait_for(socket)? == json!("refused"), "a sibling's page opens a WebSocket");

    // It is not shared any more. (Each time another address: a cached page is shown without a request.)
    set_visibility(installation, &private, "private", &[])?;
    browser.go("http://private-page.rigbox.localhost:7080/index.html?unshared")?;
    ensure!(!browser.text()?.contains("hello from the app"), "{}", browser.text()?);
    set_visibility(installation, &private, "privileged", &[FRIEND])?;
    browser.go("http://private-page.rigbox.localhost:7080/index.html?shared")?;
    ensure!(browser.text()?.contains("hello from the app"), "it is shared again: {}", browser.text()?);
    // Signing out on the console ends it everywhere.
    browser.go("http://console.localhost:7070/sign-in")?;
    browser.click("form[action='/sign-out'] button")?;
    browser.go("http://private-page.rigbox.localhost:7080/index.html?signed-out")?;
    ensure!(!browser.text()?.contains("hello from the app"), "signed out: {}", browser.text()?);
    for app in [private, sibling] {
        installation.api.delete(&format!("/apps/{app}"))?.expect(200)?;
    }
    Ok(())
}
