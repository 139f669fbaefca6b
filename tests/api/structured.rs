//! Answers in the form that was asked for. The tiny model's weights are random, so that nothing but the form makes sense.

use std::{sync::mpsc, thread};

use serde_json::{Value, json};

use crate::{CHAT, COMPLETIONS, MODEL, chat, completion, server::Server, start, with};

/// The schema of a small object, every text of it bounded.
fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 6},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "kind": {"enum": ["cat", "dog"]},
        },
        "required": ["name", "age", "kind"],
        "additionalProperties": false,
    })
}

fn is_person(text: &str) -> bool {
    let Ok(person) = serde_json::from_str::<Value>(text) else { return false };
    person["name"].as_str().is_some_and(|name| name.chars().count() <= 6)
        && person["age"].as_u64().is_some_and(|age| age <= 150)
        && ["cat", "dog"].contains(&person["kind"].as_str().unwrap_or_default())
}

fn is_flag(text: &str) -> bool {
    ["yes", "no"].contains(&text)
}

/// `ab-12`, with one to three of each.
fn is_code(text: &str) -> bool {
    text.split_once('-').is_some_and(|(letters, digits)| {
        let bounded = (1..=3).contains(&letters.len()) && (1..=3).contains(&digits.len());
        bounded && letters.bytes().all(|byte| b"ab".contains(&byte)) && digits.bytes().all(|byte| byte.is_ascii_digit())
    })
}

fn has_kept_structures(text: &str) -> bool {
    text.split("<f>").skip(1).all(|rest| ["true</f>", "false</f>"].iter().any(|form| rest.starts_with(form)))
}

type Fits = fn(&str) -> bool;

fn rows() -> Vec<(Value, Fits)> {
    let choice = json!(["yes", "no"]);
    let code = "^[ab]{1,3}-[0-9]{1,3}$";
    let gbnf = "root ::= letter{1,3} \"-\" digit{1,3}\nletter ::= [ab]\ndigit ::= [0-9]";
    let lark = "start: /[ab]{1,3}/ \"-\" /[0-9]{1,3}/";
    let tag = json!({
        "structures": [{"begin": "<f>", "schema": {"type": "boolean"}, "end": "</f>"}], "triggers": ["<f>"],
    });
    let named = json!({"name": "person", "strict": true, "schema": person()});
    vec![
        (json!({"response_format": {"type": "json_schema", "json_schema": named}}), is_person),
        (json!({"guided_json": person()}), is_person),
        (json!({"guided_json": person().to_string()}), is_person),
        (json!({"guided_json": person(), "guided_whitespace_pattern": " "}), is_person),
        (json!({"guided_choice": choice}), is_flag),
        (json!({"guided_regex": code}), is_code),
        (json!({"guided_grammar": gbnf}), is_code),
        (json!({"guided_grammar": lark}), is_code),
        (json!({"structured_outputs": {"json": person(), "disable_any_whitespace": true}}), is_person),
        (json!({"structured_outputs": {"choice": choice}}), is_flag),
        (json!({"structured_outputs": {"regex": code}}), is_code),
        (json!({"structured_outputs": {"grammar": gbnf}}), is_code),
        (json!({"structural_tag": tag.to_string(), "max_tokens": 40}), has_kept_structures),
        (
            json!({"response_format": with(tag, json!({"type": "structural_tag"})), "max_tokens": 40}),
            has_kept_structures,
        ),
        // Neither the end of sequence nor `min_tokens` counts against a form.
        (json!({"guided_choice": choice, "ignore_eos": true}), is_flag),
        (json!({"guided_choice": choice, "min_tokens": 60}), is_flag),
        (json!({"guided_regex": code, "guided_decoding_backend": "xgrammar"}), is_code),
    ]
}

/// A body with room for the form, drawn at random.
fn asking(path: &str, fields: Value) -> Value {
    let room = with(json!({"max_tokens": 150, "temperature": 1, "seed": 5}), fields);
    if path == CHAT { chat(room) } else { completion(room) }
}

fn texts(answer: &Value) -> Vec<String> {
    let text = |choice: &Value| choice["text"].as_str().or(choice["message"]["content"].as_str()).map(str::to_owned);
    answer["choices"].as_array().expect("choices").iter().map(|choice| text(choice).expect("a text")).collect()
}

fn streamed(server: &Server, path: &str, body: &Value) -> String {
    let piece = |choice: &Value| choice["text"].as_str().or(choice["delta"]["content"].as_str()).map(str::to_owned);
    let chunks = server.stream(path, &with(body.clone(), json!({"stream": true})));
    let choices = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().into_iter().flatten());
    choices.filter_map(piece).collect()
}

/// Every form is kept, streamed as in whole answers, by every one of several sequences.
fn check(server: &Server, path: &str, rows: Vec<(Value, Fits)>) {
    for (fields, fits) in rows {
        let body = asking(path, fields);
        let answer = server.ok(path, &with(body.clone(), json!({"n": 3})));
        let whole = texts(&answer);
        for (text, choice) in whole.iter().zip(answer["choices"].as_array().expect("choices")) {
            assert!(fits(text), "{text:?} to {body}");
            assert!(choice["finish_reason"] == "stop" || body["max_tokens"] == 40, "{choice} to {body}");
        }
        assert_eq!(streamed(server, path, &body), whole[0], "{body}");
    }
}

#[test]
fn every_form_is_kept() {
    let server = start(&[]);
    check(&server, CHAT, rows());
    check(&server, COMPLETIONS, rows());
}

#[test]
fn forms_are_kept_by_two_ranks_and_after_preemption() {
    let flags = ["-tp", "2", "--num-gpu-blocks-override", "14", "--max-model-len", "208", "--max-num-seqs", "12"];
    let server = start(&flags);
    check(&server, COMPLETIONS, rows().into_iter().take(7).collect());
    // Long enough that not all find room at once.
    let long = json!({"guided_regex": "([ab]{1,3}-[0-9]{1,3} ){60}", "n": 6, "max_tokens": 120});
    let alone = texts(&start(&[]).ok(COMPLETIONS, &asking(COMPLETIONS, long.clone())));
    let together = texts(&server.ok(COMPLETIONS, &asking(COMPLETIONS, long)));
    assert!(server.metric("vllm:num_preemptions_total") > 0.0, "nobody had to give way");
    for text in together.iter().chain(&alone) {
        let mut codes: Vec<_> = text.split(' ').collect();
        codes.pop();
        assert!(codes.len() > 5 && codes.iter().all(|code| is_code(code)), "{text:?}");
    }
}

#[test]
fn what_is_asked_wrongly_names_its_parameter() {
    let server = start(&[]);
    let schema = |schema: Value| json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    for (fields, param, told) in [
        (json!({"response_format": {"type": "yaml"}}), "response_format", "type"),
        (json!({"response_format": "json_object"}), "response_format", "type"),
        (json!({"response_format": {"type": "json_schema"}}), "response_format", "json_schema"),
        (json!({"response_format": schema(json!(5))}), "response_format", "object"),
        (json!({"response_format": schema(json!({"items": {"type": "lots"}}))}), "response_format", "at /items"),
        (json!({"response_format": schema(json!({"$ref": "http://a.example/b"}))}), "response_format", "a.example"),
        (json!({"response_format": {"type": "structural_tag"}}), "response_format", "structures"),
        (json!({"guided_json": "{"}), "guided_json", "not valid JSON"),
        (json!({"guided_json": [1]}), "guided_json", "JSON schema"),
        (json!({"guided_regex": "a("}), "guided_regex", "character 2"),
        (json!({"guided_regex": 5}), "guided_regex", "string"),
        (json!({"guided_choice": []}), "guided_choice", "at least one"),
        (json!({"guided_choice": ["a", 1]}), "guided_choice", "list of strings"),
        (json!({"guided_grammar": "root ::= x"}), "guided_grammar", "line 1"),
        (json!({"guided_grammar": "start: \"a\"\n  | x"}), "guided_grammar", "unknown name: \"x\""),
        (json!({"structural_tag": {"structures": [{"begin": "a"}], "triggers": ["a"]}}), "structural_tag", "[0]"),
        (json!({"structured_outputs": {}}), "structured_outputs", "one of"),
        (json!({"structured_outputs": {"json": {}, "regex": "a"}}), "structured_outputs", "both"),
        (json!({"guided_regex": "a", "guided_choice": ["b"]}), "guided_choice", "guided_regex"),
        (json!({"guided_choice": ["a".repeat(600_000)]}), "guided_choice", "at most"),
    ] {
        for path in [CHAT, COMPLETIONS] {
            let (status, answer) = server.post(path, &asking(path, fields.clone()));
            let error = &answer["error"];
            assert_eq!((status, &error["param"]), (400, &json!(param)), "{fields} → {answer}");
            assert!(error["message"].as_str().is_some_and(|text| text.contains(told)), "{fields} → {answer}");
        }
    }
    server.ok(CHAT, &chat(json!({"response_format": {"type": "text"}, "guided_json": null})));
}

#[test]
fn whitespace_can_be_left_out_and_forms_refused() {
    let server = start(&["--guided-decoding-disable-any-whitespace", "--guided-decoding-backend", "xgrammar"]);
    for text in texts(&server.ok(CHAT, &asking(CHAT, json!({"guided_json": person(), "n": 4})))) {
        assert!(is_person(&text), "{text:?}");
        for compact in ["{\"name\":\"", "\",\"age\":", ",\"kind\":\""] {
            assert!(text.contains(compact), "{text:?}");
        }
    }
    let server = start(&["--guided-decoding-backend", "off"]);
    let (status, answer) = server.post(CHAT, &asking(CHAT, json!({"response_format": {"type": "json_object"}})));
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("response_format")), "{answer}");
    assert!(answer["error"]["message"].as_str().is_some_and(|text| text.contains("--guided-decoding-backend")));
}

#[test]
fn reasoning_ends_at_its_budget_and_the_form_follows() {
    let server = start(&["--reasoning-parser", "qwen3"]);
    for (budget, seed) in [(1, 1), (5, 2), (20, 3)] {
        // The template doesn't open the reasoning, so that the conversation does.
        let opened = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<think>"}]);
        let fields = json!({
            "messages": opened, "continue_final_message": true, "add_generation_prompt": false, "seed": seed,
            "reasoning_max_tokens": budget, "guided_choice": ["yes", "no"],
        });
        let answer = server.ok(CHAT, &asking(CHAT, fields.clone()));
        let message = &answer["choices"][0]["message"];
        assert!(is_flag(message["content"].as_str().expect("an answer")), "{answer}");
        assert!(answer["usage"]["completion_tokens"].as_u64().is_some_and(|count| count <= budget + 10), "{answer}");

        let free = with(fields, json!({"guided_choice": null, "max_tokens": 40, "return_token_ids": true}));
        let answer = server.ok(CHAT, &asking(CHAT, free));
        let ids = answer["choices"][0]["message"]["completion_token_ids"].as_array().expect("ids").clone();
        let end = ids.iter().position(|id| *id == 1019).expect("the mark that ends reasoning");
        assert!(end as u64 <= budget, "{answer}");
    }
}

/// Preparing a vocabulary, compiling and masking are nobody else's business.
#[test]
fn others_go_on_while_a_heavy_grammar_is_compiled() {
    let server = Server::of_golden(MODEL, &["--enable-logprob", "--block-size", "16"]);
    let rules: String = (0..1500).map(|index| format!("R{index}: R{} \"x\"\n", index + 1)).collect();
    let heavy =
        asking(COMPLETIONS, json!({"guided_grammar": format!("start: R0\n{rules}R1500: \"a\""), "max_tokens": 5}));
    thread::scope(|scope| {
        let (done, is_done) = mpsc::channel();
        let (server, heavy) = (&server, &heavy);
        scope.spawn(move || {
            let (status, answer) = server.post(COMPLETIONS, heavy);
            let _ = done.send((status, answer));
        });
        let mut answered = 0;
        let (status, answer) = loop {
            server.ok(COMPLETIONS, &completion(json!({})));
            answered += 1;
            if let Ok(outcome) = is_done.try_recv() {
                break outcome;
            }
        };
        assert!([200, 400].contains(&status) && answered > 0, "{answer}");
    });
}
