//! OpenAI's Chat Completions API.

use serde_json::{Value, json};

use crate::scenario::Answer;
use crate::tools::{Call, Offered, Tools};

pub(crate) fn tools(request: &Value) -> Tools {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let offered = request["tools"].as_array().into_iter().flatten().map(|tool| Offered {
        name: text(&tool["function"]["name"]),
        namespace: None,
        description: text(&tool["function"]["description"]),
        schema: tool["function"]["parameters"].clone(),
    });
    let mut messages = request["messages"].as_array().into_iter().flatten();
    Tools { offered: offered.collect(), has_result: messages.any(|message| message["role"] == "tool") }
}

fn finish_reason(answer: &Answer) -> &'static str {
    match (answer.length.is_limited, &answer.call) {
        (true, _) => "length",
        (false, Some(_)) => "tool_calls",
        (false, None) => "stop",
    }
}

fn usage(answer: &Answer) -> Value {
    answer.with_cost(json!({"prompt_tokens": answer.input, "completion_tokens": answer.output(),
        "total_tokens": answer.input + answer.output(), "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0}}))
}

fn item(answer: &Answer, call: &Call) -> Value {
    json!({"id": format!("call_{}", answer.id), "type": "function",
        "function": {"name": call.name, "arguments": answer.arguments(call)}})
}

pub(crate) fn document(answer: &Answer) -> Value {
    let mut message =
        json!({"role": "assistant", "content": answer.words().collect::<String>(), "refusal": null});
    if let Some(call) = &answer.call {
        message["tool_calls"] = json!([item(answer, call)]);
    }
    json!({"id": format!("chatcmpl-{}", answer.id), "object": "chat.completion", "created": 1, "model": answer.model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason(answer), "logprobs": null}],
        "usage": usage(answer)})
}

pub(crate) fn events(answer: &Answer, has_usage: bool) -> Vec<String> {
    let chunk = |choices: Value, usage: Value| {
        let mut chunk = json!({"id": format!("chatcmpl-{}", answer.id), "object": "chat.completion.chunk", "created": 1,
            "model": answer.model, "choices": choices});
        if has_usage {
            chunk["usage"] = usage;
        }
        format!("data: {chunk}\n\n")
    };
    let delta = |delta: Value, finish: Value| {
        chunk(json!([{"index": 0, "delta": delta, "finish_reason": finish}]), Value::Null)
    };
    let mut events = vec![delta(json!({"role": "assistant", "content": ""}), Value::Null)];
    events.extend(answer.words().map(|word| delta(json!({"content": word}), Value::Null)));
    if let Some(call) = &answer.call {
        let mut call = item(answer, call);
        call["index"] = json!(0);
        events.push(delta(json!({"tool_calls": [call]}), Value::Null));
    }
    events.push(delta(json!({}), json!(finish_reason(answer))));
    if has_usage {
        events.push(chunk(json!([]), usage(answer)));
    }
    events.push("data: [DONE]\n\n".into());
    events
}
