//! Client of the host's resolvers. Each query uses a socket and an id of its own, so that a spoofed response would have to guess both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::question::Question;

/// Time limit for one resolver.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// Rounds through all resolvers.
const MAX_ATTEMPTS: usize = 2;
const MAX_UDP_RESPONSE_BYTES: u16 = 1232;

/// Returns the first valid response of a resolver, or `None` if there is none.
pub(super) async fn query(resolvers: &[SocketAddr], question: &Question) -> Option<Message> {
    for resolver in std::iter::repeat_n(resolvers, MAX_ATTEMPTS).flatten() {
        let query = async {
            let response = query_udp(*resolver, question).await?;
            if response.metadata.truncation { query_tcp(*resolver, question).await } else { Ok(response) }
        };
        match tokio::time::timeout(QUERY_TIMEOUT, query).await {
            Ok(Ok(response)) => return Some(response),
            Ok(Err(error)) => tracing::debug!(%resolver, %error, "resolver failed"),
            Err(_) => tracing::debug!(%resolver, "resolver timed out"),
        }
    }
    None
}

pub(super) fn request(question: &Question) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(question.query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP_RESPONSE_BYTES);
    message.set_edns(edns);
    message
}

/// Returns whether `response` belongs to `request`.
pub(super) fn matches_request(request: &Message, response: &Message) -> bool {
    response.metadata.message_type == MessageType::Response
        && response.metadata.op_code == OpCode::Query
        && response.metadata.id == request.metadata.id
        && response.queries == request.queries
}

async fn query_udp(resolver: SocketAddr, question: &Question) -> std::io::Result<Message> {
    let unspecified: IpAddr = match resolver {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((unspecified, 0)).await?;
    socket.connect(resolver).await?;
    let request = request(question);
    socket.send(&request.to_vec().map_err(std::io::Error::other)?).await?;
    let mut buffer = vec![0; MAX_UDP_RESPONSE_BYTES.into()];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Ignores packets that do not match the request.
        match Message::from_vec(buffer.get(..length).unwrap_or_default()) {
            Ok(response) if matches_request(&request, &response) => return Ok(response),
            _ => {}
        }
    }
}

async fn query_tcp(resolver: SocketAddr, question: &Question) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect(resolver).await?;
    let request = request(question);
    let bytes = request.to_vec().map_err(std::io::Error::other)?;
    let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?.to_be_bytes();
    stream.write_all(&[length.as_slice(), &bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; length.into()];
    stream.read_exact(&mut bytes).await?;
    let response = Message::from_vec(&bytes).map_err(std::io::Error::other)?;
    if matches_request(&request, &response) {
        Ok(response)
    } else {
        Err(std::io::Error::other("the response does not match the query"))
    }
}
