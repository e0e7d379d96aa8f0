//! Dialects of providers: what a request asks for, what is changed in it, and what a response says of its use. One file each.

mod anthropic;
mod chat;
mod embeddings;
mod google;
mod responses;

use bytes::Bytes;
use rigbox_proto::ai::{Model, Operation, Provider, Usage};

use crate::json::{Document, Value};
use crate::route::{Call, GoogleMethod};
use crate::table::{Findings, Refusal, Table};
use crate::tables::Tables;

/// Wish of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) model: String,
    /// Limit of each answer's output.
    pub(crate) output_tokens: Option<u64>,
    /// Number of answers.
    pub(crate) candidates: u32,
    /// Number of inputs, each of which may be as long as the model reads.
    pub(crate) inputs: u64,
    /// True if writes into a cache may live there for long, which is dearer.
    pub(crate) writes_long_cache: bool,
    /// Tokens set aside for thinking.
    pub(crate) thinking_tokens: Option<u64>,
    /// The answer comes as events.
    pub(crate) is_stream: bool,
    /// The usage at a stream's end is asked for by us and not by the client.
    pub(crate) hides_usage: bool,
}

impl Asked {
    /// Returns the wish for one answer to one input, without a limit.
    fn of(model: String) -> Self {
        Self {
            model,
            output_tokens: None,
            candidates: 1,
            inputs: 1,
            writes_long_cache: false,
            thinking_tokens: None,
            is_stream: false,
            hides_usage: false,
        }
    }
}

/// Limit that control has granted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) output_tokens: u64,
    /// It is ours and not the client's.
    pub(crate) is_lowered: bool,
}

/// Change of one top-level field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Edit {
    /// JSON to set it to.
    Set(String),
    Remove,
}

/// Changes of a request, by field.
pub(crate) type Edits = Vec<(String, Edit)>;

/// Figures and state that a response has told so far.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Counted {
    pub(crate) usage: Usage,
    /// The provider has told the input.
    pub(crate) has_input: bool,
    /// The figures are the final ones.
    pub(crate) has_usage: bool,
    /// The response is whole.
    pub(crate) is_complete: bool,
    /// The provider has ended it with an error.
    pub(crate) has_failed: bool,
    /// Cost that the provider has told, in millionths of a US dollar.
    pub(crate) cost_micro: Option<u64>,
}

/// Way of an event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Pass,
    /// The client has not asked for it.
    Hide,
    /// Our limit has ended the answer where the client would take it for whole: it gets this, or an error, and nothing more.
    EndInstead(Option<Bytes>),
}

/// Reader of one response.
pub(crate) trait Meter: Send {
    /// Reads an event of a stream.
    fn event(&mut self, data: &[u8]) -> Step;
    /// Reads a response that is one JSON document. Returns true if our limit has ended it.
    fn body(&mut self, body: &[u8]) -> bool;
    fn counted(&self) -> &Counted;
}

/// Dialect of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Anthropic,
    Chat,
    Responses,
    Embeddings,
    Google,
    GoogleEmbed,
}

impl Dialect {
    /// Returns the dialect of a call and what it does.
    pub(crate) fn of(call: &Call) -> (Self, Operation) {
        match call {
            Call::AnthropicMessages => (Self::Anthropic, Operation::Generate),
            Call::AnthropicCount => (Self::Anthropic, Operation::Count),
            Call::OpenAiChat => (Self::Chat, Operation::Generate),
            Call::OpenAiResponses => (Self::Responses, Operation::Generate),
            Call::OpenAiCount => (Self::Responses, Operation::Count),
            Call::OpenAiEmbeddings => (Self::Embeddings, Operation::Embed),
            Call::Google { method, .. } => match method {
                GoogleMethod::Generate | GoogleMethod::Stream => (Self::Google, Operation::Generate),
                GoogleMethod::Count => (Self::Google, Operation::Count),
                GoogleMethod::Embed => (Self::GoogleEmbed, Operation::Embed),
            },
        }
    }

    pub(crate) fn table(self, tables: &Tables) -> &Table {
        match self {
            Self::Anthropic => &tables.anthropic,
            Self::Chat => &tables.openai_chat,
            Self::Responses => &tables.openai_responses,
            Self::Embeddings => &tables.openai_embeddings,
            Self::Google => &tables.google,
            Self::GoogleEmbed => &tables.google_embed,
        }
    }

    /// Returns what a request asks for.
    pub(crate) fn asked(self, call: &Call, request: &Document<'_>) -> Result<Asked, Refusal> {
        match self {
            Self::Anthropic => anthropic::asked(request),
            Self::Chat => chat::asked(request),
            Self::Responses => responses::asked(request),
            Self::Embeddings => embeddings::asked(request),
            Self::Google | Self::GoogleEmbed => google::asked(call, request),
        }
    }

    /// Returns what is changed in a request for the sake of a limit, of usage and of what is not to be kept at the provider.
    pub(crate) fn edits(
        self,
        request: &Document<'_>,
        asked: &Asked,
        findings: &Findings,
        model: &Model,
        provider: Provider,
        limit: Limit,
    ) -> Edits {
        let forced = findings.forced.iter().map(|(name, value)| (name.clone(), Edit::Set(value.clone())));
        let mut edits: Edits = forced.collect();
        match self {
            Self::Anthropic => anthropic::edits(request, limit, &mut edits),
            Self::Chat => chat::edits(request, asked, provider, limit, &mut edits),
            Self::Responses => responses::edits(request, model, limit, &mut edits),
            Self::Google => google::edits(request, limit, &mut edits),
            Self::Embeddings | Self::GoogleEmbed => {}
        }
        if provider == Provider::Openrouter {
            edits.push(price_cap(model));
        }
        edits
    }

    /// Returns the call that counts the tokens of another one's input, with its body; none where the provider has none.
    pub(crate) fn counting(self, call: &Call, request: &Document<'_>) -> Option<(Call, String)> {
        match (self, call) {
            (Self::Anthropic, Call::AnthropicMessages) => {
                Some((Call::AnthropicCount, only(request, &anthropic::COUNTED_FIELDS)))
            }
            (Self::Responses, Call::OpenAiResponses) => {
                Some((Call::OpenAiCount, only(request, &responses::COUNTED_FIELDS)))
            }
            (Self::Google, Call::Google { version, model, .. }) => {
                let call = Call::Google { version, model: model.clone(), method: GoogleMethod::Count };
                Some((call, google::counting(model, request)))
            }
            _ => None,
        }
    }

    /// Reads the answer of a call that counts.
    pub(crate) fn counted(self, body: &[u8]) -> Option<u64> {
        let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
        answer.get(if self == Self::Google { "totalTokens" } else { "input_tokens" })?.as_u64()
    }

    /// Returns the reader of a response. `is_lowered`: the limit is ours.
    pub(crate) fn meter(self, asked: &Asked, is_lowered: bool) -> Box<dyn Meter> {
        match self {
            Self::Anthropic => Box::new(anthropic::AnthropicMeter::new(is_lowered)),
            Self::Chat => Box::new(chat::ChatMeter::new(is_lowered, asked)),
            Self::Responses => Box::new(responses::ResponsesMeter::new(is_lowered, asked.writes_long_cache)),
            Self::Embeddings => Box::new(embeddings::EmbeddingsMeter::default()),
            Self::Google | Self::GoogleEmbed => Box::new(google::GoogleMeter::new(is_lowered)),
        }
    }
}

/// Returns the field by which OpenRouter asks no seller with higher prices than those of our table.
fn price_cap(model: &Model) -> (String, Edit) {
    // In US dollars per million tokens; a decimal point is a shift, so nothing is rounded.
    let dollars = |micro: u64| format!("{}.{:06}", micro / 1_000_000, micro % 1_000_000);
    let (input, output) = (dollars(model.input_price), dollars(model.output_price));
    (
        "provider".into(),
        Edit::Set(format!("{{\"max_price\":{{\"prompt\":{input},\"completion\":{output}}}}}")),
    )
}

/// Returns millionths of a US dollar, rounded up.
fn micro(dollars: f64) -> Option<u64> {
    let micro = (dollars * 1e6).ceil();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked before")]
    (0.0..1e15).contains(&micro).then_some(micro as u64)
}

/// Returns the removal of each field that is not forwarded.
pub(crate) fn removals(findings: &Findings) -> Edits {
    findings.stripped.iter().map(|name| (name.clone(), Edit::Remove)).collect()
}

/// Returns a request with these fields alone.
fn only(request: &Document<'_>, names: &[&str]) -> String {
    let dropped = request.fields.iter().filter(|field| !names.contains(&field.name.as_ref()));
    let edits: Edits = dropped.map(|field| (field.name.to_string(), Edit::Remove)).collect();
    write(request, &edits)
}

/// Returns a request with changes. Fields that are not changed are byte for byte as they were, and without changes all is.
pub(crate) fn apply(body: &Bytes, request: &Document<'_>, edits: &Edits) -> Bytes {
    if edits.is_empty() {
        return body.clone();
    }
    Bytes::from(write(request, edits))
}

fn write(request: &Document<'_>, edits: &Edits) -> String {
    let mut text = String::from("{");
    let mut push = |name: &str, raw: &str| {
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str(&serde_json::Value::from(name).to_string());
        text.push(':');
        text.push_str(raw);
    };
    for field in &request.fields {
        match edits.iter().rev().find(|(name, _)| *name == field.name) {
            None => push(&field.name, field.raw),
            Some((_, Edit::Set(value))) => push(&field.name, value),
            Some((_, Edit::Remove)) => {}
        }
    }
    for (index, (name, edit)) in edits.iter().enumerate() {
        let is_last = !edits.iter().skip(index + 1).any(|(later, _)| later == name);
        if let Edit::Set(value) = edit
            && is_last
            && !request.fields.iter().any(|field| field.name == *name)
        {
            push(name, value);
        }
    }
    text.push('}');
    text
}

/// Returns the count in a field, or none if it is absent or null.
fn count(value: Option<&Value<'_>>, name: &str) -> Result<Option<u64>, Refusal> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_count().map(Some).ok_or_else(|| Refusal {
            path: name.to_owned(),
            why: "has to be a whole number that is not negative".into(),
        }),
    }
}

/// Returns the limit of the output in a field. One of 0 is none: some servers take it for that.
fn output_limit(value: Option<&Value<'_>>, name: &str) -> Result<Option<u64>, Refusal> {
    Ok(count(value, name)?.filter(|limit| *limit > 0))
}

/// Tells if a request's limit of the output is none, or above ours.
fn is_above(asked: Option<&Value<'_>>, limit: Limit) -> bool {
    asked.and_then(Value::as_count).is_none_or(|asked| asked == 0 || asked > limit.output_tokens)
}

/// Returns the number of answers in a field: at least one, and few enough to be counted.
fn candidates(value: Option<&Value<'_>>, name: &str) -> Result<u32, Refusal> {
    let number = count(value, name)?.unwrap_or(1).max(1);
    u32::try_from(number)
        .ok()
        .filter(|number| *number <= 128)
        .ok_or_else(|| Refusal { path: name.to_owned(), why: "is more than 128".into() })
}

/// Returns the model that the field names.
fn model(request: &Document<'_>) -> Result<String, Refusal> {
    let name = request.get("model").and_then(Value::as_str).unwrap_or_default();
    if crate::route::is_model_name(name) {
        return Ok(name.to_owned());
    }
    Err(Refusal { path: "model".into(), why: "has to name a model".into() })
}

fn is_true(value: Option<&Value<'_>>) -> bool {
    matches!(value, Some(Value::Bool(true)))
}
