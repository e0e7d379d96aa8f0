//! Google's Gemini API.

use serde_json::{Value, json};

use crate::scenario::Answer;

/// Returns model and method of a path.
pub(crate) fn method(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix("/v1beta/models/").or_else(|| path.strip_prefix("/v1/models/"))?;
    path.split_once(':')
}

pub(crate) fn tool(request: &Value) -> Option<String> {
    request["tools"][0]["functionDeclarations"][0]["name"].as_str().map(str::to_owned)
}

fn finish_reason(answer: &Answer) -> &'static str {
    if answer.is_limited { "MAX_TOKENS" } else { "STOP" }
}

fn response(answer: &Answer, parts: &[Value], finish: Option<&str>, output: u64) -> Value {
    let mut candidate = json!({"content": {"role": "model", "parts": parts}, "index": 0});
    if let Some(finish) = finish {
        candidate["finishReason"] = json!(finish);
    }
    json!({"candidates": [candidate], "modelVersion": answer.model, "responseId": format!("r{}", answer.id),
        "usageMetadata": {"promptTokenCount": answer.input, "candidatesTokenCount": output,
            "totalTokenCount": answer.input + output}})
}

fn call(answer: &Answer, name: &str) -> Value {
    let arguments: Value = serde_json::from_str(&answer.arguments()).unwrap_or_default();
    json!({"functionCall": {"name": name, "args": arguments}, "thoughtSignature": "c2lnbmVk"})
}

pub(crate) fn document(answer: &Answer) -> Value {
    let mut parts = vec![json!({"text": answer.words().collect::<String>()})];
    parts.extend(answer.tool.as_ref().map(|name| call(answer, name)));
    response(answer, &parts, Some(finish_reason(answer)), answer.output)
}

pub(crate) fn events(answer: &Answer) -> Vec<String> {
    let mut events: Vec<Value> = answer
        .words()
        .enumerate()
        .map(|(index, word)| {
            response(answer, &[json!({"text": word})], None, u64::try_from(index).unwrap_or(0) + 1)
        })
        .collect();
    events.extend(
        answer.tool.as_ref().map(|name| response(answer, &[call(answer, name)], None, answer.output)),
    );
    events.push(response(answer, &[json!({"text": ""})], Some(finish_reason(answer)), answer.output));
    events.into_iter().map(|event| format!("data: {event}\r\n\r\n")).collect()
}
