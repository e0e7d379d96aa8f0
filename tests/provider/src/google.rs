//! Google's Gemini API.

use serde_json::{Value, json};

use crate::scenario::Answer;
use crate::tools::{self, Offered, Tools};

/// Returns model and method of a path.
pub(crate) fn method(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix("/v1beta/models/").or_else(|| path.strip_prefix("/v1/models/"))?;
    path.split_once(':')
}

pub(crate) fn tools(request: &Value) -> Tools {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let groups = request["tools"].as_array().into_iter().flatten();
    let declared = groups.filter_map(|group| group["functionDeclarations"].as_array()).flatten();
    let schema = |tool: &Value| tool.get("parametersJsonSchema").or_else(|| tool.get("parameters")).cloned();
    let offered = declared.map(|tool| Offered {
        name: text(&tool["name"]),
        namespace: None,
        description: text(&tool["description"]),
        schema: schema(tool).unwrap_or_default(),
    });
    let contents = request["contents"].as_array().into_iter().flatten();
    let mut parts = contents.filter_map(|content| content["parts"].as_array()).flatten();
    Tools { offered: offered.collect(), has_result: parts.any(|part| part.get("functionResponse").is_some()) }
}

/// Returns the text of an answer whose form the request describes.
pub(crate) fn described(request: &Value) -> Option<String> {
    let config = &request["generationConfig"];
    let schema = config.get("responseJsonSchema").or_else(|| config.get("responseSchema"))?;
    Some(tools::fitting(schema).to_string())
}

fn finish_reason(answer: &Answer) -> &'static str {
    if answer.length.is_limited { "MAX_TOKENS" } else { "STOP" }
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

/// Returns the part with a call, which comes whole or not at all.
fn part(answer: &Answer) -> Option<Value> {
    let call = answer.call.as_ref().filter(|_| !answer.length.is_limited)?;
    let arguments: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
    Some(json!({"functionCall": {"name": call.name, "args": arguments}, "thoughtSignature": "c2lnbmVk"}))
}

pub(crate) fn document(answer: &Answer) -> Value {
    let mut parts = vec![json!({"text": answer.words().collect::<String>()})];
    parts.extend(part(answer));
    response(answer, &parts, Some(finish_reason(answer)), answer.output())
}

pub(crate) fn events(answer: &Answer) -> Vec<String> {
    let mut events: Vec<Value> = answer
        .words()
        .enumerate()
        .map(|(index, word)| {
            response(answer, &[json!({"text": word})], None, u64::try_from(index).unwrap_or(0) + 1)
        })
        .collect();
    events.extend(part(answer).map(|part| response(answer, &[part], None, answer.output())));
    events.push(response(answer, &[json!({"text": ""})], Some(finish_reason(answer)), answer.output()));
    events.into_iter().map(|event| format!("data: {event}\r\n\r\n")).collect()
}
