//! The link between real processes: frames of all sizes through rings that wrap and fill all the time, readers that are
//! slow, stopped or killed, a writer killed in the middle. This binary starts itself again as the ranks.

use std::{
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use workers::link::{
    LinkConfig, LinkError, Seat, ServerLink, WorkerLink,
    report::{Outcome, SampledTokens, StepReport},
    step::{NewSequence, SequenceId, Step},
    vitals::RankState,
};

const LIMIT: Duration = Duration::from_secs(60);
const STEPS: u64 = 20_000;

/// What a rank does once it has attached.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Part {
    /// Takes every step, checks it, reports if it is rank 0.
    Work,
    /// The same, now and then slowly.
    WorkSlowly,
    /// Reports without end.
    Flood,
}

const PARTS: [Part; 3] = [Part::Work, Part::WorkSlowly, Part::Flood];

#[test]
fn frames_of_all_sizes_reach_all_processes() {
    let mut server = server(3);
    let parts = [Part::Work, Part::WorkSlowly, Part::Work];
    let mut ranks: Vec<_> = (0..3).map(|rank| Rank::start(&server, rank, parts[rank])).collect();
    wait_until(|| server.vitals.all_attached());
    server.unlink();
    let mut reported = 0;
    for number in 1..=STEPS {
        publish_one(&mut server, number, |report| {
            reported += 1;
            assert_eq!(report, answer(&step(reported)));
        });
    }
    while reported < STEPS {
        reported += 1;
        assert_eq!(server.reports.take(LIMIT).unwrap().expect("no report came"), answer(&step(reported)));
    }
    for rank in &mut ranks {
        assert!(rank.wait().success());
        assert_eq!(server.vitals.read(rank.rank).step, STEPS);
    }
    assert_eq!(names_left(&server.name()), Vec::<String>::new());
}

#[test]
fn a_writer_killed_in_the_middle_leaves_whole_frames_and_no_hang() {
    for frames_before in [0, 1, 50, 500] {
        let mut server = server(1);
        let mut rank = Rank::start(&server, 0, Part::Flood);
        wait_until(|| server.vitals.all_attached());
        let mut taken = 0;
        while taken < frames_before {
            taken += 1;
            assert_eq!(server.reports.take(LIMIT).unwrap().expect("no report came"), answer(&step(taken)));
        }
        rank.kill();
        while let Some(report) = server.reports.take(Duration::from_millis(20)).unwrap() {
            taken += 1;
            assert_eq!(report, answer(&step(taken)));
        }
        assert_eq!(server.reports.take(Duration::from_millis(20)).unwrap(), None);
    }
}

#[test]
fn a_killed_reader_is_named() {
    let mut server = server(2);
    let mut ranks = [0, 1].map(|rank| Rank::start(&server, rank, Part::Work));
    wait_until(|| server.vitals.all_attached());
    publish(&mut server, 1..=10);
    ranks[1].kill();
    let error = publish_until_refused(&mut server, 11);
    assert!(matches!(error, LinkError::Full { reader_index: 1, .. }), "{error}");
}

#[test]
fn a_stopped_reader_is_named_and_goes_on_where_it_was() {
    let mut server = server(2);
    let mut ranks = [0, 1].map(|rank| Rank::start(&server, rank, Part::Work));
    wait_until(|| server.vitals.all_attached());
    ranks[1].signal(Signal::SIGSTOP);
    let error = publish_until_refused(&mut server, 1);
    assert!(matches!(error, LinkError::Full { reader_index: 1, .. }), "{error}");
    ranks[1].signal(Signal::SIGCONT);
    let published = server.vitals.read(0).step;
    publish(&mut server, published + 1..=STEPS);
    assert!(ranks.iter_mut().all(|rank| rank.wait().success()));
}

#[test]
fn a_rank_that_comes_too_late_says_so_and_leaves() {
    let mut server = server(1);
    server.unlink();
    assert!(!Rank::start(&server, 0, Part::Work).wait().success());
    assert_eq!(server.vitals.read(0).state, RankState::Starting);
    assert!(!server.vitals.attached(0));
}

/// The smallest rings: a handful of frames fill them.
fn server(world_size: usize) -> ServerLink {
    let config = LinkConfig {
        world_size,
        epoch: 5,
        step_ring_bytes: 4096,
        return_ring_bytes: 4096,
        mask_ring_bytes: 4096,
        meeting_bytes: 1,
        spin: false,
    };
    ServerLink::create(&config).unwrap()
}

fn publish(server: &mut ServerLink, numbers: std::ops::RangeInclusive<u64>) {
    numbers.for_each(|number| publish_one(server, number, |_| ()));
}

/// Takes reports while it waits for room: rank 0 takes no step while it can't report, and both rings hold few frames only.
fn publish_one(server: &mut ServerLink, number: u64, mut take: impl FnMut(StepReport)) {
    let begun = Instant::now();
    loop {
        while let Some(report) = server.reports.take(Duration::ZERO).unwrap() {
            take(report);
        }
        match server.steps.publish(&step(number), Duration::from_millis(5)) {
            Err(LinkError::Full { .. }) if begun.elapsed() < LIMIT => {}
            outcome => return outcome.unwrap(),
        }
    }
}

/// Waits for rank 0 after each step, so that only a reader that does not move is left behind.
fn publish_until_refused(server: &mut ServerLink, first: u64) -> LinkError {
    let vitals = server.vitals.clone();
    for number in first.. {
        if let Err(error) = server.steps.publish(&step(number), Duration::from_millis(20)) {
            return error;
        }
        wait_until(|| {
            while server.reports.take(Duration::ZERO).unwrap().is_some() {}
            vitals.read(0).step == number
        });
    }
    unreachable!("a ring without a reader takes no end of frames")
}

/// A step that its number determines; every ninth is nearly as large as the ring allows.
fn step(number: u64) -> Step {
    let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let length = if number.is_multiple_of(9) { 330 + random % 60 } else { random % 40 };
    let tokens: Vec<u32> = (0..length).map(|at| (random >> (at % 32)) as u32).collect();
    let sequence = NewSequence { id: SequenceId(random), tokens, prompt_length: 1, ..NewSequence::default() };
    Step { number, started: vec![sequence], ..Step::default() }
}

/// What rank 0 makes of a step: a sum over all of it, and a report of changing size.
fn answer(step: &Step) -> StepReport {
    let sum = step.started[0].tokens.iter().fold(7u32, |sum, token| sum.wrapping_mul(31).wrapping_add(*token));
    let chosen = |token| Outcome::Chosen { token, logprobs: None, confident: false };
    let token = |at: u64| SampledTokens { id: SequenceId(at), outcomes: vec![chosen(sum ^ at as u32)] };
    StepReport { step: step.number, tokens: (0..1 + step.number % 60).map(token).collect(), ..StepReport::default() }
}

/// A rank in a process of its own, which does not outlive the test.
struct Rank {
    rank: usize,
    process: Child,
}

impl Rank {
    fn start(server: &ServerLink, rank: usize, part: Part) -> Self {
        let seat = format!("{} {rank} {} {part:?}", server.name(), server.vitals.world_size());
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "the_other_process", "--ignored", "--nocapture"]).env("LINK_TORTURE_SEAT", seat);
        Self { rank, process: command.stdout(Stdio::null()).spawn().unwrap() }
    }

    fn wait(&mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.wait();
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id() as i32), signal).unwrap();
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The ranks' side of all tests above.
#[test]
#[ignore = "the other tests start it, in processes of its own"]
fn the_other_process() {
    let Ok(seat) = std::env::var("LINK_TORTURE_SEAT") else { return };
    let [link, rank, world_size, part] = seat.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let (rank, world_size) = (rank.parse().unwrap(), world_size.parse().unwrap());
    let seat = Seat { link, rank, world_size, epoch: 5, spin: false };
    let worker = WorkerLink::attach(seat).unwrap_or_else(|error| {
        eprintln!("rank {rank}: {error}");
        std::process::exit(3);
    });
    match PARTS.into_iter().find(|known| format!("{known:?}") == part).unwrap() {
        Part::Flood => flood(worker),
        part => work(worker, part == Part::WorkSlowly),
    }
}

fn work(mut worker: WorkerLink, slowly: bool) {
    for number in 1..=STEPS {
        let taken = worker.steps.take(LIMIT).unwrap().expect("no step came");
        assert_eq!(taken, step(number));
        if let Some(reports) = &mut worker.reports {
            reports.publish(&answer(&taken), LIMIT).unwrap();
        }
        worker.vitals.progress(number);
        if slowly && number.is_multiple_of(64) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn flood(mut worker: WorkerLink) {
    let reports = worker.reports.as_mut().unwrap();
    for number in 1.. {
        reports.publish(&answer(&step(number)), LIMIT).unwrap();
    }
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < LIMIT, "waited in vain");
        std::thread::sleep(Duration::from_micros(100));
    }
}

fn names_left(link: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/dev/shm").unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.contains(link)).collect()
}
