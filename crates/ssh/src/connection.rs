//! Connection with its transport, as a log-in uses it: one message at a time.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::io::{poll_read_buf, poll_write_buf};

use crate::transport::{self, Event, Transport};

/// Time for which a connection that ends waits for its peer.
pub(crate) const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
pub(crate) const READ_CHUNK: usize = 32 * 1024;
/// Messages that may arrive while a key exchange is waited for.
const MAX_EARLY_MESSAGES: usize = 8;

/// End of a connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The peer has broken the protocol.
    #[error(transparent)]
    Transport(#[from] transport::Error),
    /// The socket has failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The peer has ended the connection, with this text for people.
    #[error("the peer has ended the connection: {0}")]
    Disconnected(String),
    /// The connection is closed.
    #[error("the connection is closed")]
    Closed,
    /// The peer sends what it may not send now.
    #[error("the peer has sent what was not asked for")]
    Unexpected,
}

/// Connection.
pub struct Connection<S> {
    pub(crate) stream: S,
    pub(crate) transport: Transport,
    early: VecDeque<BytesMut>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Creates the connection over a stream.
    pub fn new(stream: S, transport: Transport) -> Self {
        Self { stream, transport, early: VecDeque::new() }
    }

    /// Returns the hash of the first key exchange, once that has ended.
    #[must_use]
    pub fn session_id(&self) -> Option<&[u8]> {
        self.transport.session_id()
    }

    /// Completes the first key exchange.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn open(&mut self) -> Result<(), Error> {
        while !self.transport.may_send() {
            self.advance().await?;
        }
        self.flush().await
    }

    /// Returns the next message of the layers above.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn receive(&mut self) -> Result<BytesMut, Error> {
        loop {
            if let Some(message) = self.early.pop_front() {
                return Ok(message);
            }
            self.advance().await?;
        }
    }

    /// Waits until the connection ends. Messages that arrive, of which there may be few, are received later.
    pub async fn ended(&mut self) -> Error {
        loop {
            if let Err(error) = self.advance().await {
                return error;
            }
        }
    }

    /// Sends a message of the layers above.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn send(&mut self, message: &[u8]) -> Result<(), Error> {
        while !self.transport.may_send() {
            self.advance().await?;
        }
        self.transport.send(message)?;
        self.flush().await
    }

    /// Ends the connection with a code (RFC 4253, section 11.1) and a text for people.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn disconnect(&mut self, reason: u32, text: &str) -> Result<(), Error> {
        self.transport.disconnect(reason, text)?;
        // A peer that does not read, or does not stop to write, is cut off.
        let closed = std::future::poll_fn(|context| self.poll_close(context));
        tokio::time::timeout(LINGER_TIMEOUT, closed).await.unwrap_or(Ok(()))
    }

    /// Writes what is left, and then reads until the peer closes the connection too: closed with something unread, it would be reset, and
    /// what was written last be lost.
    pub(crate) fn poll_close(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while !self.transport.output().is_empty() {
            ready!(poll_write_buf(Pin::new(&mut self.stream), context, self.transport.output()))?;
        }
        ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        loop {
            let input = self.transport.input();
            input.clear();
            input.reserve(READ_CHUNK);
            if ready!(poll_read_buf(Pin::new(&mut self.stream), context, input))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Allows the longer packets of a connection after its log-in.
    pub fn logged_in(&mut self) {
        self.transport.logged_in();
    }

    /// Takes an event, or reads what it needs. Also returns once messages may be sent.
    async fn advance(&mut self) -> Result<(), Error> {
        let could_send = self.transport.may_send();
        match self.transport.next_event()? {
            Some(Event::Message(message)) if self.early.len() < MAX_EARLY_MESSAGES => {
                self.early.push_back(message);
                return Ok(());
            }
            Some(Event::Message(_)) => return Err(Error::Unexpected),
            Some(Event::Disconnected { text, .. }) => return Err(Error::Disconnected(text)),
            None => {}
        }
        self.flush().await?;
        if !could_send && self.transport.may_send() {
            return Ok(());
        }
        match self.stream.read_buf(self.transport.input()).await? {
            0 => Err(Error::Closed),
            _ => Ok(()),
        }
    }

    async fn flush(&mut self) -> Result<(), Error> {
        let output = self.transport.output();
        while !output.is_empty() {
            self.stream.write_buf(output).await?;
        }
        Ok(self.stream.flush().await?)
    }
}
