//! Cache of a VM's DNS responses, for as long as their records say. Each VM has a cache of its own, so that none learns from the time of a
//! response what another one asked for.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, Record, RecordType};

use super::answer::Answer;
use super::question::Question;

/// Maximum number of responses.
const MAX_ENTRIES: usize = 256;
/// Maximum number of records in a response that is kept.
const MAX_RECORDS: usize = 32;
/// Maximum size of a response that is kept.
const MAX_BYTES: usize = 2048;
const MAX_TTL_S: u32 = 3600;
/// Maximum time to live of a response without records.
const MAX_NEGATIVE_TTL_S: u32 = 300;

/// Cache of one VM.
#[derive(Default)]
pub(crate) struct Cache {
    entries: HashMap<(String, RecordType), Entry>,
}

struct Entry {
    code: ResponseCode,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    addresses: Vec<Ipv4Addr>,
    stored: Instant,
    ttl_s: u32,
}

impl Cache {
    /// Returns the response to a question, with what is left of its times to live.
    pub(super) fn get(&self, question: &Question, now: Instant) -> Option<Answer> {
        let entry = self.entries.get(&key(question))?;
        let age_s = u32::try_from(now.duration_since(entry.stored).as_secs()).unwrap_or(u32::MAX);
        let ttl_s = entry.ttl_s.checked_sub(age_s).filter(|left| *left > 0)?;
        let aged = |record: &Record| {
            let mut record = record.clone();
            record.ttl = record.ttl.saturating_sub(age_s);
            record
        };
        let mut message = question.response(entry.code);
        message.add_answers(entry.answers.iter().map(aged));
        message.add_authorities(entry.authorities.iter().map(aged));
        Some(Answer { message, addresses: entry.addresses.clone(), ttl_s })
    }

    /// Keeps a response, if its records allow it. A full cache drops what would expire first.
    pub(super) fn insert(&mut self, question: &Question, answer: &Answer, now: Instant) {
        let message = &answer.message;
        let code = message.metadata.response_code;
        let ttl_s = match (message.answers.is_empty(), code) {
            (false, ResponseCode::NoError) => answer.ttl_s.min(MAX_TTL_S),
            (true, ResponseCode::NoError | ResponseCode::NXDomain) => negative_ttl_s(&message.authorities),
            _ => return,
        };
        let is_small = message.answers.len() <= MAX_RECORDS
            && message.to_vec().is_ok_and(|bytes| bytes.len() <= MAX_BYTES);
        if ttl_s == 0 || !is_small {
            return;
        }
        let (answers, authorities) = (message.answers.clone(), message.authorities.clone());
        let addresses = answer.addresses.clone();
        let entry = Entry { code, answers, authorities, addresses, stored: now, ttl_s };
        self.entries.insert(key(question), entry);
        if self.entries.len() > MAX_ENTRIES {
            let end = |entry: &Entry| entry.stored + Duration::from_secs(entry.ttl_s.into());
            let first = self.entries.iter().min_by_key(|(_, entry)| end(entry)).map(|(key, _)| key.clone());
            first.map(|key| self.entries.remove(&key));
        }
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }
}

fn key(question: &Question) -> (String, RecordType) {
    (question.name.clone(), question.query.query_type())
}

/// Returns for how long a response without records counts (RFC 2308).
fn negative_ttl_s(authorities: &[Record]) -> u32 {
    let ttl_s = authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    });
    ttl_s.unwrap_or(0).min(MAX_NEGATIVE_TTL_S)
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, Query};
    use hickory_proto::rr::Name;
    use hickory_proto::rr::rdata::{A, SOA};

    use super::super::{answer, question};
    use super::*;

    fn question(name: &str) -> Question {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        question::parse(&message.to_vec().unwrap()).unwrap()
    }

    fn answer(question: &Question, ttls: &[u32]) -> Answer {
        let mut message = Message::query();
        let name = Name::from_ascii(&question.name).unwrap();
        message.add_answers(
            ttls.iter().map(|ttl| Record::from_rdata(name.clone(), *ttl, RData::A(A::new(8, 8, 8, 8)))),
        );
        answer::filter(question, message, &Default::default()).unwrap()
    }

    #[test]
    fn response_is_kept_for_as_long_as_its_shortest_record() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let asked = question("Example.org");
        cache.insert(&asked, &answer(&asked, &[300, 60]), start);
        // Another spelling, whose response repeats it.
        let again = question("eXample.org");
        let found = cache.get(&again, after(20)).unwrap();
        assert_eq!((found.ttl_s, found.addresses.len()), (40, 2));
        assert_eq!(found.message.answers.iter().map(|record| record.ttl).collect::<Vec<_>>(), [280, 40]);
        assert_eq!(found.message.queries.first(), Some(&again.query));
        assert!(cache.get(&again, after(60)).is_none() && cache.get(&question("b.org"), start).is_none());
        // Not to be kept.
        cache.insert(&asked, &answer(&asked, &[0]), after(60));
        assert!(cache.get(&asked, after(60)).is_none());
    }

    #[test]
    fn absence_is_kept_for_as_long_as_the_zone_says() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        let asked = question("no.example");
        let mut message = Message::query();
        message.metadata.response_code = ResponseCode::NXDomain;
        let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, 30);
        message.add_authorities([Record::from_rdata(Name::root(), 900, RData::SOA(soa))]);
        let absent = answer::filter(&asked, message, &Default::default()).unwrap();
        cache.insert(&asked, &absent, start);
        let found = cache.get(&asked, start + Duration::from_secs(29)).unwrap();
        assert_eq!(found.message.metadata.response_code, ResponseCode::NXDomain);
        assert!(cache.get(&asked, start + Duration::from_secs(30)).is_none());
        // A failure is none.
        let failed = answer::filter(&asked, Message::query(), &Default::default()).unwrap();
        cache.clear();
        cache.insert(&asked, &failed, start);
        assert!(cache.get(&asked, start).is_none());
    }

    #[test]
    fn cache_is_bounded() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        for number in 0..1000 {
            let asked = question(&format!("{number}.example.org"));
            cache.insert(&asked, &answer(&asked, &[1000 + number]), start);
        }
        assert_eq!(cache.entries.len(), MAX_ENTRIES);
        assert!(cache.get(&question("999.example.org"), start).is_some());
        let asked = question("large.example.org");
        cache.insert(&asked, &answer(&asked, &[60; 64]), start);
        assert!(cache.get(&asked, start).is_none());
    }
}
