//! OpenAI's Responses API.

use serde_json::{Value, json};

use crate::scenario::Answer;
use crate::tools::{Call, Offered, Tools};

/// Returns the tools of a request. Codex has them in an item of the input, and in groups.
pub(crate) fn tools(request: &Value) -> Tools {
    let input = || request["input"].as_array().into_iter().flatten();
    let is_result = |item: &Value| item["type"].as_str().is_some_and(|kind| kind.ends_with("_output"));
    let mut tools = Tools { offered: Vec::new(), has_result: input().any(is_result) };
    let lists = std::iter::once(&request["tools"]).chain(input().map(|item| &item["tools"]));
    for list in lists {
        gather(list, None, &mut tools.offered);
    }
    tools
}

fn gather(list: &Value, namespace: Option<&str>, offered: &mut Vec<Offered>) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for tool in list.as_array().into_iter().flatten() {
        if tool["type"] == "namespace" {
            gather(&tool["tools"], tool["name"].as_str(), offered);
            continue;
        }
        offered.push(Offered {
            name: text(&tool["name"]),
            namespace: namespace.map(str::to_owned),
            description: text(&tool["description"]),
            schema: tool["parameters"].clone(),
        });
    }
}

fn response(answer: &Answer, status: &str, output: &Value, usage: &Value) -> Value {
    let details = if status == "incomplete" { json!({"reason": "max_output_tokens"}) } else { Value::Null };
    let instructions = (answer.padding > 0).then(|| "x".repeat(answer.padding));
    json!({"id": format!("resp_{}", answer.id), "object": "response", "created_at": 1, "status": status,
        "error": null, "incomplete_details": details, "instructions": instructions, "metadata": {}, "model": answer.model,
        "output": output, "parallel_tool_calls": true, "temperature": 1.0, "tool_choice": "auto", "tools": [],
        "top_p": 1.0, "usage": usage})
}

fn usage(answer: &Answer) -> Value {
    answer.with_cost(json!({"input_tokens": answer.input, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": answer.output(), "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": answer.input + answer.output()}))
}

fn message(answer: &Answer, text: &str, status: &str) -> Value {
    json!({"id": format!("msg_{}", answer.id), "type": "message", "role": "assistant", "status": status,
        "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]})
}

fn item(answer: &Answer, call: &Call) -> Value {
    let (kind, field) =
        if call.is_text { ("custom_tool_call", "input") } else { ("function_call", "arguments") };
    let status = if answer.length.is_limited { "incomplete" } else { "completed" };
    let mut item = json!({"id": format!("fc_{}", answer.id), "type": kind, "status": status, "name": call.name,
        "call_id": format!("call_{}", answer.id)});
    item[field] = json!(answer.arguments(call));
    if let Some(namespace) = &call.namespace {
        item["namespace"] = json!(namespace);
    }
    item
}

fn output(answer: &Answer) -> Vec<Value> {
    let mut output = vec![message(answer, &answer.words().collect::<String>(), "completed")];
    output.extend(answer.call.as_ref().map(|call| item(answer, call)));
    output
}

fn status(answer: &Answer) -> &'static str {
    if answer.length.is_limited { "incomplete" } else { "completed" }
}

pub(crate) fn document(answer: &Answer) -> Value {
    response(answer, status(answer), &Value::Array(output(answer)), &usage(answer))
}

pub(crate) fn events(answer: &Answer) -> Vec<String> {
    let begun = response(answer, "in_progress", &json!([]), &Value::Null);
    let mut events = vec![
        json!({"type": "response.created", "response": begun}),
        json!({"type": "response.in_progress", "response": begun}),
    ];
    let item = format!("msg_{}", answer.id);
    events.push(json!({"type": "response.output_item.added", "output_index": 0,
        "item": {"id": item, "type": "message", "role": "assistant", "status": "in_progress", "content": []}}));
    events.push(
        json!({"type": "response.content_part.added", "item_id": item, "output_index": 0, "content_index": 0,
        "part": {"type": "output_text", "text": "", "annotations": [], "logprobs": []}}),
    );
    events.extend(answer.words().map(|word| {
        json!({"type": "response.output_text.delta", "item_id": item, "output_index": 0, "content_index": 0,
            "delta": word, "logprobs": []})
    }));
    let text: String = answer.words().collect();
    events.push(
        json!({"type": "response.output_text.done", "item_id": item, "output_index": 0, "content_index": 0,
        "text": text, "logprobs": []}),
    );
    events.push(
        json!({"type": "response.content_part.done", "item_id": item, "output_index": 0, "content_index": 0,
        "part": {"type": "output_text", "text": text, "annotations": [], "logprobs": []}}),
    );
    for (index, item) in output(answer).into_iter().enumerate() {
        if index > 0 {
            events.extend(call_events(index, &item));
        }
        events.push(json!({"type": "response.output_item.done", "output_index": index, "item": item}));
    }
    events.push(json!({"type": format!("response.{}", status(answer)), "response": document(answer)}));
    let text = |(number, mut event): (usize, Value)| {
        event["sequence_number"] = json!(number);
        format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default())
    };
    events.into_iter().enumerate().map(text).collect()
}

/// Ends events with an error in their middle.
pub(crate) fn failing(mut events: Vec<String>) -> Vec<String> {
    events.truncate(events.len() / 2);
    let error = json!({"type": "error", "code": "server_error", "message": "asked for", "param": null,
        "sequence_number": events.len()});
    events.push(format!("event: error\ndata: {error}\n\n"));
    events
}

/// Returns the events of a call that come before the whole of it.
fn call_events(index: usize, item: &Value) -> [Value; 2] {
    let is_text = item["type"] == "custom_tool_call";
    let (field, done) = if is_text {
        ("input", "response.custom_tool_call_input.done")
    } else {
        ("arguments", "response.function_call_arguments.done")
    };
    let mut begun = item.clone();
    begun[field] = json!("");
    begun["status"] = json!("in_progress");
    let mut ended = json!({"type": done, "item_id": item["id"], "output_index": index, "name": item["name"]});
    ended[field] = item[field].clone();
    [json!({"type": "response.output_item.added", "output_index": index, "item": begun}), ended]
}
