//! Anthropic's Messages API.

use serde_json::{Value, json};

use crate::scenario::Answer;
use crate::tools::{Offered, Tools};

pub(crate) fn tools(request: &Value) -> Tools {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let offered = request["tools"].as_array().into_iter().flatten().map(|tool| Offered {
        name: text(&tool["name"]),
        namespace: None,
        description: text(&tool["description"]),
        schema: tool["input_schema"].clone(),
    });
    let messages = request["messages"].as_array().into_iter().flatten();
    let mut blocks = messages.filter_map(|message| message["content"].as_array()).flatten();
    Tools { offered: offered.collect(), has_result: blocks.any(|block| block["type"] == "tool_result") }
}

fn stop_reason(answer: &Answer) -> &'static str {
    match (answer.length.is_limited, &answer.call) {
        (true, _) => "max_tokens",
        (false, Some(_)) => "tool_use",
        (false, None) => "end_turn",
    }
}

fn usage(answer: &Answer, output: u64) -> Value {
    json!({"input_tokens": answer.input, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output, "service_tier": "standard"})
}

fn message(answer: &Answer, content: &Value, stop_reason: Option<&str>, output: u64) -> Value {
    json!({"id": format!("msg_{}", answer.id), "type": "message", "role": "assistant", "model": answer.model,
        "content": content, "stop_reason": stop_reason, "stop_sequence": null, "usage": usage(answer, output)})
}

pub(crate) fn document(answer: &Answer) -> Value {
    let mut content = Vec::new();
    if answer.thinks {
        content.push(json!({"type": "thinking", "thinking": "Hm.", "signature": "signed"}));
    }
    content.push(json!({"type": "text", "text": answer.words().collect::<String>()}));
    if let Some(call) = &answer.call {
        let input: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
        content.push(
            json!({"type": "tool_use", "id": format!("toolu_{}", answer.id), "name": call.name, "input": input}),
        );
    }
    message(answer, &Value::Array(content), Some(stop_reason(answer)), answer.output())
}

pub(crate) fn events(answer: &Answer) -> Vec<String> {
    let mut events = vec![json!({"type": "message_start", "message": message(answer, &json!([]), None, 1)})];
    events.push(json!({"type": "ping"}));
    let mut index = 0;
    if answer.thinks {
        events.push(block(index, &json!({"type": "thinking", "thinking": "", "signature": ""})));
        events.push(delta(index, &json!({"type": "thinking_delta", "thinking": "Hm."})));
        events.push(delta(index, &json!({"type": "signature_delta", "signature": "signed"})));
        events.push(json!({"type": "content_block_stop", "index": index}));
        index += 1;
    }
    events.push(block(index, &json!({"type": "text", "text": ""})));
    events.extend(answer.words().map(|word| delta(index, &json!({"type": "text_delta", "text": word}))));
    events.push(json!({"type": "content_block_stop", "index": index}));
    if let Some(call) = &answer.call {
        index += 1;
        let tool =
            json!({"type": "tool_use", "id": format!("toolu_{}", answer.id), "name": call.name, "input": {}});
        events.push(block(index, &tool));
        let arguments = answer.arguments(call);
        let (left, right) = arguments.split_at(arguments.len() / 2);
        for part in [left, right] {
            events.push(delta(index, &json!({"type": "input_json_delta", "partial_json": part})));
        }
        events.push(json!({"type": "content_block_stop", "index": index}));
    }
    events.push(
        json!({"type": "message_delta", "delta": {"stop_reason": stop_reason(answer), "stop_sequence": null},
        "usage": {"output_tokens": answer.output()}}),
    );
    events.push(json!({"type": "message_stop"}));
    let text =
        |event: Value| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default());
    events.into_iter().map(text).collect()
}

fn block(index: u32, block: &Value) -> Value {
    json!({"type": "content_block_start", "index": index, "content_block": block})
}

fn delta(index: u32, delta: &Value) -> Value {
    json!({"type": "content_block_delta", "index": index, "delta": delta})
}
