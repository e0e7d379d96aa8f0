//! Guests without VMs, speaking the real protocol: a few commands, and files in memory.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::Stream;
use rigbox_core::ai::environment::{self, KeyOwner};
use rigbox_core::ai::provider::Provider;
use rigbox_proto::fault;
use rigbox_proto::guest::guest_server::{Guest, GuestServer};
use rigbox_proto::guest::*;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
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
    /// Commands that run for a caller, by their ids. SIGKILL ends one.
    pub(crate) running: Mutex<HashMap<String, AbortHandle>>,
    /// Commands in the background.
    pub(crate) processes: Mutex<Vec<Process>>,
    /// Signals, each with the command's id.
    pub(crate) signals: Mutex<Vec<(String, String)>>,
    /// Keys of the SSH gateway that guests were to admit.
    pub(crate) gateway_keys: Mutex<Vec<String>>,
    /// Lines of the host keys of every guest.
    pub(crate) host_keys: Mutex<Vec<String>>,
    /// Registered keys that were synced, with the workspace.
    pub(crate) synced_keys: Mutex<Vec<(String, Vec<String>)>>,
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
        let platform = environment::through_bridge(Provider::Anthropic, KeyOwner::Operator)
            .chain([(VITE_HOSTS.0.to_owned(), VITE_HOSTS.1.to_owned())]);
        for (name, value) in platform {
            if env.get(&name) == Some(&value) {
                env.remove(&name);
            }
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
        // Only SIGKILL ends it.
        ["deaf"] => std::future::pending().await,
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
        ["rm", "-f", "--", paths @ ..] => {
            guests.files.lock().unwrap().retain(|path, _| !paths.contains(&path.as_str()));
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

fn file_entry(path: &str, content: &[u8]) -> FileEntry {
    let (kind, size) = (file_entry::Kind::File.into(), content.len() as u64);
    FileEntry { name: path.rsplit('/').next().unwrap().into(), kind, size, mode: 0o644, ..Default::default() }
}

#[tonic::async_trait]
impl Guest for SimulatedService {
    type ExecStream = Out<ExecOutput>;
    type ReadFileStream = Out<ReadFileOutput>;
    type ReadOutputStream = Out<ExecOutput>;
    type ListFilesStream = Out<FileEntry>;
    type WatchFilesStream = Out<FileEvent>;
    type WatchShutdownStream = Out<ShutdownEvent>;
    type WatchSystemStream = Out<SystemEvent>;

    async fn exec(
        &self,
        request: Request<Streaming<ExecInput>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        assert!(request.metadata().contains_key(rigbox_proto::WORKSPACE_HEADER));
        let mut input = request.into_inner();
        let Some(ExecInput { input: Some(exec_input::Input::Start(start)) }) = input.message().await? else {
            return Err(fault::status(Code::InvalidArgument, "bad_request", "no start"));
        };
        #[expect(clippy::disallowed_methods, reason = "of one test")]
        let (out, stream) = mpsc::channel(1);
        let (guests, id) = (Arc::clone(&self.0), start.id.clone());
        let mut running = self.0.running.lock().unwrap();
        let command = tokio::spawn({
            let id = id.clone();
            async move {
                run(Arc::clone(&guests), start, input, out).await;
                guests.running.lock().unwrap().remove(&id);
            }
        });
        running.insert(id, command.abort_handle());
        drop(running);
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn start_process(&self, r: Request<ExecStart>) -> Result<Response<StartProcessResponse>, Status> {
        let start = r.into_inner();
        let outcome = if start.argv == ["nothing"] {
            let error = Error { code: "not_found".into(), message: "Program `nothing` not found.".into() };
            start_process_response::Outcome::Error(error)
        } else {
            let (id, command) = (start.id, start.argv.join(" "));
            let process =
                Process { id, pid: 7, command, user: start.user, detached: true, ..Default::default() };
            self.0.processes.lock().unwrap().push(process.clone());
            start_process_response::Outcome::Process(process)
        };
        Ok(Response::new(StartProcessResponse { outcome: Some(outcome) }))
    }

    async fn list_processes(
        &self,
        _: Request<ListProcessesRequest>,
    ) -> Result<Response<ListProcessesResponse>, Status> {
        Ok(Response::new(ListProcessesResponse { processes: self.0.processes.lock().unwrap().clone() }))
    }

    async fn signal_process(
        &self,
        r: Request<SignalProcessRequest>,
    ) -> Result<Response<SignalProcessResponse>, Status> {
        let SignalProcessRequest { id, signal } = r.into_inner();
        let in_background = self.0.processes.lock().unwrap().iter().any(|process| process.id == id);
        let mut running = self.0.running.lock().unwrap();
        if !in_background && !running.contains_key(&id) {
            return Err(fault::status(Code::NotFound, "not_found", format!("Process `{id}` not found.")));
        }
        if signal == "KILL"
            && let Some(command) = running.remove(&id)
        {
            command.abort();
        }
        drop(running);
        self.0.signals.lock().unwrap().push((id, signal));
        Ok(Response::new(SignalProcessResponse {}))
    }

    async fn read_output(
        &self,
        r: Request<ReadOutputRequest>,
    ) -> Result<Response<Self::ReadOutputStream>, Status> {
        let id = r.into_inner().id;
        if !self.0.processes.lock().unwrap().iter().any(|process| process.id == id) {
            return Err(fault::status(Code::NotFound, "not_found", format!("Process `{id}` not found.")));
        }
        let messages = [Ok(stdout(Bytes::from_static(b"kept\n"))), Ok(end(exec_exit::Outcome::ExitCode(3)))];
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }

    async fn watch_system(
        &self,
        _: Request<WatchSystemRequest>,
    ) -> Result<Response<Self::WatchSystemStream>, Status> {
        Err(Status::unimplemented("not for control"))
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

    async fn stat_file(&self, r: Request<FileRequest>) -> Result<Response<FileEntry>, Status> {
        let path = r.into_inner().path;
        match self.0.files.lock().unwrap().get(&path) {
            Some(content) => Ok(Response::new(file_entry(&path, content))),
            None => Err(fault::status(Code::NotFound, "not_found", format!("{path} not found."))),
        }
    }

    async fn list_files(&self, r: Request<FileRequest>) -> Result<Response<Self::ListFilesStream>, Status> {
        let path = r.into_inner().path;
        if path == "/silent" {
            return Ok(Response::new(Box::pin(tokio_stream::pending())));
        }
        let files = self.0.files.lock().unwrap();
        let below = files.iter().filter(|(name, _)| name.starts_with(&path));
        let mut entries: Vec<_> = below.map(|(name, content)| Ok(file_entry(name, content))).collect();
        entries.sort_by_key(|entry| entry.as_ref().map(|entry| entry.name.clone()).unwrap_or_default());
        Ok(Response::new(Box::pin(tokio_stream::iter(entries))))
    }

    async fn watch_files(&self, _: Request<FileRequest>) -> Result<Response<Self::WatchFilesStream>, Status> {
        let event =
            |kind: file_event::Kind, name: &str| Ok(FileEvent { kind: kind.into(), name: name.into() });
        let events = [event(file_event::Kind::Watching, ""), event(file_event::Kind::Created, "new")];
        Ok(Response::new(Box::pin(tokio_stream::iter(events))))
    }

    async fn change_file(
        &self,
        r: Request<ChangeFileRequest>,
    ) -> Result<Response<ChangeFileResponse>, Status> {
        let mut files = self.0.files.lock().unwrap();
        let missing = |path: &str| fault::status(Code::NotFound, "not_found", format!("{path} not found."));
        match r.into_inner().change.unwrap() {
            change_file_request::Change::MakeDirectory(_) => {}
            change_file_request::Change::Rename(Rename { from, to }) => {
                let content = files.remove(&from).ok_or_else(|| missing(&from))?;
                files.insert(to, content);
            }
            change_file_request::Change::Remove(Remove { path, .. }) => {
                files.remove(&path).ok_or_else(|| missing(&path))?;
            }
        }
        Ok(Response::new(ChangeFileResponse {}))
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

    async fn prepare_ssh(
        &self,
        request: Request<PrepareSshRequest>,
    ) -> Result<Response<PrepareSshResponse>, Status> {
        self.0.gateway_keys.lock().unwrap().push(request.into_inner().gateway_key);
        Ok(Response::new(PrepareSshResponse { host_keys: self.0.host_keys.lock().unwrap().clone() }))
    }

    async fn sync_ssh_keys(
        &self,
        request: Request<SyncSshKeysRequest>,
    ) -> Result<Response<SyncSshKeysResponse>, Status> {
        let id = request.metadata().get(rigbox_proto::WORKSPACE_HEADER).unwrap().to_str().unwrap().to_owned();
        self.0.synced_keys.lock().unwrap().push((id, request.into_inner().keys));
        Ok(Response::new(SyncSshKeysResponse {}))
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
