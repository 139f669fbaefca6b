//! The HTTP interface as a client sees it, spoken to the real binary with a tiny model: what is refused, what is
//! answered and in which form, and how a server lives and ends.

#[path = "../server/mod.rs"]
mod server;

mod answers;
mod anthropic;
mod bounds;
mod chats;
mod doors;
mod effects;
mod embeddings;
mod lifetime;
mod limits;
mod metrics;
mod refusals;
mod responses;
mod scores;
mod shortages;
mod speculation;
mod streams;
mod structured;
mod tls;
mod tokens;
mod traces;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
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

/// A rank that stands still until this is dropped: what runs can't end, and what waits goes on waiting.
struct Frozen(Pid);

fn freeze(server: &Server) -> Frozen {
    let pid = server.get_json("/ranks")["ranks"][0]["pid"].as_i64().expect("a process");
    let rank = Pid::from_raw(pid as i32);
    kill(rank, Signal::SIGSTOP).expect("the rank lives");
    Frozen(rank)
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // It may have been ended meanwhile.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}
