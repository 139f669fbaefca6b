//! Every fault at every moment: a rank that is killed, stands still, panics or runs out of memory, while the server is idle,
//! in prefill, in decode, or draining. Each answer equals that of ranks which live, and nothing stays behind. Nor does it
//! where the server itself is killed or runs out of memory; and where it stands still for a while, nothing is lost.

mod server;

use std::{
    collections::HashSet,
    io::Write,
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread,
};

use nix::sys::signal::Signal;
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

fn start(target: Target, fault: Option<&str>) -> Server {
    let model = golden("models/llama_basic");
    let (model, ranks) = (model.to_str().expect("UTF-8"), target.ranks.to_string());
    // Three steps of prefill for each prompt.
    let flags = [
        "--max-num-batched-tokens",
        "16",
        "--block-size",
        "16",
        "--stall-timeout",
        "1",
        "--tensor-parallel-size",
        &ranks,
    ];
    let arguments = [&["--model", model], &flags[..]].concat();
    let fault: Vec<_> = fault.iter().map(|fault| ("SHARDWIRE_FAULT", *fault)).collect();
    Server::start_with(&arguments, &fault)
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

/// One fault. `words` are what the server says of it.
fn check(target: Target, kind: &str, words: &str, moment: Moment, undisturbed: &[String]) {
    let fault = format!("rank={},kind={kind},{}", target.rank, moment.order());
    let mut server = start(target, Some(&fault));
    if moment == Moment::Idle {
        let is_stopped = || workers(&server, target).iter().any(|&pid| matches!(state(pid), Some('T' | 't')));
        let is_back = || server.get_json("/ranks")["epoch"] == 1 && server.get("/health").0 == 200;
        wait_for("the fault", || (if kind == "stop" { is_stopped() } else { is_back() }).then_some(()));
    }
    let drains = moment == Moment::Draining;
    let told = texts(&server, target, || {
        if drains {
            server.signal(Signal::SIGTERM);
        }
    });
    assert_eq!(told, undisturbed, "{fault}");
    if !drains {
        assert_eq!(server.get_json("/ranks")["restarts"], 1, "{fault}");
        assert_eq!(server.metric("shardwire:sequences_failed_total"), 0.0, "{fault}");
        server.signal(Signal::SIGTERM);
    }
    assert_eq!(server.wait().code(), Some(0), "{fault}");
    assert_eq!(workers(&server, target).len(), 2 * target.ranks, "two starts of each rank");
    let log = server.log("server.log");
    let restarts: Vec<_> = log.lines().filter(|line| line.contains("starting all ranks again")).collect();
    assert!(matches!(restarts[..], [line] if line.contains(words)), "{fault}: {log}");
    let place = |words| log.find(words).expect("it is told");
    assert!(!drains || place("draining") < place("starting all ranks again"), "{fault}: {log}");
    check_nothing_stays(&server, target, &fault);
}

/// Of a server that has ended: no process, and its port is another's to take.
fn check_nothing_stays(server: &Server, target: Target, fault: &str) {
    let workers = workers(server, target);
    wait_for("the workers' end", || workers.iter().all(|&pid| matches!(state(pid), None | Some('Z'))).then_some(()));
    let address = server.url("").trim_start_matches("http://").to_owned();
    TcpListener::bind(&address).unwrap_or_else(|error| panic!("{fault}: {address} is not free: {error}"));
}

fn check_all(kind: &str, words: &str) {
    let before = segments();
    for target in TARGETS {
        let undisturbed = texts(&start(target, None), target, || ());
        for moment in [Moment::Idle, Moment::Prefill, Moment::Decode, Moment::Draining] {
            check(target, kind, words, moment, &undisturbed);
        }
    }
    check_no_segment_stays(&before);
}

/// Those of other servers go, too: names live only until all ranks have attached.
fn check_no_segment_stays(before: &HashSet<String>) {
    let left: HashSet<_> = segments().difference(before).cloned().collect();
    wait_for("the end of all segments", || segments().is_disjoint(&left).then_some(()));
}

#[test]
fn a_rank_that_is_killed() {
    check_all("kill", "was killed by signal 9");
}

#[test]
fn a_rank_that_stands_still() {
    check_all("stop", "stalled");
}

#[test]
fn a_rank_that_panics() {
    check_all("panic", "a fault was ordered");
}

#[test]
fn a_rank_that_runs_out_of_memory() {
    check_all("oom", "signal 6 (SIGABRT)");
}

/// Their caches outlive them, but only one that nobody can have spoiled is gone on with.
#[test]
fn what_a_killed_rank_had_computed_is_not_computed_again() {
    const PROMPT: f64 = 48.0;
    let target = TARGETS[0];
    for (kind, computed) in [("kill", PROMPT), ("panic", 2.0 * PROMPT)] {
        let server = start(target, Some(&format!("rank=1,kind={kind},step=60")));
        texts(&server, target, || ());
        assert_eq!(server.get_json("/ranks")["restarts"], 1, "{kind}");
        assert_eq!(server.metric("shardwire:prompt_tokens_computed_total"), computed, "{kind}");
    }
}

/// Two ranks die of whatever has this token.
#[test]
fn a_request_that_ranks_die_of_is_given_up_and_no_other() {
    const POISON: u64 = 777;
    let target = TARGETS[0];
    let undisturbed = texts(&start(target, None), target, || ());
    let server = start(target, Some(&format!("rank=1,kind=panic,token={POISON},epoch=all")));
    let mut answer = None;
    let told = texts(&server, target, || {
        let body = json!({"prompt": [1, POISON, 2], "max_tokens": 5});
        answer = Some(server.post(COMPLETIONS, &body));
    });
    assert_eq!(told, undisturbed);
    let (status, error) = answer.expect("an answer");
    let message = error["error"]["message"].as_str().unwrap_or_default();
    assert!(status == 500 && message.contains("given up") && message.contains("a fault was ordered"), "{error}");
    assert_eq!(server.get_json("/ranks")["restarts"], 2);
    assert_eq!(server.metric("shardwire:sequences_poisonous_total"), 1.0);
    let id = |line: &str| line.contains("it is given up") && line.contains("request=\"cmpl-");
    assert!(server.log("server.log").lines().any(id), "{}", server.log("server.log"));
    assert_eq!(texts(&server, target, || ()), undisturbed, "the third group serves");
}

/// The server's end by `end`: while it is idle, with streams, and with streams while it drains. It may have told of the
/// streams what it liked; what it was given is free again, and the next server starts at the same port.
fn check_ends_of_the_server(moments: &[Moment], end: impl Fn(&Server)) {
    let (before, target) = (segments(), TARGETS[0]);
    for &moment in moments {
        let mut server = start(target, None);
        let mut streams: Vec<_> = match moment {
            Moment::Idle => Vec::new(),
            _ => (0..4).map(|seed| server.open_stream(COMPLETIONS, &body(seed))).collect(),
        };
        for stream in &mut streams {
            stream.next().expect("the stream begins");
        }
        if moment == Moment::Draining {
            server.signal(Signal::SIGTERM);
            wait_for("the drain", || server.log("server.log").contains("draining").then_some(()));
        }
        end(&server);
        assert_ne!(server.wait().code(), Some(0), "{moment:?}: it did not end in order");
        check_nothing_stays(&server, target, &format!("the server, {moment:?}"));
        let port = server.url("").rsplit_once(':').expect("a port").1.to_owned();
        let model = golden("models/llama_basic");
        let next = Server::start(&["--model", model.to_str().expect("UTF-8"), "--port", &port]);
        assert_eq!(next.get("/health").0, 200, "{moment:?}");
    }
    check_no_segment_stays(&before);
}

#[test]
fn a_server_that_is_killed() {
    let moments = [Moment::Idle, Moment::Decode, Moment::Draining];
    check_ends_of_the_server(&moments, |server| server.signal(Signal::SIGKILL));
}

/// No byte more than it has. Bodies that are not complete are what it can neither answer nor let go.
#[test]
fn a_server_that_runs_out_of_memory() {
    let refuse_memory = |server: &Server| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the server lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix(" kB"));
        let kibibytes: u64 = line.and_then(|number| number.parse().ok()).expect("a number");
        let limit = rustix::process::Rlimit { current: Some(kibibytes << 10), maximum: Some(kibibytes << 10) };
        let pid = rustix::process::Pid::from_raw(server.pid() as i32);
        rustix::process::prlimit(pid, rustix::process::Resource::As, limit).expect("a limit");
        let address = server.url("").trim_start_matches("http://").to_owned();
        let head = format!("POST {COMPLETIONS} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n", 31 << 20);
        let (head, part) = (head.into_bytes(), vec![b' '; 30 << 20]);
        let hold = |_| {
            let mut client = TcpStream::connect(&address).ok()?;
            // Once it has ended, nobody takes anything.
            client.write_all(&head).and_then(|()| client.write_all(&part)).ok().map(|()| client)
        };
        let _held: Vec<_> = (0..16).map_while(hold).collect();
        wait_for("its end", || matches!(state(server.pid()), None | Some('Z')).then_some(()));
    };
    check_ends_of_the_server(&[Moment::Idle, Moment::Decode], refuse_memory);
}

#[test]
fn a_server_that_stands_still_for_a_while() {
    let target = TARGETS[0];
    let undisturbed = texts(&start(target, None), target, || ());
    let mut server = start(target, None);
    let told = texts(&server, target, || {
        server.signal(Signal::SIGSTOP);
        wait_for("it to stand still", || (state(server.pid()) == Some('T')).then_some(()));
        server.signal(Signal::SIGCONT);
    });
    assert_eq!(told, undisturbed);
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
    check_nothing_stays(&server, target, "the server stood still");
}
