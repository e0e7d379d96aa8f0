//! Requests of a VM to the API (`/rig/…`), passed on to control: on a connection of its own for each connection of a VM, so that control
//! knows the workspace as the node named it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rigbox_proto::handover;
use tokio::net::UnixStream;
use tokio::sync::Mutex;

/// Way to control's API for VMs.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    socket: Arc<PathBuf>,
    connection: Arc<handover::Sender>,
}

/// The way of one connection of a VM.
pub(crate) struct ApiConnection {
    api: Api,
    workspace_id: String,
    /// Requests on one connection follow each other, so no two wait for it.
    client: Mutex<Option<SendRequest<Incoming>>>,
}

impl Api {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket: Arc::new(socket), connection: Arc::default() }
    }

    /// Returns the way for a connection of this workspace; control is asked when it is used.
    pub(crate) fn connection(&self, workspace_id: &str) -> ApiConnection {
        ApiConnection { api: self.clone(), workspace_id: workspace_id.to_owned(), client: Mutex::new(None) }
    }
}

impl ApiConnection {
    /// Passes a request on, and returns control's response.
    pub(crate) async fn forward(&self, request: Request<Incoming>) -> io::Result<Response<Incoming>> {
        let mut client = self.client.lock().await;
        if client.as_ref().is_none_or(SendRequest::is_closed) {
            *client = Some(self.connect().await?);
        }
        let Some(client) = client.as_mut() else { return Err(io::ErrorKind::NotConnected.into()) };
        client.ready().await.map_err(io::Error::other)?;
        client.send_request(request).await.map_err(io::Error::other)
    }

    async fn connect(&self) -> io::Result<SendRequest<Incoming>> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let (api, workspace) = (self.api.clone(), self.workspace_id.clone());
        let hand_over = move || api.connection.send(&api.socket, &workspace, &theirs.into());
        tokio::task::spawn_blocking(hand_over).await.map_err(io::Error::other)??;
        let stream = TokioIo::new(UnixStream::from_std(ours)?);
        let (client, connection) = http1::handshake(stream).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(client)
    }
}
