//! Guests without VMs, speaking the real protocol: a few commands, and files in memory.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::Stream;
use rigbox_proto::fault;
use rigbox_proto::guest::guest_server::{Guest, GuestServer};
use rigbox_proto::guest::*;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};

#[derive(Default)]
pub(crate) struct Guests {
    pub(crate) files: Mutex<HashMap<String, Vec<u8>>>,
    /// Commands whose caller disconnected.
    pub(crate) abandoned: AtomicUsize,
    /// Files whose first content has arrived.
    pub(crate) started_files: AtomicUsize,
    /// Bytes that a flood could write.
    pub(crate) written: AtomicUsize,
    pub(crate) resized: Mutex<Option<(u32, u32)>>,
    /// Deliveries to each workspace, in order.
    pub(crate) delivered: Mutex<HashMap<String, Vec<DeliverSecretsRequest>>>,
    /// Listening ports of every guest.
    pub(crate) ports: Mutex<Vec<ListeningPort>>,
    /// Command lines run as root.
    pub(crate) commands: Mutex<Vec<String>>,
    /// Makes deliveries fail.
    pub(crate) unreachable: AtomicBool,
}

/// Variable that each workspace gets, and its value.
pub(crate) const VITE_HOSTS: (&str, &str) = ("__VITE_ADDITIONAL_SERVER_ALLOWED_HOSTS", ".rigbox.localhost");

impl Guests {
    /// Returns the number of deliveries to a workspace, its own variables, and its latest key.
    pub(crate) fn delivered_to(&self, id: &str) -> (usize, BTreeMap<String, String>, String) {
        let delivered = self.delivered.lock().unwrap();
        let all = delivered.get(id).map_or(&[][..], Vec::as_slice);
        let mut env: BTreeMap<_, _> =
            all.last().map(|last| last.env.clone().into_iter().collect()).unwrap_or_default();
        if env.get(VITE_HOSTS.0).is_some_and(|value| value == VITE_HOSTS.1) {
            env.remove(VITE_HOSTS.0);
        }
        let mut keys = all.iter().map(|one| one.workspace_key.clone()).filter(|key| !key.is_empty());
        (all.len(), env, keys.next_back().unwrap_or_default())
    }
}

pub(crate) struct SimulatedService(Arc<Guests>);

pub(crate) fn serve(runtime: &Runtime, guests: Arc<Guests>, socket: &Path) {
    let _inside = runtime.enter();
    let listener = UnixListener::bind(socket).unwrap();
    let server = tonic::transport::Server::builder().add_service(GuestServer::new(SimulatedService(guests)));
    runtime
        .spawn(async move { server.serve_with_incoming(UnixListenerStream::new(listener)).await.unwrap() });
}

/// Counts a call that was dropped, which is how a reset shows.
struct Unfinished(Option<Arc<Guests>>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(guests) = &self.0 {
            guests.abandoned.fetch_add(1, Ordering::SeqCst);
        }
    }
}

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn stdout(bytes: Bytes) -> ExecOutput {
    ExecOutput { output: Some(exec_output::Output::Stdout(bytes)) }
}

fn end(end: exec_exit::Outcome) -> ExecOutput {
    ExecOutput { output: Some(exec_output::Output::Exit(ExecExit { outcome: Some(end), duration_us: 7 })) }
}

async fn run(
    guests: Arc<Guests>,
    start: ExecStart,
    mut input: Streaming<ExecInput>,
    out: mpsc::Sender<Result<ExecOutput, Status>>,
) {
    let argv: Vec<_> = start.argv.iter().map(String::as_str).collect();
    match argv.as_slice() {
        ["echo", text] => {
            let _ = out.send(Ok(stdout(Bytes::copy_from_slice(text.as_bytes())))).await;
            let _ = out.send(Ok(end(exec_exit::Outcome::ExitCode(0)))).await;
        }
        ["exit", code] => {
            let _ = out.send(Ok(end(exec_exit::Outcome::ExitCode(code.parse().unwrap())))).await;
        }
        ["flood", mebibytes] => {
            let chunk = Bytes::from(vec![b'x'; 32 * 1024]);
            for _ in 0..mebibytes.parse::<usize>().unwrap() * 32 {
                if out.send(Ok(stdout(chunk.clone()))).await.is_err() {
                    guests.abandoned.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                guests.written.fetch_add(chunk.len(), Ordering::SeqCst);
            }
            let _ = out.send(Ok(end(exec_exit::Outcome::ExitCode(0)))).await;
        }
        ["sleep"] => {
            out.closed().await;
            guests.abandoned.fetch_add(1, Ordering::SeqCst);
        }
        ["crash"] => {
            let _ =
                out.send(Err(fault::status(Code::Unavailable, "agent_lost", "the agent disconnected"))).await;
        }
        ["cat"] => loop {
            match input.message().await {
                Ok(Some(ExecInput { input: Some(exec_input::Input::Stdin(data)) })) => {
                    let _ = out.send(Ok(stdout(data))).await;
                }
                Ok(Some(ExecInput { input: Some(exec_input::Input::Signal(name)) })) => {
                    let _ = out.send(Ok(end(exec_exit::Outcome::Signal(name)))).await;
                    return;
                }
                Ok(Some(ExecInput { input: Some(exec_input::Input::Resize(size)) })) => {
                    *guests.resized.lock().unwrap() = Some((size.rows, size.cols));
                }
                Ok(Some(ExecInput { input: Some(exec_input::Input::Eof(true)) })) => {
                    let _ = out.send(Ok(end(exec_exit::Outcome::ExitCode(0)))).await;
                    return;
                }
                _ => {
                    guests.abandoned.fetch_add(1, Ordering::SeqCst);
                    return;
                }
            }
        },
        ["systemctl", ..] => {
            guests.commands.lock().unwrap().push(argv.join(" "));
            let _ = out.send(Ok(stdout(Bytes::from_static(b"active\n")))).await;
            let _ = out.send(Ok(end(exec_exit::Outcome::ExitCode(0)))).await;
        }
        ["journalctl", ..] => {
            guests.commands.lock().unwrap().push(argv.join(" "));
            let line = |n: u32| {
                let entry = format!(
                    r#"{{"__CURSOR":"c{n}","__REALTIME_TIMESTAMP":"{n}000000","MESSAGE":"line {n}"}}"#
                );
                format!("{entry}\n")
            };
            let _ = out.send(Ok(stdout(Bytes::from(line(1) + "no json\n" + &line(2))))).await;
            let _ = out.send(Ok(end(exec_exit::Outcome::ExitCode(0)))).await;
        }
        other => {
            let error = Error { code: "not_found".into(), message: format!("{other:?}") };
            let _ = out.send(Ok(end(exec_exit::Outcome::Error(error)))).await;
        }
    }
}

#[tonic::async_trait]
impl Guest for SimulatedService {
    type ExecStream = Out<ExecOutput>;
    type ReadFileStream = Out<ReadFileOutput>;
    type WatchShutdownStream = Out<ShutdownEvent>;

    async fn exec(
        &self,
        request: Request<Streaming<ExecInput>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        assert!(request.metadata().contains_key(rigbox_proto::WORKSPACE_HEADER));
        let mut input = request.into_inner();
        let Some(ExecInput { input: Some(exec_input::Input::Start(start)) }) = input.message().await? else {
            return Err(fault::status(Code::InvalidArgument, "bad_request", "no start"));
        };
        let (out, stream) = mpsc::channel(1);
        tokio::spawn(run(self.0.clone(), start, input, out));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn write_file(
        &self,
        request: Request<Streaming<WriteFileInput>>,
    ) -> Result<Response<WriteFileResponse>, Status> {
        let mut input = request.into_inner();
        let (mut path, mut content) = (String::new(), Vec::new());
        let mut unfinished = Unfinished(Some(self.0.clone()));
        while let Some(message) = input.message().await? {
            match message.input.unwrap() {
                write_file_input::Input::Open(open) => path = open.path,
                write_file_input::Input::Data(data) => {
                    content.extend_from_slice(&data);
                    self.0.started_files.fetch_add(1, Ordering::SeqCst);
                }
                write_file_input::Input::Done(done) => unfinished.0 = unfinished.0.take().filter(|_| !done),
            }
        }
        if unfinished.0.is_some() {
            return Err(fault::status(Code::Aborted, "incomplete", "the content broke off"));
        }
        if path.starts_with("/forbidden") {
            return Err(fault::status(Code::PermissionDenied, "permission_denied", "not yours"));
        }
        let size = content.len() as u64;
        self.0.files.lock().unwrap().insert(path, content);
        Ok(Response::new(WriteFileResponse { size }))
    }

    async fn read_file(&self, r: Request<ReadFileRequest>) -> Result<Response<Self::ReadFileStream>, Status> {
        let content = self.0.files.lock().unwrap().get(&r.into_inner().path).cloned();
        let Some(content) = content else {
            return Err(fault::status(Code::NotFound, "not_found", "no such file"));
        };
        let info = FileInfo { size: content.len() as u64, mode: 0o644, modified_unix_s: 1 };
        let mut messages = vec![Ok(ReadFileOutput { output: Some(read_file_output::Output::Info(info)) })];
        messages.extend(content.chunks(32 * 1024).map(|chunk| {
            let data = Bytes::copy_from_slice(chunk);
            Ok(ReadFileOutput { output: Some(read_file_output::Output::Data(data)) })
        }));
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }

    async fn deliver_secrets(
        &self,
        request: Request<DeliverSecretsRequest>,
    ) -> Result<Response<DeliverSecretsResponse>, Status> {
        if self.0.unreachable.load(Ordering::SeqCst) {
            return Err(fault::status(Code::Unavailable, "agent_lost", "not now"));
        }
        let id = request.metadata().get(rigbox_proto::WORKSPACE_HEADER).unwrap().to_str().unwrap().to_owned();
        self.0.delivered.lock().unwrap().entry(id).or_default().push(request.into_inner());
        Ok(Response::new(DeliverSecretsResponse {}))
    }

    async fn list_ports(&self, r: Request<ListPortsRequest>) -> Result<Response<ListPortsResponse>, Status> {
        let only = r.into_inner().port;
        let mut ports = self.0.ports.lock().unwrap().clone();
        ports.retain(|port| only == 0 || port.port == only);
        Ok(Response::new(ListPortsResponse { ports }))
    }

    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        Err(Status::unimplemented("not for control"))
    }

    async fn shut_down(&self, _: Request<ShutDownRequest>) -> Result<Response<ShutDownResponse>, Status> {
        Err(Status::unimplemented("not for control"))
    }

    async fn watch_shutdown(
        &self,
        _: Request<WatchShutdownRequest>,
    ) -> Result<Response<Self::WatchShutdownStream>, Status> {
        Err(Status::unimplemented("not for control"))
    }
}
