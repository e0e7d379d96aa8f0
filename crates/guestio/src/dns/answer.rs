//! What an upstream resolver said, as far as a VM may hear it: records that answer the question, and no address that is not public (a name of
//! the internet must not lead a program in the VM to somebody's private network).

use std::net::Ipv4Addr;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use rigbox_core::egress::is_public;

use super::question::Question;

/// Most records of one answer.
const MOST: usize = 64;

/// An answer for the VM.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) message: Message,
    pub(super) addresses: Vec<Ipv4Addr>,
    /// The shortest time to live of what is in it.
    pub(super) ttl_s: u32,
}

/// The answer leads to an address that is not public.
#[derive(Debug)]
pub(super) struct Rebinding;

/// Makes the VM's answer of what upstream said.
pub(super) fn check(question: &Question, said: Message) -> Result<Answer, Rebinding> {
    let mut message = question.reply(match said.metadata.response_code {
        code @ (ResponseCode::NoError | ResponseCode::NXDomain) => code,
        _ => ResponseCode::ServFail,
    });
    let (mut addresses, mut ttl_s) = (Vec::new(), u32::MAX);
    for record in said.answers.into_iter().take(MOST) {
        match &record.data {
            RData::A(address) if !is_public(address.0) => return Err(Rebinding),
            RData::A(address) => addresses.push(address.0),
            _ if !may_be_heard(&record) => continue,
            _ => {}
        }
        ttl_s = ttl_s.min(record.ttl);
        message.add_answer(record);
    }
    // That there is none, and for how long that holds.
    let authority = said.authorities.into_iter().filter(|record| record.record_type() == RecordType::SOA);
    message.add_authorities(authority.take(1));
    Ok(Answer { message, addresses, ttl_s: if ttl_s == u32::MAX { 0 } else { ttl_s } })
}

fn may_be_heard(record: &Record) -> bool {
    !matches!(record.record_type(), RecordType::AAAA | RecordType::HTTPS | RecordType::SVCB)
}

/// The bytes; an answer that is longer than `most` becomes one that says so.
pub(super) fn encode(message: &Message, most: u16) -> Option<Vec<u8>> {
    let bytes = message.to_vec().ok()?;
    if bytes.len() <= usize::from(most) {
        return Some(bytes);
    }
    message.truncate().to_vec().ok().filter(|bytes| bytes.len() <= usize::from(most))
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

    fn said(records: Vec<(u32, RData)>) -> Message {
        let mut message = Message::query();
        message.add_answers(records.into_iter().map(|(ttl, data)| Record::from_rdata(name(), ttl, data)));
        message
    }

    fn a(text: &str) -> RData {
        RData::A(A(text.parse().unwrap()))
    }

    #[test]
    fn an_answer_with_a_private_address_is_none() {
        for private in
            ["127.0.0.1", "10.0.0.1", "172.16.0.1", "169.254.169.254", "192.168.1.1", "0.0.0.0", "224.0.0.1"]
        {
            let message = said(vec![(60, a("8.8.8.8")), (60, a(private))]);
            assert!(check(&question(), message).is_err(), "{private}");
        }
    }

    #[test]
    fn public_addresses_are_told_and_ipv6_is_not() {
        let answer = check(
            &question(),
            said(vec![
                (300, RData::CNAME(CNAME(name()))),
                (30, a("8.8.8.8")),
                (60, RData::AAAA(AAAA("2001:db8::1".parse().unwrap()))),
            ]),
        )
        .unwrap();
        assert_eq!(answer.addresses, ["8.8.8.8".parse::<Ipv4Addr>().unwrap()]);
        assert_eq!((answer.ttl_s, answer.message.answers.len()), (30, 2));
    }

    #[test]
    fn a_long_answer_is_told_to_be_long() {
        let text = RData::TXT(TXT::new(vec!["x".repeat(200)]));
        let answer = check(&question(), said(vec![(1, text); 10])).unwrap();
        let short = Message::from_vec(&encode(&answer.message, 512).unwrap()).unwrap();
        assert!(short.metadata.truncation && short.answers.is_empty());
        let long = Message::from_vec(&encode(&answer.message, u16::MAX).unwrap()).unwrap();
        assert!(!long.metadata.truncation && long.answers.len() == 10);
    }
}
