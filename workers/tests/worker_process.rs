//! Worker processes as a server sees them: this binary re-executes itself as `worker`, on a real link, with real signals.

#[path = "../../tests/fixtures/mod.rs"]
mod fixtures;
mod script;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use workers::KvDType;
use workers::link::mask::{Allowed, TokenMask};
use workers::link::report::Outcome;
use workers::link::step::{SequenceId, Step};
use workers::link::vitals::{RankState, Vitals};
use workers::link::{LinkConfig, ServerLink, sampling::Sampling};
use workers::models::WeightOptions;
use workers::worker::{DeviceChoice, WorkerConfig};

use script::{BLOCK_SIZE, Script};

fn folder(model: &str) -> PathBuf {
    fixtures::golden("models").join(model)
}

/// Nothing here takes longer, however busy the machine.
const LIMIT: Duration = Duration::from_secs(90);

const TESTS: [(&str, fn()); 8] = [
    ("processes_compute_what_the_reference_does", processes_compute_what_the_reference_does),
    ("masks_reach_rank_0_and_are_kept_to", masks_reach_rank_0_and_are_kept_to),
    ("a_killed_rank_is_named_by_the_others", a_killed_rank_is_named_by_the_others),
    ("a_rank_lost_before_it_is_ready_is_named", a_rank_lost_before_it_is_ready_is_named),
    ("signals_are_left_to_the_server", signals_are_left_to_the_server),
    ("a_model_that_cannot_be_loaded", a_model_that_cannot_be_loaded),
    ("a_step_that_makes_no_sense", a_step_that_makes_no_sense),
    ("a_configuration_that_makes_no_sense", a_configuration_that_makes_no_sense),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "worker") {
        return workers::worker::run();
    }
    let names: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    for (name, test) in TESTS {
        if names.is_empty() || names.iter().any(|filter| name.contains(filter.as_str())) {
            println!("worker process: {name}");
            test();
        }
    }
    ExitCode::SUCCESS
}

/// A worker process and the pipe that holds it.
struct Worker {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Worker {
    fn spawn() -> Self {
        let this = std::env::current_exe().expect("this binary");
        let mut command = Command::new(this);
        command.arg("worker").stdin(Stdio::piped()).stderr(Stdio::piped()).env("RUST_LOG", "off");
        let mut child = command.spawn().expect("spawns");
        Self { stdin: child.stdin.take(), child }
    }

    fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("still open");
        stdin.write_all(line.as_bytes()).expect("the worker listens");
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// How it ended and what it said, once it has.
    fn end(mut self) -> (ExitStatus, String) {
        let status = until("the worker ends", || self.child.try_wait().expect("a child"));
        let mut said = String::new();
        self.child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        (status, said)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Some(found) => return found,
            None if start.elapsed() > LIMIT => panic!("waited {LIMIT:?} until {what}"),
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// The server's side of a group of workers.
struct Server {
    link: ServerLink,
    workers: Vec<Worker>,
}

impl Server {
    fn start(model: &Path, world_size: usize) -> Self {
        Self::start_each(&vec![model; world_size])
    }

    /// One rank per model: ranks of one group that are told different ones.
    fn start_each(models: &[&Path]) -> Self {
        let world_size = models.len();
        let link = ServerLink::create(&LinkConfig {
            world_size,
            epoch: 3,
            step_ring_bytes: 1 << 20,
            return_ring_bytes: 1 << 20,
            mask_ring_bytes: 1 << 16,
            meeting_bytes: workers::meeting_bytes(world_size),
            spin: false,
        });
        let link = link.expect("a link");
        let start = |rank| {
            let config = config(models[rank], link.name(), rank, world_size);
            let mut worker = Worker::spawn();
            worker.tell(&(serde_json::to_string(&config).expect("plain data") + "\n"));
            worker
        };
        Self { workers: (0..world_size).map(start).collect(), link }
    }

    fn ready(model: &Path, world_size: usize) -> Self {
        let server = Self::start(model, world_size);
        server.await_all("is ready", |vitals| vitals.state == RankState::Ready);
        server
    }

    fn await_all(&self, what: &str, is: impl Fn(&Vitals) -> bool) {
        until(what, || self.link.vitals.read_all().iter().all(&is).then_some(()));
    }

    /// Publishes every step and collects rank 0's tokens of sequence 1.
    fn run(&mut self, steps: &[Step]) -> Vec<u32> {
        let mut tokens = Vec::new();
        for step in steps {
            self.link.steps.publish(step, LIMIT).expect("the ranks take");
            let report = self.link.reports.take(LIMIT).expect("a good report").expect("in time");
            assert_eq!(report.step, step.number);
            tokens.extend(report.tokens.iter().flat_map(|sampled| &sampled.outcomes).filter_map(Outcome::token));
        }
        tokens
    }

    /// What becomes of the only choice in a step.
    fn outcome(&mut self, step: &Step) -> Outcome {
        self.link.steps.publish(step, LIMIT).expect("the ranks take");
        let mut report = self.link.reports.take(LIMIT).expect("a good report").expect("in time");
        assert_eq!((report.step, report.tokens.len()), (step.number, 1));
        report.tokens.remove(0).outcomes.remove(0)
    }

    /// Lets the workers go, as an orderly stop does.
    fn stop(self) {
        for mut worker in self.workers {
            worker.stdin = None;
            let (status, said) = worker.end();
            assert_eq!((status.code(), said.as_str()), (Some(0), ""));
        }
    }
}

fn config(model: &Path, link: String, rank: usize, world_size: usize) -> WorkerConfig {
    WorkerConfig {
        rank,
        world_size,
        weights: WeightOptions::default(),
        epoch: 3,
        link,
        model: model.to_owned(),
        device: DeviceChoice::Cpu,
        max_model_len: 128,
        batch_tokens_max: 128,
        sequences_max: 4,
        draft_max: 0,
        block_size: BLOCK_SIZE,
        kv_cache_bytes: 1 << 20,
        kv_blocks: None,
        activation_bytes: false,
        kv_dtype: KvDType::F32,
        kv_memory: None,
        threads: 1,
        cores: Vec::new(),
        spin: false,
    }
}

/// The reference's `len7` case: steps that compute it, and what it continues with.
fn golden(model: &str) -> (Vec<Step>, Vec<u32>) {
    let golden = std::fs::read(folder(model).join("golden.json")).expect("the golden file");
    let golden: Value = serde_json::from_slice(&golden).expect("JSON");
    let case = golden["cases"].as_array().expect("cases").iter().find(|case| case["name"] == "len7").expect("len7");
    let ids = |ids: &Value| serde_json::from_value::<Vec<u32>>(ids.clone()).expect("ids");
    let expected = ids(&case["greedy"]["ids"]);
    let mut script = Script::default();
    script.start(1, &ids(&case["prompt_ids"]), Sampling { temperature: 0.0, ..Sampling::default() });
    script.run_all(128, &|_| expected.len());
    (script.steps(), expected)
}

fn processes_compute_what_the_reference_does() {
    for world_size in [1, 2, 4, 8] {
        let (steps, expected) = golden("llama_basic");
        let mut server = Server::ready(&folder("llama_basic"), world_size);
        server.link.unlink();
        assert_eq!(server.run(&steps), expected, "{world_size} ranks");
        server.await_all("the last step is done", |vitals| vitals.tokens_total == 7 + expected.len() as u64 - 1);
        for vitals in server.link.vitals.read_all() {
            assert_eq!((vitals.load_progress, vitals.step), (1.0, steps.len() as u64));
            assert!(vitals.rss_bytes > 1 << 20 && vitals.device_memory_bytes > 0 && vitals.kv_blocks_total > 0);
        }
        server.stop();
    }
}

/// Tokens 9, 10, 11 … one after the other, whatever the model would like; the fourth mask comes a step too late.
fn masks_reach_rank_0_and_are_kept_to() {
    for world_size in [1, 2] {
        let mut server = Server::ready(&folder("llama3_rope"), world_size);
        let mut script = Script::default();
        script.start(1, &[5; 20], Sampling { guided: true, ..Sampling::default() });
        script.run_all(20, &|_| 6);
        for (at, mut step) in script.steps().into_iter().enumerate() {
            let position = 20 + at as u32;
            let (number, late) = (step.number, at == 3);
            let mask = TokenMask { id: SequenceId(1), position, allowed: Allowed::Only(vec![9 + at as u32]) };
            step.number += u64::from(at > 3);
            if late {
                assert_eq!(server.outcome(&step), Outcome::Deferred);
                step = Step { number: number + 1, batch: step.batch, ..Step::default() };
            }
            server.link.masks.publish(&mask, LIMIT).expect("room");
            assert_eq!(server.outcome(&step).token(), Some(9 + at as u32), "{world_size} ranks");
        }
        server.stop();
    }
}

fn a_killed_rank_is_named_by_the_others() {
    let (steps, _) = golden("llama3_rope");
    let mut server = Server::ready(&folder("llama3_rope"), 4);
    server.run(&steps[..4]);
    kill(server.workers[2].pid(), Signal::SIGKILL).expect("it lives");
    server.link.steps.publish(&steps[4], LIMIT).expect("room");
    for (rank, worker) in server.workers.into_iter().enumerate().filter(|(rank, _)| *rank != 2) {
        let (status, said) = worker.end();
        assert_eq!(status.code(), Some(1), "rank {rank} said {said}");
        assert_eq!(said, format!("rank {rank}: rank 2 left the group during all_reduce\n"));
        let vitals = server.link.vitals.read(rank);
        assert_eq!(vitals.state, RankState::Failed);
        assert_eq!(vitals.error, "rank 2 left the group during all_reduce");
    }
}

/// Rank 1 takes its seat and then cannot load: rank 0, which can, must not wait for it for ever.
fn a_rank_lost_before_it_is_ready_is_named() {
    let mut server = Server::start_each(&[&folder("llama3_rope"), &folder("no_such_model")]);
    let (status, said) = server.workers.remove(0).end();
    assert_eq!((status.code(), said.as_str()), (Some(1), "rank 0: rank 1 left the group during barrier\n"));
    let (status, _) = server.workers.remove(0).end();
    assert_eq!(status.code(), Some(2));
}

fn signals_are_left_to_the_server() {
    let (steps, expected) = golden("llama3_rope");
    let mut server = Server::ready(&folder("llama3_rope"), 2);
    for worker in &server.workers {
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            kill(worker.pid(), signal).expect("it lives");
        }
    }
    assert_eq!(server.run(&steps), expected);
    server.stop();
}

fn a_model_that_cannot_be_loaded() {
    let nowhere = folder("no_such_model");
    let mut server = Server::start(&nowhere, 1);
    let (status, said) = server.workers.remove(0).end();
    assert_eq!(status.code(), Some(2));
    assert!(said.starts_with("rank 0: ") && said.contains("no_such_model") && said.lines().count() == 1, "{said}");
    let vitals = server.link.vitals.read(0);
    assert_eq!((vitals.state, format!("rank 0: {}\n", vitals.error)), (RankState::Failed, said));
}

fn a_step_that_makes_no_sense() {
    let mut server = Server::ready(&folder("llama3_rope"), 1);
    server.link.steps.publish(&Step { number: 9, ..Step::default() }, LIMIT).expect("room");
    let (status, said) = server.workers.remove(0).end();
    assert_eq!((status.code(), said.as_str()), (Some(1), "rank 0: step 9 came where step 1 was due\n"));
}

fn a_configuration_that_makes_no_sense() {
    for (line, expected) in [("{}\n", "missing field `rank`"), ("{}", "has no end"), ("", "has no end")] {
        let mut worker = Worker::spawn();
        worker.tell(line);
        worker.stdin = None;
        let (status, said) = worker.end();
        assert_eq!(status.code(), Some(1));
        assert!(said.starts_with("worker: cannot read") && said.contains(expected), "{said}");
        assert_eq!(BufReader::new(said.as_bytes()).lines().count(), 1);
    }
}
