//! The server that is measured: how it is reached, what it serves, and how it is asked.

use crossbeam::channel::Receiver;
use serde_json::{Map, Value, json};

use super::{Halt, client::Client, memory, prompts::Prompt};
use crate::{
    config::{AskingFlags, BenchEndpoint},
    interrupts::Interrupt,
    own_server::{self, Reached},
    remote::Answer,
};

/// A server's own bound of open requests, as `serve` has it where nothing is said.
const OPEN_MAX_DEFAULT: u32 = 512;

/// A server that answers.
#[derive(Debug)]
pub struct Target {
    /// The server.
    pub server: Reached,
    /// How it is asked under load.
    pub client: Client,
    /// The model's name in requests.
    pub model: String,
    /// Its longest sequence, tokens, where the server tells.
    pub sequence_tokens_max: Option<u32>,
    /// The server's version, where it tells.
    pub version: Option<String>,
    /// The devices of its ranks, where it is a Shardwire.
    pub devices: Vec<String>,
    /// Its process, where it runs on this machine and can be known.
    pub pid: Option<u32>,
    /// What is asked.
    pub endpoint: BenchEndpoint,
    ignore_eos: bool,
    extra: Map<String, Value>,
}

impl Target {
    /// Reaches or starts it, for at most so many requests at once.
    pub fn open(flags: &AskingFlags, open_max: u32, interrupts: &Receiver<Interrupt>) -> Result<Self, Halt> {
        let mut server_flags = flags.server.clone();
        if open_max > OPEN_MAX_DEFAULT {
            server_flags.serve_words.push(format!("--max-concurrency={open_max}").into());
        }
        let server = own_server::reach(&server_flags, Some(flags.request_timeout), interrupts)?;
        let client = Client::new(&server.remote).map_err(Halt::Refused)?;
        let named = flags.model.clone().filter(|_| flags.server.url.is_some());
        let server_pid = server.own_pid();
        let mut target = Self {
            server,
            client,
            model: String::new(),
            sequence_tokens_max: None,
            version: None,
            devices: Vec::new(),
            pid: server_pid,
            endpoint: flags.endpoint,
            ignore_eos: flags.ignore_eos,
            extra: flags.extra_body.clone().unwrap_or_default(),
        };
        target.find_model(named).map_err(Halt::Refused)?;
        target.look_around();
        Ok(target)
    }

    /// The path that is asked.
    pub fn path(&self) -> &'static str {
        match self.endpoint {
            BenchEndpoint::Chat => "/v1/chat/completions",
            BenchEndpoint::Completions => "/v1/completions",
        }
    }

    /// The body of a request for a streamed answer.
    pub fn streamed(&self, prompt: &Prompt, output_tokens: u32) -> String {
        let stream = json!({"stream": true, "stream_options": {"include_usage": true}});
        self.body(prompt, output_tokens, stream)
    }

    /// Asks for a whole answer of one token; what the server counted of the prompt, where it tells.
    pub fn ask_once(&self, prompt: &Prompt) -> Result<Option<u64>, Refusal> {
        let path = self.path();
        let refused =
            |message| Refusal { message: format!("{}: {message}", self.server.remote.url(path)), answer: None };
        let body = self.body(prompt, 1, json!({"stream": false}));
        let answer = self.server.remote.post(path, &body).map_err(|error| refused(error.to_string()))?;
        if answer.status != 200 {
            let message = format!("HTTP {}: {}", answer.status, answer.message());
            return Err(Refusal { answer: Some(answer), ..refused(message) });
        }
        let body: Value = serde_json::from_str(&answer.text).unwrap_or_default();
        Ok(body["usage"]["prompt_tokens"].as_u64())
    }

    /// The ids of a text's tokens, where the server tells (as vLLM, SGLang and llama.cpp do).
    pub fn tokenize(&self, text: &str) -> Option<Vec<u32>> {
        // llama.cpp calls the text by another name than the others do.
        let body = json!({"model": self.model, "prompt": text, "content": text, "add_special_tokens": false});
        let answer =
            self.server.remote.post("/tokenize", &body.to_string()).ok().filter(|answer| answer.status == 200)?;
        let body: Value = serde_json::from_str(&answer.text).ok()?;
        body["tokens"].as_array()?.iter().map(|id| u32::try_from(id.as_u64()?).ok()).collect()
    }

    /// Asks what not every server tells; before the load, which may end it.
    fn look_around(&mut self) {
        let told = |path| {
            let answer = self.server.remote.get(path).ok().filter(|answer| answer.status == 200)?;
            serde_json::from_str::<Value>(&answer.text).ok()
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        self.version = told("/version").and_then(|body| text(&body["version"]));
        let ranks = told("/ranks").unwrap_or_default();
        self.devices =
            ranks["ranks"].as_array().into_iter().flatten().filter_map(|rank| text(&rank["device"])).collect();
        if self.pid.is_none() && self.server.remote.is_here() {
            let rank = ranks["ranks"][0]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
            self.pid = rank.and_then(memory::server_of_rank);
        }
    }

    fn find_model(&mut self, named: Option<String>) -> Result<(), String> {
        let remote = &self.server.remote;
        let url = remote.url("/v1/models");
        let answer = remote.get("/v1/models").map_err(|error| format!("{url}: {error}"))?;
        if matches!(answer.status, 401 | 403) {
            return Err(format!("{url}: HTTP {}: {}", answer.status, answer.message()));
        }
        let body: Value = serde_json::from_str(&answer.text).unwrap_or_default();
        let cards = body["data"].as_array().map_or(&[][..], Vec::as_slice);
        let wanted = |card: &&Value| named.as_ref().is_none_or(|name| card["id"] == name.as_str());
        let card = cards.iter().find(wanted);
        let first = || card.and_then(|card| card["id"].as_str()).map(str::to_owned);
        let nameless = || format!("{url} names no model (HTTP {}); name one with --model", answer.status);
        self.model = named.clone().or_else(first).ok_or_else(nameless)?;
        let length = card.and_then(|card| card["max_model_len"].as_u64());
        self.sequence_tokens_max = length.and_then(|length| u32::try_from(length).ok());
        Ok(())
    }

    fn body(&self, prompt: &Prompt, output_tokens: u32, stream: Value) -> String {
        let mut body = json!({"model": self.model, "max_tokens": output_tokens, "temperature": 0});
        match (self.endpoint, prompt) {
            (BenchEndpoint::Chat, Prompt::Text(text)) => body["messages"] = json!([{"role": "user", "content": text}]),
            (_, Prompt::Text(text)) => body["prompt"] = json!(text),
            (_, Prompt::Ids(ids)) => body["prompt"] = json!(ids),
        }
        if self.ignore_eos {
            body["ignore_eos"] = json!(true);
        }
        if let (Some(body), Value::Object(stream)) = (body.as_object_mut(), stream) {
            body.extend(stream);
            body.extend(self.extra.clone());
        }
        body.to_string()
    }
}

/// Why a request of our own got no answer.
#[derive(Debug)]
pub struct Refusal {
    /// One line for people.
    pub message: String,
    /// What the server answered, where it did.
    pub answer: Option<Answer>,
}

impl Refusal {
    /// Whether the request itself was not to the server's liking, rather than the key or the model's name.
    pub fn is_of_the_request(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| !matches!(answer.status, 401 | 403 | 404 | 429 | 503))
    }
}
