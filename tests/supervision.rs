//! What happens when processes die, hang or are told to leave: the real binary, real signals.

mod server;

use std::os::unix::net::UnixDatagram;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use server::{LIMIT, Server, golden, wait_for};

const MODEL: &str = "models/llama_basic";
const COMPLETIONS: &str = "/v1/completions";

/// The process ids of all ranks.
fn pids(server: &Server) -> Vec<i32> {
    let report = server.get_json("/ranks");
    let ranks = report["ranks"].as_array().expect("ranks").iter();
    ranks.map(|rank| rank["pid"].as_i64().expect("a live rank has a pid") as i32).collect()
}

/// Whether a process is gone: reaped, or a zombie that waits for whoever inherited it.
fn is_gone(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_none_or(|rest| rest.trim_start().is_empty() || rest.trim_start().starts_with('Z'))
}

fn wait_until_gone(pids: &[i32]) {
    wait_for("the workers' end", || pids.iter().all(|&pid| is_gone(pid)).then_some(()));
}

/// The names of this server's shared-memory segments, as its worker has them mapped; gone ones end in `(deleted)`.
fn mapped_segments(worker: i32) -> Vec<String> {
    let maps = std::fs::read_to_string(format!("/proc/{worker}/maps")).expect("the worker lives");
    let names = maps.lines().filter_map(|line| Some(line[line.find("/dev/shm/shardwire.")?..].to_owned()));
    let mut names: Vec<_> = names.collect();
    names.dedup();
    names
}

/// A completion that takes much longer than a test needs to disturb it.
fn long() -> Value {
    json!({"prompt": [1, 2, 3], "max_tokens": 480, "ignore_eos": true, "temperature": 0})
}

fn short() -> Value {
    json!({"prompt": [1, 2, 3], "max_tokens": 8, "ignore_eos": true, "temperature": 0})
}

fn text_of_short(server: &Server) -> String {
    server.ok(COMPLETIONS, &short())["choices"][0]["text"].as_str().expect("text").to_owned()
}

fn wait_for_epoch(server: &Server, epoch: u64) {
    wait_for("the next start of the ranks", || {
        let report = server.get_json("/ranks");
        (report["epoch"] == epoch && server.get("/health").0 == 200).then_some(())
    });
}

/// Kinds of requests, each long enough to be disturbed, and each told in another way.
fn kinds() -> Vec<(&'static str, Value)> {
    let drawn = |fields: Value| {
        let mut body = json!({"prompt": "The sky is", "max_tokens": 300, "temperature": 1, "ignore_eos": true});
        body.as_object_mut().expect("an object").extend(fields.as_object().expect("fields").clone());
        body
    };
    let numbers = json!({
        "type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "minItems": 70, "maxItems": 70,
    });
    vec![
        (COMPLETIONS, drawn(json!({"stream": true, "seed": 3, "stop": ["zzzz", "qqqq"]}))),
        (COMPLETIONS, drawn(json!({"stream": true, "temperature": 0, "logprobs": 2}))),
        (COMPLETIONS, drawn(json!({"seed": 5, "n": 2}))),
        (
            COMPLETIONS,
            drawn(json!({"seed": 6, "structured_outputs": {"json": numbers, "disable_any_whitespace": true}})),
        ),
        (
            "/v1/chat/completions",
            json!({
                "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 300, "temperature": 1, "seed": 7,
                "ignore_eos": true, "stream": true, "repetition_penalty": 1.1,
            }),
        ),
    ]
}

/// What a client is told, without what differs from one answer to the next.
fn told(server: &Server, path: &str, body: &Value) -> String {
    let mut answers = match body["stream"] == true {
        true => server.stream(path, body),
        false => vec![server.ok(path, body)],
    };
    for answer in &mut answers {
        assert!(answer.get("error").is_none(), "{answer}");
        ["id", "created"].into_iter().for_each(|name| answer[name] = Value::Null);
        for choice in answer["choices"].as_array_mut().into_iter().flatten() {
            choice["arrival_time"] = Value::Null;
        }
    }
    serde_json::to_string(&answers).expect("JSON")
}

/// The answers to all kinds of requests at once, while something happens.
fn answers(server: &Server, happens: impl FnOnce()) -> Vec<String> {
    let kinds = kinds();
    std::thread::scope(|scope| {
        let asked: Vec<_> = kinds.iter().map(|(path, body)| scope.spawn(|| told(server, path, body))).collect();
        happens();
        asked.into_iter().map(|one| one.join().expect("an answer")).collect()
    })
}

fn wait_until_all_run(server: &Server) {
    let sequences = kinds().len() + 1; // One of them has two.
    wait_for("all to run", || (server.metric("vllm:num_requests_running") == sequences as f64).then_some(()));
}

fn signal_rank(server: &Server, rank: usize, signal: Signal) {
    kill(Pid::from_raw(pids(server)[rank]), signal).expect("the rank lives");
}

fn last_error(server: &Server) -> String {
    server.get_json("/ranks")["last_error"].as_str().expect("an error").to_owned()
}

fn replays(server: &Server) -> f64 {
    server.metric("shardwire:sequences_replayed_total")
}

#[test]
fn a_killed_rank_costs_no_answer_a_letter_and_the_group_comes_back() {
    let server = Server::of_golden(MODEL, &["--tensor-parallel-size", "2", "--enable-logprob"]);
    let undisturbed = answers(&server, || ());
    let answer: Value = serde_json::from_str(&undisturbed[3]).expect("JSON");
    let numbers: Vec<u8> = serde_json::from_str(&text_of(&answer[0])).expect("a JSON answer");
    assert_eq!(numbers.len(), 70);
    for (rank, epoch) in [(1, 1), (0, 2)] {
        let old = pids(&server);
        let before = replays(&server);
        let disturbed = answers(&server, || {
            wait_until_all_run(&server);
            signal_rank(&server, rank, Signal::SIGKILL);
        });
        assert_eq!(disturbed, undisturbed, "rank {rank}");
        assert!(replays(&server) > before, "nobody was disturbed");
        wait_for_epoch(&server, epoch);
        let error = last_error(&server);
        assert!(error.contains(&format!("rank {rank} (pid {})", old[rank])) && error.contains("SIGKILL"), "{error}");
        assert!(old.iter().all(|&pid| is_gone(pid)), "the broken group must be gone before the next one is ready");
        assert_eq!(server.get_json("/ranks")["restarts"], epoch);
        assert!(server.log("workerlog.1").contains(&format!("started: epoch {epoch}, pid ")));
    }
    let replayed = server.log("server.log").lines().filter(|line| line.contains("replayed=")).count();
    assert_eq!(replayed, 2, "a line for each restart");
    assert_eq!(server.metric("shardwire:sequences_failed_total"), 0.0);
}

#[test]
fn a_stopped_rank_is_a_stall_and_costs_no_answer() {
    let server = Server::of_golden(MODEL, &["--tensor-parallel-size", "2", "--stall-timeout", "1", "--enable-logprob"]);
    let undisturbed = answers(&server, || ());
    let disturbed = answers(&server, || {
        wait_until_all_run(&server);
        signal_rank(&server, 1, Signal::SIGSTOP);
    });
    assert_eq!(disturbed, undisturbed);
    let error = last_error(&server);
    assert!(
        error.contains("rank 1 (pid ") && error.contains("stalled") && error.contains("stopped by a signal"),
        "{error}"
    );
    // Who stands still before the prompt was computed is killed in the midst of prefill.
    let before = text_of_short(&server);
    let after = std::thread::scope(|scope| {
        signal_rank(&server, 0, Signal::SIGSTOP);
        let asked = scope.spawn(|| text_of_short(&server));
        wait_for("it to run", || (server.metric("vllm:num_requests_running") == 1.0).then_some(()));
        signal_rank(&server, 0, Signal::SIGKILL);
        asked.join().expect("an answer")
    });
    assert_eq!((after, server.get_json("/ranks")["epoch"].as_u64()), (before, Some(2)));
}

#[test]
fn a_group_that_keeps_dying_is_given_up_with_exit_code_3() {
    let mut server = Server::of_golden(MODEL, &["--tensor-parallel-size", "2", "--max-restarts", "1"]);
    signal_rank(&server, 0, Signal::SIGKILL);
    wait_for_epoch(&server, 1);
    let workers = pids(&server);
    let mut events = server.open_stream(COMPLETIONS, &long());
    events.next().expect("the stream begins");
    signal_rank(&server, 0, Signal::SIGKILL);
    let rest: Vec<String> = events.collect();
    let [.., error, done] = &rest[..] else { panic!("the stream just ended: {rest:?}") };
    let error: Value = serde_json::from_str(error).expect("an error event");
    let message = error["error"]["message"].as_str().unwrap_or_else(|| panic!("no error in {error}"));
    assert!(message.contains(&format!("rank 0 (pid {})", workers[0])) && message.contains("SIGKILL"), "{message}");
    assert_eq!(done, "[DONE]");
    assert_eq!(server.wait().code(), Some(3));
    wait_until_gone(&workers);
    assert!(server.log("server.log").contains("was killed by signal 9"), "{}", server.log("server.log"));
}

#[test]
fn who_is_inside_a_draining_server_is_served_though_a_rank_dies() {
    let mut server = Server::of_golden(MODEL, &["--tensor-parallel-size", "2"]);
    let whole: Vec<_> = server.stream(COMPLETIONS, &long()).iter().map(text_of).collect();
    let mut events = server.open_stream(COMPLETIONS, &long());
    let first = events.next().expect("the stream begins");
    let workers = pids(&server);
    server.signal(Signal::SIGTERM);
    kill(Pid::from_raw(workers[1]), Signal::SIGKILL).expect("the rank lives");
    let mut rest: Vec<String> = events.collect();
    assert_eq!(rest.pop().as_deref(), Some("[DONE]"));
    let told = [first].into_iter().chain(rest).map(|event| text_of(&serde_json::from_str(&event).expect("JSON")));
    assert_eq!(told.collect::<String>(), whole.concat());
    assert_eq!(server.wait().code(), Some(0));
    wait_until_gone(&workers);
}

#[test]
fn a_draining_server_whose_ranks_are_given_up_does_not_wait_for_its_limit() {
    let mut server = Server::of_golden(MODEL, &["--tensor-parallel-size", "2", "--max-restarts", "0"]);
    let mut events = server.open_stream(COMPLETIONS, &long());
    events.next().expect("the stream begins");
    let workers = pids(&server);
    server.signal(Signal::SIGTERM);
    kill(Pid::from_raw(workers[1]), Signal::SIGKILL).expect("the rank lives");
    let rest: Vec<String> = events.collect();
    let [.., error, done] = &rest[..] else { panic!("the stream just ended: {rest:?}") };
    assert!(error.contains(&format!("rank 1 (pid {})", workers[1])), "{error}");
    assert_eq!((done.as_str(), server.wait().code()), ("[DONE]", Some(3)));
    assert!(!server.log("server.log").contains("limit is reached"));
    wait_until_gone(&workers);
}

fn text_of(chunk: &Value) -> String {
    chunk["choices"][0]["text"].as_str().unwrap_or_else(|| panic!("no text in {chunk}")).to_owned()
}

/// What a server tells its service manager, message by message, until one of them has this line.
fn hear(manager: &UnixDatagram, line: &str) -> Vec<String> {
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    manager.set_read_timeout(Some(LIMIT)).expect("a limit");
    while !heard.iter().any(|told: &String| told == line) {
        let length = manager.recv(&mut buffer).unwrap_or_else(|error| panic!("no {line}, but {heard:?}: {error}"));
        let text = std::str::from_utf8(&buffer[..length]).expect("UTF-8");
        heard.extend(text.lines().map(str::to_owned));
    }
    heard
}

#[test]
fn a_service_manager_is_told_of_start_life_and_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    let variables = [("NOTIFY_SOCKET", path.to_str().expect("UTF-8")), ("WATCHDOG_USEC", "200000")];
    let model = golden(MODEL);
    let arguments = ["--model", model.to_str().expect("UTF-8"), "--tensor-parallel-size", "2"];
    let mut server = Server::start_with(&arguments, &variables);
    let before = hear(&manager, "READY=1");
    assert!(before.iter().any(|told| told.starts_with("STATUS=")), "{before:?}");
    assert!(before.iter().all(|told| told != "STATUS=ready"), "ready before it was: {before:?}");
    hear(&manager, "STATUS=ready");
    for _ in 0..3 {
        hear(&manager, "WATCHDOG=1");
    }
    // Ranks that are down are no reason to kill the server that starts them again.
    kill(Pid::from_raw(pids(&server)[1]), Signal::SIGKILL).expect("the rank lives");
    wait_for_epoch(&server, 1);
    hear(&manager, "WATCHDOG=1");
    assert_eq!(server.get("/livez").0, 200);
    server.signal(Signal::SIGTERM);
    let rest = hear(&manager, "STOPPING=1");
    assert!(rest.iter().all(|told| told != "READY=1"), "{rest:?}");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn workers_die_with_their_server_and_no_segment_stays() {
    let mut server = Server::of_golden(MODEL, &["--tensor-parallel-size", "2"]);
    let workers = pids(&server);
    let segments = mapped_segments(workers[0]);
    assert!(!segments.is_empty(), "a worker has the link mapped");
    assert!(segments.iter().all(|name| name.ends_with("(deleted)")), "names left in /dev/shm: {segments:?}");
    let mut events = server.open_stream(COMPLETIONS, &long());
    events.next().expect("the stream begins");
    server.signal(Signal::SIGKILL);
    server.wait();
    wait_until_gone(&workers);
}

#[test]
fn a_stopped_worker_does_not_outlive_an_orderly_end() {
    let mut server = Server::of_golden(MODEL, &["--tensor-parallel-size", "2"]);
    let workers = pids(&server);
    kill(Pid::from_raw(workers[1]), Signal::SIGSTOP).expect("the rank lives");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
    wait_until_gone(&workers);
}

#[test]
fn a_terminal_s_interrupt_ends_everything_in_order() {
    let mut server = Server::of_golden(MODEL, &["--tensor-parallel-size", "2"]);
    let workers = pids(&server);
    for &worker in &workers {
        let group = nix::unistd::getpgid(Some(Pid::from_raw(worker))).expect("the rank lives");
        assert_eq!(group.as_raw(), worker, "a worker in the server's process group would get the terminal's Ctrl-C");
    }
    server.signal(Signal::SIGINT);
    assert_eq!(server.wait().code(), Some(0));
    wait_until_gone(&workers);
}

#[test]
fn a_model_that_the_ranks_cannot_load_ends_with_one_line_and_exit_code_2() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for file in std::fs::read_dir(golden(MODEL)).expect("the golden model").flatten() {
        std::fs::copy(file.path(), folder.path().join(file.file_name())).expect("a copy");
    }
    let config = folder.path().join("config.json");
    let text = std::fs::read_to_string(&config).expect("a config");
    let mut value: Value = serde_json::from_str(&text).expect("JSON");
    value["num_hidden_layers"] = (value["num_hidden_layers"].as_u64().expect("a number") + 1).into();
    std::fs::write(&config, value.to_string()).expect("a changed config");

    let logs = folder.path().join("log");
    let (model, logs) = (folder.path().to_str().expect("UTF-8"), logs.to_str().expect("UTF-8"));
    let arguments = ["serve", "--model", model, "--port", "0", "--tensor-parallel-size", "2", "--log-dir", logs];
    let (code, out, error) = server::run(&arguments);
    assert_eq!((code, out.as_str()), (2, ""), "{error}");
    let told: Vec<_> = error.lines().filter(|line| line.starts_with("shardwire: ")).collect();
    assert!(matches!(told[..], [line] if line.contains("layers.3.") && line.contains(model)), "{error}");
    assert!(!error.contains("panicked"), "{error}");
}

#[test]
fn top_prints_a_table_where_there_is_no_terminal() {
    let server = Server::of_golden(MODEL, &["--tensor-parallel-size", "2"]);
    let (code, table, _) = server::run(&["top", "--url", &server.url("")]);
    assert_eq!(code, 0);
    assert!(table.starts_with("2 ranks, epoch 0, 0 restarts; 0 running, 0 waiting"), "{table}");
    assert_eq!(table.lines().filter(|line| line.contains(" ready ")).count(), 2, "{table}");
    let (code, _, error) = server::run(&["top", "--once", "--url", "http://127.0.0.1:1"]);
    assert_eq!((code, error.lines().count()), (1, 1), "{error}");
}
