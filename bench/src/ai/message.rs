//! Messages of the benchmark, as bytes: the same requests to each proxy, and the fake provider's answers.

use std::fmt::Write;

/// Model of all calls: in our table of prices, and in LiteLLM's.
pub(super) const MODEL: &str = "claude-haiku-4-5";
/// The operator's key of the provider, which every proxy adds.
pub(super) const PROVIDER_KEY: &str = "sk-operator";
/// Mark of the first token in an answer.
pub(super) const FIRST_TOKEN: &[u8] = b"text_delta";
/// The provider's id of a request.
pub(super) const REQUEST_ID: &str = "req_bench";
/// Word in a prompt: the provider holds the stream after its first tokens.
const HOLD: &str = "[hold]";
/// Tokens of an answer.
const WORDS: usize = 8;

/// Kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One small document.
    Document,
    /// Stream of events.
    Stream,
    /// Stream that stays open after its first tokens.
    HeldStream,
}

/// Returns a request.
pub(super) fn request(kind: Kind) -> Vec<u8> {
    let (stream, prompt) = match kind {
        Kind::Document => ("", "Say hello."),
        Kind::Stream => ("\"stream\":true,", "Say hello."),
        Kind::HeldStream => ("\"stream\":true,", HOLD),
    };
    let body = format!(
        r#"{{"model":"{MODEL}","max_tokens":256,{stream}"messages":[{{"role":"user","content":"{prompt}"}}]}}"#
    );
    // The host as VMs name it. The key is any: a workspace has none.
    format!(
        "POST /v1/messages HTTP/1.1\r\nhost: 172.16.0.1:9090\r\ncontent-type: application/json\r\n\
         anthropic-version: 2023-06-01\r\nx-api-key: none\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Returns the kind of call that a request asks for.
pub(super) fn kind_of(body: &[u8]) -> Kind {
    let text = String::from_utf8_lossy(body);
    // LiteLLM writes the body anew.
    if !text.contains("\"stream\":true") && !text.contains("\"stream\": true") {
        return Kind::Document;
    }
    if text.contains(HOLD) { Kind::HeldStream } else { Kind::Stream }
}

/// Returns the type of an answer.
pub(super) fn content_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Document => "application/json",
        Kind::Stream | Kind::HeldStream => "text/event-stream; charset=utf-8",
    }
}

/// Returns the answer that is a document.
pub(super) fn document() -> String {
    let text: String = (0..WORDS).map(word).collect();
    let content = format!(r#"[{{"type":"text","text":"{text}"}}]"#);
    message(&content, "\"end_turn\"", WORDS)
}

/// Returns the response of HTTP/1.1 that is a document.
pub(super) fn document_response() -> Vec<u8> {
    let body = document();
    format!("{}content-length: {}\r\n\r\n{body}", head(Kind::Document), body.len()).into_bytes()
}

/// Returns the answer that is a stream, in the parts that are sent one after the other. The second has the first token.
pub(super) fn events() -> [String; 3] {
    let start = event("message_start", &format!(r#""message":{}"#, message("[]", "null", 1)));
    let block = event("content_block_start", r#""index":0,"content_block":{"type":"text","text":""}"#);
    let mut rest: String = (1..WORDS).map(delta).collect();
    rest.push_str(&event("content_block_stop", r#""index":0"#));
    let end = format!(
        r#""delta":{{"stop_reason":"end_turn","stop_sequence":null}},"usage":{{"output_tokens":{WORDS}}}"#
    );
    rest.push_str(&event("message_delta", &end));
    rest.push_str("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
    [format!("{start}{block}"), delta(0), rest]
}

/// Returns the response of HTTP/1.1 that is a stream, in the same parts.
pub(super) fn stream_response() -> [Vec<u8>; 3] {
    let [start, token, rest] = events().map(|part| chunk(&part));
    let head = head(Kind::Stream);
    [format!("{head}transfer-encoding: chunked\r\n\r\n{start}"), token, format!("{rest}0\r\n\r\n")]
        .map(String::into_bytes)
}

fn head(kind: Kind) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: {}\r\nrequest-id: {REQUEST_ID}\r\n", content_type(kind))
}

fn message(content: &str, stop_reason: &str, output: usize) -> String {
    format!(
        r#"{{"id":"msg_bench","type":"message","role":"assistant","model":"{MODEL}","content":{content},"stop_reason":{stop_reason},"stop_sequence":null,"usage":{{"input_tokens":10,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":{output},"service_tier":"standard"}}}}"#
    )
}

fn word(index: usize) -> String {
    if index == 0 { "Hello".to_owned() } else { format!(" w{index}") }
}

fn delta(index: usize) -> String {
    let delta = format!(r#""index":0,"delta":{{"type":"text_delta","text":"{}"}}"#, word(index));
    event("content_block_delta", &delta)
}

fn event(name: &str, fields: &str) -> String {
    format!("event: {name}\ndata: {{\"type\":\"{name}\",{fields}}}\n\n")
}

fn chunk(text: &str) -> String {
    let mut chunk = String::new();
    let _ = write!(chunk, "{:x}\r\n{text}\r\n", text.len());
    chunk
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provider_knows_the_kind_of_each_request() {
        for kind in [Kind::Document, Kind::Stream, Kind::HeldStream] {
            assert_eq!(kind_of(&request(kind)), kind);
        }
        assert_eq!(kind_of(br#"{"stream": true}"#), Kind::Stream);
    }

    #[test]
    fn first_token_is_in_the_second_part() {
        let has_token = |part: &Vec<u8>| part.windows(FIRST_TOKEN.len()).any(|bytes| bytes == FIRST_TOKEN);
        let [first, second, _] = stream_response();
        assert!(!has_token(&first) && has_token(&second));
    }
}
