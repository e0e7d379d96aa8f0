//! Asks the host's resolvers. Each question has a socket and a number of its own, which a stranger would have to guess.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::question::Question;

/// How long one resolver may take.
const WITHIN: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;
const PAYLOAD: u16 = 1232;

/// The first resolver's answer that is one; nothing when none answers.
pub(super) async fn ask(resolvers: &[SocketAddr], question: &Question) -> Option<Message> {
    for resolver in std::iter::repeat_n(resolvers, ROUNDS).flatten() {
        let asked = async {
            let answer = by_packet(*resolver, question).await?;
            if answer.metadata.truncation { by_connection(*resolver, question).await } else { Ok(answer) }
        };
        match tokio::time::timeout(WITHIN, asked).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => tracing::debug!(%resolver, %error, "resolver"),
            Err(_) => tracing::debug!(%resolver, "resolver: no answer"),
        }
    }
    None
}

fn request(question: &Question) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(question.query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD);
    message.set_edns(edns);
    message
}

/// Whether `answer` answers `request`.
fn fits(request: &Message, answer: &Message) -> bool {
    answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == request.metadata.id
        && answer.queries == request.queries
}

async fn by_packet(resolver: SocketAddr, question: &Question) -> std::io::Result<Message> {
    let any: IpAddr = match resolver {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(resolver).await?;
    let request = request(question);
    socket.send(&request.to_vec().map_err(std::io::Error::other)?).await?;
    let mut buffer = vec![0; PAYLOAD.into()];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Something else that came here does not end the wait.
        match Message::from_vec(buffer.get(..length).unwrap_or_default()) {
            Ok(answer) if fits(&request, &answer) => return Ok(answer),
            _ => {}
        }
    }
}

async fn by_connection(resolver: SocketAddr, question: &Question) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect(resolver).await?;
    let request = request(question);
    let bytes = request.to_vec().map_err(std::io::Error::other)?;
    let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?.to_be_bytes();
    stream.write_all(&[length.as_slice(), &bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; length.into()];
    stream.read_exact(&mut bytes).await?;
    let answer = Message::from_vec(&bytes).map_err(std::io::Error::other)?;
    if fits(&request, &answer) {
        Ok(answer)
    } else {
        Err(std::io::Error::other("the answer is for another question"))
    }
}
