//! Every bad request gets OpenAI's error object, with the parameter at fault, and harms nobody.

use serde_json::{Value, json};

use crate::{CHAT, COMPLETIONS, chat, completion, start};

/// Fields that make a good request bad, and what is told: parameter and code.
fn rows() -> Vec<(&'static str, Value, &'static str, &'static str)> {
    let invalid = |path, fields, param| (path, fields, param, "invalid_value");
    let not_yet = |path, fields, param| (path, fields, param, "unsupported_parameter");
    vec![
        (CHAT, json!({"messages": null}), "messages", "missing_required_parameter"),
        (COMPLETIONS, json!({"prompt": null}), "prompt", "missing_required_parameter"),
        invalid(CHAT, json!({"messages": []}), "messages"),
        invalid(CHAT, json!({"messages": "hi"}), "messages"),
        invalid(CHAT, json!({"messages": [{"content": "no role"}]}), "messages"),
        invalid(CHAT, json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}), "messages"),
        invalid(CHAT, json!({"prompt_token_ids": []}), "prompt_token_ids"),
        invalid(CHAT, json!({"prompt_token_ids": [1024]}), "prompt_token_ids"),
        invalid(CHAT, json!({"prompt_token_ids": [-1]}), "prompt_token_ids"),
        invalid(COMPLETIONS, json!({"prompt": ""}), "prompt"),
        invalid(COMPLETIONS, json!({"prompt": []}), "prompt"),
        invalid(COMPLETIONS, json!({"prompt": ["a", [1]]}), "prompt"),
        invalid(COMPLETIONS, json!({"prompt": [1, "a"]}), "prompt"),
        invalid(COMPLETIONS, json!({"prompt": {"text": "a"}}), "prompt"),
        invalid(CHAT, json!({"temperature": -1}), "temperature"),
        invalid(CHAT, json!({"temperature": "hot"}), "temperature"),
        invalid(CHAT, json!({"temperature": 1e300}), "temperature"),
        invalid(CHAT, json!({"top_p": 1.5}), "top_p"),
        invalid(CHAT, json!({"top_k": -5}), "top_k"),
        invalid(CHAT, json!({"top_k": 1.5}), "top_k"),
        invalid(CHAT, json!({"min_p": 2}), "min_p"),
        invalid(CHAT, json!({"frequency_penalty": 3}), "frequency_penalty"),
        invalid(CHAT, json!({"presence_penalty": -3}), "presence_penalty"),
        invalid(CHAT, json!({"repetition_penalty": 0}), "repetition_penalty"),
        invalid(CHAT, json!({"seed": -1}), "seed"),
        invalid(CHAT, json!({"seed": 922337203685477581_i64}), "seed"),
        invalid(CHAT, json!({"n": 0}), "n"),
        invalid(CHAT, json!({"n": 1_000_000_000}), "n"),
        invalid(CHAT, json!({"max_tokens": 0}), "max_tokens"),
        invalid(CHAT, json!({"max_completion_tokens": 0}), "max_completion_tokens"),
        invalid(CHAT, json!({"min_tokens": -1}), "min_tokens"),
        invalid(CHAT, json!({"min_tokens": 5}), "min_tokens"),
        invalid(CHAT, json!({"stop": (0..17).map(|i| i.to_string()).collect::<Vec<_>>()}), "stop"),
        invalid(CHAT, json!({"stop": ""}), "stop"),
        invalid(CHAT, json!({"stop": [1]}), "stop"),
        invalid(CHAT, json!({"stop_token_ids": [5000]}), "stop_token_ids"),
        invalid(
            COMPLETIONS,
            json!({"stop_token_ids": (0..1024).collect::<Vec<_>>(), "min_tokens": 1}),
            "stop_token_ids",
        ),
        invalid(CHAT, json!({"documents": "a text"}), "documents"),
        (CHAT, json!({"prompt_token_ids": vec![7; 10_000]}), "prompt_token_ids", "context_length_exceeded"),
        invalid(CHAT, json!({"stream_options": {"include_usage": true}}), "stream_options"),
        invalid(CHAT, json!({"stream": "yes"}), "stream"),
        invalid(CHAT, json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        invalid(CHAT, json!({"top_logprobs": 2}), "top_logprobs"),
        invalid(COMPLETIONS, json!({"logprobs": 21}), "logprobs"),
        invalid(CHAT, json!({"chat_template_kwargs": []}), "chat_template_kwargs"),
        invalid(CHAT, json!({"enable_thinking": "no"}), "enable_thinking"),
        invalid(CHAT, json!({"metadata": {"top_p": 7}}), "top_p"),
        invalid(CHAT, json!({"tools": [], "tool_choice": "required"}), "tool_choice"),
        not_yet(COMPLETIONS, json!({"suffix": "the end"}), "suffix"),
        invalid(COMPLETIONS, json!({"suffix": 5}), "suffix"),
        invalid(COMPLETIONS, json!({"suffix": {"top_p": 7}}), "top_p"),
        invalid(COMPLETIONS, json!({"stream": true, "stream_options": "all"}), "stream_options"),
        invalid(COMPLETIONS, json!({"stream": true, "stream_options": {"include_usage": "yes"}}), "include_usage"),
        invalid(CHAT, json!({"include_logprobs_decode_token": 1}), "include_logprobs_decode_token"),
        invalid(CHAT, json!({"temp_scaled_logprobs": "yes"}), "temp_scaled_logprobs"),
        invalid(CHAT, json!({"top_p_normalized_logprobs": 1}), "top_p_normalized_logprobs"),
        invalid(CHAT, json!({"user": 5}), "user"),
        invalid(CHAT, json!({"request_id": ["a"]}), "request_id"),
        invalid(CHAT, json!({"metadata": "x"}), "metadata"),
        invalid(COMPLETIONS, json!({"echo": "yes"}), "echo"),
        invalid(CHAT, json!({"ignore_eos": "yes"}), "ignore_eos"),
        invalid(CHAT, json!({"skip_special_tokens": 0}), "skip_special_tokens"),
        invalid(CHAT, json!({"return_token_ids": "yes"}), "return_token_ids"),
        invalid(COMPLETIONS, json!({"prompt": vec!["a"; 9], "n": 128}), "prompt"),
        invalid(COMPLETIONS, json!({"prompt": vec!["a"; 9], "best_of": 128}), "prompt"),
        invalid(CHAT, json!({"metadata": {"raw_request": false}}), "metadata"),
        invalid(CHAT, json!({"tool_choice": "perhaps"}), "tool_choice"),
        invalid(CHAT, json!({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}), "tools"),
        invalid(CHAT, json!({"parallel_tool_calls": 1}), "parallel_tool_calls"),
    ]
}

#[test]
fn bad_parameters_are_named() {
    let server = start(&[]);
    for (path, fields, param, code) in rows() {
        let body = if path == CHAT { chat(fields) } else { completion(fields) };
        let (status, answer) = server.post(path, &body);
        let error = &answer["error"];
        assert_eq!((status, &error["param"], &error["code"]), (400, &json!(param), &json!(code)), "{body} → {answer}");
        assert_eq!(error["type"], "invalid_request_error", "{body}");
        assert!(error["message"].as_str().is_some_and(|text| text.len() > 10), "{body} → {answer}");
    }
    server.ok(CHAT, &chat(json!({})));
}

#[test]
fn bad_bodies_are_refused() {
    let server = start(&["--max-body-size", "64K"]);
    let deep = "[".repeat(20_000);
    let nested = format!("{{\"messages\": {}1{}}}", "[".repeat(200), "]".repeat(200));
    let large = format!("{{\"prompt\": \"{}\"}}", "a".repeat(70_000));
    for (body, status, param) in [
        ("", 400, Value::Null),
        ("nonsense", 400, Value::Null),
        ("[]", 400, Value::Null),
        ("\"text\"", 400, Value::Null),
        ("{\"prompt\": \"a\"", 400, json!("prompt")),
        ("{\"prompt\": \"a\", \"temperature\": NaN}", 400, json!("temperature")),
        ("{\"prompt\": \"a\", \"top_p\": Infinity}", 400, json!("top_p")),
        ("{\"prompt\": \"a\", \"seed\": 1e999}", 400, json!("seed")),
        (deep.as_str(), 400, Value::Null),
        (nested.as_str(), 400, json!("messages")),
        (large.as_str(), 413, Value::Null),
    ] {
        let (got, answer) = server.post_text(COMPLETIONS, body);
        let shown: String = body.chars().take(60).collect();
        assert_eq!((got, &answer["error"]["param"]), (status, &param), "{shown} → {answer}");
    }
    server.ok(COMPLETIONS, &completion(json!({})));
}

#[test]
fn prompts_beyond_the_context_are_refused_with_the_lengths() {
    let server = start(&["--max-model-len", "64"]);
    for (fields, told) in [
        (json!({"prompt": vec![7; 64]}), ["64", "64"]),
        (json!({"prompt": vec![7; 200]}), ["200", "64"]),
        (json!({"prompt": vec![7; 60], "min_tokens": 4}), ["60", "4"]),
    ] {
        let (status, answer) = server.post(COMPLETIONS, &completion(fields.clone()));
        let error = &answer["error"];
        assert_eq!((status, &error["code"]), (400, &json!("context_length_exceeded")), "{fields} → {answer}");
        let message = error["message"].as_str().expect("a message");
        assert!(told.iter().all(|number| message.contains(number)), "{message}");
    }
    let answer = server.ok(COMPLETIONS, &completion(json!({"prompt": vec![7; 63], "ignore_eos": true})));
    assert_eq!(answer["usage"]["completion_tokens"], 1);
}

#[test]
fn other_paths_and_methods_get_the_error_object_too() {
    let server = start(&[]);
    assert_eq!(server.post("/v1/nothing", &json!({})).0, 404);
    assert_eq!(server.get_json("/v1/nothing")["error"]["code"], "not_found");
    let (status, answer) = server.post("/v1/models", &json!({}));
    assert_eq!((status, &answer["error"]["code"]), (405, &json!("method_not_allowed")));
    assert_eq!(server.get(CHAT).0, 405);
    assert_eq!(server.get("/v1/models/unknown").0, 404);
}

#[test]
fn without_the_flag_there_are_no_log_probabilities() {
    let server = crate::server::Server::of_golden(crate::MODEL, &[]);
    for (path, body) in [(CHAT, chat(json!({"logprobs": true}))), (COMPLETIONS, completion(json!({"logprobs": 0})))] {
        let (status, answer) = server.post(path, &body);
        assert_eq!((status, &answer["error"]["param"]), (400, &json!("logprobs")), "{answer}");
    }
}

#[test]
fn tokens_that_only_the_tokenizer_knows_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(crate::server::golden(crate::MODEL).join(name), folder.path().join(name)).expect("a copy");
    }
    let file = folder.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&file).expect("a file")).expect("JSON");
    let later = json!({
        "id": 1024, "content": "<|later|>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true,
    });
    tokenizer["added_tokens"].as_array_mut().expect("a list").push(later);
    std::fs::write(&file, tokenizer.to_string()).expect("a tokenizer");

    let server = start(&["--tokenizer", folder.path().to_str().expect("UTF-8")]);
    let message = json!({"messages": [{"role": "user", "content": "a <|later|> b"}]});
    for (path, body, param) in
        [(CHAT, chat(message), "messages"), (COMPLETIONS, completion(json!({"prompt": "a <|later|> b"})), "prompt")]
    {
        let (status, answer) = server.post(path, &body);
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(param)), "{answer}");
        assert!(answer["error"]["message"].as_str().is_some_and(|text| text.contains("<|later|>")), "{answer}");
    }
    server.ok(CHAT, &chat(json!({})));
    assert!(server.log("server.log").contains("the tokenizer has 1025 tokens"));
}
