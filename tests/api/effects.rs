//! What each parameter does to the tokens that come, seen from outside.

use std::{collections::HashSet, sync::mpsc, thread};

use serde_json::{Value, json};

use crate::{
    CHAT, COMPLETIONS, chat, completion, freeze,
    server::{Server, wait_for},
    start, with,
};

/// The ids generated in each choice.
fn ids(server: &Server, path: &str, fields: Value) -> Vec<Vec<u64>> {
    let fields = with(json!({"return_token_ids": true, "ignore_eos": true}), fields);
    let body = if path == CHAT { chat(fields) } else { completion(fields) };
    let answer = server.ok(path, &body);
    let of_choice = |choice: &Value| {
        let ids = choice["completion_token_ids"].as_array().or(choice["message"]["completion_token_ids"].as_array());
        ids.expect("ids").iter().map(|id| id.as_u64().expect("an id")).collect()
    };
    answer["choices"].as_array().expect("choices").iter().map(of_choice).collect()
}

fn only(server: &Server, path: &str, fields: Value) -> Vec<u64> {
    ids(server, path, fields).remove(0)
}

/// The tokens that a text is made of.
fn tokens_of(server: &Server, text: &str) -> Vec<u64> {
    let body = completion(json!({"prompt": text, "max_tokens": 1, "return_token_ids": true}));
    let ids = server.ok(COMPLETIONS, &body)["choices"][0]["prompt_token_ids"].clone();
    serde_json::from_value(ids).expect("ids")
}

fn holds(ids: &[u64], word: &[u64]) -> bool {
    ids.windows(word.len()).any(|window| window == word)
}

#[test]
fn a_bias_forces_and_forbids() {
    let server = start(&[]);
    for path in [CHAT, COMPLETIONS] {
        for temperature in [0, 1] {
            let ask = |bias: Value| {
                let fields = json!({"max_tokens": 50, "temperature": temperature, "seed": 1, "logit_bias": bias});
                only(&server, path, fields)
            };
            assert_eq!(ask(json!({"321": 100})), [321; 50], "{path}");
            let common: HashSet<u64> = ask(json!({})).into_iter().collect();
            let never: Value =
                common.iter().map(|id| (id.to_string(), json!(-100))).collect::<serde_json::Map<_, _>>().into();
            assert!(ask(never).iter().all(|id| !common.contains(id)), "{path}");
        }
    }
}

#[test]
fn banned_tokens_never_come() {
    let server = start(&[]);
    for path in [CHAT, COMPLETIONS] {
        for temperature in [0.0, 1.5] {
            let ask = |banned: Value| {
                let fields = json!({"max_tokens": 200, "temperature": temperature, "seed": 2});
                only(&server, path, with(fields, banned))
            };
            let free = ask(json!({}));
            let banned: HashSet<u64> = free.iter().copied().collect();
            let without = ask(json!({"bad_words_token_ids": banned}));
            assert!(without.len() == 200 && without.iter().all(|id| !banned.contains(id)), "{path} {temperature}");
            // Where but one is left, it is the one that comes.
            let all_but_one: Vec<u64> = (0..1024).filter(|&id| id != 77).collect();
            assert_eq!(ask(json!({"bad_words_token_ids": all_but_one})), [77; 200], "{path} {temperature}");
            // A pair is banned as a pair; so is a longer word.
            for length in [2, 5] {
                let word = &free[3..3 + length];
                assert!(holds(&free, word));
                let without = ask(json!({"bad_words_token_ids": [word]}));
                assert!(!holds(&without, word) && without.contains(&word[0]), "{path} {temperature}: {word:?}");
            }
        }
    }
}

#[test]
fn bad_words_are_banned_bare_and_within_a_sentence() {
    let server = start(&[]);
    for word in ["a", "the", "word"] {
        let spellings = [tokens_of(&server, word), tokens_of(&server, &format!(" {word}"))];
        for spelling in spellings {
            // So much more likely than others that they would come one after the other by chance.
            let (last, before) = spelling.split_last().expect("tokens");
            let bias: Value =
                spelling.iter().map(|id| (id.to_string(), json!(60))).collect::<serde_json::Map<_, _>>().into();
            let ask = |words: Value| {
                let fields =
                    json!({"max_tokens": 60, "temperature": 1, "seed": 5, "logit_bias": bias, "bad_words": words});
                only(&server, COMPLETIONS, fields)
            };
            assert!(holds(&ask(json!([])), &spelling), "{word:?} comes where it is allowed");
            let without = ask(json!([word]));
            assert!(!holds(&without, &spelling), "{word:?} as {spelling:?} in {without:?}");
            match before.first() {
                Some(first) => assert!(without.contains(first), "a part of {word:?} may come"),
                None => assert!(!without.contains(last), "{word:?} is one token"),
            }
        }
    }
}

#[test]
fn a_bad_word_of_several_tokens_is_banned_as_a_whole() {
    let server = start(&[]);
    let ask = |words: Value| only(&server, COMPLETIONS, json!({"max_tokens": 60, "bad_words": words}));
    let free = ask(json!([]));
    let text_of = |ids: &[u64]| {
        let body = completion(json!({"prompt": ids, "echo": true, "max_tokens": 0}));
        server.ok(COMPLETIONS, &body)["choices"][0]["text"].as_str().expect("text").to_owned()
    };
    // Two tokens that came in a row, and that their text is made of.
    let pair = free.windows(2).find(|pair| pair[0] != pair[1] && tokens_of(&server, &text_of(pair)) == *pair);
    let pair = pair.expect("such a pair");
    let without = ask(json!([text_of(pair)]));
    assert!(!holds(&without, pair) && without.contains(&pair[0]), "{pair:?} in {without:?}");
}

#[test]
fn the_smaller_priority_goes_first() {
    let server = start(&["--max-num-seqs", "1"]);
    let waiting = |count: f64| {
        wait_for("the queue", || (server.metric("vllm:num_requests_waiting") == count).then_some(()));
    };
    let frozen = freeze(&server);
    let (sender, ended) = mpsc::channel();
    thread::scope(|scope| {
        let ask = |name: &'static str, priority: i64| {
            let (sender, server) = (sender.clone(), &server);
            scope.spawn(move || {
                let fields = json!({"priority": priority, "max_tokens": 60, "ignore_eos": true});
                server.ok(COMPLETIONS, &completion(fields));
                sender.send(name).expect("somebody listens");
            });
        };
        ask("running", 0);
        wait_for("the first to run", || (server.metric("vllm:num_requests_running") == 1.0).then_some(()));
        for (count, (name, priority)) in
            [("low", 5), ("middle", 0), ("also middle", 0), ("high", -5)].into_iter().enumerate()
        {
            ask(name, priority);
            waiting(count as f64 + 1.0);
        }
        drop(frozen);
    });
    let order: Vec<&str> = ended.try_iter().collect();
    assert_eq!(order[1..], ["high", "middle", "also middle", "low"], "{order:?}");
}

#[test]
fn a_salt_parts_the_prefix_cache() {
    let server = start(&[]);
    for path in [CHAT, COMPLETIONS] {
        let base = if path == CHAT { 200 } else { 400 };
        let cached = |salt: Value| {
            let prompt: Vec<u64> = (base..base + 100).collect();
            let field = if path == CHAT { "prompt_token_ids" } else { "prompt" };
            let fields = json!({field: prompt, "cache_salt": salt});
            let body = if path == CHAT { chat(fields) } else { completion(fields) };
            server.ok(path, &body)["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a number")
        };
        for (salt, found) in [(json!("a"), 0), (json!("a"), 96), (json!("b"), 0), (Value::Null, 0), (Value::Null, 96)] {
            assert_eq!(cached(salt.clone()), found, "{path} {salt}");
        }
    }
}

/// Texts of a request that draws.
fn drawn(server: &Server, fields: Value) -> Vec<Vec<u64>> {
    ids(server, COMPLETIONS, with(json!({"temperature": 1, "top_p": 0.95, "max_tokens": 40, "seed": 70}), fields))
}

#[test]
fn a_seed_gives_the_same_text_in_any_company() {
    let server = start(&[]);
    let alone: Vec<_> = (0..4).map(|i| drawn(&server, json!({"seed": 70 + i})).remove(0)).collect();
    for n in [1, 2, 4] {
        assert_eq!(drawn(&server, json!({"n": n})), alone[..n], "n = {n}");
    }
    let other = drawn(&server, json!({"prompt": "Another"}));
    assert_eq!(drawn(&server, json!({"prompt": ["Another", "The sky is"]})), [other[0].clone(), alone[0].clone()]);
    assert_eq!(drawn(&server, json!({"best_of": 1})), alone[..1]);
    let chat_of = |fields: Value| ids(&server, CHAT, with(json!({"temperature": 1, "max_tokens": 40}), fields));
    let first = chat_of(json!({"seed": 11})).remove(0);
    let second = chat_of(json!({"seed": 12})).remove(0);
    assert_eq!(chat_of(json!({"seed": 11, "n": 2})), [first, second]);
    // In the company of others who come and go.
    thread::scope(|scope| {
        for i in 0..4 {
            let (server, alone) = (&server, &alone);
            scope.spawn(move || {
                for _ in 0..3 {
                    assert_eq!(drawn(server, json!({"seed": 70 + i}))[0], alone[i]);
                    drawn(server, json!({"prompt": "x", "max_tokens": 7 + i, "n": 3}));
                }
            });
        }
    });
}

#[test]
fn a_seed_gives_the_same_text_after_preemption() {
    let alone = {
        let server = start(&[]);
        (0..6).map(|i| drawn(&server, json!({"seed": 70 + i, "max_tokens": 120})).remove(0)).collect::<Vec<_>>()
    };
    // Room for about two of six.
    let server = start(&["--num-gpu-blocks-override", "18", "--max-model-len", "256"]);
    let together = drawn(&server, json!({"n": 6, "max_tokens": 120}));
    assert!(server.metric("vllm:num_preemptions_total") > 0.0, "nobody had to give way");
    assert_eq!(together, alone);
}

#[test]
fn a_text_that_repeats_itself_is_ended_where_that_is_wanted() {
    let with_threshold = |threshold: &str| {
        let config = format!(r#"{{"window_size": 6, "threshold": {threshold}, "strategy": "repetition"}}"#);
        start(&["--enable-early-stop", "--early-stop-config", &config])
    };
    // More certain than nothing is every token, more certain than certain none.
    let (server, patient, plain) = (with_threshold("0"), with_threshold("1"), start(&[]));
    let repeating = json!({"max_tokens": 30, "ignore_eos": true, "logit_bias": {"321": 100}});
    for (path, body) in [(CHAT, chat(repeating.clone())), (COMPLETIONS, completion(repeating.clone()))] {
        let answer = server.ok(path, &body);
        assert_eq!(answer["usage"]["completion_tokens"], 6, "{answer}");
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        let chunks = server.stream(path, &body);
        let finishes: Vec<_> = chunks.iter().map(|chunk| chunk["choices"][0]["finish_reason"].clone()).collect();
        assert_eq!(finishes.last(), Some(&json!("stop")), "{finishes:?}");
        assert_eq!(finishes.iter().filter(|finish| !finish.is_null()).count(), 1, "{finishes:?}");
    }
    // One that may still be ended goes on to its own end, and all of its pieces come.
    let drawn = json!({"max_tokens": 30, "ignore_eos": true, "temperature": 1, "seed": 3});
    for fields in [drawn.clone(), with(drawn, json!({"stop": ["a", "e", "i"]})), json!({"max_tokens": 1})] {
        let body = completion(fields);
        assert_eq!(patient.ok(COMPLETIONS, &body)["choices"], plain.ok(COMPLETIONS, &body)["choices"]);
        assert_eq!(patient.stream(COMPLETIONS, &body).len(), plain.stream(COMPLETIONS, &body).len());
    }
    assert_eq!(plain.ok(COMPLETIONS, &completion(repeating))["usage"]["completion_tokens"], 30);
}

#[test]
fn a_prompt_is_cut_to_its_last_tokens() {
    let server = start(&["--max-model-len", "64"]);
    let prompt: Vec<u64> = (100..300).collect();
    for (most, left) in [(json!(10), 10), (json!(63), 63), (json!(-1), 63)] {
        for path in [CHAT, COMPLETIONS] {
            let fields = json!({
                "prompt_token_ids": prompt, "truncate_prompt_tokens": most, "max_tokens": 1, "return_token_ids": true,
            });
            let answer = server.ok(path, &if path == CHAT { chat(fields) } else { completion(fields) });
            let choice = &answer["choices"][0];
            let ids = choice["prompt_token_ids"].as_array().or(choice["message"]["prompt_token_ids"].as_array());
            assert_eq!(json!(ids), json!(prompt[prompt.len() - left..]), "{path} {most}");
            assert_eq!(answer["usage"]["prompt_tokens"], left);
        }
    }
    let fields = json!({"prompt": "one two three", "truncate_prompt_tokens": 1, "echo": true, "max_tokens": 0});
    let choice = server.ok(COMPLETIONS, &completion(fields))["choices"][0].clone();
    assert!(choice["text"].as_str().is_some_and(|text| "one two three".ends_with(text) && text.len() < 8), "{choice}");
}

#[test]
fn a_form_ends_though_ends_are_to_be_ignored() {
    let server = start(&[]);
    for fields in
        [json!({}), json!({"n": 3}), json!({"best_of": 4, "n": 2}), json!({"min_tokens": 10, "max_tokens": 30})]
    {
        let fields = with(json!({"guided_choice": ["ab", "abc"], "ignore_eos": true, "max_tokens": 20}), fields);
        let fields = with(fields, json!({"temperature": 1, "seed": 6}));
        let answer = server.ok(COMPLETIONS, &completion(fields.clone()));
        for choice in answer["choices"].as_array().expect("choices") {
            assert!(choice["text"] == "ab" || choice["text"] == "abc", "{choice}");
            assert_eq!(choice["finish_reason"], "stop");
        }
        let finish = server.stream(COMPLETIONS, &completion(with(fields, json!({"best_of": null}))));
        assert_eq!(finish.last().expect("chunks")["choices"][0]["finish_reason"], "stop");
    }
}
