//! Requests to the node as another role. A role is identified by its uid alone, so a process of that uid sends each request: this program
//! again, with the request on its standard input.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use prost::Message;
use rigbox_proto::DATABASE_HEADER;
use rigbox_proto::dial::{DialRequest, DialResponse};
use rigbox_proto::node::node_client::NodeClient;
use rigbox_proto::node::{EgressRefused, WatchRefusalsRequest};
use rigbox_sys::fdpass;

use crate::harness::installation::Installation;

const VERB: &str = "RIGBOX_TEST_REQUEST";
const SOCKET: &str = "RIGBOX_TEST_SOCKET";
/// Id of control's database, which the node has to be told.
const DATABASE: &str = "RIGBOX_TEST_DATABASE";
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// Dials as `edge`; returns a connected (or connecting) socket, or the code of the refusal.
pub(crate) fn dial(
    installation: &Installation,
    workspace_id: &str,
    boot_id: &str,
    port: u32,
) -> Result<Result<OwnedFd, String>> {
    dial_as(installation, edge_uid(installation)?, workspace_id, boot_id, port)
}

/// Dials as `ssh`.
pub(crate) fn dial_ssh(
    installation: &Installation,
    workspace_id: &str,
    boot_id: &str,
    port: u32,
) -> Result<Result<OwnedFd, String>> {
    let socket = installation.run_dir().join("node/ssh-dial.sock");
    dial_at(&socket, control_uid(installation)? + 3, workspace_id, boot_id, port)
}

/// Dials at edge's socket as any uid.
pub(crate) fn dial_as(
    installation: &Installation,
    uid: u32,
    workspace_id: &str,
    boot_id: &str,
    port: u32,
) -> Result<Result<OwnedFd, String>> {
    dial_at(&installation.run_dir().join("node/dial.sock"), uid, workspace_id, boot_id, port)
}

fn dial_at(
    socket: &Path,
    uid: u32,
    workspace_id: &str,
    boot_id: &str,
    port: u32,
) -> Result<Result<OwnedFd, String>> {
    let request = DialRequest { workspace_id: workspace_id.to_owned(), boot_id: boot_id.to_owned(), port };
    let (reply, mut fds) = request_as(uid, "dial", socket.to_owned(), "", &request.encode_to_vec())?;
    let reply = DialResponse::decode(reply.as_slice())?;
    match fds.pop() {
        Some(socket) => Ok(Ok(socket)),
        None => Ok(Err(reply.code)),
    }
}

/// Returns blocked egress that the node reports to `control` while `work` runs and for some seconds after it.
pub(crate) fn refusals_during(
    installation: &Installation,
    work: impl FnOnce() -> Result<()>,
) -> Result<Vec<EgressRefused>> {
    let (uid, socket) = (control_uid(installation)?, installation.run_dir().join("node/control.sock"));
    let database = database_id(installation)?;
    let watch = std::thread::spawn(move || request_as(uid, "refusals", socket, &database, b"watch"));
    work()?;
    let (reports, _) = watch.join().map_err(|_| anyhow::anyhow!("the watch"))??;
    let watched = WatchedRefusals::decode(reports.as_slice())?;
    Ok(watched.refused)
}

/// Reports in one message.
#[derive(Clone, PartialEq, prost::Message)]
struct WatchedRefusals {
    #[prost(message, repeated, tag = "1")]
    refused: Vec<EgressRefused>,
}

/// Longer than the interval in which guestio aggregates refusals.
const WATCH_DURATION: Duration = Duration::from_secs(20);

async fn watch_refusals(socket: &Path) -> Result<WatchedRefusals> {
    let mut node = NodeClient::new(rigbox_proto::transport::unix::channel(socket));
    let mut batches = node.watch_refusals(for_database(WatchRefusalsRequest {})?).await?.into_inner();
    let mut watched = WatchedRefusals::default();
    let watch = async {
        while let Some(batch) = batches.message().await? {
            watched.refused.extend(batch.refused);
        }
        anyhow::Ok(())
    };
    match tokio::time::timeout(WATCH_DURATION, watch).await {
        Ok(ended) => ended.and_then(|()| bail!("the node's refusals ended")),
        Err(_) => Ok(watched),
    }
}

fn control_uid(installation: &Installation) -> Result<u32> {
    let pid = installation.role_pids()?.into_iter().find(|(role, _)| role == "control").context("control")?.1;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).context("no uid")?;
    Ok(line.split_whitespace().next().context("no uid")?.parse()?)
}

/// Returns edge's uid: the roles' uids are consecutive, starting with control's.
fn edge_uid(installation: &Installation) -> Result<u32> {
    Ok(control_uid(installation)? + 2)
}

/// Returns the id of control's database, as the node has written it down.
fn database_id(installation: &Installation) -> Result<String> {
    Ok(std::fs::read_to_string(installation.state().join("node/database"))?.trim().to_owned())
}

/// Returns a request with the database that it is made for.
fn for_database<T>(message: T) -> Result<tonic::Request<T>> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert(DATABASE_HEADER, std::env::var(DATABASE)?.parse()?);
    Ok(request)
}

fn request_as(
    uid: u32,
    verb: &str,
    socket: PathBuf,
    database: &str,
    message: &[u8],
) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
    let (ours, theirs) = fdpass::pair()?;
    let mut child = Command::new("/proc/self/exe")
        .env(VERB, verb)
        .env(SOCKET, socket)
        .env(DATABASE, database)
        .uid(uid)
        .gid(uid)
        .stdin(Stdio::from(theirs))
        .spawn()?;
    fdpass::send(&ours, message, &[])?;
    let handle = fdpass::receive(&ours, MAX_MESSAGE_BYTES);
    let status = child.wait()?;
    anyhow::ensure!(status.success(), "{verb} as {uid}: {}", crate::harness::host::ending(status));
    Ok(handle?)
}

/// Sends the request and returns the exit code, if this process was started for one.
pub(crate) fn main() -> Option<ExitCode> {
    let verb = std::env::var(VERB).ok()?;
    let result = handle(&verb);
    Some(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{verb}: {error:#}");
            ExitCode::FAILURE
        }
    })
}

fn handle(verb: &str) -> Result<()> {
    let parent = std::io::stdin();
    let socket = PathBuf::from(std::env::var_os(SOCKET).context("no socket")?);
    let (message, _) = fdpass::receive(&parent, MAX_MESSAGE_BYTES)?;
    match verb {
        "dial" => {
            let node = fdpass::connect(&socket)?;
            // A refused uid sees the connection closed.
            let result =
                fdpass::send(&node, &message, &[]).and_then(|()| fdpass::receive(&node, MAX_MESSAGE_BYTES));
            let reply = match result {
                Ok((reply, fds)) if !reply.is_empty() || !fds.is_empty() => (reply, fds),
                _ => (DialResponse { code: "closed".into(), ..Default::default() }.encode_to_vec(), vec![]),
            };
            let fds: Vec<_> = reply.1.iter().map(AsFd::as_fd).collect();
            fdpass::send(&parent, &reply.0, &fds)?;
        }
        "refusals" => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let watched = runtime.block_on(watch_refusals(&socket))?;
            fdpass::send(&parent, &watched.encode_to_vec(), &[])?;
        }
        other => bail!("unknown request: {other}"),
    }
    Ok(())
}
