//! Connections in a pool, and which of them gives way when the pool is full: the one that has waited for its client longest, for the head
//! of a request, for more of its body, or for the response to be read. Clients that come from any number of addresses and let the API wait
//! thus take no place from one that sends its request at once.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use http_body::{Frame, SizeHint};
use slab::Slab;

use super::ConnectionControl;

/// Connections in a pool.
#[derive(Debug, Clone, Default)]
pub(super) struct OpenConnections(Arc<Mutex<Slab<ConnectionControl>>>);

/// Entry of a connection, removed on drop.
#[derive(Debug)]
pub(super) struct OpenConnection {
    connections: OpenConnections,
    key: usize,
}

impl OpenConnections {
    /// Adds a connection.
    pub(super) fn add(&self, control: ConnectionControl) -> OpenConnection {
        let key = self.entries().insert(control);
        OpenConnection { connections: self.clone(), key }
    }

    /// Closes the connection that has waited for its client longest, if one waits.
    pub(super) fn close_longest_waiting(&self) {
        let entries = self.entries();
        let waiting = entries.iter().filter_map(|(_, control)| Some((control.waiting_since()?, control)));
        if let Some((_, control)) = waiting.min_by_key(|(since, _)| *since) {
            control.close();
        }
    }

    fn entries(&self) -> MutexGuard<'_, Slab<ConnectionControl>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.connections.entries().try_remove(self.key);
    }
}

/// Body of a request. Its connection waits for the client while there is nothing to read.
pub(super) struct RequestBody {
    pub(super) body: Body,
    pub(super) control: ConnectionControl,
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        self.control.set_waiting(polled.is_pending());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Body of a response. When it has been sent, its connection waits for the client.
pub(super) struct ResponseBody {
    pub(super) body: Body,
    pub(super) control: ConnectionControl,
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.control.set_responding(false);
        self.control.set_waiting(true);
    }
}
