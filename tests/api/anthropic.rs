//! Anthropic's protocol: `/v1/messages` and `/v1/messages/count_tokens`.

use serde_json::{Value, json};

use crate::{
    chat, freeze,
    server::{Server, wait_for},
    start, with,
};

const MESSAGES: &str = "/v1/messages";
const COUNT: &str = "/v1/messages/count_tokens";

/// A short greedy request with further fields.
fn ask(fields: Value) -> Value {
    let hello = json!([{"role": "user", "content": "Hello!"}]);
    with(json!({"model": "claude-sonnet", "messages": hello, "max_tokens": 4, "temperature": 0}), fields)
}

/// The events of a stream, whose order must keep the protocol's grammar: a start, blocks one after another, the reason to
/// stop, the end.
fn events(server: &Server, body: &Value) -> Vec<Value> {
    let events: Vec<Value> = server
        .open_stream(MESSAGES, body)
        .map(|event| serde_json::from_str(&event).expect("every event is JSON, the last one too"))
        .collect();
    let mut grammar = Grammar::Nothing;
    for event in &events {
        grammar = grammar.next(event);
    }
    assert_eq!(grammar, Grammar::End, "{events:?}");
    events
}

/// What came last, and what may therefore come next.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Grammar {
    Nothing,
    /// So many blocks are complete.
    Between(u64),
    /// Within the block of this index.
    Inside(u64),
    Stopping,
    End,
}

impl Grammar {
    fn next(self, event: &Value) -> Self {
        let index = event["index"].as_u64();
        match (self, event["type"].as_str().expect("a type")) {
            (Self::Nothing, "message_start") => Self::Between(0),
            (Self::Between(_) | Self::Inside(_), "ping") => self,
            (Self::Between(count), "content_block_start") if index == Some(count) => Self::Inside(count),
            (Self::Inside(open), "content_block_delta") if index == Some(open) => self,
            (Self::Inside(open), "content_block_stop") if index == Some(open) => Self::Between(open + 1),
            (Self::Between(_), "message_delta") => Self::Stopping,
            (Self::Stopping, "message_stop") => Self::End,
            _ => panic!("{event} after {self:?}"),
        }
    }
}

/// The text that the deltas of a stream add up to.
fn text(events: &[Value]) -> String {
    events.iter().filter_map(|event| event["delta"]["text"].as_str()).collect()
}

#[test]
fn a_message_is_the_chat_in_another_form() {
    let server = start(&[]);
    let message = server.ok(MESSAGES, &ask(json!({})));
    let same = server.ok(crate::CHAT, &chat(json!({"enable_thinking": false})));
    assert_eq!(message["content"], json!([{"type": "text", "text": same["choices"][0]["message"]["content"]}]));
    for (name, value) in [
        ("type", json!("message")),
        ("role", json!("assistant")),
        ("model", same["model"].clone()),
        ("stop_reason", json!("max_tokens")),
        ("stop_sequence", Value::Null),
    ] {
        assert_eq!(message[name], value, "{name}");
    }
    assert!(message["id"].as_str().is_some_and(|id| id.starts_with("msg_")), "{message}");
    let usage = &message["usage"];
    assert_eq!((&usage["input_tokens"], &usage["output_tokens"]), (&same["usage"]["prompt_tokens"], &json!(4)));
    // The second time the prompt's full blocks are cached.
    let again = server.ok(MESSAGES, &ask(json!({})))["usage"].clone();
    let number = |name: &str| again[name].as_u64().expect("a number");
    assert!(number("cache_read_input_tokens") > 0 && number("cache_creation_input_tokens") == 0, "{again}");
    assert_eq!(json!(number("input_tokens") + number("cache_read_input_tokens")), usage["input_tokens"]);
}

#[test]
fn streams_add_up_to_the_whole() {
    let server = start(&[]);
    for fields in [
        json!({}),
        json!({"max_tokens": 1}),
        json!({"max_tokens": 60}),
        json!({"max_tokens": 60, "temperature": 1, "seed": 5, "ignore_eos": true}),
        json!({"max_tokens": 60, "stop_sequences": ["e", "的"], "ignore_eos": true}),
    ] {
        let whole = server.ok(MESSAGES, &ask(fields.clone()));
        let events = events(&server, &ask(fields.clone()));
        let told = whole["content"].as_array().expect("blocks").iter().filter_map(|block| block["text"].as_str());
        assert_eq!(text(&events), told.collect::<String>(), "{fields}");
        let last = events.iter().find(|event| event["type"] == "message_delta").expect("a last delta");
        for name in ["stop_reason", "stop_sequence"] {
            assert_eq!(last["delta"][name], whole[name], "{name} of {fields}");
        }
        assert_eq!(last["usage"]["output_tokens"], whole["usage"]["output_tokens"]);
        let begun = &events[0]["message"];
        assert_eq!((&begun["content"], &begun["stop_reason"]), (&json!([]), &Value::Null));
    }
}

#[test]
fn the_string_that_ended_a_message_is_named() {
    let server = start(&[]);
    let all = server.ok(MESSAGES, &ask(json!({"max_tokens": 60, "ignore_eos": true})));
    let all = all["content"][0]["text"].as_str().expect("text").to_owned();
    let letter = all.chars().filter(char::is_ascii_alphanumeric).nth(3).expect("some letters").to_string();
    let cut = server.ok(MESSAGES, &ask(json!({"max_tokens": 60, "ignore_eos": true, "stop_sequences": [letter]})));
    assert_eq!((&cut["stop_reason"], &cut["stop_sequence"]), (&json!("stop_sequence"), &json!(letter)));
    assert_eq!(cut["content"][0]["text"].as_str().unwrap_or(""), all.split(&letter).next().expect("a beginning"));
}

#[test]
fn counted_tokens_are_used_tokens() {
    let server = start(&["--no-enable-prefix-caching"]);
    let tool = json!({"name": "f", "description": "does it", "input_schema": {"type": "object"}});
    let call = json!({"type": "tool_use", "id": "a", "name": "f", "input": {}});
    let result = json!({"type": "tool_result", "tool_use_id": "a", "content": "done"});
    for fields in [
        json!({}),
        json!({"system": "Be brief."}),
        json!({"system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]}),
        json!({"tools": [tool]}),
        json!({"messages": [
            {"role": "user", "content": "Do it."},
            {"role": "assistant", "content": [{"type": "text", "text": "Well."}, call]},
            {"role": "user", "content": [result, {"type": "text", "text": "And?"}]},
        ]}),
        json!({"messages": [{"role": "user", "content": "Count!"}, {"role": "assistant", "content": "One, two"}]}),
    ] {
        let body = ask(fields);
        let counted = server.ok(COUNT, &with(body.clone(), json!({"max_tokens": null})));
        assert_eq!(counted, json!({"input_tokens": server.ok(MESSAGES, &body)["usage"]["input_tokens"]}), "{body}");
    }
    let long = ask(json!({"messages": [{"role": "user", "content": "many words ".repeat(2000)}]}));
    assert!(server.ok(COUNT, &long)["input_tokens"].as_u64() > Some(512), "what doesn't fit is counted too");
    assert_eq!(server.post(MESSAGES, &long).0, 400);
}

#[test]
fn what_is_wrong_is_told_in_anthropic_s_words() {
    let server = start(&["--served-model-name", "tiny"]);
    let ask = |fields| with(ask(json!({"model": "tiny"})), fields);
    for (fields, told) in [
        (json!({"max_tokens": null}), "`max_tokens`"),
        (json!({"max_tokens": 0}), "`max_tokens`"),
        (json!({"messages": null}), "`messages`"),
        (json!({"messages": []}), "`messages`"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}),
            "messages[0].content[0]",
        ),
        (json!({"system": 3}), "system"),
        (json!({"temperature": -1}), "temperature"),
        (json!({"top_p": 2}), "top_p"),
        (json!({"stop_sequences": "a"}), "stop_sequences"),
        (json!({"stop_sequences": [""]}), "stop string"),
        (json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}), "tools[0]"),
        (json!({"tool_choice": "auto"}), "tool_choice"),
        (json!({"thinking": {"type": "enabled"}}), "budget_tokens"),
        (json!({"stream": "yes"}), "stream"),
    ] {
        let (status, answer) = server.post(MESSAGES, &ask(fields.clone()));
        assert_eq!((status, &answer["type"]), (400, &json!("error")), "{fields}: {answer}");
        assert_eq!(answer["error"]["type"], "invalid_request_error", "{answer}");
        assert!(answer["error"]["message"].as_str().is_some_and(|message| message.contains(told)), "{answer}");
    }
    let kind = |(status, answer): (u16, Value)| (status, answer["error"]["type"].as_str().unwrap_or("").to_owned());
    let unknown = ask(json!({"model": "claude-sonnet"}));
    for path in [MESSAGES, COUNT] {
        assert_eq!(kind(server.post(path, &unknown)), (404, "not_found_error".into()));
        assert_eq!(kind(server.post_text(path, "nonsense")), (400, "invalid_request_error".into()));
    }
    assert_eq!(kind(server.post("/v1/messages/batches", &json!({}))), (404, "not_found_error".into()));
    let (status, body) = server.get(MESSAGES);
    assert!(status == 405 && body.contains("\"type\":\"error\""), "{body}");
}

#[test]
fn the_door_speaks_anthropic_s_words_too() {
    let server = start(&["--api-key", "secret"]);
    let (status, answer) = server.post(MESSAGES, &ask(json!({})));
    assert_eq!((status, &answer["error"]["type"]), (401, &json!("authentication_error")), "{answer}");
    let small = start(&["--max-body-size", "100", "--max-concurrency", "1"]);
    let (status, answer) = small.post(MESSAGES, &ask(json!({"system": "long ".repeat(100)})));
    assert_eq!((status, &answer["error"]["type"]), (413, &json!("request_too_large")), "{answer}");
}

#[test]
fn who_goes_away_gives_the_message_up() {
    let server = start(&[]);
    let frozen = freeze(&server);
    drop(server.open_stream(MESSAGES, &ask(json!({"max_tokens": 400, "ignore_eos": true}))));
    drop(frozen);
    wait_for("an idle server", || (server.metric("vllm:num_requests_running") == 0.0).then_some(()));
    server.ok(MESSAGES, &ask(json!({})));
}
