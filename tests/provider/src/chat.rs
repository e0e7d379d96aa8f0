//! OpenAI's Chat Completions API.

use serde_json::{Value, json};

use crate::scenario::Answer;

pub(crate) fn tool(request: &Value) -> Option<String> {
    request["tools"][0]["function"]["name"].as_str().map(str::to_owned)
}

fn finish_reason(answer: &Answer) -> &'static str {
    match (answer.is_limited, &answer.tool) {
        (true, _) => "length",
        (false, Some(_)) => "tool_calls",
        (false, None) => "stop",
    }
}

fn usage(answer: &Answer) -> Value {
    json!({"prompt_tokens": answer.input, "completion_tokens": answer.output,
        "total_tokens": answer.input + answer.output, "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0}})
}

fn call(answer: &Answer, name: &str) -> Value {
    json!({"id": format!("call_{}", answer.id), "type": "function",
        "function": {"name": name, "arguments": answer.arguments()}})
}

pub(crate) fn document(answer: &Answer) -> Value {
    let mut message =
        json!({"role": "assistant", "content": answer.words().collect::<String>(), "refusal": null});
    if let Some(name) = &answer.tool {
        message["tool_calls"] = json!([call(answer, name)]);
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
    if let Some(name) = &answer.tool {
        let mut call = call(answer, name);
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
