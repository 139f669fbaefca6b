//! A response object, whole or event by event.

use std::{collections::HashMap, mem, sync::Arc};

use actix_web::{ResponseError, web::Bytes};
use serde_json::{Map, Value, json};

use super::{
    items::{self, Status},
    request::Asked,
    store::Stored,
    tools,
};
use crate::api::{
    Api,
    blocks::{Block, Change, Kind, Message},
    choice::{FinishReason, Piece},
    error::ApiError,
    generation::Generation,
    logprobs::{self, TokenNames},
    request_id,
    running::Usage,
    sse::named,
    telling::Telling,
};

/// How a request is answered.
pub struct Answer {
    api: Arc<Api>,
    /// What the response is from its beginning to its end.
    lasting: Map<String, Value>,
    asked: Asked,
    /// Where log-probabilities are wanted, the names of their tokens.
    names: Option<TokenNames>,
    /// Log-probabilities of the text that is open: all of them, and those that no event has told yet.
    logprobs: (Vec<Value>, Vec<Value>),
    /// Those of each closed text, by the place of its block.
    told_logprobs: Vec<(usize, Value)>,
    /// The functions in namespaces, by their names in chats.
    namespaces: HashMap<String, (String, String)>,
    /// The next event's number.
    number: u64,
}

impl Answer {
    /// The answer of this id.
    pub fn new(api: Arc<Api>, id: String, mut asked: Asked, generation: &Generation) -> Self {
        let mut lasting = mem::take(&mut asked.repeated);
        lasting.extend([
            ("id".to_owned(), id.into()),
            ("object".into(), "response".into()),
            ("created_at".into(), request_id::now().into()),
            ("model".into(), api.model.name.clone().into()),
            ("background".into(), asked.background.into()),
            ("store".into(), asked.store.into()),
            ("temperature".into(), generation.sampling.temperature.into()),
            ("top_p".into(), generation.sampling.top_p.into()),
        ]);
        let names = asked.logprobs.then(|| generation.token_names(&api.model));
        let namespaces = tools::namespaces(&lasting["tools"]);
        let (logprobs, told_logprobs) = Default::default();
        Self { api, lasting, asked, names, logprobs, told_logprobs, namespaces, number: 0 }
    }

    /// Whether nobody waits for it.
    pub fn is_background(&self) -> bool {
        self.asked.background
    }

    /// The response before it has any output, and the items that it answers.
    pub fn begun(&self) -> Stored {
        self.stored(self.object("in_progress", json!([])))
    }

    /// Where it is stored.
    pub fn api(&self) -> &Arc<Api> {
        &self.api
    }

    fn stored(&self, response: Value) -> Stored {
        Stored { response, items: self.asked.items.clone(), own_count: self.asked.own_count }
    }

    fn object(&self, status: &str, output: Value) -> Value {
        let mut object = Value::Object(self.lasting.clone());
        object["status"] = status.into();
        object["output"] = output;
        for absent in ["error", "incomplete_details", "usage", "completed_at"] {
            object[absent] = Value::Null;
        }
        object
    }

    /// The response at its end, stored if it is to be.
    fn ended(&self, message: &Message, usage: Usage) -> Value {
        let output = message.blocks.iter().enumerate().map(|(index, _)| self.item(index, message)).collect();
        let cut = message.finish == Some(FinishReason::Length);
        let mut object = self.object(if cut { "incomplete" } else { "completed" }, output);
        match cut {
            true => object["incomplete_details"] = json!({"reason": "max_output_tokens"}),
            false => object["completed_at"] = request_id::now().into(),
        }
        object["usage"] = usage_of(usage);
        self.keep(&object);
        object
    }

    fn keep(&self, object: &Value) {
        if self.asked.background {
            self.api.responses.finish(object);
        } else if self.asked.store {
            self.api.responses.put(self.stored(object.clone()));
        }
    }

    fn item(&self, index: usize, message: &Message) -> Value {
        let logprobs = self.told_logprobs.iter().find(|(own, _)| *own == index);
        let none = json!([]);
        let logprobs = logprobs.map_or(&none, |(_, logprobs)| logprobs);
        let status = Status::of_closed(index, message);
        let mut item = items::complete(&message.blocks[index], status, logprobs, self.asked.encrypted_reasoning);
        items::name_call(&mut item, &self.namespaces);
        item
    }

    fn event(&mut self, kind: &str, mut fields: Value) -> Bytes {
        fields["sequence_number"] = self.number.into();
        self.number += 1;
        named(kind, fields)
    }

    /// An event about the content of an item.
    fn about(&mut self, kind: &str, index: usize, block: &Block, mut fields: Value) -> Bytes {
        fields["item_id"] = items::id(block).into();
        fields["output_index"] = index.into();
        if !matches!(block.kind, Kind::Call(_)) {
            fields["content_index"] = 0.into();
        }
        self.event(kind, fields)
    }

    fn opened(&mut self, index: usize, block: &Block) -> Vec<Bytes> {
        let mut item = items::begun(block);
        items::name_call(&mut item, &self.namespaces);
        let added = json!({"output_index": index, "item": item});
        let mut events = vec![self.event("response.output_item.added", added)];
        if !matches!(block.kind, Kind::Call(_)) {
            let part = json!({"part": items::part(block, "", &json!([]))});
            events.push(self.about("response.content_part.added", index, block, part));
        }
        events
    }

    fn grown(&mut self, index: usize, block: &Block, text: &str) -> Bytes {
        let fields = match block.kind {
            Kind::Text => json!({"delta": text, "logprobs": mem::take(&mut self.logprobs.1)}),
            _ => json!({"delta": text}),
        };
        self.about(kinds(block).0, index, block, fields)
    }

    fn closed(&mut self, index: usize, message: &Message) -> Vec<Bytes> {
        let block = &message.blocks[index];
        let logprobs = Value::from(mem::take(&mut self.logprobs.0));
        let done = match &block.kind {
            Kind::Reasoning => json!({"text": block.text}),
            Kind::Text => json!({"text": block.text, "logprobs": logprobs}),
            Kind::Call(name) => json!({"name": name, "arguments": block.text}),
        };
        let mut events = vec![self.about(kinds(block).1, index, block, done)];
        if !matches!(block.kind, Kind::Call(_)) {
            let part = json!({"part": items::part(block, &block.text, &logprobs)});
            events.push(self.about("response.content_part.done", index, block, part));
        }
        self.told_logprobs.push((index, logprobs));
        let item = json!({"output_index": index, "item": self.item(index, message)});
        events.push(self.event("response.output_item.done", item));
        events
    }
}

impl Telling for Answer {
    fn begin(&mut self, _usage: Usage) -> Vec<Bytes> {
        let response = json!({"response": self.object("in_progress", json!([]))});
        let created = self.event("response.created", response.clone());
        vec![created, self.event("response.in_progress", response)]
    }

    /// Tokens of reasoning and of calls have no place for log-probabilities.
    fn piece(&mut self, piece: &Piece, message: &Message) {
        let Some(names) = self.names.as_ref().filter(|_| message.is_text()) else { return };
        let told = json!(logprobs::of_chat(std::slice::from_ref(piece), names));
        if let Some(entry) = told["content"].get(0) {
            self.logprobs.0.push(entry.clone());
            self.logprobs.1.push(entry.clone());
        }
    }

    fn change(&mut self, change: &Change, message: &Message) -> Vec<Bytes> {
        match change {
            Change::Opened(index) => self.opened(*index, &message.blocks[*index]),
            Change::Grown(index, text) => vec![self.grown(*index, &message.blocks[*index], text)],
            Change::Closed(index) => self.closed(*index, message),
        }
    }

    fn end(&mut self, message: &Message, usage: Usage) -> Vec<Bytes> {
        let response = self.ended(message, usage);
        let kind = format!("response.{}", response["status"].as_str().unwrap_or("completed"));
        vec![self.event(&kind, json!({"response": response}))]
    }

    fn fail(&mut self, error: &ApiError, message: &Message, usage: Usage) -> Vec<Bytes> {
        let closed = message.closed().map(|index| self.item(index, message)).collect();
        let mut object = self.object("failed", closed);
        object["error"] = json!({"code": code(error), "message": error.to_string()});
        object["usage"] = usage_of(usage);
        self.keep(&object);
        vec![self.event("response.failed", json!({"response": object}))]
    }

    fn whole(&mut self, message: &Message, usage: Usage) -> Value {
        self.ended(message, usage)
    }
}

/// The names of the events that tell more of a block's text, and all of it.
fn kinds(block: &Block) -> (&'static str, &'static str) {
    match block.kind {
        Kind::Reasoning => ("response.reasoning_text.delta", "response.reasoning_text.done"),
        Kind::Text => ("response.output_text.delta", "response.output_text.done"),
        Kind::Call(_) => ("response.function_call_arguments.delta", "response.function_call_arguments.done"),
    }
}

/// Of the codes that OpenAI knows, the nearest.
fn code(error: &ApiError) -> &'static str {
    match error.status_code().as_u16() {
        429 => "rate_limit_exceeded",
        400..500 => "invalid_prompt",
        _ => "server_error",
    }
}

fn usage_of(usage: Usage) -> Value {
    let cached = usage.prompt_tokens_details.cached_tokens;
    json!({
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.completion_tokens_details.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    })
}
