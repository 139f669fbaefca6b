//! Every number that a request may hold: its smallest and largest legal value work, one beyond is refused by name, and
//! so is what isn't a number at all. Bodies that aren't meant well are refused too. And the server keeps serving.

use serde_json::{Value, json};

use crate::{CHAT, COMPLETIONS, chat, completion, server::Server, start};

/// A field, where it may stand, and its bounds as JSON text (JSON can't hold all of them as values).
struct Row {
    paths: &'static [&'static str],
    field: &'static str,
    legal: [&'static str; 2],
    beyond: &'static [&'static str],
    /// What the field needs beside it.
    with: Value,
}

const BOTH: &[&str] = &[CHAT, COMPLETIONS];
const I64_MAX: &str = "9223372036854775807";
const OVER_I64: &str = "9223372036854775808";
const UNDER_I64: &str = "-9223372036854775809";

fn row(
    paths: &'static [&'static str],
    field: &'static str,
    legal: [&'static str; 2],
    beyond: &'static [&'static str],
) -> Row {
    Row { paths, field, legal, beyond, with: json!({}) }
}

fn rows() -> Vec<Row> {
    vec![
        row(BOTH, "temperature", ["0", "3.4e38"], &["-0.001", "3.5e38"]),
        row(BOTH, "top_p", ["0", "1"], &["-0.001", "1.001"]),
        row(BOTH, "min_p", ["0", "1"], &["-0.001", "1.001"]),
        row(BOTH, "top_k", ["-1", I64_MAX], &["-2", OVER_I64, "1.5"]),
        row(BOTH, "repetition_penalty", ["1e-38", "3.4e38"], &["0", "-1", "3.5e38"]),
        row(BOTH, "presence_penalty", ["-2", "2"], &["-2.001", "2.001"]),
        row(BOTH, "frequency_penalty", ["-2", "2"], &["-2.001", "2.001"]),
        row(BOTH, "seed", ["0", "922337203685477580"], &["-1", "922337203685477581", "0.5"]),
        row(BOTH, "n", ["1", "128"], &["0", "129", "1000000000", "1.5"]),
        row(BOTH, "max_tokens", ["1", I64_MAX], &["0", "-1", OVER_I64, "1.5"]),
        row(BOTH, "max_completion_tokens", ["1", I64_MAX], &["0", "-1", OVER_I64, "1.5"]),
        row(BOTH, "min_tokens", ["0", "4"], &["-1", "5", "4294967296", OVER_I64, "1.5"]),
        row(BOTH, "reasoning_max_tokens", ["0", I64_MAX], &["-1", OVER_I64, "1.5"]),
        row(BOTH, "priority", ["-9223372036854775808", I64_MAX], &[UNDER_I64, OVER_I64, "1.5"]),
        row(BOTH, "truncate_prompt_tokens", ["-1", I64_MAX], &["-2", "0", OVER_I64, "1.5"]),
        row(BOTH, "prompt_logprobs", ["0", "20"], &["-1", "21", "1.5"]),
        Row {
            with: json!({"stream": true}),
            ..row(
                BOTH,
                "max_streaming_response_tokens",
                ["-9223372036854775808", I64_MAX],
                &[UNDER_I64, OVER_I64, "1.5"],
            )
        },
        Row { with: json!({"logprobs": true}), ..row(&[CHAT], "top_logprobs", ["0", "20"], &["-1", "21", "1.5"]) },
        row(&[COMPLETIONS], "logprobs", ["0", "20"], &["-1", "21", "1.5"]),
        row(&[COMPLETIONS], "best_of", ["1", "128"], &["0", "129", "1.5"]),
        Row { with: json!({"n": 3}), ..row(&[COMPLETIONS], "best_of", ["3", "4"], &["2"]) },
    ]
}

/// What is no number, and numbers that no field can hold.
const NEVER_LEGAL: &[&str] = &[
    "NaN",
    "Infinity",
    "-Infinity",
    "\"3\"",
    "\"\"",
    "[]",
    "[1]",
    "{}",
    "1e400",
    "-1e400",
    "10000000000000000000000000000000000000000",
    "-10000000000000000000000000000000000000000",
];

/// A good body with one more field, whose value is any text.
fn body(path: &str, with: &Value, field: &str, literal: &str) -> String {
    let mut fields = with.clone();
    fields[field] = json!("@");
    let body = if path == CHAT { chat(fields) } else { completion(fields) };
    body.to_string().replace("\"@\"", literal)
}

/// The status, and the parameter at fault.
fn ask(server: &Server, path: &str, body: &[u8]) -> (u16, Value, String) {
    let (status, text) = server.post_bytes(path, body);
    let param = serde_json::from_str::<Value>(&text).map_or(Value::Null, |answer| answer["error"]["param"].clone());
    (status, param, text)
}

fn still_serves(server: &Server) {
    server.ok(CHAT, &chat(json!({})));
    server.ok(COMPLETIONS, &completion(json!({})));
}

#[test]
fn numbers_are_good_up_to_their_bounds_and_refused_beyond() {
    let server = start(&[]);
    for Row { paths, field, legal, beyond, with } in rows() {
        for path in paths {
            for good in legal.iter().chain(["null"].iter()) {
                let (status, _, answer) = ask(&server, path, body(path, &with, field, good).as_bytes());
                assert_eq!(status, 200, "{path} {field}: {good} → {answer}");
            }
            for bad in beyond.iter().chain(NEVER_LEGAL) {
                let (status, param, answer) = ask(&server, path, body(path, &with, field, bad).as_bytes());
                assert_eq!((status, param), (400, json!(field)), "{path} {field}: {bad} → {answer}");
            }
            // A boolean is no number; only a chat's `logprobs` is one, and that isn't in the table.
            let (status, param, answer) = ask(&server, path, body(path, &with, field, "true").as_bytes());
            assert_eq!((status, param), (400, json!(field)), "{path} {field}: true → {answer}");
        }
        still_serves(&server);
    }
}

#[test]
fn zero_may_be_negative_and_whole_numbers_may_have_a_point() {
    let server = start(&[]);
    for (field, literal) in [
        ("temperature", "-0.0"),
        ("top_p", "-0"),
        ("top_k", "-0"),
        ("min_p", "-0.0"),
        ("presence_penalty", "-0"),
        ("seed", "-0"),
        ("min_tokens", "-0.0"),
        ("max_tokens", "4.0"),
        ("n", "2.0"),
        ("priority", "-0"),
    ] {
        for path in BOTH {
            let (status, _, answer) = ask(&server, path, body(path, &json!({}), field, literal).as_bytes());
            assert_eq!(status, 200, "{path} {field}: {literal} → {answer}");
        }
    }
}

#[test]
fn extremes_together_still_give_a_text() {
    let server = start(&[]);
    let extremes = [
        ("temperature", ["0", "1e-5", "1e-38", "3.4e38"]),
        ("top_p", ["0", "1e-5", "1e-38", "1"]),
        ("repetition_penalty", ["1e-38", "1", "2", "3.4e38"]),
        ("presence_penalty", ["-2", "-2", "2", "2"]),
        ("min_p", ["0", "1", "1e-38", "0.5"]),
        ("top_k", ["0", "1", "2", "1000000"]),
    ];
    // Every pair of fields in every pair of their extremes.
    for (i, (first, firsts)) in extremes.iter().enumerate() {
        for (second, seconds) in &extremes[i + 1..] {
            for (a, b) in firsts.iter().flat_map(|a| seconds.iter().map(move |b| (a, b))) {
                let text = format!(
                    r#"{{"prompt": [5, 6, 7], "max_tokens": 3, "seed": 1, "logprobs": 1, "{first}": {a}, "{second}": {b}}}"#
                );
                let (status, _, answer) = ask(&server, COMPLETIONS, text.as_bytes());
                assert_eq!(status, 200, "{text} → {answer}");
            }
        }
    }
    still_serves(&server);
}

#[test]
fn lists_are_bounded() {
    let server = start(&[]);
    let biases = |count: usize| -> Value {
        let entry = |id: usize| (id.to_string(), json!(0.5));
        Value::Object((0..count).map(entry).collect())
    };
    let words = |count: usize, length: usize| json!(vec![vec![7; length]; count]);
    for path in BOTH {
        for (field, good, bad) in [
            ("logit_bias", json!({"0": -100, "1023": 100}), json!({"1024": 1})),
            ("logit_bias", json!({"5": -100.0}), json!({"5": 100.001})),
            ("logit_bias", json!({}), json!({"5": -100.001})),
            ("logit_bias", biases(1024), json!([[5, 1]])),
            ("logit_bias", json!({"5": 1}), json!({"5": 1, "05": 1})),
            ("logit_bias", json!({"5": 1}), json!({"-5": 1})),
            ("logit_bias", json!({"5": 1}), json!({"five": 1})),
            ("logit_bias", json!({"5": 1}), json!({"5": "1"})),
            ("logit_bias", json!({"5": 1}), json!({"5": null})),
            ("bad_words", json!(["word", " two words", "ß"]), json!([""])),
            ("bad_words", json!([]), json!("word")),
            ("bad_words", json!(["a"]), json!([1])),
            ("bad_words", json!(["a"]), json!(["q z ".repeat(600)])),
            ("bad_words", json!(["a"]), json!(vec!["a"; 1025])),
            ("bad_words_token_ids", json!([0, 1023]), json!([1024])),
            ("bad_words_token_ids", json!([[1, 2], [3]]), json!([[1, 2], []])),
            ("bad_words_token_ids", json!([]), json!([-1])),
            ("bad_words_token_ids", json!([5]), json!([5, [6]])),
            ("bad_words_token_ids", json!([[5]]), json!([[5], 6])),
            ("bad_words_token_ids", words(1, 1024), words(1, 1025)),
            ("bad_words_token_ids", words(8, 128), words(9, 128)),
            ("bad_words_token_ids", json!((0..1023).collect::<Vec<_>>()), json!((0..1024).collect::<Vec<_>>())),
            ("stop_token_ids", json!((0..1024).collect::<Vec<_>>()), json!(vec![5; 1025])),
            ("stop_token_ids", json!([0, 1023]), json!([1024])),
            ("stop", json!(vec!["never"; 16]), json!(vec!["never"; 17])),
            ("cache_salt", json!("s"), json!("")),
            ("cache_salt", json!("s".repeat(1024)), json!("s".repeat(1025))),
            ("cache_salt", json!("s"), json!(5)),
        ] {
            let with = |value: &Value| body(path, &json!({}), field, &value.to_string());
            let (status, _, answer) = ask(&server, path, with(&good).as_bytes());
            assert_eq!(status, 200, "{path} {field}: {good} → {answer}");
            let (status, param, answer) = ask(&server, path, with(&bad).as_bytes());
            assert_eq!((status, param), (400, json!(field)), "{path} {field}: {bad} → {answer}");
        }
        still_serves(&server);
    }
}

#[test]
fn hostile_bodies_are_refused_and_harm_nobody() {
    let server = start(&[]);
    let quoted = |field: &str, count: usize| format!("{{\"prompt\": \"a\", \"{field}\": \"{}\"}}", "a".repeat(count));
    let mib = 1 << 20;
    let bodies: Vec<(&str, Vec<u8>, u16)> = vec![
        ("nothing", Vec::new(), 400),
        ("100,000 brackets", vec![b'['; 100_000], 400),
        ("100,000 objects", "{\"a\":".repeat(100_000).into_bytes(), 400),
        ("nesting in a field", format!("{{\"prompt\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000)).into(), 400),
        ("nesting in an ignored field", format!("{{\"prompt\": \"a\", \"x\": {}}}", "[".repeat(100_000)).into(), 400),
        ("invalid UTF-8", b"{\"prompt\": \"\xff\xfe\"}".to_vec(), 400),
        ("invalid UTF-8 in a name", b"{\"prompt\": \"a\", \"\xc3\": 1}".to_vec(), 400),
        ("half a surrogate", b"{\"prompt\": \"\\ud800\"}".to_vec(), 400),
        ("a byte order mark", b"\xef\xbb\xbf{\"prompt\": \"a\"}".to_vec(), 400),
        ("UTF-16", "{\"prompt\": \"a\"}".encode_utf16().flat_map(u16::to_le_bytes).collect(), 400),
        ("null bytes", vec![0; 1000], 400),
        ("a cut body", b"{\"prompt\": \"The sky".to_vec(), 400),
        ("two bodies", b"{\"prompt\": \"a\"}{\"prompt\": \"b\"}".to_vec(), 400),
        ("a trailing comma", b"{\"prompt\": \"a\",}".to_vec(), 400),
        ("single quotes", b"{'prompt': 'a'}".to_vec(), 400),
        ("10 MB of blanks", vec![b' '; 10 * mib], 400),
        ("10 MB of numbers", format!("{{\"prompt\": [{}1]}}", "1,".repeat(5 * mib)).into(), 400),
        ("10 MB in a word", quoted("bad_words", 10 * mib).into(), 400),
        ("10 MB of salt", quoted("cache_salt", 10 * mib).into(), 400),
        ("10 MB in the place of a number", quoted("temperature", 10 * mib).into(), 400),
        ("10 MB of digits", format!("{{\"prompt\": \"a\", \"seed\": {}}}", "9".repeat(10 * mib)).into(), 400),
        ("more than the limit", quoted("x", 33 * mib).into(), 413),
    ];
    for (what, body, wanted) in bodies {
        for path in BOTH {
            let (status, _, answer) = ask(&server, path, &body);
            let shown: String = answer.chars().take(300).collect();
            assert_eq!(status, wanted, "{what} at {path} → {shown}");
            // A message is for people: it doesn't give a body back.
            assert!(answer.len() < 2000, "{what} at {path} → {} bytes", answer.len());
        }
    }
    still_serves(&server);
    // Large but harmless.
    for field in ["x", "user", "request_id", "model"] {
        let (status, _, answer) = ask(&server, COMPLETIONS, quoted(field, 10 * mib).as_bytes());
        assert_eq!((status, answer.len() < 2000 || field == "model"), (200, true), "10 MB of {field}");
    }
    // Of a name that is given twice the last counts, as everywhere.
    let twice = br#"{"prompt": "a", "max_tokens": 0, "max_tokens": 2, "ignore_eos": true}"#;
    let (status, _, answer) = ask(&server, COMPLETIONS, twice);
    assert!(status == 200 && answer.contains("\"completion_tokens\":2"), "{answer}");
    still_serves(&server);
}
