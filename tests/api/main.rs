//! The HTTP interface as a client sees it, spoken to the real binary with a tiny model: what is refused, what is
//! answered and in which form, and how a server lives and ends.

#[path = "../server/mod.rs"]
mod server;

mod answers;
mod lifetime;
mod limits;
mod refusals;
mod streams;

use serde_json::{Value, json};
use server::Server;

const MODEL: &str = "models/llama3_rope";
const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// A server of the tiny model: 512 tokens of context, small blocks, log-probabilities allowed.
fn start(flags: &[&str]) -> Server {
    Server::of_golden(MODEL, &[&["--enable-logprob", "--block-size", "16"], flags].concat())
}

/// A short greedy chat with further fields.
fn chat(fields: Value) -> Value {
    with(json!({"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 4, "temperature": 0}), fields)
}

/// A short greedy completion with further fields.
fn completion(fields: Value) -> Value {
    with(json!({"prompt": "The sky is", "max_tokens": 4, "temperature": 0}), fields)
}

/// `null` takes a field away.
fn with(mut body: Value, fields: Value) -> Value {
    for (name, value) in fields.as_object().expect("fields") {
        body[name] = value.clone();
        if value.is_null() {
            body.as_object_mut().expect("an object").remove(name);
        }
    }
    body
}

/// Work for a long time: many sequences to the end of the context.
fn long_work() -> Value {
    completion(json!({"n": 128, "max_tokens": 500, "ignore_eos": true, "temperature": 1, "seed": 1}))
}
