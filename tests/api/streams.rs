//! Answers event by event.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
};

use serde_json::{Value, json};

use crate::{
    CHAT, COMPLETIONS, chat, completion,
    server::{LIMIT, wait_for},
    start,
};

/// The joined text of a stream's first choice.
fn text(chunks: &[Value]) -> String {
    let piece = |chunk: &Value| {
        let choice = chunk["choices"].get(0)?;
        choice["delta"]["content"].as_str().or(choice["text"].as_str()).map(str::to_owned)
    };
    chunks.iter().filter_map(piece).collect()
}

#[test]
fn a_chat_s_stream_keeps_every_rule() {
    let server = start(&[]);
    let body = chat(json!({"max_tokens": 6, "ignore_eos": true, "return_token_ids": true}));
    let chunks = server.stream(CHAT, &body);
    assert_eq!(chunks.len(), 1 + 6);
    for chunk in &chunks {
        for name in ["id", "created", "model"] {
            assert_eq!(chunk[name], chunks[0][name], "{name}");
        }
        assert_eq!((&chunk["object"], &chunk["usage"]), (&json!("chat.completion.chunk"), &Value::Null));
    }
    let opening = &chunks[0]["choices"][0];
    assert_eq!((&opening["delta"]["role"], &opening["delta"]["content"]), (&json!("assistant"), &json!("")));
    assert!(opening.get("arrival_time").is_none() && opening["delta"]["prompt_token_ids"].is_array(), "{opening}");
    let times: Vec<f64> =
        chunks[1..].iter().map(|c| c["choices"][0]["arrival_time"].as_f64().expect("a time")).collect();
    assert!(times.is_sorted() && times[0] >= 0.0, "{times:?}");
    let finishes: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["finish_reason"]).collect();
    assert!(finishes[..6].iter().all(|finish| finish.is_null()) && finishes[6] == "length", "{finishes:?}");
    assert!(chunks[1]["choices"][0].as_object().expect("a choice").contains_key("finish_reason"));
    let ids = |name: &str| chunks[1..].iter().map(|c| c["choices"][0]["delta"][name][0].clone()).collect::<Vec<_>>();
    let whole = server.ok(CHAT, &body)["choices"][0]["message"].clone();
    assert_eq!(json!(ids("completion_token_ids")), whole["completion_token_ids"]);
    assert_eq!(ids("token_ids"), ids("completion_token_ids"));
}

#[test]
fn streamed_and_whole_answers_are_equal() {
    let server = start(&[]);
    for fields in [
        json!({"max_tokens": 1}),
        json!({"max_tokens": 60, "ignore_eos": true}),
        json!({"max_tokens": 60, "ignore_eos": true, "temperature": 1, "seed": 5}),
        json!({"max_tokens": 60, "ignore_eos": true, "temperature": 1.5, "seed": 6, "stop": ["a", "的"]}),
        json!({"max_tokens": 60, "stop": "e", "include_stop_str_in_output": true}),
    ] {
        for (path, body, whole) in [
            (CHAT, chat(fields.clone()), "/choices/0/message/content"),
            (COMPLETIONS, completion(fields.clone()), "/choices/0/text"),
        ] {
            let (answer, chunks) = (server.ok(path, &body), server.stream(path, &body));
            assert_eq!(answer.pointer(whole).and_then(Value::as_str), Some(text(&chunks).as_str()), "{body}");
            let last = chunks.last().expect("chunks");
            assert_eq!(last["choices"][0]["finish_reason"], answer["choices"][0]["finish_reason"], "{body}");
        }
    }
}

#[test]
fn usage_comes_when_it_is_asked_for() {
    let server = start(&[]);
    for (path, body) in [(CHAT, chat(json!({}))), (COMPLETIONS, completion(json!({"prompt": ["a", "b"]})))] {
        let usage = server.ok(path, &body)["usage"].clone();
        for options in [json!({}), json!({"include_usage": true})] {
            let chunks = server.stream(path, &crate::with(body.clone(), json!({"stream_options": options})));
            let (last, before) = chunks.split_last().expect("chunks");
            assert_eq!(last["choices"], json!([]));
            assert_eq!(last["usage"]["total_tokens"], usage["total_tokens"]);
            assert!(before.iter().all(|chunk| chunk.get("usage").is_none()));
        }
        let off = json!({"stream_options": {"include_usage": false}});
        assert!(server.stream(path, &crate::with(body.clone(), off)).iter().all(|chunk| chunk.get("usage").is_none()));
    }
    let options = json!({"stream_options": {"continuous_usage_stats": true}, "max_tokens": 5, "ignore_eos": true});
    let chunks = server.stream(CHAT, &chat(options));
    let counts: Vec<_> = chunks.iter().map(|chunk| chunk["usage"]["completion_tokens"].as_u64()).collect();
    assert_eq!(counts, [0, 1, 2, 3, 4, 5, 5].map(Some));
    for chunk in &chunks {
        let number = |name: &str| chunk["usage"][name].as_u64().expect("a number");
        assert_eq!(number("total_tokens"), number("prompt_tokens") + number("completion_tokens"));
    }
}

#[test]
fn several_choices_share_one_stream() {
    let server = start(&[]);
    let body =
        completion(json!({"prompt": ["a", "b c"], "n": 2, "temperature": 1, "seed": 3, "max_tokens": 9, "echo": true}));
    let whole = server.ok(COMPLETIONS, &body);
    let chunks = server.stream(COMPLETIONS, &body);
    for index in 0..4 {
        let own: Vec<_> = chunks.iter().filter(|chunk| chunk["choices"][0]["index"] == index).cloned().collect();
        assert_eq!(whole["choices"][index]["text"], text(&own), "choice {index}");
        let ended = own.iter().filter(|chunk| !chunk["choices"][0]["finish_reason"].is_null()).count();
        assert_eq!((ended, own.len() > 1), (1, true), "choice {index}");
    }
}

#[test]
fn the_bytes_are_server_sent_events() {
    let server = start(&[]);
    let body = chat(json!({"stream": true})).to_string();
    let address = server.url("").trim_start_matches("http://").to_owned();
    let mut connection = std::net::TcpStream::connect(&address).expect("the server listens");
    write!(
        connection,
        "POST {CHAT} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("it reads");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("UTF-8");
    let (head, events) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let head = head.to_ascii_lowercase();
    assert!(head.contains("content-type: text/event-stream") && head.contains("cache-control: no-cache"), "{head}");
    // Without the sizes of the chunks that HTTP puts between them.
    let lines: Vec<_> = events.lines().filter(|line| line.starts_with("data: ") || line.is_empty()).collect();
    assert!(lines.len() > 4 && events.contains("data: [DONE]\n\n"), "{events}");
}

#[test]
fn several_tokens_may_come_in_one_chunk() {
    let server = start(&[]);
    let fields = json!({"max_tokens": 10, "ignore_eos": true, "stream_options": {"continuous_usage_stats": true}});
    for (path, body, place) in [(CHAT, chat(fields.clone()), "metadata"), (COMPLETIONS, completion(fields), "suffix")] {
        let single = server.stream(path, &body);
        for packed in
            [json!({"max_streaming_response_tokens": 4}), json!({place: {"max_streaming_response_tokens": 4}})]
        {
            let chunks = server.stream(path, &crate::with(body.clone(), packed));
            let opening = usize::from(path == CHAT);
            let sizes: Vec<_> = chunks.iter().map(|chunk| chunk["choices"].as_array().map_or(0, Vec::len)).collect();
            assert_eq!(sizes[opening..], [4, 4, 2, 0], "{path}");
            let counts: Vec<_> = chunks.iter().map(|chunk| chunk["usage"]["completion_tokens"].as_u64()).collect();
            assert_eq!(counts[opening..], [4, 8, 10, 10].map(Some), "{path}");
            let choices = |chunks: &[Value]| -> Vec<Value> {
                let all = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().cloned().unwrap_or_default());
                all.map(|choice| crate::with(choice, json!({"arrival_time": null}))).collect()
            };
            assert_eq!(choices(&chunks), choices(&single), "{path}");
        }
        for one in [json!(0), json!(-3), json!(1)] {
            let chunks = server.stream(path, &crate::with(body.clone(), json!({"max_streaming_response_tokens": one})));
            assert_eq!(chunks.len(), single.len(), "{path} {one}");
        }
    }
    // Two sequences are never in one chunk.
    let two = completion(json!({"n": 2, "max_tokens": 5, "ignore_eos": true, "max_streaming_response_tokens": 3}));
    for chunk in server.stream(COMPLETIONS, &two) {
        let choices = chunk["choices"].as_array().expect("choices");
        assert!(choices.iter().all(|choice| choice["index"] == choices[0]["index"]), "{chunk}");
    }
}

/// More than sockets hold of a stream nobody reads.
const CHOICES: usize = 32;

#[test]
fn a_slow_reader_is_waited_for_and_nobody_else_waits() {
    let server = start(&["--max-num-seqs", "8"]);
    let long =
        json!({"n": CHOICES, "max_tokens": 490, "ignore_eos": true, "temperature": 1, "seed": 3, "logprobs": 10});
    let body = completion(long.clone());
    let mut asked = body.clone();
    asked["stream"] = true.into();
    let mut stream = slow_reader(server.url("").strip_prefix("http://").expect("an address"), &asked);
    // Whoever can't go on makes way, so that all have their turn.
    let count = |name: &str| server.metric(name) as usize;
    let paused = || count("shardwire:num_requests_paused");
    let others = || count("vllm:num_requests_running") + count("vllm:num_requests_waiting");
    wait_for("all to wait for the reader", || (paused() > 1 && others() == 0).then_some(()));
    assert_eq!(server.metric("vllm:kv_cache_usage_perc"), 0.0, "they hold no blocks");
    server.ok(COMPLETIONS, &completion(json!({"max_tokens": 200, "ignore_eos": true})));
    let mut texts = vec![String::new(); CHOICES];
    let mut line = String::new();
    while !line.starts_with("data: [DONE]") {
        line.clear();
        assert!(stream.read_line(&mut line).expect("a line") > 0, "the stream ends with [DONE]");
        // Sizes of HTTP's own chunks come between.
        let Some(chunk) = line.strip_prefix("data: {") else { continue };
        let chunk: Value = serde_json::from_str(&format!("{{{chunk}")).expect("JSON");
        let choice = &chunk["choices"][0];
        texts[choice["index"].as_u64().expect("an index") as usize] += choice["text"].as_str().expect("a text");
    }
    let whole = server.ok(COMPLETIONS, &body);
    let expected: Vec<&str> = (0..CHOICES).filter_map(|index| whole["choices"][index]["text"].as_str()).collect();
    assert_eq!(texts, expected, "no token twice, none missing");
    assert_eq!(paused(), 0);
}

/// Asks, and reads nothing.
fn slow_reader(address: &str, body: &Value) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    let body = body.to_string();
    let head = format!("POST {COMPLETIONS} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).expect("the server reads");
    BufReader::new(stream)
}
