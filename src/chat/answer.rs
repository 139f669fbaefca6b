//! One answer, as it comes.

use std::{
    thread,
    time::{Duration, Instant},
};

use crossbeam::channel::{Receiver, Sender, bounded};
use serde_json::Value;

use crate::remote::{Events, Remote};

/// What an answer grows by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Growth {
    /// A thought.
    Reasoning(String),
    /// Text for the user.
    Text(String),
    /// Part of a call of a tool: its name, or more of its arguments.
    Call(String),
    /// Tokens of the whole answer.
    Tokens(u64),
    /// Why it ended.
    Finish(String),
    /// All was said.
    End,
    /// It can't go on.
    Failed(String),
}

/// Asks for an answer on a thread of its own. Whoever drops the channel ends the answer.
pub fn begin(remote: &Remote, path: &'static str, body: &Value) -> Receiver<Growth> {
    let (sender, receiver) = bounded(256);
    let (remote, body) = (remote.clone(), body.to_string());
    thread::spawn(move || {
        let end = match remote.stream(path, &body) {
            Ok(Ok(events)) => follow(events, &sender),
            Ok(Err(answer)) => Growth::Failed(answer.message()),
            Err(error) => Growth::Failed(format!("{}: {error}", remote.url(path))),
        };
        // Nobody listens where the user stopped the answer.
        let _ = sender.send(end);
    });
    receiver
}

/// Tells what comes; how it ended.
fn follow(events: Events, listener: &Sender<Growth>) -> Growth {
    for event in events {
        let data = match event {
            Ok(data) if data == "[DONE]" => return Growth::End,
            Ok(data) => data,
            Err(error) => return Growth::Failed(format!("the answer broke off: {error}")),
        };
        let Ok(event) = serde_json::from_str::<Value>(&data) else {
            return Growth::Failed(format!("the server sent an event that is no JSON: {:.200}", data));
        };
        for growth in growths(&event) {
            if listener.send(growth).is_err() {
                return Growth::End;
            }
        }
    }
    Growth::Failed("the answer broke off".into())
}

/// What one event of a chat's or a completion's stream brings.
fn growths(event: &Value) -> Vec<Growth> {
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    if event["error"].is_object() {
        return vec![Growth::Failed(text(&event["error"]["message"]).unwrap_or_else(|| event["error"].to_string()))];
    }
    let choice = &event["choices"][0];
    let delta = &choice["delta"];
    // Other servers call a thought by the shorter name.
    let reasoning = text(&delta["reasoning_content"]).or_else(|| text(&delta["reasoning"]));
    let content = text(&delta["content"]).or_else(|| text(&choice["text"]));
    let calls = delta["tool_calls"].as_array().into_iter().flatten().flat_map(|call| {
        let function = &call["function"];
        let name = text(&function["name"]).map(|name| format!("\n{name} "));
        name.into_iter().chain(text(&function["arguments"])).map(Growth::Call)
    });
    let mut growths: Vec<_> = reasoning.map(Growth::Reasoning).into_iter().chain(content.map(Growth::Text)).collect();
    growths.extend(calls);
    growths.extend(event["usage"]["completion_tokens"].as_u64().map(Growth::Tokens));
    growths.extend(text(&choice["finish_reason"]).map(Growth::Finish));
    growths
}

/// How fast an answer came.
#[derive(Debug)]
pub struct Pace {
    start: Instant,
    first: Option<Instant>,
    last: Instant,
    tokens: u64,
}

impl Pace {
    /// Measured from now on.
    pub fn start() -> Self {
        let now = Instant::now();
        Self { start: now, first: None, last: now, tokens: 0 }
    }

    /// Something came.
    pub fn note(&mut self, growth: &Growth) {
        match growth {
            Growth::Tokens(tokens) => self.tokens = *tokens,
            Growth::Reasoning(_) | Growth::Text(_) | Growth::Call(_) => {
                self.last = Instant::now();
                self.first.get_or_insert(self.last);
            }
            _ => {}
        }
    }

    /// One line of figures.
    pub fn line(&self) -> String {
        let first = self.first.unwrap_or(self.last);
        figures(self.tokens, first - self.start, self.last - first)
    }
}

fn figures(tokens: u64, to_first: Duration, after_first: Duration) -> String {
    let plural = if tokens == 1 { "" } else { "s" };
    let first = format!("{tokens} token{plural}, the first after {:.2} s", to_first.as_secs_f64());
    let seconds = after_first.as_secs_f64();
    match tokens > 1 && seconds > 0.0 {
        true => format!("{first}, then {:.1} tokens/s", (tokens - 1) as f64 / seconds),
        false => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_are_understood() {
        let check = |event: Value, expected: &[Growth]| assert_eq!(growths(&event), expected, "{event}");
        check(
            json!({"choices": [{"delta": {"content": "a", "reasoning_content": "b"}, "finish_reason": null}]}),
            &[Growth::Reasoning("b".into()), Growth::Text("a".into())],
        );
        check(
            json!({"choices": [{"text": "a", "finish_reason": "stop"}]}),
            &[Growth::Text("a".into()), Growth::Finish("stop".into())],
        );
        check(
            json!({"choices": [{"delta": {"tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}}]}),
            &[Growth::Call("\nf ".into()), Growth::Call("{".into())],
        );
        check(json!({"choices": [], "usage": {"completion_tokens": 3}}), &[Growth::Tokens(3)]);
        check(json!({"error": {"message": "no"}}), &[Growth::Failed("no".into())]);
        check(json!({"choices": [{"delta": {"role": "assistant", "content": ""}}]}), &[]);
    }

    #[test]
    fn figures_are_one_line() {
        let seconds = Duration::from_secs;
        assert_eq!(figures(11, seconds(1), seconds(2)), "11 tokens, the first after 1.00 s, then 5.0 tokens/s");
        assert_eq!(figures(1, seconds(1), Duration::ZERO), "1 token, the first after 1.00 s");
    }
}
