//! Parser for a guest's DNS query: one name and one record type. VMs need nothing else of DNS.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};

/// Size of a UDP query. A longer one is cut off and fails to parse.
pub(super) const MAX_UDP_QUERY_BYTES: usize = 1232;
/// Bounds for the UDP response size that a client may request by EDNS.
const MIN_UDP_RESPONSE_BYTES: u16 = 512;
const MAX_UDP_RESPONSE_BYTES: u16 = 1232;

/// Valid query.
pub(super) struct Question {
    id: u16,
    recursion_desired: bool,
    edns: bool,
    pub(super) query: Query,
    /// Queried name in lower case, without the trailing dot.
    pub(super) name: String,
    pub(super) handling: Handling,
    /// Maximum size of a response by UDP.
    pub(super) max_udp_bytes: u16,
}

/// Handling of a record type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handling {
    /// Forwarded to the resolvers.
    Forward,
    /// Answered with no records, whatever the resolvers have.
    Empty,
    Refuse,
}

/// The bytes are not a valid query and get no response.
#[derive(Debug, thiserror::Error)]
#[error("malformed DNS query")]
pub(super) struct MalformedQuery;

/// Parses a query.
pub(super) fn parse(bytes: &[u8]) -> Result<Question, MalformedQuery> {
    let message = Message::from_vec(bytes).map_err(|_| MalformedQuery)?;
    let header = &message.metadata;
    let [query] = message.queries.as_slice() else { return Err(MalformedQuery) };
    if header.message_type != MessageType::Query || header.op_code != OpCode::Query {
        return Err(MalformedQuery);
    }
    let name = query.name().to_ascii().to_ascii_lowercase();
    let edns = message.edns.as_ref();
    Ok(Question {
        id: header.id,
        recursion_desired: header.recursion_desired,
        edns: edns.is_some(),
        name: name.strip_suffix('.').unwrap_or(&name).to_owned(),
        handling: handling_of(query),
        max_udp_bytes: edns.map_or(MIN_UDP_RESPONSE_BYTES, |edns| {
            edns.max_payload().clamp(MIN_UDP_RESPONSE_BYTES, MAX_UDP_RESPONSE_BYTES)
        }),
        query: query.clone(),
    })
}

fn handling_of(query: &Query) -> Handling {
    // A label with a dot in it would read like two labels.
    let is_plain = |label: &[u8]| label.iter().all(|byte| byte.is_ascii_graphic() && !b".\\".contains(byte));
    if query.query_class() != DNSClass::IN || !query.name().iter().all(is_plain) {
        return Handling::Refuse;
    }
    match query.query_type() {
        // HTTPS and SVCB can also carry keys that hide the server name from the TLS check.
        RecordType::AAAA | RecordType::HTTPS | RecordType::SVCB => Handling::Empty,
        RecordType::ANY | RecordType::AXFR | RecordType::IXFR | RecordType::OPT | RecordType::TSIG => {
            Handling::Refuse
        }
        _ => Handling::Forward,
    }
}

impl Question {
    /// Returns a response without records.
    pub(super) fn response(&self, code: ResponseCode) -> Message {
        let mut message = Message::response(self.id, OpCode::Query);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.add_query(self.query.clone());
        if self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_UDP_RESPONSE_BYTES);
            message.set_edns(edns);
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::Name;

    fn query(kind: RecordType) -> Message {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii("WWW.Example.org.").unwrap(), kind));
        message
    }

    #[test]
    fn query_has_one_name_and_one_type() {
        let question = parse(&query(RecordType::A).to_vec().unwrap()).unwrap();
        assert_eq!(
            (question.name.as_str(), question.handling, question.max_udp_bytes),
            ("www.example.org", Handling::Forward, 512)
        );
        let mut two = query(RecordType::A);
        two.add_query(Query::query(Name::from_ascii("b.").unwrap(), RecordType::A));
        let mut answer = query(RecordType::A);
        answer.metadata.message_type = MessageType::Response;
        let mut update = query(RecordType::A);
        update.metadata.op_code = OpCode::Update;
        for bad in [two, answer, update] {
            assert!(parse(&bad.to_vec().unwrap()).is_err());
        }
        assert!(parse(&[0; 12]).is_err() && parse(&[]).is_err() && parse(&[0xff; 600]).is_err());
    }

    #[test]
    fn label_with_a_dot_in_it_is_refused() {
        for (labels, handling) in [
            (vec!["foo", "example", "org"], Handling::Forward),
            (vec!["foo.example", "org"], Handling::Refuse),
            (vec!["foo\\", "example", "org"], Handling::Refuse),
        ] {
            let mut message = Message::query();
            let name = Name::from_labels(labels.iter().map(|label| label.as_bytes())).unwrap();
            message.add_query(Query::query(name, RecordType::A));
            assert_eq!(parse(&message.to_vec().unwrap()).unwrap().handling, handling, "{labels:?}");
        }
    }

    #[test]
    fn ipv6_is_empty_and_transfers_are_refused() {
        for (kind, wanted) in [
            (RecordType::AAAA, Handling::Empty),
            (RecordType::HTTPS, Handling::Empty),
            (RecordType::ANY, Handling::Refuse),
            (RecordType::AXFR, Handling::Refuse),
            (RecordType::TXT, Handling::Forward),
            (RecordType::MX, Handling::Forward),
        ] {
            assert_eq!(parse(&query(kind).to_vec().unwrap()).unwrap().handling, wanted, "{kind}");
        }
    }
}
