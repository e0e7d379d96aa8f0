//! Fuzz targets of what VMs and providers send: bodies of requests, streams of events, single answers and their skeletons.

use bytes::Bytes;
use rigbox_proto::ai::{Model, Provider};

use crate::dialect::{Asked, Dialect, Limit, apply, removals};
use crate::json::Document;
use crate::route::{Call, GoogleMethod};
use crate::skeleton::Skeleton;
use crate::sse::{Piece, Splitter};
use crate::tables::Tables;

/// Words that the bytes of a case are turned into, so that it comes further than the parser.
const WORDS: [&str; 49] = [
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"model\"",
    "\"claude\"",
    "\"messages\"",
    "\"role\"",
    "\"user\"",
    "\"assistant\"",
    "\"content\"",
    "\"type\"",
    "\"text\"",
    "\"image\"",
    "\"source\"",
    "\"url\"",
    "\"data:,\"",
    "\"id\"",
    "\"tools\"",
    "\"name\"",
    "\"input\"",
    "\"max_tokens\"",
    "\"max_tokens\\u0000\"",
    "\"maxOutputTokens\"",
    "\"max_output_tokens\"",
    "\"generationConfig\"",
    "\"generation_config\"",
    "\"contents\"",
    "\"parts\"",
    "\"store\"",
    "\"n\"",
    "\"stream\"",
    "\"stream_options\"",
    "\"function\"",
    "\"item_reference\"",
    "\"web_search\"",
    "\"include\"",
    "\"thinking\"",
    "\"budget_tokens\"",
    "true",
    "false",
    "null",
    "0",
    "7",
    "1e3",
    "-1",
    "\"\\u0061\"",
];

fn calls() -> [Call; 5] {
    let google = Call::Google { version: "v1", model: "gemini".into(), method: GoogleMethod::Stream };
    [Call::AnthropicMessages, Call::OpenAiChat, Call::OpenAiResponses, Call::OpenAiEmbeddings, google]
}

/// Returns a request in which most brackets are closed.
fn text(bytes: &[u8]) -> String {
    let words = bytes.iter().filter_map(|byte| WORDS.get(usize::from(*byte) % WORDS.len()));
    format!(
        "{{\"model\":\"claude\",\"contents\":[],\"messages\":[],\"input\":\"\",{}}}",
        words.copied().collect::<String>()
    )
}

#[test]
fn request_that_is_taken_is_forwarded_as_json_with_our_limit() {
    let tables = Tables::built_in().unwrap();
    let limit = Limit { output_tokens: 3, is_lowered: true };
    let clients_own = Limit { output_tokens: u64::MAX, is_lowered: false };
    bolero::check!(name = "request_that_is_taken_is_forwarded_as_json_with_our_limit").for_each(
        |bytes: &[u8]| {
            let _ = Document::parse(bytes);
            let body = Bytes::from(text(bytes));
            let Ok(document) = Document::parse(&body) else { return };
            for call in calls() {
                let (dialect, _) = Dialect::of(&call);
                let Ok(findings) = dialect.table(&tables).walk(&document) else { continue };
                let Ok(asked) = dialect.asked(&call, &document) else { continue };
                let model = Model { reasons: true, ..Model::default() };
                let with = |limit| {
                    let mut edits = removals(&findings);
                    edits.extend(dialect.edits(
                        &document,
                        &asked,
                        &findings,
                        &model,
                        Provider::Openai,
                        limit,
                    ));
                    apply(&body, &document, &edits)
                };
                // What is reserved is what the provider is asked for.
                let sent = with(clients_own);
                let sent = Document::parse(&sent).expect("it is JSON without duplicate keys");
                let asked_there = dialect.asked(&call, &sent).expect("it is read once more");
                assert_eq!(Asked { hides_usage: asked.hides_usage, ..asked_there }, asked);
                let sent = with(limit);
                let sent = Document::parse(&sent).expect("it is JSON without duplicate keys");
                // What is sent is as strict as what came, and asks for no more than the limit.
                dialect.table(&tables).walk(&sent).expect("it is taken once more");
                let asked = dialect.asked(&call, &sent).expect("it is read once more");
                assert!(asked.output_tokens.is_none_or(|tokens| tokens <= limit.output_tokens), "{asked:?}");
                assert!(findings.stripped.iter().all(|name| sent.get(name).is_none()));
            }
        },
    );
}

#[test]
fn stream_passes_whole_however_it_is_cut() {
    bolero::check!(name = "stream_passes_whole_however_it_is_cut").for_each(|bytes: &[u8]| {
        let (size, stream) =
            bytes.split_first().map_or((1, bytes), |(first, rest)| (usize::from(*first) % 16 + 1, rest));
        let (mut splitter, mut passed) = (Splitter::default(), Vec::new());
        for chunk in stream.chunks(size) {
            splitter.push(chunk);
            while let Some(piece) = splitter.next() {
                match piece {
                    Piece::Event { raw, .. } | Piece::Part { raw, .. } => passed.extend_from_slice(&raw),
                }
            }
        }
        passed.extend_from_slice(&splitter.rest());
        assert_eq!(passed, stream);
    });
}

#[test]
fn answers_of_a_provider_are_read_without_harm() {
    let body = b"{\"model\":\"m\",\"messages\":[]}";
    bolero::check!(name = "answers_of_a_provider_are_read_without_harm").for_each(|bytes: &[u8]| {
        let document = Document::parse(body).expect("it is JSON");
        for call in calls() {
            let (dialect, _) = Dialect::of(&call);
            let asked = dialect.asked(&call, &document).expect("it names a model");
            let mut meter = dialect.meter(&asked, true);
            meter.event(bytes);
            meter.event(text(bytes).as_bytes());
            meter.body(bytes);
            meter.body(text(bytes).as_bytes());
        }
    });
}

#[test]
fn skeleton_of_an_answer_says_what_the_answer_says() {
    /// Returns the first value of each of these fields, wherever they are.
    fn found(value: &serde_json::Value, name: &str) -> Option<u64> {
        let inner = match value {
            serde_json::Value::Object(members) => {
                if let Some(number) = members.get(name).and_then(serde_json::Value::as_u64) {
                    return Some(number);
                }
                members.values().collect::<Vec<_>>()
            }
            serde_json::Value::Array(values) => values.iter().collect(),
            _ => Vec::new(),
        };
        inner.into_iter().find_map(|value| found(value, name))
    }
    bolero::check!(name = "skeleton_of_an_answer_says_what_the_answer_says").for_each(|bytes: &[u8]| {
        let (size, text) = (bytes.first().map_or(1, |first| usize::from(*first) % 16 + 1), text(bytes));
        for answer in [bytes, text.as_bytes()] {
            let (mut whole, mut cut) = (Skeleton::default(), Skeleton::default());
            whole.push(answer);
            answer.chunks(size).for_each(|chunk| cut.push(chunk));
            assert_eq!(whole.get(), cut.get());
            let Ok(read) = serde_json::from_slice::<serde_json::Value>(answer) else { continue };
            if !read.is_object() && !read.is_array() {
                continue;
            }
            let kept = whole.get().expect("it is short");
            let kept: serde_json::Value = serde_json::from_slice(kept).expect("it is JSON");
            for name in ["max_tokens", "n", "budget_tokens"] {
                assert_eq!(found(&kept, name), found(&read, name));
            }
        }
    });
}
