//! The tables that ship, by requests that clients make and by those that would reach what is not the workspace's.

// clippy's exemption for tests does not cover helpers outside of test functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use rigbox_ai::json::Document;
use rigbox_ai::table::{Findings, Table};
use rigbox_ai::tables::Tables;
use serde_json::{Value, json};

fn walk(table: &Table, request: &Value) -> Result<Findings, String> {
    let text = request.to_string();
    let document = Document::parse(text.as_bytes()).map_err(|problem| problem.to_string())?;
    table.walk(&document).map_err(|problem| problem.to_string())
}

/// Returns a request with more fields.
fn with(request: &Value, fields: Value) -> Value {
    let mut request = request.clone();
    for (name, value) in fields.as_object().unwrap() {
        request.as_object_mut().unwrap().insert(name.clone(), value.clone());
    }
    request
}

fn refused(table: &Table, request: &Value, field: &str) {
    match walk(table, request) {
        Ok(findings) => panic!("{request} passes: {findings:?}"),
        Err(problem) => assert!(problem.contains(field), "{request}: {problem}"),
    }
}

fn anthropic() -> (Table, Value) {
    let request =
        json!({"model": "claude", "max_tokens": 100, "messages": [{"role": "user", "content": "hello"}]});
    (Tables::built_in().unwrap().anthropic, request)
}

fn with_content(request: &Value, block: Value) -> Value {
    with(request, json!({"messages": [{"role": "user", "content": [block]}]}))
}

#[test]
fn coding_agents_request_to_anthropic_passes() {
    let (table, request) = anthropic();
    let request = with(
        &request,
        json!({
            "stream": true,
            "system": [{"type": "text", "text": "You help.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
            "thinking": {"type": "enabled", "budget_tokens": 1024},
            "metadata": {"user_id": "u"},
            "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]},
            "output_config": {"effort": "high"},
            "tools": [
                {"name": "Read", "description": "d", "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}}},
                {"type": "bash_20250124", "name": "bash"},
                {"type": "custom", "name": "x", "input_schema": {}, "strict": true},
            ],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image", "source":
                    {"type": "base64", "media_type": "image/png", "data": "aaaa"}}]},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "t", "signature": "s"},
                    {"type": "text", "text": "b", "citations": null},
                    {"type": "tool_use", "id": "1", "name": "Read", "input": {"path": "x", "deep": [{"y": 1}]}, "caller": null},
                ]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "c"}]}]},
            ],
        }),
    );
    let findings = walk(&table, &request).unwrap();
    assert_eq!((findings.images, findings.fetches_urls, findings.fills_context), (1, false, false));
    assert_eq!(findings.stripped, Vec::<String>::new());
}

#[test]
fn unknown_field_is_taken_out_at_the_top_and_refused_below() {
    let (table, request) = anthropic();
    let findings = walk(&table, &with(&request, json!({"new_option": {"a": 1}}))).unwrap();
    assert_eq!(findings.stripped, ["new_option"]);
    refused(
        &table,
        &with_content(&request, json!({"type": "text", "text": "a", "new": 1})),
        "messages[0].content[0].new",
    );
    refused(&table, &with_content(&request, json!({"type": "new_block"})), "messages[0].content[0]");
    refused(&table, &with(&request, json!({"tools": [{"type": "new_tool", "name": "x"}]})), "tools[0]");
    refused(&table, &json!({"model": "m", "max_tokens": 1}), "messages");
    refused(&table, &with(&request, json!({"max_tokens": "100"})), "max_tokens");
}

#[test]
fn nothing_at_anthropic_that_is_kept_hosted_or_billed_apart() {
    let (table, request) = anthropic();
    for fields in [
        json!({"container": "c"}),
        json!({"container": {"id": "c"}}),
        json!({"thread": {"type": "create"}}),
        json!({"fallbacks": "default"}),
        json!({"fallback_credit_token": "t"}),
        json!({"billing_policy": {"type": "billing_policy"}}),
        json!({"user_profile_id": "u"}),
        json!({"mcp_servers": [{"type": "url", "name": "x", "url": "https://x.example"}]}),
        json!({"diagnostics": {"previous_message_id": "m"}}),
        json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
        json!({"tools": [{"type": "web_fetch_20260318", "name": "web_fetch"}]}),
        json!({"tools": [{"type": "code_execution_20260521", "name": "code_execution"}]}),
        json!({"tools": [{"type": "advisor_20260301", "name": "advisor", "model": "m"}]}),
        json!({"tools": [{"type": "mcp_toolset", "mcp_server_name": "x"}]}),
        json!({"tools": [{"type": "web_search_20250305", "name": "x", "input_schema": {}}]}),
    ] {
        let (name, _) = fields.as_object().unwrap().iter().next().unwrap();
        refused(&table, &with(&request, fields.clone()), name);
    }
    for block in [
        json!({"type": "document", "source": {"type": "file", "file_id": "f"}}),
        json!({"type": "image", "source": {"type": "file", "file_id": "f"}}),
        json!({"type": "container_upload", "file_id": "f"}),
        json!({"type": "tool_result", "tool_use_id": "1", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}),
        json!({"type": "document", "source": {"type": "content", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}}),
        json!({"type": "tool_addition", "tool": {"type": "tool_definition", "definition": {"type": "web_search_20250305", "name": "web_search"}}}),
        json!({"type": "server_tool_use", "id": "1", "name": "web_search", "input": {}}),
    ] {
        refused(&table, &with_content(&request, block), "messages[0].content[0]");
    }
    // What says nothing is no harm: clients send it.
    walk(&table, &with(&request, json!({"mcp_servers": [], "container": null}))).unwrap();
}

#[test]
fn what_has_a_price_of_its_own_is_named() {
    let (table, request) = anthropic();
    let findings = walk(&table, &with(&request, json!({"speed": "fast", "inference_geo": "us"}))).unwrap();
    assert_eq!(findings.options.iter().collect::<Vec<_>>(), ["fast", "us"]);
    let an_hour = json!({"system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]});
    assert!(walk(&table, &with(&request, an_hour)).unwrap().options.contains("cache_1h"));
    let (google, part) =
        (Tables::built_in().unwrap().google, |part| json!({"contents": [{"parts": [part]}]}));
    for (kind, is_sound) in
        [("Audio/mp3", true), ("video/mp4", true), ("application/ogg", true), ("image/png", false)]
    {
        for part in [
            part(json!({"inlineData": {"mimeType": kind, "data": "a"}})),
            part(json!({"fileData": {"mimeType": kind, "fileUri": "https://x.example/a"}})),
        ] {
            assert_eq!(walk(&google, &part).unwrap().options.contains("audio"), is_sound, "{part}");
        }
    }
    // What is not said may be sound.
    for (kind, why) in [
        (json!({}), "needs `mimeType`"),
        (json!({"mimeType": null}), "mimeType"),
        (json!({"mimeType": ""}), "mimeType"),
        (json!({"mimeType": " audio/mp3"}), "mimeType"),
    ] {
        let file = with(&json!({"fileUri": "https://x.example/a"}), kind);
        refused(&google, &part(json!({"fileData": file})), why);
    }
    refused(&table, &with(&request, json!({"service_tier": "new"})), "service_tier");
    let url = json!({"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}});
    let findings = walk(&table, &with_content(&request, url)).unwrap();
    assert!(findings.fetches_urls && findings.fills_context);
    let document = json!({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "a"}});
    assert!(walk(&table, &with_content(&request, document)).unwrap().fills_context);
    let compacted = json!({"context_management": {"edits": [{"type": "compact_20260112"}]}});
    assert!(walk(&table, &with(&request, compacted)).unwrap().has_rounds);
}

#[test]
fn nothing_at_openai_is_kept() {
    let tables = Tables::built_in().unwrap();
    let request = json!({"model": "gpt", "input": "hello"});
    let findings =
        walk(&tables.openai_responses, &with(&request, json!({"store": true, "metadata": {"a": "b"}})))
            .unwrap();
    assert_eq!(findings.forced.get("store").map(String::as_str), Some("false"));
    assert_eq!(findings.stripped, ["metadata"]);
    let chat = json!({"model": "gpt", "messages": [{"role": "user", "content": "hello"}]});
    assert_eq!(
        walk(&tables.openai_chat, &chat).unwrap().forced.get("store").map(String::as_str),
        Some("false")
    );
    for fields in [
        json!({"previous_response_id": "r"}),
        json!({"conversation": "c"}),
        json!({"prompt": {"id": "p"}}),
        json!({"background": true}),
        json!({"prompt_cache_options": {"comparison_response_id": "r"}}),
        json!({"input": [{"type": "item_reference", "id": "i"}]}),
        json!({"input": [{"id": "i"}]}),
        json!({"input": [{"id": "i", "type": null}]}),
        json!({"input": [{"type": "message", "role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}),
        json!({"input": [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "file_id": "f"}]}]}),
        json!({"input": [{"type": "code_interpreter_call", "id": "i", "container_id": "c"}]}),
        json!({"input": [{"type": "shell_call", "call_id": "c", "action": {"commands": []},
            "environment": {"type": "container_reference", "container_id": "c"}}]}),
    ] {
        let (name, _) = fields.as_object().unwrap().iter().next().unwrap();
        refused(&tables.openai_responses, &with(&request, fields.clone()), name);
    }
    walk(
        &tables.openai_responses,
        &with(&request, json!({"background": false, "previous_response_id": null})),
    )
    .unwrap();
}

#[test]
fn hosted_tools_at_openai_are_refused_wherever_they_hide() {
    let tables = Tables::built_in().unwrap();
    let table = &tables.openai_responses;
    let request = json!({"model": "gpt", "input": "hello"});
    let hosted = [
        json!({"type": "web_search"}),
        json!({"type": "web_search_preview"}),
        json!({"type": "file_search", "vector_store_ids": ["v"]}),
        json!({"type": "code_interpreter", "container": {"type": "auto"}}),
        json!({"type": "image_generation"}),
        json!({"type": "mcp", "server_label": "x", "server_url": "https://x.example"}),
        json!({"type": "mcp", "server_label": "x", "tunnel_id": "t"}),
        json!({"type": "programmatic_tool_calling"}),
        json!({"type": "shell", "environment": {"type": "container_auto"}}),
        json!({"type": "new_tool"}),
    ];
    for tool in &hosted {
        refused(table, &with(&request, json!({"tools": [tool]})), "tools[0]");
        let hidden = json!({"input": [{"type": "additional_tools", "role": "developer", "tools": [tool]}]});
        refused(table, &with(&request, hidden), "input[0].tools[0]");
        let found = json!({"input": [{"type": "tool_search_output", "tools": [tool]}]});
        refused(table, &with(&request, found), "input[0].tools[0]");
    }
    // Codex has every tool in such an item, and sends ids everywhere.
    let codex = json!({"stream": true, "include": ["reasoning.encrypted_content"], "input": [
        {"type": "additional_tools", "role": "developer", "tools": [
            {"type": "namespace", "name": "shell", "description": "d", "tools": [
                {"type": "function", "name": "exec", "description": "d", "strict": false, "parameters": {"type": "object"}}]},
            {"type": "shell", "environment": {"type": "local"}}, {"type": "local_shell"}, {"type": "apply_patch"}]},
        {"type": "message", "id": "m", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "e"},
        {"type": "function_call", "id": "f", "call_id": "c", "name": "exec", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "done"},
        {"type": "custom_tool_call", "id": "t", "status": "completed", "call_id": "d", "name": "exec", "namespace": "shell",
            "input": "run()"},
        {"type": "custom_tool_call_output", "id": "o", "call_id": "d", "output": [{"type": "input_text", "text": "done"}]},
        {"role": "assistant", "content": "b"},
    ]});
    assert_eq!(
        walk(table, &with(&request, codex)).unwrap(),
        Findings { forced: [("store".to_owned(), "false".to_owned())].into(), ..Findings::default() }
    );
}

#[test]
fn google_is_read_in_both_spellings() {
    let table = Tables::built_in().unwrap().google;
    let request = json!({"contents": [{"role": "user", "parts": [{"text": "hello"}]}]});
    let both = with(
        &request,
        json!({"generationConfig": {"maxOutputTokens": 5}, "generation_config": {"max_output_tokens": 900}}),
    );
    refused(&table, &both, "two spellings");
    let inner = with(&request, json!({"generationConfig": {"maxOutputTokens": 5, "max_output_tokens": 900}}));
    refused(&table, &inner, "two spellings");
    for fields in [
        json!({"cachedContent": "c"}),
        json!({"cached_content": "c"}),
        json!({"tools": [{"googleSearch": {"searchTypes": {"webSearch": {}}}}]}),
        json!({"tools": [{"google_maps": {"enableWidget": true}}]}),
        json!({"store": true}),
        json!({"generationConfig": {"responseModalities": ["AUDIO"]}}),
        json!({"contents": [{"parts": [{"executableCode": {"code": "x"}}]}]}),
    ] {
        let (name, _) = fields.as_object().unwrap().iter().next().unwrap();
        refused(&table, &with(&request, fields.clone()), name);
    }
    let odd = with(&request, json!({"generation_Config": {"maxOutputTokens": 900}}));
    assert_eq!(walk(&table, &odd).unwrap().stripped, ["generation_Config"]);
    for key in ["max_Output_tokens", "max__output_tokens", "maxOutputTokens_", "_maxOutputTokens"] {
        refused(&table, &with(&request, json!({"generationConfig": {key: 900}})), key);
    }
    let file = json!({"contents": [{"parts": [{"file_data": {"file_uri": "https://x.example/a", "mime_type": "image/png"}}]}]});
    assert!(walk(&table, &with(&request, file)).unwrap().fetches_urls);
    let tools = json!({"tools": [{"function_declarations": [{"name": "f", "parameters": {"type": "OBJECT", "any_of": []}}]}]});
    walk(&table, &with(&request, tools)).unwrap();
}

#[test]
fn other_answers_than_texts_are_refused_at_google_however_they_are_asked_for() {
    let tables = Tables::built_in().unwrap();
    let request =
        |config: Value| json!({"contents": [{"parts": [{"text": "a"}]}], "generationConfig": config});
    for kind in ["audio", "image", "video"] {
        let format = request(json!({"responseFormat": [{"text": {"mimeType": "text/plain"}}, {kind: {}}]}));
        refused(&tables.google, &format, &format!("responseFormat[1].{kind}"));
        refused(&tables.google, &request(json!({"response_format": {kind: {"delivery": "URI"}}})), kind);
    }
    let text = json!({"responseFormat": [{"text": {"mime_type": "application/json", "schema": {"type": "object"}}}]});
    walk(&tables.google, &request(text)).unwrap();
    // The model that is priced is the one in the path.
    let embed = json!({"model": "models/dearer", "content": {"parts": [{"text": "a"}]}});
    assert_eq!(walk(&tables.google_embed, &embed).unwrap().stripped, ["model"]);
}

/// An empty object is a hosted tool's usual form, so it says something where a tool is meant.
#[test]
fn hosted_tools_at_google_are_refused_in_their_empty_form() {
    let table = Tables::built_in().unwrap().google;
    for tool in [
        "googleSearch",
        "urlContext",
        "codeExecution",
        "google_search",
        "url_context",
        "fileSearch",
        "mcpServers",
    ] {
        let request = json!({"contents": [{"parts": [{"text": "a"}]}], "tools": [{tool: {}}]});
        refused(&table, &request, &format!("tools[0].{tool}"));
    }
}

/// The name is the field's own, so that it is found again in the request.
#[test]
fn fields_that_are_not_forwarded_or_are_set_keep_the_names_that_they_came_with() {
    let table = Table::parse("[Request]\na = \"number\"\nkeepIt = \"force false\"", true).unwrap();
    let long = "x".repeat(80);
    let findings = walk(&table, &json!({"a": 1, "a\0": 2, long.clone(): 3, "keep_it": true})).unwrap();
    assert_eq!(findings.stripped, ["a\0", long.as_str()]);
    assert_eq!(findings.forced, [("keep_it".to_owned(), "false".to_owned())].into());
}
