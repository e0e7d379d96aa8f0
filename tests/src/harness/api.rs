//! Client of the HTTP API, with the calls that most tests make. It checks every response against the API's own document.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::StreamExt;
use reqwest::header::CONTENT_TYPE;
use reqwest::{RequestBuilder, Response, StatusCode};
use rigbox_contract::{Contract, Exchange};
use rigbox_testkit::blocking::eventually;
use serde_json::{Value, json};

pub(crate) struct Api {
    pub(crate) url: String,
    pub(crate) key: String,
    /// Address that it connects from, if not any.
    pub(crate) from: Option<IpAddr>,
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
    /// The API's own document, once it was requested.
    contract: OnceLock<Contract>,
}

/// Limit for a reboot: longer than that of a boot whose agent never answers, so that a failure says so.
const REBOOT_TIMEOUT: Duration = Duration::from_secs(180);

#[derive(Debug)]
pub(crate) struct ApiResponse {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl ApiResponse {
    pub(crate) fn expect(self, status: u16) -> Result<Value> {
        anyhow::ensure!(self.status == status, "expected {status}, got {}: {}", self.status, self.body);
        Ok(self.body)
    }

    /// Returns the code of the error.
    pub(crate) fn code(&self) -> &str {
        self.body.pointer("/error/code").and_then(Value::as_str).unwrap_or_default()
    }

    /// Returns the message of the error.
    pub(crate) fn message(&self) -> &str {
        self.body.pointer("/error/message").and_then(Value::as_str).unwrap_or_default()
    }
}

/// Output and end of a command.
#[derive(Debug, Default)]
pub(crate) struct ExecOutput {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// The last event.
    pub(crate) end: Value,
}

impl ExecOutput {
    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }

    pub(crate) fn exit_code(&self) -> Option<i64> {
        self.end.get("exit_code").and_then(Value::as_i64)
    }
}

/// Response whose body is not read yet, and its request.
struct Pending {
    method: reqwest::Method,
    path: String,
    response: Response,
}

impl Api {
    pub(crate) fn new(url: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = Self::client(None)?;
        Ok(Self {
            url: url.to_owned(),
            key: String::new(),
            from: None,
            client,
            runtime,
            contract: OnceLock::new(),
        })
    }

    fn client(from: Option<IpAddr>) -> Result<reqwest::Client> {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(180));
        Ok(client.local_address(from).build()?)
    }

    fn request(&self, method: &str, path: &str) -> Result<RequestBuilder> {
        let method = method.parse::<reqwest::Method>()?;
        let path = if path.starts_with("/readyz") { path.to_owned() } else { format!("/api/v1{path}") };
        let request = self.client.request(method, format!("{}{path}", self.url));
        Ok(if self.key.is_empty() { request } else { request.bearer_auth(&self.key) })
    }

    fn receive(&self, request: RequestBuilder) -> Result<ApiResponse> {
        self.runtime.block_on(async {
            let (status, body) = self.read_checked(self.send_with_retries(request).await?).await?;
            let text = || Value::String(String::from_utf8_lossy(&body).into_owned());
            Ok(ApiResponse {
                status: status.as_u16(),
                body: serde_json::from_slice(&body).unwrap_or_else(|_| text()),
            })
        })
    }

    /// Sends a request, and respects `Retry-After` as clients do.
    async fn send_with_retries(&self, request: RequestBuilder) -> Result<Pending> {
        loop {
            let again = request.try_clone().context("a request that cannot be repeated")?.build()?;
            let (method, path) = (again.method().clone(), again.url().path().to_owned());
            let pending = Pending { method, path, response: self.client.execute(again).await? };
            if pending.response.status() != StatusCode::TOO_MANY_REQUESTS {
                return Ok(pending);
            }
            let wait = pending.response.headers().get("retry-after").context("429 without Retry-After")?;
            let wait = Duration::from_secs(wait.to_str()?.parse()?);
            self.read_checked(pending).await?;
            tokio::time::sleep(wait).await;
        }
    }

    /// Reads the body, and checks the whole response.
    async fn read_checked(&self, pending: Pending) -> Result<(StatusCode, Vec<u8>)> {
        let Pending { method, path, response } = pending;
        let (status, kind) = (response.status(), response.headers().get(CONTENT_TYPE).cloned());
        let body = response.bytes().await?.to_vec();
        let content_type = kind.as_ref().map(|kind| kind.to_str()).transpose()?;
        let exchange = Exchange { method: &method, path: &path, status, content_type, body: Some(&body) };
        self.contract().await?.check(&exchange)?;
        Ok((status, body))
    }

    /// Checks the head of a response, and returns it if it is a success.
    async fn open_checked(&self, pending: Pending) -> Result<Response> {
        if !pending.response.status().is_success() {
            let (status, body) = self.read_checked(pending).await?;
            anyhow::bail!("{status}: {}", String::from_utf8_lossy(&body));
        }
        let Pending { method, path, response } = pending;
        let status = response.status();
        let content_type = response.headers().get(CONTENT_TYPE).map(|kind| kind.to_str()).transpose()?;
        let exchange = Exchange { method: &method, path: &path, status, content_type, body: None };
        self.contract().await?.check(&exchange)?;
        Ok(response)
    }

    async fn contract(&self) -> Result<&Contract> {
        if let Some(contract) = self.contract.get() {
            return Ok(contract);
        }
        let contract = Contract::new(&self.fetch_document().await?)?;
        Ok(self.contract.get_or_init(|| contract))
    }

    async fn fetch_document(&self) -> Result<String> {
        let response = self.client.get(format!("{}/api-docs/openapi.json", self.url)).send().await?;
        Ok(response.error_for_status()?.text().await?)
    }

    /// Returns the API's OpenAPI document.
    pub(crate) fn document(&self) -> Result<String> {
        self.runtime.block_on(self.fetch_document())
    }

    pub(crate) fn get(&self, path: &str) -> Result<ApiResponse> {
        self.receive(self.request("GET", path)?)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<ApiResponse> {
        self.receive(self.request("POST", path)?.json(body))
    }

    /// Sends a request that may be repeated with the same key, and is carried out once.
    pub(crate) fn post_once(&self, path: &str, body: &Value, key: &str) -> Result<ApiResponse> {
        self.receive(self.request("POST", path)?.header("idempotency-key", key).json(body))
    }

    pub(crate) fn delete(&self, path: &str) -> Result<ApiResponse> {
        self.receive(self.request("DELETE", path)?)
    }

    pub(crate) fn send(&self, method: &str, path: &str, body: Vec<u8>) -> Result<ApiResponse> {
        self.receive(self.request(method, path)?.body(body))
    }

    pub(crate) fn send_json(&self, method: &str, path: &str, body: &str) -> Result<ApiResponse> {
        let request = self.request(method, path)?.header(CONTENT_TYPE, "application/json");
        self.receive(request.body(body.to_owned()))
    }

    pub(crate) fn bytes(&self, path: &str) -> Result<Vec<u8>> {
        let request = self.request("GET", path)?;
        self.runtime.block_on(async {
            let (status, body) = self.read_checked(self.send_with_retries(request).await?).await?;
            anyhow::ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
            Ok(body)
        })
    }

    /// Returns a client with another key.
    pub(crate) fn with_key(&self, key: &str) -> Result<Self> {
        Ok(Self { key: key.to_owned(), ..Self::new(&self.url)? })
    }

    /// Returns a client that connects from this address.
    pub(crate) fn with_address(self, from: IpAddr) -> Result<Self> {
        Ok(Self { from: Some(from), client: Self::client(Some(from))?, ..self })
    }

    /// Sets variables of a workspace's environment.
    pub(crate) fn set_env(&self, id: &str, env_vars: &Value) -> Result<Value> {
        self.post(&format!("/workspaces/{id}/env"), &json!({"env_vars": env_vars}))?.expect(200)
    }

    /// Replaces the egress policy of a workspace. It is in force on return.
    pub(crate) fn set_egress(&self, id: &str, egress: &Value) -> Result<()> {
        let body = json!({"egress": egress}).to_string();
        let set = self.send_json("PATCH", &format!("/workspaces/{id}/network"), &body)?.expect(200)?;
        anyhow::ensure!(set.get("live") == Some(&Value::Bool(true)), "{set}");
        Ok(())
    }

    /// Creates a workspace, and waits until it is provisioned.
    pub(crate) fn create(&self, name: &str) -> Result<String> {
        let created = self.post("/workspaces", &json!({"name": name}))?.expect(201)?;
        let id = created.pointer("/vm/id").and_then(Value::as_str).context("no id")?.to_owned();
        self.wait(&id, "provisioned")?;
        Ok(id)
    }

    /// Creates and starts a workspace, and waits until it is running.
    pub(crate) fn spawn(&self, name: &str) -> Result<String> {
        let id = self.create(name)?;
        self.start(&id)?;
        Ok(id)
    }

    pub(crate) fn start(&self, id: &str) -> Result<()> {
        self.post(&format!("/workspaces/{id}/start"), &json!({}))?.expect(200)?;
        self.wait(id, "running")
    }

    pub(crate) fn stop(&self, id: &str) -> Result<()> {
        self.post(&format!("/workspaces/{id}/stop"), &json!({}))?.expect(200)?;
        self.wait(id, "stopped")
    }

    /// Deletes a workspace, and waits until it is gone.
    pub(crate) fn remove(&self, id: &str) -> Result<()> {
        self.delete(&format!("/workspaces/{id}"))?.expect(200)?;
        self.wait_gone(id)
    }

    pub(crate) fn wait_gone(&self, id: &str) -> Result<()> {
        rigbox_testkit::blocking::eventually("the workspace is gone", Duration::from_secs(60), || {
            Ok((self.get(&format!("/workspaces/{id}"))?.status == 404).then_some(()))
        })
    }

    pub(crate) fn vm(&self, id: &str) -> Result<Value> {
        let body = self.get(&format!("/workspaces/{id}"))?.expect(200)?;
        body.get("vm").cloned().context("no vm")
    }

    pub(crate) fn status(&self, id: &str) -> Result<String> {
        Ok(self.vm(id)?.get("status").and_then(Value::as_str).context("no status")?.to_owned())
    }

    /// Waits for a status.
    pub(crate) fn wait(&self, id: &str, wanted: &str) -> Result<()> {
        rigbox_testkit::blocking::eventually(&format!("{id} is {wanted}"), Duration::from_secs(150), || {
            let vm = match self.vm(id) {
                Ok(vm) => vm,
                // Control may be restarting.
                Err(_) => return Ok(None),
            };
            Ok((vm.get("status").and_then(Value::as_str) == Some(wanted)).then_some(()))
        })
        .with_context(|| format!("it is {:?}", self.vm(id)))
    }

    pub(crate) fn exec(&self, id: &str, body: &Value) -> Result<ExecOutput> {
        let request = self.request("POST", &format!("/workspaces/{id}/exec"))?.json(body);
        self.runtime.block_on(async {
            let response = self.open_checked(self.send_with_retries(request).await?).await?;
            let contract = self.contract().await?;
            let mut ran = ExecOutput::default();
            let mut stream = response.bytes_stream();
            let mut rest = Vec::new();
            while let Some(chunk) = stream.next().await {
                rest.extend_from_slice(&chunk?);
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    let event: Value = serde_json::from_slice(&line)?;
                    contract.check_value("ExecEvent", &event).map_err(anyhow::Error::msg)?;
                    match (
                        event.get("stream").and_then(Value::as_str),
                        event.get("data_b64").and_then(Value::as_str),
                    ) {
                        (Some("stdout"), Some(data)) => ran.stdout.extend(BASE64.decode(data)?),
                        (Some("stderr"), Some(data)) => ran.stderr.extend(BASE64.decode(data)?),
                        _ => ran.end = event,
                    }
                }
            }
            anyhow::ensure!(rest.is_empty() && !ran.end.is_null(), "exec ended without an end");
            Ok(ran)
        })
    }

    /// Runs a shell command, which must succeed, and returns its trimmed output.
    pub(crate) fn sh(&self, id: &str, line: &str) -> Result<String> {
        self.sh_as(id, "developer", line)
    }

    /// Runs a shell command as root.
    pub(crate) fn sudo(&self, id: &str, line: &str) -> Result<String> {
        self.sh_as(id, "root", line)
    }

    fn sh_as(&self, id: &str, user: &str, line: &str) -> Result<String> {
        let ran = self.exec(id, &json!({"command": line, "user": user}))?;
        anyhow::ensure!(
            ran.exit_code() == Some(0),
            "`{line}`: {} {}{}",
            ran.end,
            ran.out(),
            String::from_utf8_lossy(&ran.stderr)
        );
        Ok(ran.out())
    }

    /// Returns the id of the kernel's boot in a VM.
    pub(crate) fn kernel_boot(&self, id: &str) -> Result<String> {
        self.sh(id, "cat /proc/sys/kernel/random/boot_id")
    }

    /// Runs a command as root that ends the VM.
    pub(crate) fn end_by(&self, id: &str, line: &str) -> Result<()> {
        match self.exec(id, &json!({"command": line, "user": "root"})) {
            Ok(ran) if ran.exit_code().is_some_and(|code| code != 0) => anyhow::bail!("{line}: {ran:?}"),
            // The end may cut off the response.
            _ => Ok(()),
        }
    }

    /// Runs a command as root that reboots the VM, and waits until commands run in the next boot.
    pub(crate) fn reboot_by(&self, id: &str, line: &str) -> Result<()> {
        let before = self.kernel_boot(id)?;
        self.end_by(id, line)?;
        eventually(&format!("{line} is over"), REBOOT_TIMEOUT, || {
            let now = self.kernel_boot(id).with_context(|| format!("{:?}", self.vm(id)))?;
            anyhow::ensure!(now != before, "it runs as before: {:?}", self.vm(id));
            Ok(Some(()))
        })
    }

    /// Starts an exec whose output is not read until the returned response is dropped.
    pub(crate) fn exec_and_hold(&self, id: &str, body: &Value) -> Result<Response> {
        let request = self.request("POST", &format!("/workspaces/{id}/exec"))?.json(body);
        self.runtime.block_on(async { self.open_checked(self.send_with_retries(request).await?).await })
    }

    /// Starts an exec as [`Self::exec_and_hold`], and waits for the first output.
    pub(crate) fn exec_and_hold_after_output(&self, id: &str, body: &Value) -> Result<Response> {
        let mut response = self.exec_and_hold(id, body)?;
        self.runtime.block_on(response.chunk())?.context("no output")?;
        Ok(response)
    }

    /// Opens a stream that is not read until the returned response is dropped.
    pub(crate) fn get_and_hold(&self, path: &str) -> Result<Response> {
        let request = self.request("GET", path)?;
        self.runtime.block_on(async { self.open_checked(self.send_with_retries(request).await?).await })
    }

    /// Starts an exec and disconnects after the first bytes.
    pub(crate) fn exec_and_disconnect(&self, id: &str, line: &str) -> Result<()> {
        let request =
            self.request("POST", &format!("/workspaces/{id}/exec"))?.json(&json!({"command": line}));
        self.runtime.block_on(async {
            let mut stream = self.open_checked(self.send_with_retries(request).await?).await?.bytes_stream();
            stream.next().await.context("no output")??;
            Ok(())
        })
    }
}
