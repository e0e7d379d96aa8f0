//! The role with its neighbors: a bridge whose connections it gets as from a node, control with credits in a table, and a provider.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream::{Stream, StreamExt, iter};
use rigbox_ai::{Config, Limits, Peer};
use rigbox_proto::ai::ai_server::{Ai, AiServer};
use rigbox_proto::ai::operator_client::OperatorClient;
use rigbox_proto::ai::reserve_response::Outcome;
use rigbox_proto::ai::{
    Denied, FailureReason, GetSetupRequest, Granted, KeyTest, LedgerFailure, LedgerRequest, LedgerRequests,
    LedgerResponse, LedgerResponses, ListModelsRequest, ListModelsResponse, Model, OpenOwnCallRequest,
    OpenOwnCallResponse, OpenSecretRequest, OpenSecretResponse, OwnKey, Provider, ProviderKey, Reason,
    ReserveRequest, ReserveResponse, Secret, SecretDenied, SecretReason, SettleRequest, SettleResponse,
    Setup, SetupNotice, TestKeysRequest, Upstream, WatchRequest, ledger_request, ledger_response,
    open_own_call_response, open_secret_response,
};
use rigbox_proto::handover;
use rigbox_proto::transport::unix;
use rigbox_test_provider::Provider as TestProvider;
use rigbox_testkit::{blocking, eventually};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

pub(crate) const WORKSPACE: &str = "ws-aaaaaaaa";
pub(crate) const NEIGHBOR: &str = "ws-bbbbbbbb";
pub(crate) const KEY: &str = "sk-operator-one";
/// Time for the proxy to start.
const START_TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const SECOND_KEY: &str = "sk-operator-two";

/// Running role.
pub(crate) struct Host {
    pub(crate) provider: TestProvider,
    pub(crate) control: Table,
    bridge: SocketAddr,
    folder: tempfile::TempDir,
}

/// Control that keeps all in memory: a token costs a millionth of a dollar, whatever its kind.
#[derive(Clone, Default)]
pub(crate) struct Table(Arc<Mutex<Ledger>>);

#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) setup: Setup,
    pub(crate) credits: u64,
    pub(crate) spent: u64,
    pub(crate) reserved: HashMap<String, u64>,
    pub(crate) requests: Vec<ReserveRequest>,
    pub(crate) settled: Vec<SettleRequest>,
    pub(crate) denial: Option<Denied>,
    /// Nothing can be written.
    pub(crate) is_full: bool,
    /// The user's own key.
    pub(crate) own_key: Option<OwnKey>,
    pub(crate) own_calls: Vec<OpenOwnCallRequest>,
    /// Credentials by name.
    pub(crate) secrets: HashMap<String, Secret>,
    /// Reservations wait until this one is open.
    pub(crate) gate: Option<watch::Receiver<bool>>,
    /// Reservations that have been asked for.
    pub(crate) asked: usize,
    /// Settlements of calls that were not reserved.
    pub(crate) unknown: Vec<SettleRequest>,
    /// Ends the streams of requests that are open, when it changes.
    pub(crate) breaks: watch::Sender<()>,
}

impl Table {
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Ledger) -> T) -> T {
        work(&mut self.0.lock().unwrap())
    }

    /// Waits until no call is open.
    pub(crate) async fn all_settled(&self) {
        eventually("no call is open", async || self.with(|ledger| ledger.reserved.is_empty())).await;
    }

    /// Waits for the settlement of a call.
    pub(crate) async fn settled(&self, number: usize) -> SettleRequest {
        let is_settled = async || self.with(|ledger| ledger.settled.len() > number);
        eventually("the call is settled", is_settled).await;
        self.with(|ledger| ledger.settled[number].clone())
    }

    async fn answer(self, LedgerRequest { number, request }: LedgerRequest) -> LedgerResponse {
        let response = match request.unwrap() {
            _ if self.with(|ledger| ledger.is_full) => {
                let reason = FailureReason::Unavailable.into();
                ledger_response::Response::Failure(LedgerFailure { reason, text: String::new() })
            }
            ledger_request::Request::Reserve(request) => self.reserve(request).await,
            ledger_request::Request::Settle(request) => self.settle(request),
        };
        LedgerResponse { number, response: Some(response) }
    }

    async fn reserve(&self, request: ReserveRequest) -> ledger_response::Response {
        let gate = self.with(|ledger| {
            ledger.asked += 1;
            ledger.gate.clone()
        });
        if let Some(mut gate) = gate {
            gate.wait_for(|is_open| *is_open).await.unwrap();
        }
        let outcome = self.with(|ledger| {
            ledger.requests.push(request.clone());
            if let Some(denied) = ledger.denial.clone() {
                return Outcome::Denied(denied);
            }
            let model = ledger.setup.models.iter().find(|model| model.id == request.model).unwrap();
            let asked = request.output_tokens.unwrap_or(model.max_output_tokens);
            let left = ledger.credits - ledger.spent - ledger.reserved.values().sum::<u64>();
            let answers = u64::from(request.candidates);
            let limit = asked.min(left.saturating_sub(request.input_tokens) / answers);
            if limit < asked.min(10) {
                let text = "Nothing is left.".to_owned();
                return Outcome::Denied(Denied { reason: Reason::InsufficientCredits.into(), text });
            }
            let reserved_micro = request.input_tokens + limit * answers;
            ledger.reserved.insert(request.call_id.clone(), reserved_micro);
            Outcome::Granted(Granted { reserved_micro, output_tokens: limit, lowered: limit < asked })
        });
        ledger_response::Response::Reserve(ReserveResponse { outcome: Some(outcome) })
    }

    fn settle(&self, request: SettleRequest) -> ledger_response::Response {
        self.with(|ledger| {
            let Some(reserved) = ledger.reserved.remove(&request.call_id) else {
                ledger.unknown.push(request);
                let reason = FailureReason::UnknownCall.into();
                return ledger_response::Response::Failure(LedgerFailure { reason, text: String::new() });
            };
            let usage = request.usage.unwrap_or_default();
            let used =
                if request.at_bound { reserved } else { usage.input + usage.cache_read + usage.output };
            ledger.spent += used.min(reserved);
            ledger.settled.push(request);
            ledger_response::Response::Settle(SettleResponse { cost_micro: used })
        })
    }
}

#[tonic::async_trait]
impl Ai for Table {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<SetupNotice, Status>> + Send>>;
    type LedgerStream = Pin<Box<dyn Stream<Item = Result<LedgerResponses, Status>> + Send>>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let ticks =
            tokio_stream::wrappers::IntervalStream::new(tokio::time::interval(Duration::from_millis(100)));
        Ok(Response::new(Box::pin(ticks.map(|_| Ok(SetupNotice { changed: true })))))
    }

    async fn get_setup(&self, _: Request<GetSetupRequest>) -> Result<Response<Setup>, Status> {
        Ok(Response::new(self.with(|ledger| ledger.setup.clone())))
    }

    async fn ledger(
        &self,
        requests: Request<Streaming<LedgerRequests>>,
    ) -> Result<Response<Self::LedgerStream>, Status> {
        let table = self.clone();
        let mut breaks = self.with(|ledger| ledger.breaks.subscribe());
        let broken = async move { drop(breaks.changed().await) };
        let one_by_one = |message: Result<LedgerRequests, Status>| {
            iter(message.map_or(Vec::new(), |message| message.requests))
        };
        let responses = requests
            .into_inner()
            .flat_map(one_by_one)
            .map(move |request| table.clone().answer(request))
            .buffer_unordered(usize::MAX)
            .map(|response| Ok(LedgerResponses { responses: vec![response] }))
            .take_until(broken);
        Ok(Response::new(Box::pin(responses)))
    }

    async fn open_own_call(
        &self,
        request: Request<OpenOwnCallRequest>,
    ) -> Result<Response<OpenOwnCallResponse>, Status> {
        let request = request.into_inner();
        let outcome = self.with(|ledger| {
            ledger.own_calls.push(request.clone());
            match ledger.own_key.clone() {
                Some(own_key) => {
                    ledger.reserved.insert(request.call_id, 0);
                    open_own_call_response::Outcome::OwnKey(own_key)
                }
                None => {
                    let text = "There is no key of your own.".to_owned();
                    open_own_call_response::Outcome::Denied(Denied {
                        reason: Reason::NotManaged.into(),
                        text,
                    })
                }
            }
        });
        Ok(Response::new(OpenOwnCallResponse { outcome: Some(outcome) }))
    }

    async fn open_secret(
        &self,
        request: Request<OpenSecretRequest>,
    ) -> Result<Response<OpenSecretResponse>, Status> {
        let request = request.into_inner();
        assert_eq!(request.workspace_id, WORKSPACE);
        let outcome = match self.with(|ledger| ledger.secrets.get(&request.name).cloned()) {
            Some(secret) => open_secret_response::Outcome::Secret(secret),
            None => {
                let (reason, text) = (SecretReason::NoSecret.into(), "There is no such secret.".to_owned());
                open_secret_response::Outcome::Denied(SecretDenied { reason, text })
            }
        };
        Ok(Response::new(OpenSecretResponse { outcome: Some(outcome) }))
    }

    async fn list_models(
        &self,
        request: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        let provider = request.into_inner().provider;
        let models = self.with(|ledger| {
            let of = |model: &Model| {
                ledger.setup.upstreams.iter().any(|up| up.name == model.upstream && up.provider == provider)
            };
            ledger.setup.models.iter().filter(|model| of(model)).map(|model| model.id.clone()).collect()
        });
        Ok(Response::new(ListModelsResponse { models }))
    }
}

/// Returns a setup in which every provider is the one of the tests.
fn setup(url: &str) -> Setup {
    let keys = [("key-1", KEY, "org"), ("key-2", SECOND_KEY, "org")].map(|(id, secret, organization)| {
        ProviderKey { id: id.into(), secret: secret.into(), organization: organization.into() }
    });
    let upstream = |name: &str, provider: Provider| Upstream {
        name: name.into(),
        provider: provider.into(),
        base_url: if name == "openrouter" { format!("{url}/api") } else { url.into() },
        keys: keys.to_vec(),
        stops_billing_on_abort: false,
    };
    let model = |id: &str, upstream: &str| Model {
        id: id.into(),
        upstream: upstream.into(),
        context_tokens: 200_000,
        max_output_tokens: 10_000,
        reasons: id.starts_with("gpt"),
        floor_tokens: 10,
        max_tokens_per_second: 500,
        embeds: id.starts_with("embed"),
        max_tokens_per_image: 1_000,
        input_price: 300_000,
        output_price: 1_250_000,
    };
    Setup {
        stopped: false,
        upstreams: vec![
            upstream("anthropic", Provider::Anthropic),
            upstream("openai", Provider::Openai),
            upstream("google", Provider::Google),
            upstream("openrouter", Provider::Openrouter),
        ],
        models: vec![
            model("claude", "anthropic"),
            model("gpt", "openai"),
            model("embed", "openai"),
            model("gemini", "google"),
            model("some/model", "openrouter"),
        ],
        tables: Vec::new(),
    }
}

/// Hands connections over to the role as a node does for a workspace. Returns the address.
async fn bridge(socket: PathBuf, workspace: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sender = Arc::new(handover::Sender::default());
    tokio::spawn(async move {
        loop {
            let stream: OwnedFd = listener.accept().await.unwrap().0.into_std().unwrap().into();
            let (socket, sender) = (socket.clone(), sender.clone());
            tokio::task::spawn_blocking(move || {
                let send = || Ok(sender.send(&socket, workspace, &stream).ok());
                blocking::eventually("the proxy takes the connection", START_TIMEOUT, send).unwrap();
            });
        }
    });
    address
}

impl Host {
    /// Starts everything, with credits for some 900,000 tokens.
    pub(crate) async fn start() -> Self {
        Self::start_with(Limits::default()).await
    }

    pub(crate) async fn start_with(limits: Limits) -> Self {
        Self::start_changed(|config| config.limits = limits).await
    }

    /// Starts everything with a configuration of its own.
    pub(crate) async fn start_changed(change: impl FnOnce(&mut Config)) -> Self {
        let provider = TestProvider::start().await.unwrap();
        let control = Table::default();
        control.with(|ledger| {
            ledger.credits = 1_000_000;
            ledger.setup = setup(&provider.url());
        });
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let uid = rustix::process::getuid().as_raw();
        let incoming = unix::listen(&path("control.sock"), vec![uid]).unwrap();
        let service = AiServer::new(control.clone());
        tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        let mut config = Config {
            bridge: Peer { socket: path("bridge.sock"), uid },
            operator: Peer { socket: path("operator.sock"), uid },
            control_socket: path("control.sock"),
            api_socket: path("api.sock"),
            extra_authorities: None,
            proxy: None,
            // The hosts of these tests are on loopback.
            dns: Vec::new(),
            blocked_networks: Vec::new(),
            limits: Limits::default(),
        };
        change(&mut config);
        let role = rigbox_ai::bind(config).unwrap();
        tokio::spawn(async move { role.run(std::future::pending()).await.unwrap() });
        let bridge = bridge(path("bridge.sock"), WORKSPACE).await;
        let host = Self { provider, control, bridge, folder };
        let is_ready = async || host.get("/v1/models").await.status == 200;
        eventually("the setup has arrived", is_ready).await;
        host
    }

    /// Returns another workspace's end of a bridge to the same role.
    pub(crate) async fn neighbor(&self) -> SocketAddr {
        bridge(self.folder.path().join("bridge.sock"), NEIGHBOR).await
    }

    /// Has keys tested, as the operator's command does.
    pub(crate) async fn test_keys(&self, ids: &[&str]) -> Vec<KeyTest> {
        let mut operator = OperatorClient::new(unix::channel(&self.folder.path().join("operator.sock")));
        let request = TestKeysRequest { key_ids: ids.iter().map(|id| (*id).to_owned()).collect() };
        operator.test_keys(request).await.unwrap().into_inner().tests
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[], body.to_string().as_bytes()).await
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        Self::read(self.open(method, path, headers, body).await).await
    }

    /// Reads an answer to its end.
    pub(crate) async fn read(mut stream: TcpStream) -> Answer {
        let mut bytes = Vec::new();
        // A reset is an answer that broke off.
        let is_whole = stream.read_to_end(&mut bytes).await.is_ok();
        Answer::parse(&bytes, is_whole)
    }

    /// Sends a request and leaves the answer to be read.
    pub(crate) async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> TcpStream {
        Self::open_at(self.bridge, method, path, headers, body).await
    }

    /// Begins a request, of whose body this has come.
    pub(crate) async fn begin(&self, path: &str, length: usize, body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.bridge).await.unwrap();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: 172.16.0.1:9090\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        stream
    }

    /// Sends a request at this workspace's end of a bridge.
    pub(crate) async fn open_at(
        bridge: SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        // One that does not grow: what the client does not read stands still.
        socket.set_recv_buffer_size(256 << 10).unwrap();
        let mut stream = socket.connect(bridge).await.unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: 172.16.0.1:9090\r\nconnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        stream
    }
}

/// Answer as a client gets it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
    pub(crate) is_whole: bool,
}

impl Answer {
    fn parse(bytes: &[u8], is_whole: bool) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        let is_whole = is_whole && (!is_chunked || body.ends_with("0\r\n\r\n"));
        let body = if is_chunked { without_chunks(body) } else { body.to_owned() };
        Self { status, head: head.to_ascii_lowercase(), body, is_whole }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// Data of the events.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.body
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .map(|data| serde_json::from_str(data).unwrap_or_else(|_| Value::String(data.into())))
            .collect()
    }
}

fn without_chunks(mut text: &str) -> String {
    let mut body = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size, 16) else { break };
        let Some(chunk) = rest.get(..size) else { break };
        body.push_str(chunk);
        text = rest.get(size + 2..).unwrap_or_default();
        if size == 0 {
            break;
        }
    }
    body
}
