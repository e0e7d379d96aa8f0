//! Control role with a simulated node and simulated guests behind real sockets, and a client for its API.

pub(crate) mod ai_ledger;
pub(crate) mod browser;
pub(crate) mod guests;
pub(crate) mod node;
pub(crate) mod ssh_gateway;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use rigbox_contract::{Contract, Exchange};
use rigbox_control::{
    AiConfig, BridgeConfig, Config, DefaultBudgets, GatewaysConfig, KeySource, PriceFiles, SshConfig,
    Timeouts, Upstream, admin,
};
use rigbox_core::ai::provider::Provider;
use rigbox_core::plans::{Plan, Plans};
use rigbox_core::time::Timestamp;
use rigbox_store::tokens::{ApiKey, TokenKey};
use rigbox_store::{AuditEvent, NewKey, Store};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use node::Node;
pub(crate) use rigbox_testkit::eventually;

/// Control in this process, with a simulated node and simulated guests.
pub(crate) struct TestControl {
    directory: TempDir,
    pub(crate) node: Arc<Node>,
    node_runtime: Option<Runtime>,
    pub(crate) guests: Arc<guests::Guests>,
    guests_runtime: Option<Runtime>,
    control: Option<Runtime>,
    /// Contract from the published document; every response is checked against it.
    contract: Option<Contract>,
    pub(crate) key: String,
    pub(crate) client: Client,
    pub(crate) address: SocketAddr,
    pub(crate) timeouts: Timeouts,
    pub(crate) plans: Plans,
    /// True if gateways may connect.
    gateways: bool,
    /// DNS servers that control uses from its next start.
    pub(crate) dns: Vec<SocketAddr>,
    ai_url: String,
}

/// Address of an upstream of AI calls that does not exist.
pub(crate) const NO_PROVIDER: &str = "https://api.anthropic.example";
/// Price table without models.
const NO_MODELS: &str = r#"{"date":"2026-11-27","source":"test","models":{}}"#;

/// Response that matches the document.
pub(crate) struct ApiResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl ApiResponse {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl TestControl {
    pub(crate) async fn new() -> Self {
        Self::with(Timeouts::default()).await
    }

    /// Adds a user, and returns a key of theirs.
    pub(crate) async fn new_user(&self, email: &str, plan: Plan) -> String {
        let user = admin::add_user(&self.config(), email, plan).await.unwrap();
        let token_key = TokenKey::load_or_create(&self.path("token.key")).unwrap();
        let store = Store::open(&self.path("rigbox.db"), &token_key).await.unwrap();
        let key = ApiKey::mint().unwrap();
        let (new, now) = (NewKey::of(&key, "test", &token_key), Timestamp::from_unix_ms(1));
        let event = AuditEvent::by_operator(&user, "key.create", "");
        store.add_key(&user, &new, 1, None, event, now).await.unwrap();
        key.reveal().to_owned()
    }

    pub(crate) async fn with(timeouts: Timeouts) -> Self {
        Self::with_plans(timeouts, Plans::default()).await
    }

    pub(crate) async fn with_plans(timeouts: Timeouts, plans: Plans) -> Self {
        Self::with_all(timeouts, plans, false, NO_PROVIDER).await
    }

    /// Starts a control role whose upstream of AI calls is at `ai_url`.
    pub(crate) async fn with_provider(ai_url: &str) -> Self {
        Self::with_all(Timeouts::default(), Plans::default(), false, ai_url).await
    }

    /// Starts a control role that accepts gateways at `gateway.sock`.
    pub(crate) async fn with_gateways() -> Self {
        Self::with_all(Timeouts::default(), Plans::default(), true, NO_PROVIDER).await
    }

    async fn with_all(timeouts: Timeouts, plans: Plans, gateways: bool, ai_url: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("more-ai-prices.json"), NO_MODELS).unwrap();
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = config(directory.path(), address, timeouts, plans, gateways, vec![], ai_url);
        let created = rigbox_control::admin::bootstrap(&config, "a@example.com").await.unwrap();
        let mut rig = Self {
            directory,
            node: Arc::default(),
            node_runtime: None,
            guests: Arc::default(),
            guests_runtime: None,
            control: None,
            contract: None,
            key: created.api_key.reveal().to_owned(),
            client: client(address),
            address,
            timeouts,
            plans,
            gateways,
            dns: Vec::new(),
            ai_url: ai_url.to_owned(),
        };
        rig.start_node();
        rig.start_guests();
        rig.start_control().await;
        rig
    }

    pub(crate) fn config(&self) -> Config {
        config(
            self.directory.path(),
            self.address,
            self.timeouts,
            self.plans,
            self.gateways,
            self.dns.clone(),
            &self.ai_url,
        )
    }

    /// Returns the console's origin, served at `self.address`.
    pub(crate) fn console(&self) -> String {
        format!("http://console.localhost:{}", self.address.port())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn start_node(&mut self) {
        let runtime = runtime();
        node::serve(&runtime, self.node.clone(), &self.path("node.sock"));
        self.node_runtime = Some(runtime);
    }

    /// Like `kill -9` of the node: its VMs survive in `self.node`.
    pub(crate) fn kill_node(&mut self) {
        if let Some(runtime) = self.node_runtime.take() {
            runtime.shutdown_background();
        }
    }

    fn start_guests(&mut self) {
        let runtime = runtime();
        guests::serve(&runtime, self.guests.clone(), &self.path("guestio.sock"));
        self.guests_runtime = Some(runtime);
    }

    pub(crate) async fn start_control(&mut self) {
        let config = self.config();
        let runtime = runtime();
        runtime.spawn(async move { rigbox_control::run(config, std::future::pending()).await.unwrap() });
        self.control = Some(runtime);
        eventually("the API answers", || async {
            self.client.get(self.url("/healthz")).send().await.is_ok()
        })
        .await;
        if self.contract.is_none() {
            let document = self.client.get(self.url("/api-docs/openapi.json")).send().await.unwrap();
            self.contract = Some(Contract::new(&document.text().await.unwrap()).unwrap());
        }
    }

    /// Like `kill -9` of control.
    pub(crate) fn kill_control(&mut self) {
        if let Some(runtime) = self.control.take() {
            runtime.shutdown_background();
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpListener::bind(self.address).is_err() {
            assert!(Instant::now() < deadline, "control did not stop");
            std::thread::yield_now();
        }
    }

    /// Returns the request that opens a WebSocket at `path`, authorized by `key`.
    pub(crate) fn socket_request(&self, path: &str, key: &str) -> Request {
        let mut request = format!("ws://{}/api/v1{path}", self.address).into_client_request().unwrap();
        let key = HeaderValue::from_str(&format!("Bearer {key}")).unwrap();
        request.headers_mut().insert("authorization", key);
        request
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(&format!("/api/v1{path}"))).bearer_auth(&self.key)
    }

    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let request = self.request(method, path);
        self.fetch(match body {
            Some(body) => request.json(&body),
            None => request,
        })
        .await
    }

    /// Returns status and body. Waits and repeats after a rate limit, as clients do.
    pub(crate) async fn fetch(&self, request: RequestBuilder) -> (StatusCode, Value) {
        let response = loop {
            let response = self.send(request.try_clone().unwrap()).await;
            if response.status != StatusCode::TOO_MANY_REQUESTS {
                break response;
            }
            let wait = response.headers["retry-after"].to_str().unwrap().parse().unwrap();
            tokio::time::sleep(Duration::from_secs(wait)).await;
        };
        let text = || Value::String(String::from_utf8_lossy(&response.body).into_owned());
        (response.status, serde_json::from_slice(&response.body).unwrap_or_else(|_| text()))
    }

    /// Returns the whole response.
    pub(crate) async fn send(&self, request: RequestBuilder) -> ApiResponse {
        let request = request.build().unwrap();
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let response = self.client.execute(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await.unwrap();
        self.check(&method, &path, status, &headers, Some(&body));
        ApiResponse { status, headers, body }
    }

    /// Returns a response whose body the test reads by itself, or leaves.
    pub(crate) async fn send_streaming(&self, request: RequestBuilder) -> Response {
        let request = request.build().unwrap();
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let response = self.client.execute(request).await.unwrap();
        self.check(&method, &path, response.status(), response.headers(), None);
        response
    }

    fn check(
        &self,
        method: &Method,
        path: &str,
        status: StatusCode,
        headers: &HeaderMap,
        body: Option<&[u8]>,
    ) {
        let content_type = headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap());
        let exchange = Exchange { method, path, status, content_type, body };
        self.contract().check(&exchange).unwrap_or_else(|breach| panic!("{breach}"));
    }

    pub(crate) fn contract(&self) -> &Contract {
        self.contract.as_ref().unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.call(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str) -> (StatusCode, Value) {
        self.call(Method::POST, path, None).await
    }

    /// Creates a workspace in `provisioning`.
    pub(crate) async fn create(&self, name: &str) -> String {
        let (status, body) = self.call(Method::POST, "/workspaces", Some(json!({"name": name}))).await;
        assert_eq!(status, 201, "{body}");
        assert_eq!(body["vm"]["status"], "provisioning");
        body["vm"]["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn provisioned(&self, name: &str) -> String {
        let id = self.create(name).await;
        self.until(&id, "provisioned").await;
        id
    }

    pub(crate) async fn running(&self, name: &str) -> String {
        let id = self.provisioned(name).await;
        let (status, body) = self.post(&format!("/workspaces/{id}/start")).await;
        assert_eq!((status.as_u16(), body["vm"]["status"].as_str()), (200, Some("starting")), "{body}");
        self.until(&id, "running").await;
        id
    }

    /// Waits for a status as `rig` does.
    pub(crate) async fn until(&self, id: &str, expected: &str) -> Value {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut last = String::from("?");
        loop {
            assert!(Instant::now() < deadline, "{id} is {last}, never {expected}");
            let path = match last.as_str() {
                "?" => format!("/workspaces/{id}"),
                last => format!("/workspaces/{id}?wait_until_not={last}&timeout_s=2"),
            };
            let (status, body) = self.get(&path).await;
            if status == 404 && expected == "gone" {
                return body;
            }
            assert_eq!(status, 200, "{body}");
            last = body["vm"]["status"].as_str().unwrap().to_owned();
            if last == expected {
                return body;
            }
        }
    }
}

pub(crate) fn config(
    directory: &std::path::Path,
    address: SocketAddr,
    timeouts: Timeouts,
    plans: Plans,
    gateways: bool,
    dns: Vec<SocketAddr>,
    ai_url: &str,
) -> Config {
    Config {
        database: directory.join("rigbox.db"),
        token_key: directory.join("token.key"),
        master_key: KeySource::File(directory.join("master.key")),
        api_listen: address,
        api_tls: None,
        trusted_proxies: Vec::new(),
        public_api_url: format!("http://{address}"),
        console_url: format!("http://console.localhost:{}", address.port()),
        mail: None,
        node_socket: directory.join("node.sock"),
        guestio_socket: directory.join("guestio.sock"),
        dns,
        apps_url: "http://rigbox.localhost:7080".to_owned(),
        bridge: Some(BridgeConfig {
            socket: directory.join("bridge.sock"),
            uid: 0,
            rig: directory.join("rig.lz4"),
        }),
        gateways: gateways.then(|| GatewaysConfig { socket: directory.join("gateway.sock"), uids: vec![0] }),
        ssh: gateways.then(|| SshConfig {
            gateway: GatewaysConfig { socket: directory.join("ssh.sock"), uids: vec![0] },
            streams: directory.join("ssh-streams.sock"),
            host: "localhost".to_owned(),
            port: 7022,
        }),
        ai: Some(AiConfig {
            proxy: GatewaysConfig { socket: directory.join("ai.sock"), uids: vec![0] },
            operator: directory.join("ai-operator.sock"),
            upstreams: vec![Upstream {
                name: "anthropic".to_owned(),
                provider: Provider::Anthropic,
                base_url: ai_url.to_owned(),
                stops_billing_on_abort: false,
            }],
            prices: PriceFiles { table: None, more: Some(directory.join("more-ai-prices.json")) },
            tables: None,
            budgets: DefaultBudgets::default(),
            retention: Duration::MAX,
        }),
        timeouts,
        plans,
        audit_retention: Duration::from_secs(3600),
    }
}

impl Drop for TestControl {
    fn drop(&mut self) {
        let runtimes = [self.control.take(), self.node_runtime.take(), self.guests_runtime.take()];
        runtimes.into_iter().flatten().for_each(Runtime::shutdown_background);
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Returns a client that follows no redirects and resolves the console.
fn client(address: SocketAddr) -> Client {
    let redirects = reqwest::redirect::Policy::none();
    Client::builder().redirect(redirects).resolve("console.localhost", address).build().unwrap()
}
