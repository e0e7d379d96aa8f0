//! Names for a VM: answers on 172.16.0.1:53 in its network what the host's resolvers say, as far as the VM may know it. It parses what a
//! guest and what the internet sends ([`question`], [`answer`]), so it is bounded in every direction: questions at a time, connections, lengths,
//! times. The sockets come from the node; those towards the resolvers ([`upstream`]) are this role's own.

mod answer;
mod question;
mod upstream;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use rigbox_proto::guestio::AdmitRequest;
use rigbox_proto::guestio::fd_request::Channel;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::fds::FdError;
use crate::refusals::What;
use crate::vm::Vm;
use question::Question;

/// Questions of one VM under way.
const AT_A_TIME: usize = 64;
/// Its connections.
const CONNECTIONS: usize = 16;
/// A connection that asks nothing, or does not take its answer, for this long is closed.
const IDLE: Duration = Duration::from_secs(10);
const ADMITTED_WITHIN: Duration = Duration::from_secs(5);
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Answers for as long as the VM is attended to; dropped with its entry.
pub(crate) async fn attend(vm: Arc<Vm>) {
    loop {
        if let Err(error) = serve(&vm).await {
            tracing::debug!(workspace = %vm.workspace_id, boot = %vm.boot_id, %error, "names");
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

async fn serve(vm: &Arc<Vm>) -> Result<(), FdError> {
    let udp: std::net::UdpSocket = vm.fds.get(&vm.boot_id, Channel::DnsUdp).await?.into();
    let tcp: std::net::TcpListener = vm.fds.get(&vm.boot_id, Channel::DnsTcp).await?.into();
    // The node made them non-blocking; tokio insists.
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    let (udp, tcp) = (Arc::new(UdpSocket::from_std(udp)?), TcpListener::from_std(tcp)?);
    let places = Arc::new(Semaphore::new(AT_A_TIME));
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; question::LONGEST];
    loop {
        tokio::select! {
            received = udp.recv_from(&mut buffer) => {
                let (length, from) = received?;
                // One more than may be under way is dropped: whoever asks asks again.
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                let bytes = buffer.get(..length).unwrap_or_default().to_vec();
                let (vm, udp) = (Arc::clone(vm), Arc::clone(&udp));
                tasks.spawn(async move {
                    let _place = place;
                    by_packet(&vm, &udp, from, &bytes).await;
                });
            }
            accepted = tcp.accept() => {
                let (stream, _) = accepted?;
                let Ok(place) = Arc::clone(&connections).try_acquire_owned() else { continue };
                let (vm, places) = (Arc::clone(vm), Arc::clone(&places));
                tasks.spawn(async move {
                    let _place = place;
                    // Its end is the guest's affair.
                    let _ = by_connection(&vm, stream, &places).await;
                });
            }
            Some(_) = tasks.join_next() => {}
        }
    }
}

async fn by_packet(vm: &Vm, udp: &UdpSocket, to: SocketAddr, bytes: &[u8]) {
    let Ok(question) = question::parse(bytes) else { return };
    let reply = reply(vm, &question).await;
    if let Some(bytes) = answer::encode(&reply, question.payload) {
        // As lost as any packet may be.
        let _ = udp.send_to(&bytes, to).await;
    }
}

async fn by_connection(vm: &Vm, mut stream: TcpStream, places: &Semaphore) -> std::io::Result<()> {
    loop {
        let read = async {
            let length = stream.read_u16().await?;
            let mut bytes = vec![0; length.into()];
            stream.read_exact(&mut bytes).await?;
            Ok::<_, std::io::Error>(bytes)
        };
        let bytes = tokio::time::timeout(IDLE, read).await??;
        let question = question::parse(&bytes).map_err(std::io::Error::other)?;
        let reply = match places.try_acquire() {
            Ok(_place) => reply(vm, &question).await,
            Err(_) => question.reply(ResponseCode::ServFail),
        };
        let Some(bytes) = answer::encode(&reply, u16::MAX) else { return Ok(()) };
        let length = u16::try_from(bytes.len()).unwrap_or(0).to_be_bytes();
        let bytes = [length.as_slice(), &bytes].concat();
        tokio::time::timeout(IDLE, stream.write_all(&bytes)).await??;
    }
}

/// What the VM is told.
async fn reply(vm: &Vm, question: &Question) -> Message {
    let names = vm.names.borrow().clone();
    if !names.allows(&question.name) {
        vm.refusals.note(What::Name(question.name.clone()));
        return question.reply(ResponseCode::Refused);
    }
    match question.kind {
        question::Kind::Never => return question.reply(ResponseCode::Refused),
        // There is no IPv6, and no second way to say where a service is.
        question::Kind::Empty => return question.reply(ResponseCode::NoError),
        question::Kind::Ask => {}
    }
    let Some(said) = upstream::ask(&vm.resolvers, question).await else {
        return question.reply(ResponseCode::ServFail);
    };
    let answer = match answer::check(question, said) {
        Ok(answer) => answer,
        Err(answer::Rebinding) => {
            vm.refusals.note(What::Name(question.name.clone()));
            return question.reply(ResponseCode::Refused);
        }
    };
    if names.needs_admission() && !answer.addresses.is_empty() {
        let admitted = admit(vm, question, &answer.addresses, answer.ttl_s).await;
        if !admitted {
            return question.reply(ResponseCode::Refused);
        }
    }
    answer.message
}

/// Has the addresses let through before the VM hears of them.
async fn admit(vm: &Vm, question: &Question, addresses: &[Ipv4Addr], ttl_s: u32) -> bool {
    let request = AdmitRequest {
        boot_id: vm.boot_id.clone(),
        name: question.name.clone(),
        addresses: addresses.iter().map(|address| address.to_bits()).collect(),
        ttl_s,
    };
    let mut node = vm.node.clone();
    match tokio::time::timeout(ADMITTED_WITHIN, node.admit(request)).await {
        Ok(Ok(_)) => true,
        Ok(Err(status)) => {
            tracing::info!(workspace = %vm.workspace_id, name = question.name, %status, "not admitted");
            false
        }
        Err(_) => false,
    }
}
