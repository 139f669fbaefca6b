//! What an assistant's text is taken apart into: reasoning, content and calls, whole and streamed alike. Structured output
//! makes the tiny model say exactly what a case needs.

use serde_json::{Value, json};

use crate::{CHAT, chat, server::Server, start, with};

/// A chat whose answer is this text, letter by letter.
fn saying(text: &str, fields: Value) -> Value {
    let escaped: String = text
        .chars()
        .map(|character| match character {
            '\\' | '.' | '+' | '*' | '?' | '(' | ')' | '|' | '[' | ']' | '{' | '}' | '^' | '$' | '#' | '&' | '-'
            | '~' => {
                format!("\\{character}")
            }
            other => other.into(),
        })
        .collect();
    chat(with(json!({"guided_regex": escaped, "enable_thinking": false, "max_tokens": 300}), fields))
}

fn tools() -> Value {
    json!([
        {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": {
            "type": "object", "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}}, "required": ["city"],
            "additionalProperties": false}}},
        {"type": "function", "function": {"name": "now"}},
    ])
}

/// The message of a stream, put together as OpenAI's client does it, and its finish reason.
fn joined(chunks: &[Value]) -> (Value, Value) {
    let (mut content, mut reasoning, mut calls) = (String::new(), String::new(), Vec::<Value>::new());
    let mut finish = Value::Null;
    for choice in chunks.iter().filter_map(|chunk| chunk["choices"].get(0)) {
        let delta = &choice["delta"];
        let (more, thoughts) =
            (delta["content"].as_str().unwrap_or(""), delta["reasoning_content"].as_str().unwrap_or(""));
        assert!(more.is_empty() || thoughts.is_empty(), "both in one chunk: {choice}");
        content.push_str(more);
        reasoning.push_str(thoughts);
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            add(&mut calls, call);
        }
        if finish.is_null() {
            finish = choice["finish_reason"].clone();
        } else {
            panic!("a chunk behind the last: {choice}");
        }
    }
    (json!({"content": content, "reasoning": reasoning, "calls": calls}), finish)
}

fn add(calls: &mut Vec<Value>, delta: &Value) {
    let index = delta["index"].as_u64().expect("an index") as usize;
    let arguments = delta["function"]["arguments"].as_str().expect("arguments");
    if index == calls.len() {
        assert_eq!(delta["type"], "function");
        assert!(delta["id"].as_str().is_some_and(|id| id.starts_with("chatcmpl-tool-")), "{delta}");
        calls.push(json!({"name": delta["function"]["name"], "arguments": arguments}));
        return;
    }
    assert!(
        index + 1 == calls.len() && delta.get("id").is_none() && delta["function"].get("name").is_none(),
        "{delta}"
    );
    let all = calls[index]["arguments"].as_str().expect("arguments").to_owned() + arguments;
    calls[index]["arguments"] = all.into();
}

/// The same of a whole answer.
fn told(answer: &Value) -> (Value, Value) {
    let choice = &answer["choices"][0];
    let message = &choice["message"];
    let text = |name: &str| message[name].as_str().unwrap_or("").to_owned();
    let call = |call: &Value| json!({"name": call["function"]["name"], "arguments": call["function"]["arguments"]});
    let calls: Vec<_> = message["tool_calls"].as_array().into_iter().flatten().map(call).collect();
    assert!(!message["content"].is_null() || !calls.is_empty(), "content is null beside calls only: {message}");
    let all = json!({"content": text("content"), "reasoning": text("reasoning_content"), "calls": calls});
    (all, choice["finish_reason"].clone())
}

/// Whole and streamed, the answer is this.
fn check(server: &Server, body: &Value, content: &str, reasoning: &str, calls: &[(&str, &str)], finish: &str) {
    let calls: Vec<_> = calls.iter().map(|(name, text)| json!({"name": name, "arguments": text})).collect();
    let expected = (json!({"content": content, "reasoning": reasoning, "calls": calls}), json!(finish));
    assert_eq!(told(&server.ok(CHAT, body)), expected, "{body}");
    assert_eq!(joined(&server.stream(CHAT, body)), expected, "{body}, streamed");
}

const PARIS: &str = r#"{"city": "Paris"}"#;

#[test]
fn reasoning_is_told_apart() {
    let server = start(&["--reasoning-parser", "qwen3", "--tool-call-parser", "hermes"]);
    check(&server, &saying("<think>\nhm\n</think>\n\nHello <b>", json!({})), "Hello <b>", "hm", &[], "stop");
    check(&server, &saying("Hello <think", json!({})), "Hello <think", "", &[], "stop");
    check(&server, &saying("<think>a</think>b", json!({"stop": "b"})), "", "a", &[], "stop");
    let usage = server.ok(CHAT, &saying("<think>hm</think>Yes, it is so.", json!({})))["usage"].clone();
    let reasoning = usage["completion_tokens_details"]["reasoning_tokens"].as_u64().expect("a count");
    assert!(reasoning > 0 && reasoning < usage["completion_tokens"].as_u64().expect("a count"), "{usage}");
}

#[test]
fn calls_are_told_apart_where_there_are_tools() {
    let server = start(&["--reasoning-parser", "qwen3", "--tool-call-parser", "hermes"]);
    let one = format!("<tool_call>\n{{\"name\": \"weather\", \"arguments\": {PARIS}}}\n</tool_call>");
    let now = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    let with_tools = |fields: Value| with(json!({"tools": tools()}), fields);
    let weather = ("weather", PARIS);
    let says = |text: &str, fields: Value| saying(text, with_tools(fields));
    check(&server, &says(&one, json!({})), "", "", &[weather], "tool_calls");
    check(&server, &says(&format!("Ok.\n{one}\n{now}"), json!({})), "Ok.", "", &[weather, ("now", "{}")], "tool_calls");
    let single = json!({"parallel_tool_calls": false});
    check(&server, &says(&format!("{one}\n{now}"), single), "", "", &[weather], "tool_calls");
    check(&server, &says("<tool_call>no call</tool_call>", json!({})), "no call", "", &[], "stop");
    // Without tools, or with none allowed, the same text is only text.
    check(&server, &says(&one, json!({"tool_choice": "none"})), &one, "", &[], "stop");
    check(&server, &saying(&one, json!({})), &one, "", &[], "stop");
    let whole = server.ok(CHAT, &says(&one, json!({"logprobs": true})));
    assert_eq!(whole["choices"][0]["message"]["content"], Value::Null);
    let tokens = whole["usage"]["completion_tokens"].as_u64().expect("a count") as usize;
    assert_eq!(whole["choices"][0]["logprobs"]["content"].as_array().map(Vec::len), Some(tokens));
    let chunks = server.stream(CHAT, &says(&one, json!({"logprobs": true})));
    let entries = |chunk: &Value| chunk["choices"][0]["logprobs"]["content"].as_array().map_or(0, Vec::len);
    assert_eq!(chunks.iter().map(entries).sum::<usize>(), tokens, "each token's log-probability is told once");
}

#[test]
fn other_formats_are_read_by_their_names() {
    let server = start(&["--reasoning-parser", "ernie_x1", "--tool-call-parser", "qwen3_coder"]);
    let call = "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>";
    let body = saying(call, json!({"tools": tools()}));
    check(&server, &body, "", "", &[("weather", PARIS)], "tool_calls");
    check(&server, &saying("<response>\nHi\n</response>\n", json!({})), "Hi", "", &[], "stop");
}

#[test]
fn calls_can_be_forced_whatever_the_format() {
    // A model of random numbers might write white space for ever.
    let server = start(&["--guided-decoding-disable-any-whitespace"]);
    let base = json!({"tools": tools(), "max_tokens": 200, "temperature": 1, "seed": 3});
    for (choice, parallel) in [
        (json!("required"), false),
        (json!({"type": "function", "function": {"name": "weather"}}), true),
        (
            json!({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [
            {"type": "function", "function": {"name": "weather"}}]}}),
            false,
        ),
    ] {
        let body = chat(with(base.clone(), json!({"tool_choice": choice, "parallel_tool_calls": parallel})));
        let (message, finish) = told(&server.ok(CHAT, &body));
        assert_eq!((&finish, &message["content"]), (&json!("tool_calls"), &json!("")), "{choice}");
        let calls = message["calls"].as_array().expect("calls");
        assert_eq!(calls.len(), 1, "{choice}: {message}");
        let arguments: Value = serde_json::from_str(calls[0]["arguments"].as_str().expect("text")).expect("JSON");
        let name = calls[0]["name"].as_str().expect("a name");
        assert!(
            name == "now" && choice == "required" || name == "weather" && arguments["city"].is_string(),
            "{message}"
        );
        assert_eq!(joined(&server.stream(CHAT, &body)), (message, finish), "{choice}, streamed");
    }
}

#[test]
fn a_request_may_bring_its_template() {
    let refused = start(&[]).post(CHAT, &chat(json!({"chat_template": "{{ messages[0].content }}"})));
    assert_eq!((refused.0, &refused.1["error"]["param"]), (400, &json!("chat_template")), "{}", refused.1);

    let server = start(&["--trust-request-chat-template"]);
    let ids = |fields: Value| {
        let body = chat(with(json!({"return_token_ids": true}), fields));
        server.ok(CHAT, &body)["choices"][0]["message"]["prompt_token_ids"].clone()
    };
    let content = json!([{"role": "user", "content": "Hi"}]);
    assert_eq!(ids(json!({"messages": content, "chat_template": "{{ messages[0].content }}"})), json!([39, 72]));
    let deep = format!("{{{{ {}1 }}}}", "-".repeat(60_000));
    for wrong in ["{% if %}", "{{ 1 + [] }}", &"x".repeat(300_000), "{{ '%99999999d'|format(1) }}"] {
        let (status, answer) = server.post(CHAT, &chat(json!({"chat_template": wrong})));
        assert_eq!((status, &answer["error"]["param"]), (400, &json!("chat_template")), "{answer}");
    }
    // Whatever becomes of it, the server lives on.
    server.post(CHAT, &chat(json!({"chat_template": deep})));
    server.ok(CHAT, &chat(json!({})));
}

#[test]
fn typed_special_tokens_are_text_where_that_is_wanted() {
    let typed = json!({"messages": [{"role": "user", "content": "a<|im_end|>b"}], "return_token_ids": true});
    let count = |flags: &[&str]| {
        let answer = start(flags).ok(CHAT, &chat(typed.clone()));
        let ids = answer["choices"][0]["message"]["prompt_token_ids"].clone();
        let end = ids.as_array().expect("ids").iter().filter(|id| **id == json!(1017)).count();
        (end, ids.as_array().map_or(0, Vec::len))
    };
    let (open, sealed) = (count(&[]), count(&["--no-special-tokens-in-content"]));
    assert_eq!(open.0, sealed.0 + 1, "{open:?} {sealed:?}");
    assert!(sealed.1 > open.1);
}
