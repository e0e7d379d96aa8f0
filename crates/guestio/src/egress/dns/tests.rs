use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use rigbox_proto::guestio::dns_policy::Mode;
use rigbox_proto::guestio::{DnsLimits, DnsPolicy};
use tokio::net::UdpSocket;

use super::*;
use crate::egress::testbed::{Testbed, policy};

/// Resolver that knows every name, and counts queries.
async fn resolver() -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (address, asked) = (socket.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            count.fetch_add(1, Ordering::Relaxed);
            let request = Message::from_vec(&buffer[..length]).unwrap();
            let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
            let query = request.queries[0].clone();
            reply.add_answer(Record::from_rdata(query.name().clone(), 60, RData::A(A::new(8, 8, 8, 8))));
            reply.add_query(query);
            socket.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
        }
    });
    (address, asked)
}

fn question(name: &str) -> Question {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    question::parse(&message.to_vec().unwrap()).unwrap()
}

async fn testbed(resolver: SocketAddr) -> Testbed {
    let any = DnsPolicy { mode: Mode::Any.into(), ..DnsPolicy::default() };
    Testbed::start_with_resolvers(any, |_| Vec::new(), &[resolver]).await
}

#[tokio::test]
async fn repeated_question_is_not_asked_again_until_the_list_changes() {
    let (address, asked) = resolver().await;
    let testbed = testbed(address).await;
    for _ in 0..100 {
        let response = respond(&testbed.vm, &question("example.org")).await;
        assert_eq!(response.answers.len(), 1);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    // Nobody has admitted the address for the new list, and there is no node to do it.
    testbed.set_policy(policy(&["example.org"], false));
    let response = respond(&testbed.vm, &question("example.org")).await;
    assert_eq!((response.metadata.response_code, response.answers.len()), (ResponseCode::Refused, 0));
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn internal_name_is_not_asked_for() {
    let (address, asked) = resolver().await;
    let testbed = testbed(address).await;
    for name in ["1.0.0.10.in-addr.arpa", "_ldap._tcp.dc.corp", "printer.local", "db"] {
        let response = respond(&testbed.vm, &question(name)).await;
        assert_eq!(response.metadata.response_code, ResponseCode::NXDomain, "{name}");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn one_vm_asks_the_resolvers_at_a_limited_rate() {
    let (address, asked) = resolver().await;
    let testbed = testbed(address).await;
    let started = Instant::now();
    for number in 0..1500 {
        respond(&testbed.vm, &question(&format!("{number}.example.org"))).await;
    }
    let allowed = 500 + 50 * (usize::try_from(started.elapsed().as_secs()).unwrap() + 1);
    let asked = asked.load(Ordering::Relaxed);
    assert!((500..=allowed).contains(&asked), "{asked}");
}

#[tokio::test]
async fn lower_limits_of_a_vm_count_from_the_next_query_on() {
    let (address, asked) = resolver().await;
    let testbed = testbed(address).await;
    let vm = &testbed.vm;
    let limits = |queries, queries_per_s| Some(DnsLimits { queries, queries_per_s });
    vm.set_dns_limits(limits(2, 1));
    let held = [query_place(vm).unwrap(), query_place(vm).unwrap()];
    assert_eq!(query_place(vm).unwrap_err(), Refused::Share(2));
    for number in 0..100 {
        respond(vm, &question(&format!("{number}.example.org"))).await;
        // The same again does not begin to count anew.
        vm.set_dns_limits(limits(2, 1));
    }
    let so_far = asked.load(Ordering::Relaxed);
    assert!((10..=20).contains(&so_far), "{so_far}");
    // This role's own limits are the ceiling, and count where the node names none.
    for none_or_more in [limits(0, 0), limits(1_000_000, 1_000_000), None] {
        vm.set_dns_limits(none_or_more);
        assert_eq!(vm.dns_share().limits, crate::DnsLimits::default());
    }
    query_place(vm).unwrap();
    drop(held);
}
