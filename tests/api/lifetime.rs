//! How a server starts, refuses to start, and ends.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::{
    CHAT, MODEL, chat, freeze,
    server::{golden, run, wait_for},
    start,
};

#[test]
fn what_cannot_be_served_is_refused_in_one_line() {
    let model = golden(MODEL);
    let model = model.to_str().expect("UTF-8");
    for (arguments, told) in [
        (vec!["--model", "/no/such/model"], "/no/such/model"),
        (vec!["--model", model, "-tp", "9"], "9 ranks"),
        (vec!["--model", model, "--kv-cache-memory", "10"], "--kv-cache-memory"),
        (vec!["--model", model, "--host", "203.0.113.7"], "203.0.113.7"),
        (vec!["--model", model, "--log-dir", "/dev/null/logs"], "/dev/null/logs"),
        (vec!["--model", model, "--tokenizer", "/no/such/tokenizer"], "/no/such/tokenizer"),
    ] {
        refused(&arguments, told);
    }
    // This only a rank can find, when it has loaded its weights: how far it was may have been told.
    refusal(&["--model", model, "--kv-cache-memory", "4000T"], "out of memory");
    for (argument, told) in
        [("--port=99999", "--port"), ("--no-such-flag", "--no-such-flag"), ("-tp=0", "tensor-parallel")]
    {
        let (code, _, errors) = run(&["serve", argument]);
        assert!(code == 2 && errors.contains(told), "{argument}: {code} {errors}");
    }
}

#[test]
fn a_signal_during_the_start_ends_it_in_order() {
    let model = golden(MODEL);
    let logs = tempfile::tempdir().expect("a folder");
    for delay_ms in [0, 5, 10, 20, 30, 50, 70, 110] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_shardwire"))
            .args(["serve", "--host", "127.0.0.1", "--port", "0", "-tp", "2", "--model"])
            .args([model.as_path(), "--log-dir".as_ref(), logs.path()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        // The loader needs a moment before any program can receive a signal.
        wait_for("its handlers", || catches(child.id(), Signal::SIGTERM).then_some(()));
        std::thread::sleep(Duration::from_millis(delay_ms));
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("it lives");
        let status = wait_for("the end", || child.try_wait().expect("the child is ours"));
        assert_eq!(status.code(), Some(0), "after {delay_ms} ms");
    }
}

/// Whether a process has a handler for `signal` (proc(5): the mask `SigCgt`).
fn catches(pid: u32, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal as u32 - 1) & 1 == 1
}

/// Exit code 2, nothing on standard output, one line on standard error.
fn refused(arguments: &[&str], told: &str) {
    let errors = refusal(arguments, told);
    assert!(!errors.contains("INFO"), "a refusal is one line: {errors}");
}

/// Exit code 2, nothing on standard output, one line of our own on standard error, all of which is returned.
fn refusal(arguments: &[&str], told: &str) -> String {
    let logs = tempfile::tempdir().expect("a folder");
    let folder = logs.path().to_str().expect("UTF-8");
    let mut all = vec!["serve", "--port", "0"];
    if !arguments.contains(&"--log-dir") {
        all.extend(["--log-dir", folder]);
    }
    all.extend(arguments);
    let (code, out, errors) = run(&all);
    let own: Vec<_> = errors.lines().filter(|line| line.starts_with("shardwire: ")).collect();
    assert_eq!((code, out.as_str(), own.len()), (2, "", 1), "{arguments:?}: {errors}");
    assert!(own[0].contains(told) && !errors.contains("panicked"), "{arguments:?}: {errors}");
    errors
}

#[test]
fn broken_models_are_refused_by_the_file_at_fault() {
    let broken = tempfile::tempdir().expect("a folder");
    let damages: [(&str, Option<&[u8]>); 6] = [
        ("config.json", None),
        ("config.json", Some(b"{\"architectures\": [\"LlamaForCausalLM\"]}")),
        ("model.safetensors", None),
        ("model.safetensors", Some(b"nothing of this kind")),
        ("tokenizer.json", None),
        ("tokenizer.json", Some(b"{}")),
    ];
    for (index, (name, content)) in damages.into_iter().enumerate() {
        let folder = broken.path().join(index.to_string());
        fs::create_dir(&folder).expect("a folder");
        for file in fs::read_dir(golden(MODEL)).expect("the model").flatten() {
            fs::copy(file.path(), folder.join(file.file_name())).expect("a copy");
        }
        match content {
            Some(bytes) => fs::write(folder.join(name), bytes).expect("a damage"),
            None => fs::remove_file(folder.join(name)).expect("a loss"),
        }
        refused(&["--model", folder.to_str().expect("UTF-8")], name);
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let server = start(&[]);
    let port = server.url("").rsplit(':').next().expect("a port").to_owned();
    let model = golden(MODEL);
    refused(&["--model", model.to_str().expect("UTF-8"), "--host", "127.0.0.1", "--port", &port], &port);
}

#[test]
fn a_signal_drains_the_server() {
    let mut server = start(&[]);
    let frozen = freeze(&server);
    let stream = server.open_stream(CHAT, &chat(json!({})));
    server.signal(Signal::SIGTERM);
    wait_for("the drain", || (server.get("/health").0 == 503).then_some(()));
    let (status, answer) = server.post(CHAT, &chat(json!({})));
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("unavailable")), "{answer}");
    drop(frozen);
    let events: Vec<_> = stream.collect();
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    assert!(!events.iter().any(|event| event.starts_with("{\"error\"")), "it ended in order: {events:?}");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn the_drain_limit_ends_streams_with_an_error() {
    let mut server = start(&["--timeout-graceful-shutdown", "1"]);
    let _frozen = freeze(&server);
    let stream = server.open_stream(CHAT, &chat(json!({})));
    server.signal(Signal::SIGINT);
    let events: Vec<_> = stream.collect();
    let [error, done] = events.as_slice() else { panic!("{events:?}") };
    let error: Value = serde_json::from_str(error).expect("JSON");
    assert!(error["error"]["message"].is_string() && done == "[DONE]", "{error} {done}");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_second_signal_ends_everything() {
    let mut server = start(&["--timeout-graceful-shutdown", "600"]);
    let _frozen = freeze(&server);
    let _stream = server.open_stream(CHAT, &chat(json!({})));
    server.signal(Signal::SIGTERM);
    wait_for("the drain", || (server.get("/health").0 == 503).then_some(()));
    server.signal(Signal::SIGINT);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn what_is_said_in_prompts_is_not_logged() {
    let server = start(&[]);
    server.ok(CHAT, &chat(json!({"messages": [{"role": "user", "content": "a-very-private-word"}]})));
    server.post(CHAT, &chat(json!({"messages": [{"role": "user", "content": "a-very-private-word"}], "n": 0})));
    assert!(server.log("server.log").contains("ready") && !server.log("server.log").contains("private"));
}
