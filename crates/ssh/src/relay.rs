//! Relay: the messages of the connection protocol pass one to one between a client's connection and its VM's.
//!
//! Each side replaces its keys when it wants to, and takes no other message meanwhile. What comes from the other side then waits there,
//! unread. The exception is a side whose keys are being replaced: what it sent before it heard of that has to be read, or neither side
//! would get any further. Such messages wait here, and the peer's own buffers bound them.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;
use tokio_util::io::{poll_read_buf, poll_write_buf};

use crate::connection::{Connection, Error, LINGER_TIMEOUT, READ_CHUNK};
use crate::disconnect::BY_APPLICATION;
use crate::global_replies::GlobalReplies;
use crate::host_keys::{ANNOUNCEMENT, GlobalRequest, HostKeys, PROOF};
use crate::message::{CONNECTION, REQUEST_FAILURE, REQUEST_SUCCESS};
use crate::transport::Event;

/// Bytes that wait to be written to one side, after which no more are read from the other.
const MAX_BACKLOG: usize = 256 * 1024;
/// Capacity of an empty buffer that a session keeps while nothing passes.
const MAX_IDLE_CAPACITY: usize = 64 * 1024;
/// Text for a client whose server has gone without a word.
const SERVER_LOST: &str = "The connection to the workspace was lost.";
/// Time in which a client has to take what its server has sent before its end.
const LAST_OUTPUT_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of messages that wait for the end of a key exchange.
const MAX_WAITING_BYTES: usize = 16 * 1024 * 1024;

/// Bytes of messages that have passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Passed {
    /// From the client to the server.
    pub to_server: u64,
    /// From the server to the client.
    pub to_client: u64,
}

/// Relays until a side ends its connection, or `end` returns a text for the client. A client's requests to prove `host_keys` are answered
/// here.
///
/// # Errors
/// How the connection of either side has failed.
pub async fn relay<C, V>(
    client: Connection<C>,
    server: Connection<V>,
    host_keys: &HostKeys,
    passed: &mut Passed,
    end: impl Future<Output = String>,
) -> Result<(), Error>
where
    C: AsyncRead + AsyncWrite + Unpin,
    V: AsyncRead + AsyncWrite + Unpin,
{
    let (mut client, mut server) = (Side::new(client), Side::new(server));
    let mut replies = GlobalReplies::default();
    let mut end = std::pin::pin!(end);
    // Once the client is to be told of the end: the time at which it is cut off.
    let mut linger: Option<Pin<Box<Sleep>>> = None;
    let linger_for = |timeout| Some(Box::pin(tokio::time::sleep(timeout)));
    std::future::poll_fn(move |context| {
        if linger.is_none()
            && let Poll::Ready(text) = end.as_mut().poll(context)
        {
            linger = linger_for(LINGER_TIMEOUT);
            client.connection.transport.disconnect(BY_APPLICATION, &text).map_err(Error::from)?;
        }
        loop {
            if let Some(deadline) = &mut linger {
                return match deadline.as_mut().poll(context) {
                    Poll::Ready(()) => Poll::Ready(Ok(())),
                    Poll::Pending => client.connection.poll_close(context),
                };
            }
            let mut direction = Direction::ToServer { host_keys, replies: &mut replies };
            let forth = pass(&mut client, &mut server, &mut direction, &mut passed.to_server, context)?;
            let mut direction = Direction::ToClient { replies: &mut replies };
            let back = pass(&mut server, &mut client, &mut direction, &mut passed.to_client, context)?;
            if client.is_over() {
                return server.poll_flush(context);
            }
            if server.is_over() {
                if !server.has_said_why {
                    client
                        .connection
                        .transport
                        .disconnect(BY_APPLICATION, SERVER_LOST)
                        .map_err(Error::from)?;
                }
                linger = linger_for(LAST_OUTPUT_TIMEOUT);
                continue;
            }
            if forth || back {
                // There may be more. Keystrokes of other sessions do not wait for that.
                let _ = std::pin::pin!(tokio::task::yield_now()).poll(context);
            } else {
                client.release_buffers();
                server.release_buffers();
            }
            return Poll::Pending;
        }
    })
    .await
}

/// Connection of one side, with what has come from it and waits.
struct Side<S> {
    connection: Connection<S>,
    waiting: VecDeque<BytesMut>,
    waiting_bytes: usize,
    /// True once nothing more comes, because this side has closed its connection or that has failed.
    has_ended: bool,
    /// True if this side has ended it with a text for people.
    has_said_why: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Side<S> {
    fn new(connection: Connection<S>) -> Self {
        Self { connection, waiting: VecDeque::new(), waiting_bytes: 0, has_ended: false, has_said_why: false }
    }

    /// Returns whether a message can be sent to this side.
    fn accepts(&mut self) -> bool {
        self.connection.transport.may_send() && self.connection.transport.output().len() < MAX_BACKLOG
    }

    /// Returns whether this side is to be read: `to` takes what comes, or this side's keys are being replaced.
    fn is_read<T: AsyncRead + AsyncWrite + Unpin>(&self, to: &mut Side<T>) -> bool {
        let is_free = self.waiting.is_empty() && to.accepts();
        let is_rekeyed = !self.connection.transport.may_send() && self.waiting_bytes < MAX_WAITING_BYTES;
        !self.has_ended && (is_free || is_rekeyed)
    }

    /// Returns whether all that has come from this side was sent to the other, and no more will come.
    fn is_over(&self) -> bool {
        self.has_ended && self.waiting.is_empty()
    }

    /// Writes what there is. Returns whether anything was written.
    fn poll_write(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        let Connection { stream, transport, .. } = &mut self.connection;
        let mut has_written = false;
        while !transport.output().is_empty() {
            match poll_write_buf(Pin::new(&mut *stream), context, transport.output()) {
                Poll::Pending => break,
                Poll::Ready(written) => has_written |= written? > 0,
            }
        }
        Ok(has_written)
    }

    /// Writes what there is. A failure ends this side. Returns whether anything has changed.
    fn write_or_end(&mut self, context: &mut Context<'_>) -> bool {
        self.poll_write(context).unwrap_or_else(|_| !std::mem::replace(&mut self.has_ended, true))
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.poll_write(context)?;
        if !self.connection.transport.output().is_empty() {
            return Poll::Pending;
        }
        Pin::new(&mut self.connection.stream).poll_flush(context).map_err(Error::from)
    }

    /// Gives back memory of empty buffers: most sessions are idle, and a transfer would leave each with a whole backlog.
    fn release_buffers(&mut self) {
        release(self.connection.transport.input());
        release(self.connection.transport.output());
    }

    /// Reads once. `None` if nothing is there.
    fn poll_read(&mut self, context: &mut Context<'_>) -> io::Result<Option<usize>> {
        let Connection { stream, transport, .. } = &mut self.connection;
        transport.input().reserve(READ_CHUNK);
        match poll_read_buf(Pin::new(stream), context, transport.input()) {
            Poll::Pending => Ok(None),
            Poll::Ready(read) => read.map(Some),
        }
    }
}

/// Direction in which messages pass, with what of them concerns the gateway.
enum Direction<'a> {
    ToServer { host_keys: &'a HostKeys, replies: &'a mut GlobalReplies },
    ToClient { replies: &'a mut GlobalReplies },
}

impl Direction<'_> {
    /// Returns whether a message that has come is to pass.
    fn takes(&mut self, message: &[u8]) -> Result<bool, Error> {
        if !message.first().is_some_and(|number| CONNECTION.contains(number)) {
            return Ok(false);
        }
        let request = GlobalRequest::read(message);
        match self {
            Self::ToServer { host_keys, replies } => {
                match request.map_err(|_| crate::transport::Error::Malformed)? {
                    // The VM has other keys.
                    Some(request) if request.name == PROOF => {
                        let reply = host_keys.prove(request.rest);
                        if request.wants_reply {
                            replies.add(reply).map_err(|_| Error::Unexpected)?;
                        }
                        return Ok(false);
                    }
                    Some(request) if request.wants_reply => replies.vm_asked(),
                    Some(_) | None => {}
                }
                Ok(true)
            }
            // The host keys that a VM's server announces are not those that the client has seen.
            Self::ToClient { .. } => {
                Ok(!matches!(request, Ok(Some(GlobalRequest { name: ANNOUNCEMENT, .. }))))
            }
        }
    }

    /// Sends a message, and the replies that may follow it.
    fn send<T: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        to: &mut Side<T>,
        message: &[u8],
    ) -> Result<(), Error> {
        to.connection.transport.send(message)?;
        if let Self::ToClient { replies } = self
            && let Some(&(REQUEST_SUCCESS | REQUEST_FAILURE)) = message.first()
        {
            replies.vm_replied();
            self.send_due(to)?;
        }
        Ok(())
    }

    /// Sends the gateway's replies whose turn it is. Returns whether there was any.
    fn send_due<T: AsyncRead + AsyncWrite + Unpin>(&mut self, to: &mut Side<T>) -> Result<bool, Error> {
        let Self::ToClient { replies } = self else { return Ok(false) };
        let mut has_sent = false;
        while to.connection.transport.may_send()
            && let Some(reply) = replies.take_due()
        {
            to.connection.transport.send(&reply)?;
            has_sent = true;
        }
        Ok(has_sent)
    }
}

fn release(buffer: &mut BytesMut) {
    // Its capacity does not count the space of what was taken from it.
    if buffer.is_empty() && buffer.try_reclaim(MAX_IDLE_CAPACITY + 1) {
        *buffer = BytesMut::new();
    }
}

/// Passes what comes from one side to the other, as far as that goes without waiting. Returns whether anything has changed.
fn pass<F, T>(
    from: &mut Side<F>,
    to: &mut Side<T>,
    direction: &mut Direction<'_>,
    passed: &mut u64,
    context: &mut Context<'_>,
) -> Result<bool, Error>
where
    F: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut has_changed = direction.send_due(to)?;
    while to.accepts()
        && let Some(message) = from.waiting.pop_front()
    {
        from.waiting_bytes -= message.len();
        direction.send(to, &message)?;
        has_changed = true;
    }
    while from.is_read(to) {
        match from.connection.transport.next_event()? {
            Some(Event::Message(message)) => {
                // One that the gateway takes may be answered.
                has_changed = true;
                if !direction.takes(&message)? {
                    continue;
                }
                *passed += message.len() as u64;
                if from.waiting.is_empty() && to.accepts() {
                    direction.send(to, &message)?;
                } else {
                    from.waiting_bytes += message.len();
                    from.waiting.push_back(message);
                }
            }
            Some(Event::Disconnected { reason, text }) => {
                to.connection.transport.disconnect(reason, &text)?;
                (from.has_ended, from.has_said_why) = (true, true);
            }
            None => match from.poll_read(context) {
                Ok(None) => break,
                Ok(Some(1..)) => has_changed = true,
                Ok(Some(0)) | Err(_) => from.has_ended = true,
            },
        }
    }
    has_changed |= to.write_or_end(context);
    Ok(has_changed | from.write_or_end(context))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::GLOBAL_REQUEST;
    use rigbox_ssh_keys::private_key::PrivateKey;
    use rigbox_ssh_keys::wire::Message;

    fn global(name: &[u8], wants_reply: bool) -> Vec<u8> {
        Message::new(GLOBAL_REQUEST).string(name).boolean(wants_reply).into_bytes()
    }

    #[test]
    fn only_large_and_empty_buffers_are_released() {
        let is_released = |capacity, len, taken| {
            let mut buffer = BytesMut::with_capacity(capacity);
            buffer.resize(len, 0);
            drop(buffer.split_to(taken));
            release(&mut buffer);
            assert_eq!(buffer.len(), len - taken);
            !buffer.try_reclaim(1)
        };
        let large = MAX_IDLE_CAPACITY + 1;
        assert!(is_released(large, 0, 0) && is_released(large, large, large));
        assert!(!is_released(large, 2, 1) && !is_released(MAX_IDLE_CAPACITY, 0, 0));
    }

    #[test]
    fn messages_of_the_connection_protocol_pass_but_for_a_vms_host_keys() {
        let mut replies = GlobalReplies::default();
        let mut direction = Direction::ToClient { replies: &mut replies };
        let mut passes = |message: &[u8]| direction.takes(message).unwrap();
        assert!(passes(&global(b"no-more-sessions@openssh.com", false)));
        assert!(passes(&[GLOBAL_REQUEST]));
        assert!(passes(&[127]) && passes(&[90]));
        assert!(!passes(&global(ANNOUNCEMENT, false)));
        assert!(!passes(&[50]) && !passes(&[128]) && !passes(&[]));
    }

    #[test]
    fn client_learns_the_gateways_keys_in_the_order_of_its_requests() {
        let host_keys = HostKeys::new([PrivateKey::ed25519(&[1; 32]).unwrap()].into(), b"session");
        let mut replies = GlobalReplies::default();
        let mut direction = Direction::ToServer { host_keys: &host_keys, replies: &mut replies };
        assert!(direction.takes(&global(b"tcpip-forward", true)).unwrap());
        assert!(!direction.takes(&global(PROOF, true)).unwrap());
        assert!(direction.takes(&[GLOBAL_REQUEST]).is_err());
        assert_eq!(replies.take_due(), None);
        replies.vm_replied();
        assert_eq!(replies.take_due().unwrap().first(), Some(&REQUEST_SUCCESS));
    }
}
