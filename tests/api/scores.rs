//! Log-probabilities in all their places, and what is chosen by them.

use serde_json::{Value, json};

use crate::{CHAT, COMPLETIONS, chat, completion, server::Server, start, with};

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().expect("a list").iter().map(|number| number.as_f64().expect("a number")).collect()
}

fn first_choice(server: &Server, fields: Value) -> Value {
    server.ok(COMPLETIONS, &completion(fields))["choices"][0].clone()
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-3
}

#[test]
fn the_best_of_several_are_the_likeliest() {
    let server = start(&[]);
    let fields = json!({"prompt": ["One", "Two"], "temperature": 1.2, "seed": 9, "max_tokens": 12, "logprobs": 0});
    let all = server.ok(COMPLETIONS, &completion(with(fields.clone(), json!({"n": 6}))));
    let choices = all["choices"].as_array().expect("choices");
    let best_two = |of_prompt: &[Value]| -> Vec<Value> {
        let mean = |choice: &Value| {
            let logprobs = numbers(&choice["logprobs"]["token_logprobs"]);
            logprobs.iter().sum::<f64>() / logprobs.len() as f64
        };
        let mut sorted = of_prompt.to_vec();
        sorted.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
        sorted.iter().take(2).map(|choice| choice["text"].clone()).collect()
    };
    let wanted = [best_two(&choices[..6]), best_two(&choices[6..])].concat();
    for told in [json!({}), json!({"logprobs": null})] {
        let shown = told.as_object().is_some_and(|told| told.is_empty());
        let body = completion(with(with(fields.clone(), json!({"n": 2, "best_of": 6})), told));
        let answer = server.ok(COMPLETIONS, &body);
        let best = answer["choices"].as_array().expect("choices");
        let texts: Vec<_> = best.iter().map(|choice| choice["text"].clone()).collect();
        assert_eq!(texts, wanted);
        assert!(best.iter().enumerate().all(|(i, choice)| choice["index"] == i));
        assert!(best.iter().all(|choice| choice["logprobs"].is_object() == shown), "{answer}");
        assert_eq!(answer["usage"], all["usage"], "all that were generated count");
    }
    for (fields, what) in [(json!({"best_of": 3, "stream": true}), "streamed"), (json!({"n": 3, "best_of": 2}), "less")]
    {
        let (status, answer) = server.post(COMPLETIONS, &completion(fields));
        assert_eq!((status, &answer["error"]["param"]), (400, &json!("best_of")), "{answer}");
        assert!(answer["error"]["message"].as_str().is_some_and(|text| text.contains(what)), "{answer}");
    }
    let same = server.stream(COMPLETIONS, &completion(json!({"n": 2, "best_of": 2})));
    assert!(same.len() >= 2);
}

#[test]
fn best_of_needs_no_flag() {
    let server = Server::of_golden(crate::MODEL, &[]);
    server.ok(COMPLETIONS, &completion(json!({"best_of": 3, "temperature": 1})));
    for (path, field) in [(COMPLETIONS, "prompt_logprobs"), (CHAT, "prompt_logprobs"), (COMPLETIONS, "logprobs")] {
        let body = if path == CHAT { chat(json!({field: 1})) } else { completion(json!({field: 1})) };
        let (status, answer) = server.post(path, &body);
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(field)), "{answer}");
    }
}

#[test]
fn the_flag_bounds_the_alternatives() {
    let server = start(&["--max-logprobs", "3"]);
    for (path, fields, name) in [
        (COMPLETIONS, json!({}), "logprobs"),
        (COMPLETIONS, json!({}), "prompt_logprobs"),
        (CHAT, json!({"logprobs": true}), "top_logprobs"),
    ] {
        for (count, wanted) in [(3, 200), (4, 400)] {
            let fields = with(fields.clone(), json!({name: count}));
            let body = if path == CHAT { chat(fields) } else { completion(fields) };
            assert_eq!(server.post(path, &body).0, wanted, "{path} {name}: {count}");
        }
    }
}

/// A prompt of known tokens and the greedy tokens that follow, with the scores that they got when they were generated.
struct Continued {
    ids: Vec<u64>,
    prompt: usize,
    logprobs: Vec<f64>,
}

fn continued(server: &Server) -> Continued {
    let mut ids: Vec<u64> = (300..320).collect();
    let fields = json!({
        "prompt": ids, "max_tokens": 20, "ignore_eos": true, "return_token_ids": true, "logprobs": 0,
    });
    let choice = first_choice(server, fields);
    let prompt = ids.len();
    ids.extend(numbers(&choice["completion_token_ids"]).into_iter().map(|id| id as u64));
    Continued { ids, prompt, logprobs: numbers(&choice["logprobs"]["token_logprobs"]) }
}

#[test]
fn a_prompt_is_scored_as_it_was_generated() {
    for flags in [vec![], vec!["--max-num-batched-tokens", "16"], vec!["-tp", "2"]] {
        let server = start(&flags);
        let Continued { ids, prompt, logprobs } = continued(&server);
        for count in [0, 1, 5] {
            let choice = first_choice(&server, json!({"prompt": ids, "prompt_logprobs": count}));
            let scores = choice["prompt_logprobs"].as_array().expect("scores");
            assert_eq!((scores.len(), &scores[0]), (ids.len(), &Value::Null), "{flags:?}");
            for (position, score) in scores.iter().enumerate().skip(1) {
                let own = &score[ids[position].to_string()];
                let rank = own["rank"].as_u64().expect("a rank");
                let entries = score.as_object().expect("entries");
                assert_eq!(entries.len() as u64, count + u64::from(rank > count), "{flags:?} {score}");
                assert!(entries.values().all(|entry| entry["decoded_token"].is_string()), "{score}");
                let best = entries.values().filter(|entry| entry["rank"] == 1).count();
                assert_eq!(best, usize::from(count > 0 || rank == 1), "{score}");
                if position >= prompt {
                    let logprob = own["logprob"].as_f64().expect("a number");
                    assert!(close(logprob, logprobs[position - prompt]), "{flags:?} {position}: {own}");
                    assert_eq!(rank, 1, "greedy takes the likeliest: {score}");
                }
            }
        }
    }
}

#[test]
fn scores_are_told_in_every_form_of_answer() {
    let server = start(&[]);
    let fields = json!({"prompt_logprobs": 2, "n": 2, "temperature": 1, "seed": 4});
    for (path, body) in
        [(CHAT, chat(fields.clone())), (COMPLETIONS, completion(with(fields, json!({"prompt": ["a b c", "d e"]}))))]
    {
        let whole = server.ok(path, &body);
        let chunks = server.stream(path, &body);
        for choice in whole["choices"].as_array().expect("choices") {
            let opening = chunks.iter().find(|chunk| chunk["choices"][0]["index"] == choice["index"]).expect("a chunk");
            assert_eq!(opening["choices"][0]["prompt_logprobs"], choice["prompt_logprobs"], "{path}");
            assert!(choice["prompt_logprobs"].as_array().is_some_and(|scores| scores.len() > 1), "{choice}");
        }
        if path == CHAT {
            assert_eq!(whole["prompt_logprobs"], whole["choices"][0]["prompt_logprobs"]);
        }
    }
    for (path, body) in [(CHAT, chat(json!({}))), (COMPLETIONS, completion(json!({})))] {
        let answer = server.ok(path, &body);
        assert_eq!(answer["choices"][0].get("prompt_logprobs"), Some(&Value::Null), "{path}");
        assert!(answer.get("prompt_logprobs").is_none(), "{path}");
    }
}

#[test]
fn an_echo_has_log_probabilities_too() {
    let server = start(&[]);
    let text = "The sky is blue, the grass is groß.";
    let scored = first_choice(&server, json!({"prompt": text, "prompt_logprobs": 3, "return_token_ids": true}));
    let prompt = scored["prompt_token_ids"].as_array().expect("ids").len();
    for (most, generated) in [(0, 0), (1, 1), (4, 4)] {
        let fields = json!({
            "prompt": text, "echo": true, "logprobs": 3, "max_tokens": most, "ignore_eos": true, "return_token_ids": true,
        });
        let body = completion(fields);
        let answer = server.ok(COMPLETIONS, &body);
        let (choice, usage) = (&answer["choices"][0], &answer["usage"]);
        assert_eq!((&usage["completion_tokens"], &choice["finish_reason"]), (&json!(generated), &json!("length")));
        assert_eq!(usage["total_tokens"], prompt + generated, "{usage}");
        let told = choice["text"].as_str().expect("text");
        assert!(told.starts_with(text) && (told == text) == (generated == 0), "{told}");
        assert_eq!(choice["completion_token_ids"].as_array().map(Vec::len), Some(generated));
        let lists = &choice["logprobs"];
        for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            assert_eq!(lists[name].as_array().map(Vec::len), Some(prompt + generated), "{name} of {lists}");
        }
        assert_eq!((&lists["token_logprobs"][0], &lists["top_logprobs"][0]), (&Value::Null, &Value::Null));
        for position in 1..prompt {
            let id = scored["prompt_token_ids"][position].to_string();
            let wanted = scored["prompt_logprobs"][position][id]["logprob"].as_f64().expect("a score");
            assert!(lists["token_logprobs"][position].as_f64().is_some_and(|logprob| close(logprob, wanted)));
            // What evaluation harnesses look at: whether the token is the likeliest of those told.
            let name = lists["tokens"][position].as_str().expect("a name");
            assert_eq!(lists["top_logprobs"][position][name], lists["token_logprobs"][position], "{lists}");
        }
        let letters: Vec<char> = told.chars().collect();
        for (position, offset) in numbers(&lists["text_offset"])[..prompt].iter().enumerate() {
            let token = lists["tokens"][position].as_str().expect("a name");
            let there: String = letters[*offset as usize..].iter().collect();
            assert!(there.starts_with(token) || token.starts_with("bytes:"), "{token:?} at {offset} of {told:?}");
        }
        let chunks =
            server.stream(COMPLETIONS, &with(body, json!({"stream_options": {"continuous_usage_stats": true}})));
        let streamed = |name: &str| -> Vec<Value> {
            let of_chunk =
                |chunk: &Value| chunk["choices"][0]["logprobs"][name].as_array().cloned().unwrap_or_default();
            chunks.iter().flat_map(of_chunk).collect()
        };
        for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            assert_eq!(json!(streamed(name)), lists[name], "{name}");
        }
        let counts: Vec<_> = chunks.iter().map(|chunk| chunk["usage"]["completion_tokens"].as_u64()).collect();
        assert!(
            counts.is_sorted() && counts[0] == Some(0) && counts.last() == Some(&Some(generated as u64)),
            "{counts:?}"
        );
    }
    for (fields, param) in
        [(json!({"max_tokens": 0}), "max_tokens"), (json!({"echo": true, "max_tokens": -1}), "max_tokens")]
    {
        let (status, answer) = server.post(COMPLETIONS, &completion(fields));
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(param)), "{answer}");
    }
}

#[test]
fn scaled_log_probabilities_are_of_the_scaled_distribution() {
    let server = start(&[]);
    let ask = |fields: Value| {
        let fields = with(json!({"temperature": 2, "seed": 8, "max_tokens": 1, "logprobs": 5}), fields);
        let choice = first_choice(&server, fields);
        let top = choice["logprobs"]["top_logprobs"][0].as_object().expect("alternatives").clone();
        let mut top: Vec<(String, f64)> =
            top.iter().map(|(name, lp)| (name.clone(), lp.as_f64().expect("a number"))).collect();
        top.sort_by(|a, b| b.1.total_cmp(&a.1));
        (choice["text"].clone(), top)
    };
    let (raw_text, raw) = ask(json!({}));
    let (text, scaled) = ask(json!({"temp_scaled_logprobs": true}));
    assert_eq!(text, raw_text, "what is told changes, not what is chosen");
    for (a, b) in raw.iter().zip(&scaled).take(5) {
        assert_eq!(a.0, b.0);
        assert!(close((raw[0].1 - a.1) / 2.0, scaled[0].1 - b.1), "{raw:?} {scaled:?}");
    }
    let (_, raw) = ask(json!({"temperature": 1, "top_p": 0.3}));
    let (_, kept) = ask(json!({"temperature": 1, "top_p": 0.3, "top_p_normalized_logprobs": true}));
    // All that is kept is raised alike, by the mass of what isn't.
    assert!(close(kept[0].1 - raw[0].1, kept[1].1 - raw[1].1) && kept[0].1 > raw[0].1 + 0.5, "{raw:?} {kept:?}");
}

#[test]
fn tokens_may_be_named_by_their_ids() {
    let server = start(&[]);
    for field in [json!({"include_logprobs_decode_token": false}), json!({"return_tokens_as_token_ids": true})] {
        let fields = json!({"logprobs": 2, "return_token_ids": true});
        let choice = first_choice(&server, with(fields, field.clone()));
        let named: Vec<_> =
            numbers(&choice["completion_token_ids"]).iter().map(|id| format!("token_id:{id}")).collect();
        assert_eq!(choice["logprobs"]["tokens"], json!(named));
        let answer = server.ok(CHAT, &chat(with(json!({"logprobs": true, "top_logprobs": 1}), field)));
        let first = &answer["choices"][0]["logprobs"]["content"][0];
        assert!(
            first["top_logprobs"][0]["token"].as_str().is_some_and(|name| name.starts_with("token_id:")),
            "{first}"
        );
    }
}
