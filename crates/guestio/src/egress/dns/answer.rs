//! Filter for responses of upstream resolvers: only records that answer the question, and only public addresses, so that a name cannot
//! lead a program in the VM to a private network (DNS rebinding).

use std::net::Ipv4Addr;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use rigbox_core::egress::BlockedNetworks;

use super::question::Question;

/// Maximum number of records in one response.
const MAX_RECORDS: usize = 64;

/// Filtered response for the VM.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) message: Message,
    pub(super) addresses: Vec<Ipv4Addr>,
    /// Lowest time to live of its records.
    pub(super) ttl_s: u32,
}

/// The response contains an address that is blocked.
#[derive(Debug)]
pub(super) struct PrivateAddress;

/// Builds the VM's response from the upstream response.
pub(super) fn filter(
    question: &Question,
    upstream: Message,
    blocked: &BlockedNetworks,
) -> Result<Answer, PrivateAddress> {
    let mut message = question.response(match upstream.metadata.response_code {
        code @ (ResponseCode::NoError | ResponseCode::NXDomain) => code,
        _ => ResponseCode::ServFail,
    });
    let (mut addresses, mut ttl_s) = (Vec::new(), u32::MAX);
    for record in upstream.answers.into_iter().take(MAX_RECORDS) {
        match &record.data {
            RData::A(address) if !blocked.allow(address.0) => return Err(PrivateAddress),
            RData::A(address) => addresses.push(address.0),
            _ if !is_allowed(&record) => continue,
            _ => {}
        }
        ttl_s = ttl_s.min(record.ttl);
        message.add_answer(record);
    }
    // The SOA record says for how long a negative response may be cached.
    let authority = upstream.authorities.into_iter().filter(|record| record.record_type() == RecordType::SOA);
    message.add_authorities(authority.take(1));
    Ok(Answer { message, addresses, ttl_s: if ttl_s == u32::MAX { 0 } else { ttl_s } })
}

fn is_allowed(record: &Record) -> bool {
    !matches!(record.record_type(), RecordType::AAAA | RecordType::HTTPS | RecordType::SVCB)
}

/// Encodes a message. A message longer than `max_bytes` is truncated, with the TC flag set.
pub(super) fn encode(message: &Message, max_bytes: u16) -> Option<Vec<u8>> {
    let bytes = message.to_vec().ok()?;
    if bytes.len() <= usize::from(max_bytes) {
        return Some(bytes);
    }
    message.truncate().to_vec().ok().filter(|bytes| bytes.len() <= usize::from(max_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Query;
    use hickory_proto::rr::Name;
    use hickory_proto::rr::rdata::{A, AAAA, CNAME, TXT};

    fn name() -> Name {
        Name::from_ascii("a.example.org.").unwrap()
    }

    fn question() -> Question {
        let mut message = Message::query();
        message.add_query(Query::query(name(), RecordType::A));
        super::super::question::parse(&message.to_vec().unwrap()).unwrap()
    }

    fn upstream_response(records: Vec<(u32, RData)>) -> Message {
        let mut message = Message::query();
        message.add_answers(records.into_iter().map(|(ttl, data)| Record::from_rdata(name(), ttl, data)));
        message
    }

    fn a(text: &str) -> RData {
        RData::A(A(text.parse().unwrap()))
    }

    #[test]
    fn response_with_a_private_address_is_refused() {
        for private in [
            "127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "169.254.169.254",
            "192.168.1.1",
            "0.0.0.0",
            "224.0.0.1",
            "168.63.129.16",
        ] {
            let message = upstream_response(vec![(60, a("8.8.8.8")), (60, a(private))]);
            assert!(filter(&question(), message, &BlockedNetworks::default()).is_err(), "{private}");
        }
        let blocked = BlockedNetworks::new(&["8.8.8.8/32".parse().unwrap()]);
        assert!(filter(&question(), upstream_response(vec![(60, a("8.8.8.8"))]), &blocked).is_err());
    }

    #[test]
    fn public_ipv4_addresses_pass_and_ipv6_is_removed() {
        let answer = filter(
            &question(),
            upstream_response(vec![
                (300, RData::CNAME(CNAME(name()))),
                (30, a("8.8.8.8")),
                (60, RData::AAAA(AAAA("2001:db8::1".parse().unwrap()))),
            ]),
            &BlockedNetworks::default(),
        )
        .unwrap();
        assert_eq!(answer.addresses, ["8.8.8.8".parse::<Ipv4Addr>().unwrap()]);
        assert_eq!((answer.ttl_s, answer.message.answers.len()), (30, 2));
    }

    #[test]
    fn long_response_is_truncated_with_the_flag_set() {
        let text = RData::TXT(TXT::new(vec!["x".repeat(200)]));
        let answer =
            filter(&question(), upstream_response(vec![(1, text); 10]), &BlockedNetworks::default()).unwrap();
        let short = Message::from_vec(&encode(&answer.message, 512).unwrap()).unwrap();
        assert!(short.metadata.truncation && short.answers.is_empty());
        let long = Message::from_vec(&encode(&answer.message, u16::MAX).unwrap()).unwrap();
        assert!(!long.metadata.truncation && long.answers.len() == 10);
    }
}
