//! Fuzz targets of the resolver: a guest's query, and a resolver's response. Both are bytes of a stranger.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use rigbox_core::egress::BlockedNetworks;

use super::answer::{self, Answer};
use super::cache::Cache;
use super::question::{self, Handling, Question};
use super::upstream;

/// Longest text of a name: 255 bytes on the wire, each written as `\DDD`.
const MAX_NAME_CHARS: usize = 4 * 255;
const UDP_RESPONSE_BYTES: [u16; 3] = [512, 1232, u16::MAX];

#[test]
fn dns_question() {
    bolero::check!(name = "dns_question").for_each(|bytes: &[u8]| {
        let Ok(question) = question::parse(bytes) else { return };
        assert!(question.name.len() <= MAX_NAME_CHARS, "{}", question.name.len());
        assert!(question.name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()));
        assert!((512..=1232).contains(&question.max_udp_bytes));
        if question.handling == Handling::Forward {
            let labels = question.query.name().iter().map(|label| String::from_utf8(label.to_vec()).unwrap());
            let name = labels.collect::<Vec<_>>().join(".").to_ascii_lowercase();
            // The text has a backslash before some symbols, and the labels of such a query have none.
            let text = question.name.replace('\\', "");
            assert_eq!(text, name, "the name that is checked is the one that is asked for");
        }
        // The response repeats the question, and reads as the same one.
        let response = question.response(ResponseCode::Refused);
        let encoded = answer::encode(&response, question.max_udp_bytes).unwrap();
        let mut asked = Message::from_vec(&encoded).unwrap();
        assert_eq!(asked.queries.first(), Some(&question.query));
        asked.metadata.message_type = MessageType::Query;
        let again = question::parse(&asked.to_vec().unwrap()).unwrap();
        assert_eq!((again.name, again.handling), (question.name, question.handling));
    });
}

#[test]
fn dns_answer() {
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_ascii("www.example.org.").unwrap(), RecordType::A));
    let question = question::parse(&query.to_vec().unwrap()).unwrap();
    let (request, blocked) = (upstream::request(&question), BlockedNetworks::default());
    bolero::check!(name = "dns_answer").for_each(|bytes: &[u8]| {
        let Ok(mut response) = Message::from_vec(bytes) else { return };
        // Its sender knows both.
        (response.metadata.id, response.queries) = (request.metadata.id, request.queries.clone());
        if !upstream::matches_request(&request, &response) {
            return;
        }
        let Ok(answer) = answer::filter(&question, response, &blocked) else { return };
        check_records(&answer, &blocked);
        for max_bytes in UDP_RESPONSE_BYTES {
            let encoded = answer::encode(&answer.message, max_bytes).expect("there is a response");
            assert!(encoded.len() <= usize::from(max_bytes));
            let decoded = Message::from_vec(&encoded).expect("the VM gets a valid message");
            assert_eq!(decoded.queries.first(), Some(&question.query));
            if !decoded.metadata.truncation {
                assert_eq!(addresses(&decoded), answer.addresses);
                assert_eq!(decoded.answers.len(), answer.message.answers.len());
            }
        }
        check_cache(&question, &answer);
    });
}

fn addresses(message: &Message) -> Vec<Ipv4Addr> {
    let address = |data: &RData| if let RData::A(address) = data { Some(address.0) } else { None };
    message.answers.iter().filter_map(|record| address(&record.data)).collect()
}

fn check_records(answer: &Answer, blocked: &BlockedNetworks) {
    let records = &answer.message.answers;
    assert!(records.len() <= 64 && answer.message.authorities.len() <= 1);
    assert_eq!(addresses(&answer.message), answer.addresses);
    assert!(answer.addresses.iter().all(|address| blocked.allow(*address)));
    let hidden = [RecordType::AAAA, RecordType::HTTPS, RecordType::SVCB];
    assert!(records.iter().all(|record| !hidden.contains(&record.record_type())));
    assert!(records.iter().all(|record| answer.ttl_s <= record.ttl));
}

fn check_cache(question: &Question, answer: &Answer) {
    let (mut cache, start) = (Cache::default(), Instant::now());
    cache.insert(question, answer, start);
    let Some(found) = cache.get(question, start + Duration::from_secs(1)) else { return };
    assert_eq!(found.addresses, answer.addresses);
    assert!(found.ttl_s <= 3600 && found.message.answers.len() == answer.message.answers.len());
    for (kept, original) in found.message.answers.iter().zip(&answer.message.answers) {
        assert_eq!(kept.ttl + 1, original.ttl);
    }
    assert!(cache.get(question, start + Duration::from_secs(3601)).is_none());
}
