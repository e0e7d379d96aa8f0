//! A guest's question: one name, one kind of record. Anything else that DNS can do is not for VMs.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};

/// Longest question by packet, bytes; longer ones are cut off, and then make no sense.
pub(super) const LONGEST: usize = 1232;

/// A question that makes sense.
pub(super) struct Question {
    id: u16,
    recursion_desired: bool,
    edns: bool,
    pub(super) query: Query,
    /// The name in lower case, without the dot at its end.
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Longest answer by packet, bytes.
    pub(super) payload: u16,
}

/// How a kind of record is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// As upstream answers.
    Ask,
    /// There is none, whatever upstream says.
    Empty,
    /// Not at all.
    Never,
}

/// Bytes that get no answer.
#[derive(Debug, thiserror::Error)]
#[error("this is no question")]
pub(super) struct NoQuestion;

/// Reads one.
pub(super) fn parse(bytes: &[u8]) -> Result<Question, NoQuestion> {
    let message = Message::from_vec(bytes).map_err(|_| NoQuestion)?;
    let header = &message.metadata;
    let [query] = message.queries.as_slice() else { return Err(NoQuestion) };
    if header.message_type != MessageType::Query || header.op_code != OpCode::Query {
        return Err(NoQuestion);
    }
    let name = query.name().to_ascii().to_ascii_lowercase();
    let edns = message.edns.as_ref();
    Ok(Question {
        id: header.id,
        recursion_desired: header.recursion_desired,
        edns: edns.is_some(),
        name: name.strip_suffix('.').unwrap_or(&name).to_owned(),
        kind: kind_of(query),
        payload: edns.map_or(512, |edns| edns.max_payload().clamp(512, 1232)),
        query: query.clone(),
    })
}

fn kind_of(query: &Query) -> Kind {
    if query.query_class() != DNSClass::IN {
        return Kind::Never;
    }
    match query.query_type() {
        // The last two can also carry keys that hide the name from a check of TLS.
        RecordType::AAAA | RecordType::HTTPS | RecordType::SVCB => Kind::Empty,
        RecordType::ANY | RecordType::AXFR | RecordType::IXFR | RecordType::OPT | RecordType::TSIG => {
            Kind::Never
        }
        _ => Kind::Ask,
    }
}

impl Question {
    /// An answer without records.
    pub(super) fn reply(&self, code: ResponseCode) -> Message {
        let mut message = Message::response(self.id, OpCode::Query);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.add_query(self.query.clone());
        if self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(1232);
            message.set_edns(edns);
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::Name;

    fn asked(kind: RecordType) -> Message {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii("WWW.Example.org.").unwrap(), kind));
        message
    }

    #[test]
    fn a_question_is_one_name_and_one_kind() {
        let question = parse(&asked(RecordType::A).to_vec().unwrap()).unwrap();
        assert_eq!(
            (question.name.as_str(), question.kind, question.payload),
            ("www.example.org", Kind::Ask, 512)
        );
        let mut two = asked(RecordType::A);
        two.add_query(Query::query(Name::from_ascii("b.").unwrap(), RecordType::A));
        let mut answer = asked(RecordType::A);
        answer.metadata.message_type = MessageType::Response;
        let mut update = asked(RecordType::A);
        update.metadata.op_code = OpCode::Update;
        for bad in [two, answer, update] {
            assert!(parse(&bad.to_vec().unwrap()).is_err());
        }
        assert!(parse(&[0; 12]).is_err() && parse(&[]).is_err() && parse(&[0xff; 600]).is_err());
    }

    #[test]
    fn there_is_no_ipv6_and_no_transfer() {
        for (kind, wanted) in [
            (RecordType::AAAA, Kind::Empty),
            (RecordType::HTTPS, Kind::Empty),
            (RecordType::ANY, Kind::Never),
            (RecordType::AXFR, Kind::Never),
            (RecordType::TXT, Kind::Ask),
            (RecordType::MX, Kind::Ask),
        ] {
            assert_eq!(parse(&asked(kind).to_vec().unwrap()).unwrap().kind, wanted, "{kind}");
        }
    }
}
