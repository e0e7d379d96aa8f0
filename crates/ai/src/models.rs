//! Lists of models in the form that each provider's clients read.

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use rigbox_proto::ai::{Model, Provider};
use serde_json::{Value, json};

use crate::response::{ResponseBody, full};

/// Returns the list of models, all on one page.
pub(crate) fn list(provider: Provider, models: &[&Model]) -> Response<ResponseBody> {
    let all: Vec<_> = models.iter().map(|model| one(provider, model)).collect();
    let list = match provider {
        Provider::Anthropic => json!({
            "data": all,
            "first_id": models.first().map(|model| &model.id),
            "last_id": models.last().map(|model| &model.id),
            "has_more": false,
        }),
        Provider::Google => json!({"models": all}),
        _ => json!({"object": "list", "data": all}),
    };
    response(&list)
}

/// Returns one model.
pub(crate) fn get(provider: Provider, model: &Model) -> Response<ResponseBody> {
    response(&one(provider, model))
}

fn one(provider: Provider, model: &Model) -> Value {
    match provider {
        Provider::Anthropic => json!({
            "type": "model",
            "id": model.id,
            "display_name": model.id,
            "created_at": "1970-01-01T00:00:00Z",
            "max_input_tokens": model.context_tokens,
            "max_tokens": model.max_output_tokens,
        }),
        Provider::Google => json!({
            "name": format!("models/{}", model.id),
            "displayName": model.id,
            "inputTokenLimit": model.context_tokens,
            "outputTokenLimit": model.max_output_tokens,
            "supportedGenerationMethods": if model.embeds {
                json!(["embedContent"])
            } else {
                json!(["generateContent", "countTokens"])
            },
        }),
        _ => json!({"id": model.id, "object": "model", "created": 0, "owned_by": model.upstream}),
    }
}

fn response(body: &Value) -> Response<ResponseBody> {
    let mut response = Response::new(full(body.to_string().into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
