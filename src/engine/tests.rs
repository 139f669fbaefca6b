//! The loop on its thread, with ranks that work, hang, lie, or are not there.

use std::{
    collections::VecDeque,
    sync::mpsc::{Receiver, Sender, channel},
    time::{Duration, Instant},
};

use workers::link::{report::StepReport, sampling::Sampling, step::Step};

use super::{
    Engine, EngineConfig, EngineHandle, Ranks, RanksError, RequestStream,
    rank_model::{RankModel, expected},
    request::{Event, Failure, NewRequest},
};

/// What a test waits for comes within this, or never.
const PATIENCE: Duration = Duration::from_secs(20);

const BLOCKS: usize = 16;
const BLOCK_SIZE: usize = 4;
const MODEL_LEN_MAX: usize = 48;

fn config() -> EngineConfig {
    EngineConfig {
        block_size: BLOCK_SIZE,
        batch_tokens_max: 16,
        sequences_max: 4,
        model_len_max: MODEL_LEN_MAX,
        waiting_max: 4,
        prefix_caching: true,
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Behaviour {
    Work,
    /// Takes steps and never reports.
    Hang,
    /// Reports a step that it was not given.
    Lie,
    /// Can't be reached.
    Refuse,
}

struct FakeRanks {
    behaviour: Behaviour,
    model: RankModel,
    reports: VecDeque<StepReport>,
}

impl Ranks for FakeRanks {
    fn publish(&mut self, step: &Step) -> Result<(), RanksError> {
        let mut report = self.model.apply(step);
        match self.behaviour {
            Behaviour::Work => {}
            Behaviour::Hang => return Ok(()),
            Behaviour::Lie => report.step += 1,
            Behaviour::Refuse => return Err(RanksError::Link("the ring is full".into())),
        }
        self.reports.push_back(report);
        Ok(())
    }

    fn collect(&mut self, timeout: Duration) -> Result<Option<StepReport>, RanksError> {
        if self.reports.is_empty() {
            std::thread::sleep(timeout);
        }
        Ok(self.reports.pop_front())
    }
}

struct World {
    engine: EngineHandle,
    broken: Receiver<String>,
}

impl World {
    fn without_ranks() -> Self {
        let (sender, broken): (Sender<String>, _) = channel();
        let engine = Engine::start(config(), Box::new(move |reason| drop(sender.send(reason))));
        Self { engine, broken }
    }

    fn new(behaviour: Behaviour) -> Self {
        let world = Self::without_ranks();
        world.group_up(behaviour);
        world
    }

    fn group_up(&self, behaviour: Behaviour) {
        let model = RankModel::new(BLOCKS, BLOCK_SIZE);
        self.engine.group_up(Box::new(FakeRanks { behaviour, model, reports: VecDeque::new() }), BLOCKS);
        self.until(|engine| engine.stats().accepting);
    }

    /// Waits for a condition that has to come true.
    fn until(&self, condition: impl Fn(&EngineHandle) -> bool) {
        let start = Instant::now();
        while !condition(&self.engine) {
            assert!(start.elapsed() < PATIENCE, "still not so: {:?}", self.engine.stats());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn submit(&self, request: &NewRequest) -> RequestStream {
        self.engine.submit(request.clone()).expect("there is room")
    }

    /// One request that runs, its step never reported, and `count` more that run beside it or wait.
    fn busy_with(&self, count: usize) -> Vec<RequestStream> {
        (0..count).map(|_| self.submit(&request(9))).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.engine.stop();
    }
}

fn request(max_tokens: u32) -> NewRequest {
    let (prompt, sampling) = (vec![1, 2, 3, 4, 5, 6], Sampling::default());
    NewRequest { id: "r".into(), prompt, sampling, max_tokens, ..NewRequest::default() }
}

/// All events to the last.
fn follow(mut stream: RequestStream) -> Vec<Event> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let all = async {
        let mut events = Vec::new();
        while let Some(event) = stream.next().await {
            events.push(event);
        }
        events
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, all).await }).expect("the stream ends")
}

fn check_answer(asked: &NewRequest, heard: &[Event]) {
    let (tokens, finish) = expected(asked, MODEL_LEN_MAX, BLOCKS * BLOCK_SIZE);
    let got = heard.iter().filter_map(|event| match event {
        Event::Token { token, .. } => Some(*token),
        _ => None,
    });
    assert_eq!(got.collect::<Vec<_>>(), tokens);
    assert!(matches!(heard[0], Event::Started { .. }));
    assert_eq!(heard.last(), Some(&Event::Finished(finish)));
}

#[test]
fn requests_are_served_and_counted() {
    let world = World::new(Behaviour::Work);
    let asked: Vec<_> = (3..9).map(request).collect();
    let streams: Vec<_> = asked.iter().map(|request| world.submit(request)).collect();
    for (asked, stream) in asked.iter().zip(streams) {
        check_answer(asked, &follow(stream));
    }
    assert_eq!(world.engine.outstanding(), 0);
    let stats = world.engine.stats();
    assert_eq!((stats.finished_total, stats.generation_tokens_total), (6, (3..9).sum::<u32>().into()));
    assert_eq!((stats.blocks_total, stats.blocks_used, stats.steps_outstanding), (BLOCKS as u64, 0, false));
    assert!(stats.prefix_hit_tokens_total > 0);
}

#[test]
fn requests_wait_for_the_first_ranks() {
    let world = World::without_ranks();
    let stream = world.submit(&request(3));
    world.until(|engine| engine.stats().waiting == 1);
    assert!(!world.engine.stats().accepting);
    world.group_up(Behaviour::Work);
    check_answer(&request(3), &follow(stream));
}

#[test]
fn a_dropped_stream_gives_its_blocks_back() {
    let world = World::new(Behaviour::Hang);
    let mut streams = world.busy_with(6);
    world.until(|engine| engine.stats().running > 0 && engine.stats().running + engine.stats().waiting == 6);
    drop(streams.pop());
    world.until(|engine| engine.outstanding() == 5);
    drop(streams);
    world.until(|engine| engine.stats().blocks_used == 0 && engine.outstanding() == 0);
    assert_eq!(world.engine.stats().aborted_total, 6);
}

#[test]
fn too_many_requests_are_refused() {
    let world = World::new(Behaviour::Hang);
    let streams = world.busy_with(8);
    assert_eq!(world.engine.submit(request(3)).err(), Some(Failure::QueueFull { limit: 8 }));
    drop(streams);
    world.until(|engine| engine.submit(request(3)).is_ok());
}

#[test]
fn patience_ends_before_admission_only() {
    let world = World::new(Behaviour::Hang);
    let hurried = NewRequest { max_waiting: Some(Duration::from_millis(200)), ..request(3) };
    let running = world.submit(&hurried);
    world.until(|engine| engine.stats().running == 1);
    let waiting = follow(world.submit(&hurried));
    assert_eq!(waiting, [Event::Failed(Failure::WaitedTooLong(Duration::from_millis(200)))]);
    assert_eq!((world.engine.outstanding(), world.engine.stats().running), (1, 1), "the first was admitted in time");
    drop(running);
}

#[test]
fn patience_ends_while_there_are_no_ranks_at_all() {
    let world = World::without_ranks();
    let hurried = NewRequest { max_waiting: Some(Duration::from_millis(200)), ..request(3) };
    let heard = follow(world.submit(&hurried));
    assert_eq!(heard, [Event::Failed(Failure::WaitedTooLong(Duration::from_millis(200)))]);
}

#[test]
fn a_group_that_goes_takes_the_running_with_it_and_leaves_the_waiting() {
    let world = World::new(Behaviour::Hang);
    let first = world.submit(&request(9));
    world.until(|engine| engine.stats().running == 1);
    let second = world.submit(&request(5));
    world.engine.group_down("rank 1 was killed".into());
    assert_eq!(follow(first).last(), Some(&Event::Failed(Failure::RanksLost("rank 1 was killed".into()))));
    assert_eq!((world.engine.outstanding(), world.engine.stats().accepting), (1, false));
    world.group_up(Behaviour::Work);
    check_answer(&request(5), &follow(second));
    assert!(world.broken.try_recv().is_err(), "who takes a group down need not be told");
}

#[test]
fn ranks_that_lie_or_refuse_are_given_up() {
    for (behaviour, words) in [(Behaviour::Lie, "not asked for"), (Behaviour::Refuse, "the ring is full")] {
        let world = World::new(behaviour);
        let heard = follow(world.submit(&request(5)));
        let reason = world.broken.recv_timeout(PATIENCE).expect("it is told");
        assert!(reason.contains(words), "{reason}");
        assert_eq!(heard.last(), Some(&Event::Failed(Failure::RanksLost(reason))));
        world.group_up(Behaviour::Work);
        check_answer(&request(5), &follow(world.submit(&request(5))));
    }
}

#[test]
fn ranks_without_usable_blocks_are_given_up() {
    for kv_blocks in [0, usize::MAX, u32::MAX as usize] {
        let world = World::without_ranks();
        let ranks = FakeRanks { behaviour: Behaviour::Work, model: RankModel::new(0, 1), reports: VecDeque::new() };
        world.engine.group_up(Box::new(ranks), kv_blocks);
        let reason = world.broken.recv_timeout(PATIENCE).expect("it is told");
        assert!(reason.contains("KV blocks"), "{reason}");
        assert!(!world.engine.stats().accepting);
    }
}

#[test]
fn prompts_that_never_fit_are_refused() {
    let check = |world: &World, length: usize, words: &str| {
        let long = NewRequest { prompt: vec![1; length], ..request(3) };
        let failure = world.engine.submit(long).err().expect("it does not fit");
        assert!(matches!(&failure, Failure::TooLarge(text) if text.contains(words)), "{failure}");
    };
    let world = World::new(Behaviour::Work);
    check(&world, MODEL_LEN_MAX, "context of 48");
    check(&world, 0, "at least 1");
    let model = RankModel::new(2, BLOCK_SIZE);
    let ranks = FakeRanks { behaviour: Behaviour::Work, model, reports: VecDeque::new() };
    world.engine.group_up(Box::new(ranks), 2);
    world.until(|engine| engine.stats().blocks_total == 2);
    check(&world, 8, "KV cache of 8");
}

#[test]
fn draining_refuses_the_new_and_serves_the_old() {
    let world = World::without_ranks();
    let stream = world.submit(&request(4));
    world.engine.drain();
    assert!(matches!(world.engine.submit(request(3)), Err(Failure::Unavailable(_))));
    let model = RankModel::new(BLOCKS, BLOCK_SIZE);
    let ranks = FakeRanks { behaviour: Behaviour::Work, model, reports: VecDeque::new() };
    world.engine.group_up(Box::new(ranks), BLOCKS);
    check_answer(&request(4), &follow(stream));
    assert!(!world.engine.stats().accepting);
}

#[test]
fn stopping_ends_whatever_is_left() {
    let world = World::new(Behaviour::Hang);
    let stream = world.submit(&request(4));
    world.engine.stop();
    assert!(matches!(follow(stream).last(), Some(Event::Failed(Failure::Stopped))));
    assert!(matches!(world.engine.submit(request(3)), Err(Failure::Unavailable(_))));
    assert_eq!((world.engine.outstanding(), world.engine.stats().accepting), (0, false));
}

#[test]
fn silence_is_measured_while_a_step_is_out() {
    let world = World::new(Behaviour::Hang);
    assert!(!world.engine.stats().steps_outstanding);
    let _stream = world.submit(&request(4));
    world.until(|engine| engine.stats().steps_outstanding && engine.stats().since_progress > Duration::from_millis(20));
}
