//! Vectors of texts.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{server::Server, start, with};

const PATH: &str = "/v1/embeddings";

/// The vectors of an answer.
fn vectors(answer: &Value) -> Vec<Vec<f64>> {
    let entries = answer["data"].as_array().expect("a list");
    let numbers = |entry: &Value| {
        let list = entry["embedding"].as_array().expect("a vector");
        list.iter().map(|number| number.as_f64().expect("a number")).collect()
    };
    entries.iter().map(numbers).collect()
}

/// The vector of one text with further fields.
fn vector(server: &Server, fields: Value) -> Vec<f64> {
    vectors(&server.ok(PATH, &with(json!({"input": "The sky is blue"}), fields))).remove(0)
}

fn length(vector: &[f64]) -> f64 {
    vector.iter().map(|number| number * number).sum::<f64>().sqrt()
}

#[test]
fn inputs_are_answered_in_order_whatever_their_form() {
    let server = start(&[]);
    let ids = |text: &str| server.ok("/tokenize", &json!({"prompt": text}))["tokens"].clone();
    let (sky, grass) = (ids("The sky is blue"), ids("Grass"));
    let expected = vectors(&server.ok(PATH, &json!({"input": ["The sky is blue", "Grass"]})));
    assert!(expected.len() == 2 && expected[0] != expected[1]);
    assert_eq!(vectors(&server.ok(PATH, &json!({"input": [sky, grass]}))), expected);
    assert_eq!(vectors(&server.ok(PATH, &json!({"input": sky}))), expected[..1]);
    assert_eq!(vectors(&server.ok(PATH, &json!({"input": "Grass"}))), expected[1..]);

    let answer = server.ok(PATH, &json!({"input": [sky, grass], "user": "u1"}));
    let count = [&sky, &grass].map(|ids| ids.as_array().map_or(0, Vec::len)).iter().sum::<usize>();
    assert_eq!((&answer["usage"]["prompt_tokens"], &answer["usage"]["total_tokens"]), (&json!(count), &json!(count)));
    assert_eq!((&answer["object"], &answer["data"][1]["index"]), (&json!("list"), &json!(1)));
    assert!(answer["id"].as_str().is_some_and(|id| id.starts_with("embd-u1-")), "{answer}");
    let chat = json!({"messages": [{"role": "user", "content": "Hello!"}]});
    assert_eq!(vectors(&server.ok(PATH, &chat)).len(), 1);
}

#[test]
fn vectors_have_the_form_that_is_asked_for() {
    let server = start(&[]);
    let whole = vector(&server, json!({}));
    assert!((length(&whole) - 1.0).abs() < 1e-5, "{}", length(&whole));
    let plain = vector(&server, json!({"normalize": false}));
    assert!((length(&plain) - 1.0).abs() > 1e-3, "{}", length(&plain));

    let cut = vector(&server, json!({"dimensions": 4}));
    assert!(cut.len() == 4 && (length(&cut) - 1.0).abs() < 1e-5);
    let scale = length(&whole[..4]);
    assert!(cut.iter().zip(&whole).all(|(cut, whole)| (cut - whole / scale).abs() < 1e-5), "{cut:?} {whole:?}");

    let answer = server.ok(PATH, &json!({"input": "The sky is blue", "encoding_format": "base64"}));
    let bytes = BASE64_STANDARD.decode(answer["data"][0]["embedding"].as_str().expect("a text")).expect("base64");
    let floats = bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().expect("four bytes")));
    assert!(floats.clone().count() == whole.len() && floats.zip(&whole).all(|(a, b)| (f64::from(a) - b).abs() < 1e-6));
}

#[test]
fn the_mean_is_over_all_tokens_and_the_last_is_one() {
    let server = start(&["--pooling", "last"]);
    let of =
        |ids: &[u32], pooling: &str| vector(&server, json!({"input": ids, "pooling": pooling, "normalize": false}));
    let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
    assert!(close(&of(&[39], "mean"), &of(&[39], "last")));
    let ends = [of(&[39], "last"), of(&[39, 72], "last")];
    let mean: Vec<f64> = ends[0].iter().zip(&ends[1]).map(|(a, b)| (a + b) / 2.0).collect();
    assert!(close(&of(&[39, 72], "mean"), &mean), "the mean of both tokens' states");
    assert_eq!(vector(&server, json!({"input": [39, 72], "normalize": false, "pooling": null})), ends[1]);
    assert_eq!(vector(&server, json!({"input": [39, 72], "truncate_prompt_tokens": 1, "normalize": false})), ends[0]);
    // Longer than the context, and cut to it.
    let long = json!({"input": vec![7; 2000], "truncate_prompt_tokens": -1});
    assert!(server.ok(PATH, &long)["usage"]["prompt_tokens"].as_u64().is_some_and(|count| count > 500));
}

#[test]
fn what_is_wrong_is_named() {
    let server = start(&[]);
    for (body, param) in [
        (json!({}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": ""}), "input"),
        (json!({"input": [[]]}), "input"),
        (json!({"input": 5}), "input"),
        (json!({"input": [5000]}), "input"),
        (json!({"input": ["a", 5]}), "input"),
        (json!({"input": vec!["a"; 2049]}), "input"),
        (json!({"input": vec![7; 2000]}), "input"),
        (json!({"messages": []}), "messages"),
        (json!({"input": "a", "dimensions": 0}), "dimensions"),
        (json!({"input": "a", "dimensions": 100_000}), "dimensions"),
        (json!({"input": "a", "encoding_format": "hex"}), "encoding_format"),
        (json!({"input": "a", "truncate_prompt_tokens": -2}), "truncate_prompt_tokens"),
        (json!({"input": "a", "truncate_prompt_tokens": 0}), "truncate_prompt_tokens"),
        (json!({"input": "a", "pooling": "max"}), "pooling"),
        (json!({"input": "a", "normalize": 1}), "normalize"),
    ] {
        let (status, answer) = server.post(PATH, &body);
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(param)), "{answer}");
    }
    assert_eq!(server.ok(PATH, &json!({"input": "a"}))["data"][0]["object"], "embedding");
    // Nobody waits for what was refused.
    assert_eq!(server.get_json("/load")["server_load"], 0);
}
