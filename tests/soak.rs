//! Many requests of every shape, whole and streamed, some of them given up at any moment: afterwards the server holds what
//! it held before, and has counted what its clients saw.
//!
//! CI sends a few thousand. Before a release, for an hour:
//!
//! ```text
//! SOAK_REQUESTS=20000 SOAK_SEED=7 cargo test --release --test soak -- --nocapture
//! ```

mod server;

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    ops::{AddAssign, Range},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use server::{LIMIT, Server, wait_for};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const CONNECTIONS: usize = 64;
/// No prompt is longer.
const PROMPT_TOKENS_MAX: u64 = 512;

/// What a process may hold more at the end than after as many requests as it takes to know every shape: its allocator keeps
/// what the busiest moment so far has needed, in pieces that lie between others'. A leak of 1 KiB a request passes here in a
/// short run, and not in a long one.
const GROWTH_BYTES_MAX: u64 = 8 << 20;

/// How a client follows its request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Manner {
    /// To the end.
    Patient,
    /// Hangs up so many milliseconds after it has asked.
    GoneAfterMs(u64),
    /// Hangs up after so many events of a stream.
    GoneAfterEvents(usize),
    /// Has it aborted after so many events of a stream, and follows it to the end.
    AbortedAfterEvents(usize),
}

#[derive(Debug)]
struct Asked {
    path: &'static str,
    body: Value,
    manner: Manner,
}

impl Asked {
    /// The request of this number, the same at every run with the seed.
    fn new(seed: u64, number: usize, may_leave: bool) -> Self {
        let random = &mut StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9).wrapping_add(number as u64));
        let (path, mut body) = prompt(random);
        body["request_id"] = format!("soak-{number}").into();
        body["max_tokens"] = random.random_range(1..=40).into();
        body["temperature"] = random.random_range(0..=2).into();
        body["seed"] = number.into();
        body["n"] = [1, 1, 1, 2, 3].choose(random).copied().into();
        let streams = random.random_bool(0.6);
        if streams {
            body["stream"] = true.into();
            body["stream_options"] = json!({"include_usage": true});
        }
        for (name, value, share) in [
            ("stop", json!(["e", "zz", "\n"]), 0.2),
            ("ignore_eos", json!(true), 0.3),
            ("logprobs", if path == CHAT { json!(true) } else { json!(2) }, 0.2),
            ("prompt_logprobs", json!(1), if streams { 0.0 } else { 0.1 }),
            ("return_token_ids", json!(true), 0.1),
            ("priority", json!(random.random_range(-2..=2)), 0.2),
            ("temperature", json!(-1), 0.04), // Refused.
        ] {
            if random.random_bool(share) {
                body[name] = value;
            }
        }
        form(random, &mut body);
        let events = random.random_range(0..12);
        let manner = match random.random_range(0..10) {
            _ if !may_leave => Manner::Patient,
            0 => Manner::GoneAfterMs(random.random_range(0..60)),
            1 | 2 if streams => Manner::GoneAfterEvents(events),
            3 if streams => Manner::AbortedAfterEvents(events),
            _ => Manner::Patient,
        };
        Self { path, body, manner }
    }

    /// The most tokens that it may cost.
    fn tokens_max(&self) -> u64 {
        self.body["n"].as_u64().unwrap_or(1) * self.body["max_tokens"].as_u64().unwrap_or(0)
    }
}

/// Something to go on with, short or long; some begin alike, so that prefixes are found again.
fn prompt(random: &mut StdRng) -> (&'static str, Value) {
    let length = *[1, 8, 40, 200].choose(random).expect("four lengths") + random.random_range(0..16);
    let first = random.random_range(0..4);
    if random.random_bool(0.5) {
        let ids: Vec<u32> = (0..length).map(|at| (first * 50 + at) % 1000).collect();
        return (COMPLETIONS, json!({"prompt": ids}));
    }
    let text: String = "The quick brown fox jumps over the lazy dog. ".chars().cycle().take(length as usize).collect();
    (CHAT, json!({"messages": [{"role": "system", "content": first.to_string()}, {"role": "user", "content": text}]}))
}

/// Some answers are to have a form.
fn form(random: &mut StdRng, body: &mut Value) {
    let most = random.random_range(1..=5);
    match random.random_range(0..12) {
        0 => body["guided_choice"] = json!(["yes", "no", "perhaps"]),
        1 => body["guided_regex"] = format!("[a-z]{{1,{most}}}(-[0-9]+)?").into(),
        2 => {
            let list = json!({"type": "array", "items": {"type": "integer"}, "maxItems": most});
            body["guided_json"] = json!({"type": "object", "properties": {"a": list}, "required": ["a"]});
        }
        _ => {}
    }
}

/// What clients saw.
#[derive(Debug, Clone, Default, PartialEq)]
struct Seen {
    /// Answers by their status, calls to abort among them.
    statuses: BTreeMap<u16, u64>,
    /// Requests to generate that were answered.
    requests: u64,
    /// Requests whose clients had gone before any answer.
    gone: u64,
    /// Of answers that were followed to their ends.
    prompt_tokens: u64,
    completion_tokens: u64,
    choices: u64,
    /// The most that all the others may have cost.
    uncertain_tokens: u64,
}

impl AddAssign for Seen {
    fn add_assign(&mut self, other: Self) {
        other.statuses.into_iter().for_each(|(status, count)| *self.statuses.entry(status).or_default() += count);
        self.requests += other.requests;
        self.gone += other.gone;
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.choices += other.choices;
        self.uncertain_tokens += other.uncertain_tokens;
    }
}

/// A client with a connection that it keeps while it can.
struct Client<'a> {
    server: &'a Server,
    agent: ureq::Agent,
    seen: Seen,
}

impl<'a> Client<'a> {
    fn new(server: &'a Server) -> Self {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(LIMIT)).build();
        Self { server, agent: agent.into(), seen: Seen::default() }
    }

    fn ask(&mut self, asked: &Asked) {
        match asked.manner {
            Manner::GoneAfterMs(ms) => self.leave(asked, Duration::from_millis(ms)),
            _ if asked.body["stream"] == true => self.follow(asked),
            _ => {
                let answer: Value = self.post(asked.path, &asked.body).1.body_mut().read_json().expect("JSON");
                self.seen.requests += 1;
                if answer["error"].is_null() {
                    self.count(asked, &answer["usage"]);
                }
            }
        }
    }

    fn post(&mut self, path: &str, body: &Value) -> (u16, ureq::http::Response<ureq::Body>) {
        let answer = self.agent.post(self.server.url(path)).header("content-type", "application/json");
        let answer = answer.send(body.to_string()).expect("the server answers");
        let status = answer.status().as_u16();
        *self.seen.statuses.entry(status).or_default() += 1;
        (status, answer)
    }

    /// Asks, and hangs up.
    fn leave(&mut self, asked: &Asked, after: Duration) {
        let address = self.server.url("").replace("http://", "");
        let mut stream = TcpStream::connect(address).expect("the server listens");
        let (path, body) = (asked.path, asked.body.to_string());
        let head = format!("POST {path} HTTP/1.1\r\nHost: soak\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).expect("the server reads");
        thread::sleep(after);
        self.seen.gone += 1;
        self.seen.uncertain_tokens += asked.tokens_max();
    }

    fn follow(&mut self, asked: &Asked) {
        let (status, answer) = self.post(asked.path, &asked.body);
        self.seen.requests += 1;
        if status != 200 {
            return;
        }
        let lines = BufReader::new(answer.into_body().into_reader()).lines().map(|line| line.expect("a whole stream"));
        let mut usage = Value::Null;
        for (index, event) in lines.filter_map(|line| line.strip_prefix("data: ").map(str::to_owned)).enumerate() {
            match asked.manner {
                Manner::GoneAfterEvents(events) if index == events => break,
                Manner::AbortedAfterEvents(events) if index == events => {
                    self.post("/v1/abort_requests", &json!({"req_ids": [asked.body["request_id"]]}));
                }
                _ => {}
            }
            if event == "[DONE]" {
                return self.count(asked, &usage);
            }
            let event: Value = serde_json::from_str(&event).expect("JSON");
            usage = event["usage"].clone();
            assert!(event["error"].is_null() || event["error"]["code"] == "request_aborted", "{asked:?} → {event}");
        }
        assert!(asked.manner != Manner::Patient, "a stream without an end: {asked:?}");
        self.seen.uncertain_tokens += asked.tokens_max();
    }

    /// An answer has come to its end. An aborted one tells no usage.
    fn count(&mut self, asked: &Asked, usage: &Value) {
        match (usage["prompt_tokens"].as_u64(), usage["completion_tokens"].as_u64()) {
            (Some(prompt), Some(completion)) => {
                self.seen.prompt_tokens += prompt;
                self.seen.completion_tokens += completion;
                self.seen.choices += asked.body["n"].as_u64().unwrap_or(1);
            }
            _ => {
                assert!(matches!(asked.manner, Manner::AbortedAfterEvents(_)), "no usage for {asked:?}");
                self.seen.uncertain_tokens += asked.tokens_max();
            }
        }
    }
}

/// What a process holds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Footprint {
    memory_bytes: u64,
    descriptors: usize,
}

impl Footprint {
    fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
        let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives").count();
        let memory_bytes = anonymous.and_then(|kib| kib.parse::<u64>().ok()).expect("proc(5)") << 10;
        Self { memory_bytes, descriptors }
    }
}

struct Soak {
    server: Server,
    /// The server's process, and its ranks'.
    pids: Vec<u32>,
    seed: u64,
    seen: Seen,
}

impl Soak {
    /// Few blocks, so that sequences are preempted.
    fn start(seed: u64) -> Self {
        let server = Server::of_golden(
            "models/llama3_rope",
            &["--enable-logprob", "--block-size", "16", "--num-gpu-blocks-override", "160", "-tp", "2"],
        );
        let report = server.get_json("/ranks");
        let ranks = report["ranks"].as_array().expect("ranks").iter();
        let ranks = ranks.map(|rank| rank["pid"].as_u64().expect("a process") as u32);
        let pids = [server.pid()].into_iter().chain(ranks).collect();
        let seen = Seen { statuses: [(200, 1)].into(), ..Seen::default() };
        Self { server, pids, seed, seen }
    }

    /// Ends the server; nothing of it stays.
    fn end(mut self) {
        for pid in &self.pids {
            let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("the process lives");
            let mut shared = maps.lines().filter(|line| line.contains("/dev/shm/"));
            assert!(shared.all(|line| line.ends_with("(deleted)")), "a name in /dev/shm: {maps}");
        }
        self.server.signal(Signal::SIGTERM);
        assert_eq!(self.server.wait().code(), Some(0));
        let lives = |pid: &u32| Path::new(&format!("/proc/{pid}")).exists();
        assert!(!self.pids.iter().any(lives), "a process is left: {:?}", self.pids);
    }

    fn run(&mut self, numbers: Range<usize>, may_leave: bool) {
        let next = AtomicUsize::new(numbers.start);
        let (server, seed) = (&self.server, self.seed);
        let client = || {
            let mut client = Client::new(server);
            loop {
                let number = next.fetch_add(1, Relaxed);
                if number >= numbers.end {
                    return client.seen;
                }
                client.ask(&Asked::new(seed, number, may_leave));
            }
        };
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(client)).collect();
            clients.into_iter().for_each(|client| self.seen += client.join().expect("a client that saw no fault"));
        });
        self.come_to_rest();
    }

    /// Nothing runs, nothing waits, every block is free.
    fn come_to_rest(&mut self) {
        let zeros = ["fastdeploy:num_requests_running", "fastdeploy:num_requests_waiting"];
        wait_for("all to be given back", || {
            let metrics = self.metrics();
            let free = metrics["fastdeploy:available_gpu_block_num"] == metrics["fastdeploy:max_gpu_block_num"];
            (free && zeros.iter().all(|name| metrics[*name] == 0.0)).then_some(())
        });
    }

    /// All samples, by name and labels as they are written.
    fn metrics(&mut self) -> BTreeMap<String, f64> {
        let (status, text) = self.server.get("/metrics");
        *self.seen.statuses.entry(status).or_default() += 1;
        let samples = text.lines().filter_map(|line| line.rsplit_once(' '));
        samples.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
    }

    /// What the server has counted is what its clients saw, as far as they saw it.
    fn check_counts(&mut self) {
        let seen = self.seen.clone();
        let metrics = self.metrics();
        let check = |name: &str, least: u64, uncertain: u64| {
            let counted = metrics.get(name).copied().unwrap_or(0.0) as u64;
            assert!((least..=least + uncertain).contains(&counted), "{name}: {counted}, of {least} + {uncertain} seen");
        };
        for (status, &count) in &seen.statuses {
            check(&format!("shardwire:http_responses_total{{status=\"{status}\"}}"), count, seen.gone);
        }
        check("fastdeploy:requests_number_total", seen.requests, seen.gone);
        check("fastdeploy:generation_tokens_total", seen.completion_tokens, seen.uncertain_tokens);
        check("fastdeploy:request_success_total", seen.choices, seen.uncertain_tokens);
        check("fastdeploy:prompt_tokens_total", seen.prompt_tokens, seen.uncertain_tokens * PROMPT_TOKENS_MAX);
        check("shardwire:sequences_failed_total", 0, 0);
        let restarts = self.server.get_json("/ranks")["restarts"].clone();
        *self.seen.statuses.entry(200).or_default() += 1;
        assert_eq!(restarts, 0);
    }

    /// The server first, then its ranks.
    fn footprints(&self) -> Vec<Footprint> {
        self.pids.iter().map(|&pid| Footprint::of(pid)).collect()
    }
}

#[test]
fn after_many_requests_nothing_is_held_and_all_is_counted() {
    let number = |name: &str, default: usize| env::var(name).map_or(default, |text| text.parse().expect(name));
    let (requests, seed) = (number("SOAK_REQUESTS", 3000), number("SOAK_SEED", 1) as u64);
    let mut soak = Soak::start(seed);
    let third = requests / 3;
    soak.run(0..third, false);
    assert_eq!(soak.seen.uncertain_tokens, 0);
    soak.check_counts();
    soak.run(third..2 * third, true);
    let before = soak.footprints();
    soak.run(2 * third..requests, true);
    soak.check_counts();
    println!("{:?}\nbefore the last third: {before:?}\nafter it: {:?}", soak.seen, soak.footprints());
    for (&pid, before) in soak.pids.iter().zip(before) {
        // A closed connection lingers a little.
        wait_for("descriptors to be closed", || (Footprint::of(pid).descriptors <= before.descriptors).then_some(()));
        let after = Footprint::of(pid);
        assert!(after.memory_bytes <= before.memory_bytes + GROWTH_BYTES_MAX, "{before:?} became {after:?}");
    }
    soak.end();
}
