//! Keys, places, waiting times, and clients that go away.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use serde_json::{Value, json};

use crate::{
    CHAT, COMPLETIONS, chat, completion, freeze, long_work,
    server::{Server, wait_for},
    start,
};

/// Sends a request by hand and leaves its answer unread.
fn send(server: &Server, path: &str, headers: &str, body: &Value) -> TcpStream {
    let address = server.url("").trim_start_matches("http://").to_owned();
    let mut connection = TcpStream::connect(&address).expect("the server listens");
    let body = body.to_string();
    let head = format!("POST {path} HTTP/1.1\r\nhost: {address}\r\n{headers}content-length: {}\r\n\r\n", body.len());
    connection.write_all((head + &body).as_bytes()).expect("it reads");
    connection
}

/// The head of an answer, and what of its body came with it.
fn answer(mut connection: TcpStream) -> String {
    let mut bytes = [0; 4096];
    let count = connection.read(&mut bytes).expect("an answer");
    String::from_utf8_lossy(&bytes[..count]).to_ascii_lowercase()
}

fn running(server: &Server) -> f64 {
    server.metric("vllm:num_requests_running")
}

#[test]
fn a_key_is_needed_where_one_is_set() {
    let server = start(&["--api-key", "secret", "--api-key", "other"]);
    let bad_body = json!("not even an object");
    for (headers, status) in [
        ("", "401"),
        ("authorization: Bearer wrong\r\n", "401"),
        ("authorization: secret\r\n", "401"),
        ("authorization: Bearer secret\r\n", "400"),
        ("authorization: bearer other\r\n", "400"),
    ] {
        let answer = answer(send(&server, CHAT, headers, &bad_body));
        assert!(answer.starts_with(&format!("http/1.1 {status} ")), "{headers}: {answer}");
    }
    for path in ["/health", "/ping", "/livez"] {
        assert_eq!(server.get(path).0, 200, "{path}");
    }
    assert_eq!(server.get("/v1/models").0, 401);
}

#[test]
fn health_is_an_empty_200() {
    let server = start(&["-tp", "2"]);
    for path in ["/health", "/ping", "/livez"] {
        assert_eq!(server.get(path), (200, String::new()), "{path}");
    }
    assert_eq!(server.post_status("/ping"), 200);
    let ranks = server.get_json("/ranks");
    assert_eq!(ranks["world_size"], 2);
    assert!(
        ranks["ranks"].as_array().is_some_and(|ranks| ranks.iter().all(|rank| rank["state"] == "ready")),
        "{ranks}"
    );
    assert!(server.get_json("/version")["version"].is_string());
}

#[test]
fn clients_that_go_away_give_their_blocks_back() {
    let server = start(&[]);
    for stream in [true, false] {
        let aborted = server.metric("shardwire:sequences_aborted_total");
        let body = crate::with(long_work(), json!({"stream": stream}));
        let connection = send(&server, COMPLETIONS, "", &body);
        wait_for("the request to run", || (running(&server) > 0.0).then_some(()));
        drop(connection);
        wait_for("the sequences to end", || (running(&server) == 0.0).then_some(()));
        // They were given up, and didn't just come to their end.
        assert!(server.metric("shardwire:sequences_aborted_total") > aborted, "stream: {stream}");
        wait_for("the blocks to be free", || (server.metric("fastdeploy:gpu_cache_usage_perc") == 0.0).then_some(()));
    }
    server.ok(CHAT, &chat(json!({})));
}

#[test]
fn more_requests_than_places_are_told_to_come_back() {
    let server = start(&["--max-concurrency", "2"]);
    let frozen = freeze(&server);
    let inside = [0, 1].map(|_| send(&server, COMPLETIONS, "connection: close\r\n", &completion(json!({}))));
    let (head, refusal) = wait_for("both to be inside", || {
        let text = answer(send(&server, CHAT, "", &json!({})));
        text.starts_with("http/1.1 429 ")
            .then(|| text.split_once("\r\n\r\n").map(|(a, b)| (a.to_owned(), b.to_owned())))
    })
    .expect("a head and a body");
    assert!(head.contains("retry-after: ") && refusal.contains("2 concurrent requests"), "{head} {refusal}");
    drop(frozen);
    for request in inside {
        assert!(answer(request).starts_with("http/1.1 200 "));
    }
    server.ok(CHAT, &chat(json!({})));
}

#[test]
fn waiting_too_long_is_a_timeout() {
    for limits in
        [["--max-waiting-time", "1", "--scheduler-ttl", "-1"], ["--scheduler-ttl", "1", "--max-waiting-time", "9"]]
    {
        let server = start(&[&limits[..], &["--max-num-seqs", "1"]].concat());
        let frozen = freeze(&server);
        let first = send(&server, COMPLETIONS, "connection: close\r\n", &completion(json!({})));
        wait_for("the first to run", || (running(&server) > 0.0).then_some(()));
        for stream in [false, true] {
            let (status, answer) = server.post(CHAT, &chat(json!({"stream": stream})));
            assert_eq!((status, &answer["error"]["type"]), (408, &json!("timeout_error")), "{answer}");
        }
        drop(frozen);
        assert!(answer(first).starts_with("http/1.1 200 "));
    }
}

#[test]
fn a_full_queue_is_too_many_requests() {
    let server = start(&["--scheduler-max-size", "1", "--max-num-seqs", "1"]);
    let frozen = freeze(&server);
    let inside = [1, 2].map(|_| send(&server, COMPLETIONS, "connection: close\r\n", &completion(json!({}))));
    wait_for("one to wait", || (server.metric("fastdeploy:num_requests_waiting") > 0.0).then_some(()));
    let (status, refusal) = server.post(CHAT, &chat(json!({})));
    assert_eq!((status, &refusal["error"]["type"]), (429, &json!("rate_limit_error")), "{refusal}");
    drop(frozen);
    for request in inside {
        assert!(answer(request).starts_with("http/1.1 200 "));
    }
}

#[test]
fn metrics_have_a_port_of_their_own() {
    // A free port, found by taking one and letting it go.
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let server = start(&["--metrics-port", &free.port().to_string()]);
    let mut answer = ureq::get(format!("http://{free}/metrics")).call().expect("it answers");
    let text = answer.body_mut().read_to_string().expect("text");
    for name in [
        "fastdeploy:num_requests_running",
        "fastdeploy:num_requests_waiting",
        "fastdeploy:gpu_cache_usage_perc",
        "fastdeploy:time_to_first_token_seconds_bucket",
        "vllm:kv_cache_usage_perc",
        "shardwire:rank_up{rank=\"0\"}",
    ] {
        assert!(text.contains(name), "no {name} in\n{text}");
    }
    assert_eq!(server.get("/metrics").0, 200);
}
