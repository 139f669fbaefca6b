//! Every fault at every moment: [`ranks`] that serve, ranks that [`loading`] has not brought so far, and the server's [`own`].
//! Whatever happens, nothing stays behind.

mod loading;
mod own;
mod ranks;
#[path = "../server/mod.rs"]
mod server;

use std::{collections::HashSet, net::TcpListener, sync::mpsc, thread};

use serde_json::{Value, json};
use server::{Server, golden, wait_for};

const COMPLETIONS: &str = "/v1/completions";

/// Whose fault it is, and what is computed meanwhile.
#[derive(Clone, Copy)]
struct Target {
    ranks: usize,
    rank: usize,
    streams: u64,
}

const TARGETS: [Target; 3] = [
    Target { ranks: 2, rank: 0, streams: 1 },
    Target { ranks: 2, rank: 1, streams: 1 },
    Target { ranks: 1, rank: 0, streams: 6 },
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Moment {
    Idle,
    Prefill,
    Decode,
    Draining,
}

impl Moment {
    /// As SHARDWIRE_FAULT tells it. Draining begins once every stream has begun, which is long before that step.
    fn order(self) -> &'static str {
        match self {
            Self::Idle => "idle=yes",
            Self::Prefill => "step=2",
            Self::Decode => "step=60",
            Self::Draining => "step=250",
        }
    }
}

/// Three steps of prefill for each prompt.
const FLAGS: [&str; 6] = ["--max-num-batched-tokens", "16", "--block-size", "16", "--stall-timeout", "1"];

fn start(target: Target, fault: Option<&str>) -> Server {
    let fault: Vec<_> = fault.iter().map(|fault| ("SHARDWIRE_FAULT", *fault)).collect();
    with_arguments(target, |arguments| Server::start_with(arguments, &fault))
}

/// One that is expected to end before it can answer anybody, or soon after; nobody asks it anything.
fn start_in_vain(target: Target, fault: &str) -> Server {
    with_arguments(target, |arguments| Server::begin_with(arguments, &[("SHARDWIRE_FAULT", fault)]))
}

fn with_arguments(target: Target, start: impl FnOnce(&[&str]) -> Server) -> Server {
    let (model, ranks) = (golden("models/llama_basic"), target.ranks.to_string());
    let chosen = ["--model", model.to_str().expect("UTF-8"), "--tensor-parallel-size", &ranks];
    start(&[&chosen, &FLAGS[..]].concat())
}

fn body(seed: u64) -> Value {
    let prompt: Vec<u64> = (1..=48).map(|token| token + seed).collect();
    json!({"prompt": prompt, "max_tokens": 300, "ignore_eos": true, "temperature": 1, "seed": seed})
}

/// The texts of all streams at once. `begun` is called when each has begun.
fn texts(server: &Server, target: Target, begun: impl FnOnce()) -> Vec<String> {
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        let follow = |seed: u64| {
            let tell = tell.clone();
            move || {
                let mut events = server.open_stream(COMPLETIONS, &body(seed));
                let first = events.next().expect("the stream begins");
                tell.send(()).expect("it is waited for");
                let mut all: Vec<_> = [first].into_iter().chain(events).collect();
                assert_eq!(all.pop().as_deref(), Some("[DONE]"));
                all.iter().map(String::as_str).map(text_of).collect::<String>()
            }
        };
        let streams: Vec<_> = (0..target.streams).map(|seed| scope.spawn(follow(seed))).collect();
        (0..target.streams).for_each(|_| told.recv().expect("a stream begins"));
        begun();
        streams.into_iter().map(|stream| stream.join().expect("a text")).collect()
    })
}

fn text_of(event: &str) -> String {
    let chunk: Value = serde_json::from_str(event).expect("JSON");
    chunk["choices"][0]["text"].as_str().unwrap_or_else(|| panic!("no text in {chunk}")).to_owned()
}

/// The processes of all ranks that this server ever had.
fn workers(server: &Server, target: Target) -> Vec<u32> {
    let log = |rank| server.log(&format!("workerlog.{rank}"));
    let pid = |line: &str| line.split_once(" started: ")?.1.split_once("pid ")?.1.parse().ok();
    (0..target.ranks).flat_map(|rank| log(rank).lines().filter_map(pid).collect::<Vec<_>>()).collect()
}

/// The letter after the parenthesised name (proc(5)); none of a process that is gone.
fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.trim_start().chars().next()
}

fn segments() -> HashSet<String> {
    let names = std::fs::read_dir("/dev/shm").expect("shared memory").flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("shardwire")).collect()
}

/// Of a server that has ended: no process, and its port is another's to take.
fn check_nothing_stays(server: &Server, target: Target, fault: &str) {
    check_no_worker_stays(server, target);
    let address = server.url("").trim_start_matches("http://").to_owned();
    TcpListener::bind(&address).unwrap_or_else(|error| panic!("{fault}: {address} is not free: {error}"));
}

fn check_no_worker_stays(server: &Server, target: Target) {
    let workers = workers(server, target);
    wait_for("the workers' end", || workers.iter().all(|&pid| matches!(state(pid), None | Some('Z'))).then_some(()));
}

/// Those of other servers go, too: names live only until all ranks have attached.
fn check_no_segment_stays(before: &HashSet<String>) {
    let left: HashSet<_> = segments().difference(before).cloned().collect();
    wait_for("the end of all segments", || segments().is_disjoint(&left).then_some(()));
}
