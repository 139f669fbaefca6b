//! What good requests are answered.

use serde_json::{Value, json};

use crate::{CHAT, COMPLETIONS, chat, completion, server::golden, start};

#[test]
fn parameters_that_are_accepted() {
    let server = start(&[]);
    for fields in [
        json!({"model": "null"}),
        json!({"model": "default"}),
        json!({"foo": 1, "tool_chioce": "x", "logit_bias": {"5": 1}}),
        json!({"temperature": 5, "top_k": -1}),
        json!({"top_p": 0, "temperature": 1}),
        json!({"top_k": 1_000_000_000_000_i64}),
        json!({"max_tokens": 1_000_000_000_000_i64}),
        json!({"max_tokens": 4.0}),
        json!({"temperature": null, "stop": null, "seed": null}),
        json!({"stream_options": {}}),
        json!({"stop": ["a", "b"], "stop_token_ids": [3]}),
        json!({"response_format": {"type": "text"}, "tools": [], "tool_choice": "auto"}),
        json!({"user": "u1", "metadata": {"any": "thing"}}),
        json!({"min_tokens": 4, "seed": 922337203685477580_i64}),
        json!({"repetition_penalty": 1.3, "presence_penalty": -2, "frequency_penalty": 2, "min_p": 0.5}),
        json!({"top_logprobs": 0, "logprobs": false}),
    ] {
        server.ok(CHAT, &chat(fields));
    }
}

#[test]
fn a_chat_is_answered_as_the_reference_does() {
    let server = start(&[]);
    let file = std::fs::read_to_string(golden(crate::MODEL).join("golden.json")).expect("a golden file");
    let golden: Value = serde_json::from_str(&file).expect("JSON");
    for case in golden["chat"].as_array().expect("chats").iter().filter(|case| case["error"].is_null()) {
        let body = json!({
            "messages": case["messages"], "chat_template_kwargs": case["kwargs"], "temperature": 0,
            "max_tokens": case["max_tokens"], "return_token_ids": true,
        });
        let answer = server.ok(CHAT, &body);
        let message = &answer["choices"][0]["message"];
        assert_eq!(message["prompt_token_ids"], case["prompt_ids"], "{}", case["name"]);
        assert_eq!((&answer["object"], &message["role"]), (&json!("chat.completion"), &json!("assistant")));
        let margins = case["greedy"]["margins"].as_array();
        let clear = margins.is_some_and(|margins| margins.iter().all(|margin| margin.as_f64() > Some(5e-3)));
        if clear {
            assert_eq!(message["completion_token_ids"], case["greedy"]["ids"], "{}", case["name"]);
        }
    }
}

#[test]
fn thinking_is_switched_off_in_three_places() {
    let server = start(&[]);
    let ids = |fields: Value| {
        let answer = server.ok(CHAT, &chat(super::with(json!({"return_token_ids": true}), fields)));
        answer["choices"][0]["message"]["prompt_token_ids"].clone()
    };
    let off = ids(json!({"enable_thinking": false}));
    assert_ne!(off, ids(json!({})));
    assert_eq!(off, ids(json!({"chat_template_kwargs": {"enable_thinking": false}})));
    assert_eq!(off, ids(json!({"metadata": {"enable_thinking": false}})));
    assert_eq!(off, ids(json!({"enable_thinking": false, "metadata": {"enable_thinking": true}})));
}

#[test]
fn usage_adds_up_and_the_counters_with_it() {
    let server = start(&[]);
    let count = |name: &str| server.metric(&format!("{name}_tokens_total")) as i64;
    for body in [completion(json!({"n": 3})), completion(json!({"prompt": ["a", "b c"], "max_tokens": 7}))] {
        let names = ["fastdeploy:prompt", "vllm:prompt", "fastdeploy:generation", "vllm:generation"];
        let before = names.map(count);
        let usage = server.ok(COMPLETIONS, &body)["usage"].clone();
        let used = |name: &str| usage[name].as_i64().expect(name);
        assert_eq!(used("total_tokens"), used("prompt_tokens") + used("completion_tokens"), "{usage}");
        let risen: Vec<_> = names.iter().zip(before).map(|(name, before)| count(name) - before).collect();
        let [prompt, completion] = [used("prompt_tokens"), used("completion_tokens")];
        assert_eq!(risen, [prompt, prompt, completion, completion], "{usage}");
    }
}

#[test]
fn max_tokens_ends_with_length_and_is_cut_to_the_context() {
    let server = start(&["--max-model-len", "64"]);
    for (asked, given) in [(1, 1), (5, 5), (1_000_000, 54)] {
        let body = completion(json!({"prompt": vec![7; 10], "max_tokens": asked, "ignore_eos": true}));
        let answer = server.ok(COMPLETIONS, &body);
        assert_eq!(answer["usage"]["completion_tokens"], given, "{asked}");
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
    }
    let answer = server.ok(COMPLETIONS, &completion(json!({"max_tokens": null, "ignore_eos": true})));
    assert_eq!(answer["usage"]["completion_tokens"], 16);
}

#[test]
fn prompts_in_every_form_give_one_choice_each() {
    let server = start(&[]);
    let texts = |prompt: Value, n: usize| -> Vec<String> {
        let answer = server.ok(COMPLETIONS, &completion(json!({"prompt": prompt, "n": n})));
        let choices = answer["choices"].as_array().expect("choices").clone();
        assert!(choices.iter().enumerate().all(|(i, choice)| choice["index"] == i), "{choices:?}");
        choices.iter().map(|choice| choice["text"].as_str().expect("text").to_owned()).collect()
    };
    let ids_of = |prompt: &str| {
        let answer = server.ok(COMPLETIONS, &completion(json!({"prompt": prompt, "return_token_ids": true})));
        answer["choices"][0]["prompt_token_ids"].clone()
    };
    let alone = ["one", "two", "three"].map(|prompt| texts(json!(prompt), 1).remove(0));
    assert_eq!(texts(json!(["one", "two", "three"]), 1), alone);
    assert_eq!(texts(ids_of("two"), 1), alone[1..2]);
    assert_eq!(texts(json!([ids_of("two"), ids_of("one")]), 1), [alone[1].clone(), alone[0].clone()]);
    assert_eq!(texts(json!(["one", "two"]), 2), [&alone[0], &alone[0], &alone[1], &alone[1]].map(String::clone));
    let ids = server.ok(COMPLETIONS, &completion(json!({"prompt": null, "prompt_token_ids": ids_of("one")})));
    assert_eq!(ids["choices"][0]["text"], alone[0]);
    let echoed = server.ok(COMPLETIONS, &completion(json!({"prompt": "one", "echo": true})));
    assert_eq!(echoed["choices"][0]["text"], format!("one{}", alone[0]));
}

/// Greedy text of some length, to find stop strings and tokens in.
fn sample(server: &crate::server::Server) -> (String, Vec<u64>) {
    let body = completion(json!({"max_tokens": 24, "ignore_eos": true, "return_token_ids": true}));
    let choice = server.ok(COMPLETIONS, &body)["choices"][0].clone();
    let ids = choice["completion_token_ids"].as_array().expect("ids").iter().filter_map(Value::as_u64).collect();
    (choice["text"].as_str().expect("text").to_owned(), ids)
}

#[test]
fn stop_strings_and_tokens_end_the_text() {
    let server = start(&[]);
    let (text, ids) = sample(&server);
    let letters: Vec<char> = text.chars().filter(|letter| *letter != '\u{fffd}').collect();
    // Three characters from the middle: most likely of several tokens.
    let stop: String = letters[letters.len() / 2..letters.len() / 2 + 3].iter().collect();
    let end = text.find(&stop).unwrap_or_else(|| panic!("{stop:?} is in one piece in {text:?}"));
    let ask = |fields: Value| {
        let body = completion(super::with(json!({"max_tokens": 24, "ignore_eos": true}), fields));
        server.ok(COMPLETIONS, &body)["choices"][0].clone()
    };
    let cut = ask(json!({"stop": [stop, "never there"]}));
    assert_eq!((&cut["text"], &cut["finish_reason"]), (&json!(text[..end]), &json!("stop")));
    let kept = ask(json!({"stop": stop, "include_stop_str_in_output": true}));
    assert_eq!(kept["text"], text[..end + stop.len()]);
    let late = ask(json!({"stop": stop, "min_tokens": 24}));
    assert!(late["text"].as_str().expect("text").len() > end, "{late}");

    let at = ids[5];
    let first = ids.iter().position(|id| *id == at).expect("it is there");
    let body = completion(json!({"max_tokens": 24, "stop_token_ids": [at], "return_token_ids": true}));
    let choice = server.ok(COMPLETIONS, &body)["choices"][0].clone();
    assert_eq!((&choice["completion_token_ids"], &choice["finish_reason"]), (&json!(ids[..=first]), &json!("stop")));
}

#[test]
fn min_tokens_puts_off_the_end_of_sequence() {
    let server = start(&[]);
    // The token that comes first is made a stop token, so that without a minimum the text ends at once.
    let (_, ids) = sample(&server);
    let ask = |least: u32| {
        let body = completion(json!({"max_tokens": 30, "min_tokens": least, "stop_token_ids": [ids[0]]}));
        server.ok(COMPLETIONS, &body)["usage"]["completion_tokens"].as_u64().expect("a number")
    };
    assert_eq!(ask(0), 1);
    assert!(ask(20) >= 20);
}

#[test]
fn equal_seeds_give_equal_texts() {
    let server = start(&[]);
    let ask = |fields: Value| {
        let body = completion(super::with(json!({"max_tokens": 16, "temperature": 1, "top_p": 1, "top_k": 0}), fields));
        let choices = server.ok(COMPLETIONS, &body)["choices"].clone();
        choices.as_array().expect("choices").iter().map(|choice| choice["text"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(ask(json!({"seed": 7})), ask(json!({"seed": 7})));
    assert_ne!(ask(json!({"seed": 7})), ask(json!({"seed": 8})));
    let two = ask(json!({"seed": 7, "n": 2}));
    assert_ne!(two[0], two[1]);
    assert_eq!(ask(json!({"temperature": 0})), ask(json!({"temperature": 0, "seed": 3})));
}

#[test]
fn log_probabilities_have_their_shapes() {
    let server = start(&[]);
    let answer = server.ok(CHAT, &chat(json!({"logprobs": true, "top_logprobs": 3, "ignore_eos": true})));
    let content = answer["choices"][0]["logprobs"]["content"].as_array().expect("content").clone();
    assert_eq!(content.len(), 4);
    for token in content {
        let top = token["top_logprobs"].as_array().expect("top_logprobs");
        assert_eq!((top.len(), &top[0]["logprob"]), (3, &token["logprob"]), "greedy takes the likeliest: {token}");
        assert!(token["logprob"].as_f64().is_some_and(|logprob| logprob <= 0.0), "{token}");
    }
    let answer = server.ok(COMPLETIONS, &completion(json!({"logprobs": 2, "ignore_eos": true})));
    let lists = &answer["choices"][0]["logprobs"];
    for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(lists[name].as_array().map(Vec::len), Some(4), "{name} of {lists}");
    }
}

#[test]
fn equal_beginnings_are_found_in_the_cache() {
    let server = start(&[]);
    let body = completion(json!({"prompt": (0..100).collect::<Vec<_>>(), "max_tokens": 8}));
    let (first, second) = (server.ok(COMPLETIONS, &body), server.ok(COMPLETIONS, &body));
    let cached = |answer: &Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a number");
    assert_eq!((cached(&first), cached(&second)), (0, 96));
    assert_eq!(first["choices"], second["choices"]);
}

#[test]
fn the_model_is_listed_and_its_name_checked() {
    let server = start(&["--served-model-name", "tiny", "--max-model-len", "128"]);
    let models = server.get_json("/v1/models");
    let card = &models["data"][0];
    assert_eq!((&models["object"], &card["id"], &card["max_model_len"]), (&json!("list"), &json!("tiny"), &json!(128)));
    assert_eq!(server.get_json("/v1/models/tiny"), *card);
    for model in [json!("tiny"), json!("default"), Value::Null] {
        let answer = server.ok(CHAT, &chat(json!({"model": model})));
        assert_eq!(answer["model"], "tiny");
    }
    let (status, answer) = server.post(CHAT, &chat(json!({"model": "other"})));
    assert_eq!((status, &answer["error"]["code"]), (404, &json!("model_not_found")));
}

#[test]
fn ids_show_their_kind_and_the_user() {
    let server = start(&[]);
    let id = |path, body| server.ok(path, &body)["id"].as_str().expect("an id").to_owned();
    assert!(id(CHAT, chat(json!({}))).starts_with("chatcmpl-"));
    assert!(id(COMPLETIONS, completion(json!({}))).starts_with("cmpl-"));
    assert!(id(CHAT, chat(json!({"user": "u1"}))).starts_with("chatcmpl-u1-"));
    assert_eq!(id(CHAT, chat(json!({"request_id": "mine"}))), "chatcmpl-mine");
}
