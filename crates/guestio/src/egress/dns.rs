//! DNS forwarder of a VM: listens on 172.16.0.1:53 in its network and forwards allowed queries to the host's resolvers. It parses input from
//! a guest and from the internet ([`question`], [`answer`]), so everything is bounded: concurrent queries, connections, lengths, times.
//! The listening sockets come from the node, those to the resolvers ([`upstream`]) are this role's own.

mod answer;
pub(crate) mod cache;
mod question;
mod upstream;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use rigbox_proto::guestio::AdmitRequest;
use rigbox_proto::guestio::fd_request::Channel;
use rigbox_shares::{Place, Refused};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

use crate::descriptors::DescriptorError;
use crate::egress::accept::accepted_or_pause;
use crate::refusal_counter::Destination;
use crate::vm::Vm;
use question::Question;

/// Time after which a TCP connection without progress is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
const ADMIT_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Serves queries for as long as the VM is attached.
pub(crate) async fn run(vm: Arc<Vm>) {
    loop {
        if let Err(error) = serve(&vm).await {
            tracing::debug!(workspace = %vm.workspace_id, boot = %vm.boot_id, %error, "DNS forwarder failed; retrying");
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

async fn serve(vm: &Arc<Vm>) -> Result<(), DescriptorError> {
    let udp: std::net::UdpSocket = vm.context.descriptors.get(&vm.boot_id, Channel::DnsUdp).await?.into();
    let tcp: std::net::TcpListener = vm.context.descriptors.get(&vm.boot_id, Channel::DnsTcp).await?.into();
    // tokio requires non-blocking sockets; the node has set this already.
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    let (udp, tcp) = (Arc::new(UdpSocket::from_std(udp)?), TcpListener::from_std(tcp)?);
    let budget = &vm.context.egress;
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; question::MAX_UDP_QUERY_BYTES];
    loop {
        tokio::select! {
            received = udp.recv_from(&mut buffer) => {
                let (length, from) = received?;
                // A query beyond the share is dropped. Clients retry.
                let Ok(place) = query_place(vm) else { continue };
                let bytes = buffer.get(..length).unwrap_or_default().to_vec();
                let (vm, udp) = (Arc::clone(vm), Arc::clone(&udp));
                tasks.spawn(async move {
                    let _place = place;
                    serve_udp(&vm, &udp, from, &bytes).await;
                });
            }
            accepted = tcp.accept() => {
                let Some(stream) = accepted_or_pause(accepted).await else { continue };
                let Ok(place) = budget.dns_connections.take(vm.workspace_id.clone()) else { continue };
                let vm = Arc::clone(vm);
                tasks.spawn(async move {
                    let _place = place;
                    // A failed connection is the guest's concern.
                    let _ = serve_tcp(&vm, stream).await;
                });
            }
            Some(_) = tasks.join_next() => {}
        }
    }
}

/// Takes a place for a query in flight.
fn query_place(vm: &Vm) -> Result<Place<String>, Refused> {
    let share = vm.dns_share().limits.queries.get().into();
    vm.context.egress.dns_queries.take_within(vm.workspace_id.clone(), share)
}

async fn serve_udp(vm: &Vm, udp: &UdpSocket, to: SocketAddr, bytes: &[u8]) {
    let Ok(question) = question::parse(bytes) else { return };
    let response = respond(vm, &question).await;
    if let Some(bytes) = answer::encode(&response, question.max_udp_bytes) {
        // UDP packets may be lost anyway.
        let _ = udp.send_to(&bytes, to).await;
    }
}

async fn serve_tcp(vm: &Vm, mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let read = async {
            let length = stream.read_u16().await?;
            let mut bytes = vec![0; length.into()];
            stream.read_exact(&mut bytes).await?;
            Ok::<_, std::io::Error>(bytes)
        };
        let bytes = tokio::time::timeout(IDLE_TIMEOUT, read).await??;
        let question = question::parse(&bytes).map_err(std::io::Error::other)?;
        let response = match query_place(vm) {
            Ok(_place) => respond(vm, &question).await,
            Err(_) => question.response(ResponseCode::ServFail),
        };
        let Some(bytes) = answer::encode(&response, u16::MAX) else { return Ok(()) };
        let length = u16::try_from(bytes.len()).unwrap_or(0).to_be_bytes();
        let bytes = [length.as_slice(), &bytes].concat();
        tokio::time::timeout(IDLE_TIMEOUT, stream.write_all(&bytes)).await??;
    }
}

/// Builds the response to a query.
async fn respond(vm: &Vm, question: &Question) -> Message {
    let allow_list = vm.allow_list.borrow().clone();
    if !allow_list.allows_name(&question.name) {
        vm.refusals.count(Destination::Name(question.name.clone()));
        return question.response(ResponseCode::Refused);
    }
    match question.handling {
        question::Handling::Refuse => return question.response(ResponseCode::Refused),
        // There is no IPv6, and no second way to publish a service's address.
        question::Handling::Empty => return question.response(ResponseCode::NoError),
        question::Handling::Forward => {}
    }
    // The resolvers may serve the network around the host as well.
    if vm.context.internal_zones.contain(&question.name, &vm.context.blocked_networks) {
        return question.response(ResponseCode::NXDomain);
    }
    // What is in the cache has been admitted for as long as it is there.
    if let Some(answer) = vm.dns_cache().get(question, Instant::now()) {
        return answer.message;
    }
    if vm.dns_share().rate.check().is_err() {
        return question.response(ResponseCode::ServFail);
    }
    let Some(upstream_response) = upstream::query(&vm.context.resolvers, question).await else {
        return question.response(ResponseCode::ServFail);
    };
    let answer = match answer::filter(question, upstream_response, &vm.context.blocked_networks) {
        Ok(answer) => answer,
        Err(answer::PrivateAddress) => {
            vm.refusals.count(Destination::Name(question.name.clone()));
            return question.response(ResponseCode::Refused);
        }
    };
    if allow_list.needs_admission() && !answer.addresses.is_empty() {
        let admitted = admit(vm, question, &answer.addresses, answer.ttl_s).await;
        if !admitted {
            return question.response(ResponseCode::Refused);
        }
        // The list may have changed meanwhile, and what it does not allow any more is not admitted any more.
        if *vm.allow_list.borrow() != allow_list {
            return answer.message;
        }
    }
    vm.dns_cache().insert(question, &answer, Instant::now());
    answer.message
}

/// Has the node admit the addresses before the VM learns them. Returns whether it did.
async fn admit(vm: &Vm, question: &Question, addresses: &[Ipv4Addr], ttl_s: u32) -> bool {
    let request = AdmitRequest {
        boot_id: vm.boot_id.clone(),
        name: question.name.clone(),
        addresses: addresses.iter().map(|address| address.to_bits()).collect(),
        ttl_s,
    };
    let mut node = vm.context.node.clone();
    match tokio::time::timeout(ADMIT_TIMEOUT, node.admit(request)).await {
        Ok(Ok(_)) => true,
        Ok(Err(status)) => {
            if vm.log_rate.check().is_ok() {
                tracing::info!(workspace = %vm.workspace_id, name = question.name, %status, "node did not admit addresses");
            }
            false
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
