//! OpenAI's Responses API.

use serde_json::{Value, json};

use crate::scenario::Answer;

pub(crate) fn tool(request: &Value) -> Option<String> {
    request["tools"][0]["name"].as_str().map(str::to_owned)
}

fn response(answer: &Answer, status: &str, output: &Value, usage: &Value) -> Value {
    let details = if status == "incomplete" { json!({"reason": "max_output_tokens"}) } else { Value::Null };
    json!({"id": format!("resp_{}", answer.id), "object": "response", "created_at": 1, "status": status,
        "error": null, "incomplete_details": details, "instructions": null, "metadata": {}, "model": answer.model,
        "output": output, "parallel_tool_calls": true, "temperature": 1.0, "tool_choice": "auto", "tools": [],
        "top_p": 1.0, "usage": usage})
}

fn usage(answer: &Answer) -> Value {
    json!({"input_tokens": answer.input, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": answer.output, "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": answer.input + answer.output})
}

fn message(answer: &Answer, text: &str, status: &str) -> Value {
    json!({"id": format!("msg_{}", answer.id), "type": "message", "role": "assistant", "status": status,
        "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]})
}

fn call(answer: &Answer, name: &str) -> Value {
    json!({"id": format!("fc_{}", answer.id), "type": "function_call", "status": "completed", "name": name,
        "call_id": format!("call_{}", answer.id), "arguments": answer.arguments()})
}

fn output(answer: &Answer) -> Vec<Value> {
    let mut output = vec![message(answer, &answer.words().collect::<String>(), "completed")];
    output.extend(answer.tool.as_ref().map(|name| call(answer, name)));
    output
}

fn status(answer: &Answer) -> &'static str {
    if answer.is_limited { "incomplete" } else { "completed" }
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
            let mut begun = item.clone();
            begun["arguments"] = json!("");
            begun["status"] = json!("in_progress");
            events.push(json!({"type": "response.output_item.added", "output_index": index, "item": begun}));
            events.push(json!({"type": "response.function_call_arguments.done", "item_id": item["id"],
                "output_index": index, "name": item["name"], "arguments": item["arguments"]}));
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
