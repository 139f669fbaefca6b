//! What a server does where the machine has too little of something, or another server beside it.

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::symlink,
    process::Command,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::{
    COMPLETIONS, MODEL, completion,
    server::{LIMIT, Server, golden, wait_for},
    start,
};

fn model() -> String {
    golden(MODEL).to_str().expect("UTF-8").to_owned()
}

fn connect(server: &Server) -> TcpStream {
    let connection = TcpStream::connect(server.url("").trim_start_matches("http://")).expect("a connection");
    connection.set_read_timeout(Some(LIMIT)).expect("a limit");
    connection
}

fn kill_rank(server: &Server) {
    let pid = server.get_json("/ranks")["ranks"][0]["pid"].as_i64().expect("a process");
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).expect("the rank lives");
    wait_for("the next ranks", || (server.get_json("/ranks")["epoch"] == 1).then_some(()));
    wait_for("their health", || (server.get("/health").0 == 200).then_some(()));
}

#[test]
fn connections_beyond_the_limit_of_files_wait_and_streams_go_on() {
    let server = Server::start_after("ulimit -n 320", &["--model", &model()]);
    let long = completion(json!({"max_tokens": 400, "ignore_eos": true}));
    let mut stream = server.open_stream(COMPLETIONS, &long);
    stream.next().expect("it begins");
    // More than the process may have files.
    let idle: Vec<_> = (0..400).map(|_| connect(&server)).collect();
    let events: Vec<_> = stream.collect();
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    drop(idle);
    assert_eq!(server.get("/health").0, 200);
    assert!(!server.log("server.log").contains("Too many open files"), "{}", server.log("server.log"));
}

#[test]
fn too_few_files_are_refused() {
    let mut command = Command::new("sh");
    command.args(["-c", r#"ulimit -n 200 && exec "$0" "$@""#, env!("CARGO_BIN_EXE_shardwire")]);
    let output = command.args(["serve", "--port", "0", "--model", &model()]).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("200 open files are too few"), "{said}");
}

#[test]
fn who_never_ends_a_request_is_sent_away() {
    let server = start(&[]);
    let mut slow = connect(&server);
    slow.write_all(b"POST /v1/completions HTTP/1.1\r\nhost: a\r\n").expect("it is heard");
    let mut said = String::new();
    let _ = slow.read_to_string(&mut said);
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
}

#[test]
fn logs_on_a_full_disk_cost_lines_and_nothing_else() {
    let logs = tempfile::tempdir().expect("a folder");
    for name in ["server.log", "workerlog.0", "stderr"] {
        symlink("/dev/full", logs.path().join(name)).expect("a link");
    }
    let mut server = Server::start_by(Command::new(env!("CARGO_BIN_EXE_shardwire")), logs, &["--model", &model()]);
    let answer = || server.ok(COMPLETIONS, &completion(json!({})))["choices"][0]["text"].clone();
    let before = answer();
    kill_rank(&server);
    assert_eq!(answer(), before);
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn two_servers_side_by_side_do_not_meddle() {
    let [mut one, other] = [start(&[]), start(&["-tp", "2"])];
    let long = completion(json!({"max_tokens": 400, "ignore_eos": true, "temperature": 1, "seed": 3}));
    let text = |events: Vec<Value>| -> String {
        events.iter().map(|event| event["choices"][0]["text"].as_str().expect("a text").to_owned()).collect()
    };
    let undisturbed = text(other.stream(COMPLETIONS, &long));
    let mut stream = other.open_stream(COMPLETIONS, &long);
    let first = stream.next().expect("it begins");
    kill_rank(&one);
    one.signal(Signal::SIGTERM);
    assert_eq!(one.wait().code(), Some(0));
    let events = [first].into_iter().chain(stream).filter(|event| event != "[DONE]");
    assert_eq!(text(events.map(|event| serde_json::from_str(&event).expect("JSON")).collect()), undisturbed);
    assert_eq!(other.get_json("/ranks")["restarts"], 0);
}

#[test]
fn shared_memory_that_is_too_small_is_named() {
    // A mount of its own takes rights that not every machine gives its tests.
    let mounted = r#"mount -t tmpfs -o size=64k none /dev/shm || exit 77; exec "$0" "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", mounted, env!("CARGO_BIN_EXE_shardwire")]);
    let logs = tempfile::tempdir().expect("a folder");
    let flags = ["serve", "--port", "0", "--model", &model(), "--log-dir", logs.path().to_str().expect("UTF-8")];
    let output = command.args(flags).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(2) => assert!(said.contains("/dev/shm is full or too small"), "{said}"),
        _ => assert!(said.contains("unshare") || said.contains("mount"), "{said}"),
    }
}

#[test]
fn logs_may_be_json() {
    let server = start(&["--log-format", "json"]);
    kill_rank(&server);
    for name in ["server.log", "workerlog.0"] {
        let log = server.log(name);
        let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        let whole = |line: &Value| line["timestamp"].is_string() && line["level"].is_string();
        assert!(lines.len() > 1 && lines.iter().all(whole), "{log}");
    }
}
