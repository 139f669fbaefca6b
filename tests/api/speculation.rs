//! Drafts: whatever is drafted, answers are those of a server that drafts nothing.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::{
    COMPLETIONS, completion,
    server::{Server, run, wait_for},
    start,
};

const DRAFTS: [&str; 2] = ["--speculative-config", r#"{"method": "ngram", "num_speculative_tokens": 4}"#];

/// Prompts and answers that repeat themselves; what chooses tokens by what came before; who ends early.
fn bodies() -> Vec<Value> {
    let of = |fields: Value| completion(crate::with(json!({"max_tokens": 120, "ignore_eos": true}), fields));
    let again: Vec<u32> = (0..40).map(|place| 20 + place % 7).collect();
    vec![
        of(json!({})),
        of(json!({"prompt": again})),
        of(json!({"prompt": again, "temperature": 0.8, "seed": 7})),
        of(json!({"temperature": 0.3, "seed": 1, "n": 3, "logprobs": 2})),
        of(json!({"temperature": 0.5, "seed": 2, "repetition_penalty": 1.1, "frequency_penalty": 0.2})),
        of(json!({"bad_words": ["a", "the"], "logit_bias": {"30": 3}})),
        of(json!({"min_tokens": 30, "stop_token_ids": (0..300).collect::<Vec<_>>(), "temperature": 1, "seed": 5})),
        of(json!({"guided_regex": "(ab|cd){5}", "ignore_eos": false})),
        of(json!({"max_tokens": 512, "prompt_logprobs": 1})),
    ]
}

/// All that is said of an answer but what others had computed before it.
fn choices(server: &Server, body: &Value) -> Value {
    let mut answer = server.ok(COMPLETIONS, body);
    json!([answer["choices"].take(), answer["usage"]["completion_tokens"].take()])
}

#[test]
fn drafts_change_no_answer() {
    for ranks in [["-tp", "1"], ["-tp", "2"]] {
        let plain = start(&ranks);
        let server = start(&[&DRAFTS[..], &ranks].concat());
        std::thread::scope(|scope| {
            for body in bodies() {
                let (server, plain) = (&server, &plain);
                scope.spawn(move || assert_eq!(choices(server, &body), choices(plain, &body), "{ranks:?}: {body}"));
            }
        });
        let drafted = server.metric("vllm:spec_decode_num_draft_tokens_total");
        let accepted = server.metric("vllm:spec_decode_num_accepted_tokens_total");
        assert!(0.0 < accepted && accepted <= drafted, "{accepted} of {drafted}");
        let rate = server.metric("fastdeploy:spec_decode_draft_acceptance_rate");
        assert!((rate - accepted / drafted).abs() < 1e-9, "{rate}");
    }
}

/// What a draft wrote into the cache is nobody's, whatever happens between it and its report.
#[test]
fn an_answer_goes_on_where_its_rank_was_killed() {
    let body = completion(json!({"max_tokens": 400, "ignore_eos": true, "return_token_ids": true}));
    let expected = start(&[]).ok(COMPLETIONS, &body)["choices"][0]["completion_token_ids"].clone();
    let server = start(&DRAFTS);
    let streamed = crate::with(body, json!({"stream": true}));
    let mut events = server.open_stream(COMPLETIONS, &streamed);
    let mut tokens = Vec::new();
    let mut read = |event: String| {
        let event: Value = serde_json::from_str(&event).expect("JSON");
        tokens.extend(event["choices"][0]["completion_token_ids"].as_array().cloned().unwrap_or_default());
        tokens.len()
    };
    while read(events.next().expect("the stream goes on")) < 100 {}
    let pid = server.get_json("/ranks")["ranks"][0]["pid"].as_i64().expect("a pid") as i32;
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("the rank lives");
    for event in events.take_while(|event| event != "[DONE]") {
        read(event);
    }
    assert_eq!(Value::Array(tokens), expected);
    wait_for("the next start", || (server.get_json("/ranks")["epoch"] == 1).then_some(()));
}

#[test]
fn what_can_t_be_meant_is_refused() {
    let refused = |config: &str, expected: &str| {
        let (code, _, stderr) = run(&["serve", "--speculative-config", config]);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    };
    refused("ngram", "must be a JSON object");
    refused("{}", "`method` must be \"ngram\"");
    refused(r#"{"method": "eagle"}"#, "`method` must be \"ngram\"");
    refused(r#"{"method": "ngram", "num_speculative_tokens": 17}"#, "must be an integer from 1 to 16");
    refused(r#"{"method": "ngram", "tokens": 3}"#, "there is no `tokens`");
    refused(r#"{"method": "ngram", "min_ngram_size": 5, "max_ngram_size": 4}"#, "must not be more than");
}

/// FastDeploy's other method changes no answer either: its commands run.
#[test]
fn what_is_not_there_is_told() {
    let server = start(&["--speculative-config", r#"{"method": "mtp", "num_speculative_tokens": 1, "model": "/m"}"#]);
    assert!(server.log("stderr").contains("there is no `mtp` here, so nothing is drafted"), "{}", server.log("stderr"));
}
