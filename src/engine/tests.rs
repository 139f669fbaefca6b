//! The loop on its thread, with ranks that work, hang, lie, or are not there.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant},
};

use workers::link::{
    mask::{Allowed, TokenMask},
    report::StepReport,
    sampling::Sampling,
    step::{Pooling, Step},
};

use super::{
    Engine, EngineConfig, EngineHandle, GroupEnd, Masks, Ranks, RanksError, RequestStream,
    guide::{Guide, GuideError, SharedGuide},
    rank_model::{RankModel, Rules, expected, gathered},
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
        prompt_tokens_beside: 8,
        sequences_max: 4,
        model_len_max: MODEL_LEN_MAX,
        waiting_max: 4,
        prefix_caching: true,
        cache_outlives_ranks: false,
        steps_at_once: 2,
        speculation: None,
        fault: None,
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Behaviour {
    Work,
    /// The same, and no choice is made before a mask has come.
    WaitForMasks,
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
    /// Published, and to be computed when somebody asks for the report.
    steps: VecDeque<Step>,
    masks: Arc<FakeMasks>,
}

/// The masks on their way, and those that were ever published.
#[derive(Default)]
struct FakeMasks {
    waiting: Mutex<Vec<TokenMask>>,
    published: AtomicUsize,
}

impl FakeRanks {
    fn new(behaviour: Behaviour, blocks: usize) -> Box<Self> {
        let model = RankModel::new(blocks, BLOCK_SIZE);
        Box::new(Self { behaviour, model, steps: VecDeque::new(), masks: Arc::default() })
    }

    fn compute(&mut self, step: &Step) -> StepReport {
        if step.batch.iter().any(|chunk| chunk.samples) {
            std::thread::sleep(Duration::from_millis(1)); // Guides that are quick are in time.
            let start = Instant::now();
            while self.behaviour == Behaviour::WaitForMasks && self.masks.waiting.lock().expect("whole").is_empty() {
                assert!(start.elapsed() < PATIENCE, "no mask came");
                std::thread::yield_now();
            }
        }
        for TokenMask { id, position, allowed } in self.masks.waiting.lock().expect("nobody panics").drain(..) {
            self.model.masks.insert(id, (position, allowed));
        }
        self.model.apply(step)
    }
}

impl Ranks for FakeRanks {
    fn publish(&mut self, step: &Step) -> Result<(), RanksError> {
        if self.behaviour == Behaviour::Refuse {
            return Err(RanksError::Link("the ring is full".into()));
        }
        self.steps.push_back(step.clone());
        Ok(())
    }

    fn collect(&mut self, timeout: Duration) -> Result<Option<StepReport>, RanksError> {
        let Some(step) = self.steps.pop_front().filter(|_| self.behaviour != Behaviour::Hang) else {
            std::thread::sleep(timeout);
            return Ok(None);
        };
        let mut report = self.compute(&step);
        report.step += u64::from(self.behaviour == Behaviour::Lie);
        Ok(Some(report))
    }

    fn masks(&self) -> Arc<dyn Masks> {
        self.masks.clone()
    }
}

impl Masks for FakeMasks {
    fn publish(&self, mask: &TokenMask) -> Result<(), RanksError> {
        self.published.fetch_add(1, Relaxed);
        self.waiting.lock().expect("nobody panics").push(mask.clone());
        Ok(())
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
        self.engine.group_up(FakeRanks::new(behaviour, BLOCKS), BLOCKS);
        self.until(|engine| engine.stats().accepting);
    }

    fn group_down(&self, reason: &str) {
        self.engine.group_down(reason.into());
        self.until(|engine| !engine.stats().accepting && !engine.stats().steps_outstanding);
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
    hear(&mut stream, usize::MAX)
}

/// The next events: so many, or all to the last.
fn hear(stream: &mut RequestStream, count: usize) -> Vec<Event> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let some = async {
        let mut events = Vec::new();
        while events.len() < count
            && let Some(event) = stream.next().await
        {
            events.push(event);
        }
        events
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, some).await }).expect("the stream goes on")
}

fn check_answer(asked: &NewRequest, heard: &[Event]) {
    assert!(matches!(heard[0], Event::Started { .. }));
    assert_eq!(gathered(heard), expected(asked, MODEL_LEN_MAX, BLOCKS * BLOCK_SIZE));
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
fn the_running_and_the_waiting_go_on_with_the_next_group() {
    let world = World::new(Behaviour::Hang);
    let first = world.submit(&request(9));
    world.until(|engine| engine.stats().running == 1);
    let second = world.submit(&request(5));
    world.group_down("rank 1 was killed");
    world.until(|engine| engine.stats().waiting == 2);
    let stats = world.engine.stats();
    assert_eq!((world.engine.outstanding(), stats.accepting, stats.replays_total), (2, false, 1));
    world.group_up(Behaviour::Work);
    check_answer(&request(9), &follow(first));
    check_answer(&request(5), &follow(second));
    assert!(world.broken.try_recv().is_err(), "who takes a group down need not be told");
}

#[test]
fn ranks_that_lie_or_refuse_are_given_up() {
    for (behaviour, words) in [(Behaviour::Lie, "not asked for"), (Behaviour::Refuse, "the ring is full")] {
        let world = World::new(behaviour);
        let stream = world.submit(&request(5));
        let reason = world.broken.recv_timeout(PATIENCE).expect("it is told");
        assert!(reason.contains(words), "{reason}");
        world.group_down(&reason); // As the supervisor does then, which is no second death.
        world.group_up(Behaviour::Work);
        check_answer(&request(5), &follow(stream));
    }
}

#[test]
fn what_two_groups_died_of_is_given_up_and_the_others_go_on() {
    let world = World::new(Behaviour::Hang);
    let poisonous = world.submit(&request(9));
    world.until(|engine| engine.stats().steps_outstanding);
    let other = world.submit(&request(5));
    world.group_down("rank 0 was killed");
    world.group_up(Behaviour::Hang);
    world.until(|engine| engine.stats().steps_outstanding);
    world.group_down("rank 1 was killed");
    let heard = follow(poisonous);
    assert_eq!(heard.last(), Some(&Event::Failed(Failure::Poisonous("rank 1 was killed".into()))));
    assert!(matches!(heard[..], [Event::Started { .. }, _]));
    world.group_up(Behaviour::Work);
    check_answer(&request(5), &follow(other));
    let stats = world.engine.stats();
    assert_eq!((stats.poisonous_total, stats.failed_total, stats.finished_total), (1, 1, 1));
}

#[test]
fn nobody_is_suspected_of_what_was_killed_from_outside() {
    let world = World::without_ranks();
    let killed = |rank| GroupEnd { reason: format!("somebody killed rank {rank}"), is_suspicious: false };
    let streams = [9, 5].map(|length| (length, world.submit(&request(length))));
    world.until(|engine| engine.stats().waiting == 2); // Else the first could be two steps ahead before the second is seen.
    world.group_up(Behaviour::Hang);
    for rank in 0..3 {
        world.until(|engine| engine.stats().running == 2 && engine.stats().steps_outstanding);
        world.engine.group_down(killed(rank));
        world.until(|engine| !engine.stats().accepting);
        world.group_up(Behaviour::Hang);
    }
    world.until(|engine| engine.stats().steps_outstanding);
    world.engine.group_down(killed(3));
    world.until(|engine| !engine.stats().accepting);
    world.group_up(Behaviour::Work);
    streams.into_iter().for_each(|(length, stream)| check_answer(&request(length), &follow(stream)));
}

#[test]
fn without_another_group_the_started_are_lost_and_the_others_refused() {
    let world = World::new(Behaviour::Hang);
    let started = world.submit(&request(9));
    world.until(|engine| engine.stats().running == 1);
    world.group_down("rank 1 was killed");
    let waiting = world.submit(&request(9));
    world.engine.give_up("rank 1 was killed".into());
    assert_eq!(follow(started).last(), Some(&Event::Failed(Failure::RanksLost("rank 1 was killed".into()))));
    assert_eq!(follow(waiting), [Event::Failed(Failure::Stopped)]);
}

#[test]
fn who_is_cancelled_between_two_groups_is_not_replayed() {
    let world = World::new(Behaviour::Hang);
    let stream = world.submit(&request(9));
    world.until(|engine| engine.stats().running == 1);
    world.group_down("rank 1 was killed");
    drop(stream);
    world.until(|engine| engine.outstanding() == 0);
    world.group_up(Behaviour::Work);
    let stats = world.engine.stats();
    assert_eq!((stats.aborted_total, stats.running, stats.waiting), (1, 0, 0));
}

#[test]
fn patience_is_of_no_meaning_to_what_is_replayed() {
    let world = World::new(Behaviour::Hang);
    let waiting_max = Duration::from_millis(200);
    let hurried = NewRequest { max_waiting: Some(waiting_max), ..request(9) };
    let stream = world.submit(&hurried);
    world.until(|engine| engine.stats().running == 1);
    world.group_down("rank 1 was killed");
    std::thread::sleep(2 * waiting_max);
    world.group_up(Behaviour::Work);
    check_answer(&hurried, &follow(stream));
}

#[test]
fn ranks_without_usable_blocks_are_given_up() {
    for kv_blocks in [0, usize::MAX, u32::MAX as usize] {
        let world = World::without_ranks();
        world.engine.group_up(FakeRanks::new(Behaviour::Work, 0), kv_blocks);
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
    world.engine.group_up(FakeRanks::new(Behaviour::Work, 2), 2);
    world.until(|engine| engine.stats().blocks_total == 2);
    check(&world, 8, "KV cache of 8");
}

#[test]
fn draining_refuses_the_new_and_serves_the_old() {
    let world = World::without_ranks();
    let stream = world.submit(&request(4));
    world.engine.drain();
    assert!(matches!(world.engine.submit(request(3)), Err(Failure::Unavailable(_))));
    world.engine.group_up(FakeRanks::new(Behaviour::Work, BLOCKS), BLOCKS);
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
fn the_loop_gives_a_sign_while_it_runs_whatever_the_ranks_do() {
    let worlds = [World::without_ranks(), World::new(Behaviour::Work), World::new(Behaviour::Hang)];
    for world in worlds {
        let running = world.submit(&request(9));
        for _ in 0..3 {
            assert_eq!(world.engine.sign_of_life().blocking_recv(), Ok(()));
        }
        drop(running);
        world.engine.stop();
        assert!(world.engine.sign_of_life().blocking_recv().is_err());
    }
}

#[test]
fn silence_is_measured_while_a_step_is_out() {
    let world = World::new(Behaviour::Hang);
    assert!(!world.engine.stats().steps_outstanding);
    let _stream = world.submit(&request(4));
    world.until(|engine| engine.stats().steps_outstanding && engine.stats().since_progress > Duration::from_millis(20));
}

/// Rules that take their time before the mask after `slow_after` tokens, until somebody lets them go on.
struct SlowRules {
    rules: Rules,
    slow_after: usize,
    taken: usize,
    go_on: Receiver<()>,
}

impl Guide for SlowRules {
    fn take(&mut self, token: u32) -> Result<(), GuideError> {
        self.taken += 1;
        self.rules.take(token)
    }

    fn allowed(&mut self) -> Result<Allowed, GuideError> {
        if self.taken == self.slow_after {
            self.go_on.recv_timeout(PATIENCE).expect("somebody lets it go on");
        }
        self.rules.allowed()
    }
}

fn guided(max_tokens: u32, seed: u64) -> NewRequest {
    let plain = request(max_tokens);
    let sampling = Sampling { seed, ..plain.sampling };
    NewRequest { sampling, guide: Some(SharedGuide::new(Rules::new(seed))), ..plain }
}

#[test]
fn guides_are_followed() {
    let world = World::new(Behaviour::Work);
    let asked: Vec<_> = (0..8).map(|seed| guided(20, seed)).collect();
    let streams: Vec<_> = asked.iter().map(|request| world.submit(request)).collect();
    for (asked, stream) in asked.iter().zip(streams) {
        check_answer(asked, &follow(stream));
    }
}

#[test]
fn nobody_waits_for_a_slow_guide() {
    let world = World::new(Behaviour::Work);
    let seed = seed_of_long_rules();
    let (let_go, go_on) = channel();
    let rules = SlowRules { rules: Rules::new(seed), slow_after: 3, taken: 0, go_on };
    let slow = NewRequest { guide: Some(SharedGuide::new(rules)), ..guided(6, seed) };
    let mut stream = world.submit(&slow);
    // Its start and three tokens. The step that needs the slow mask was published before they were told.
    let mut heard = hear(&mut stream, 4);
    world.until(|engine| engine.stats().deferrals_total > 0 && !engine.stats().steps_outstanding);
    check_answer(&request(9), &follow(world.submit(&request(9))));
    let steps = world.engine.stats().steps_total;
    std::thread::sleep(2 * super::COLLECT_TIMEOUT);
    assert_eq!(world.engine.stats().steps_total, steps, "while it is held, no step is computed in vain");
    let_go.send(()).expect("it waits");
    heard.extend(follow(stream));
    check_answer(&slow, &heard);
}

struct BrokenRules(fn() -> Result<Allowed, GuideError>);

impl Guide for BrokenRules {
    fn take(&mut self, _: u32) -> Result<(), GuideError> {
        Ok(())
    }

    fn allowed(&mut self) -> Result<Allowed, GuideError> {
        self.0()
    }
}

#[test]
fn a_guide_that_breaks_ends_its_own_sequence_only() {
    let check = |world: &World, rules: fn() -> Result<Allowed, GuideError>, words: &str| {
        let broken = NewRequest { guide: Some(SharedGuide::new(BrokenRules(rules))), ..request(9) };
        let beside = world.submit(&request(9));
        let heard = follow(world.submit(&broken));
        let Some(Event::Failed(Failure::Guide(why))) = heard.last() else { panic!("{heard:?}") };
        assert!(why.contains(words), "{why}");
        check_answer(&request(9), &follow(beside));
        world.until(|engine| engine.outstanding() == 0 && engine.stats().blocks_used == 0);
    };
    let world = World::new(Behaviour::Work);
    check(&world, || Err(GuideError("too deep".into())), "too deep");
    check(&world, || panic!("a guide breaks in a test"), "a bug");
    check(&world, || Ok(Allowed::Only(Vec::new())), "leaves none");
}

#[test]
fn masks_go_to_the_group_that_they_were_asked_for() {
    let world = World::without_ranks();
    let ranks = FakeRanks::new(Behaviour::Hang, BLOCKS);
    let first = ranks.masks.clone();
    world.engine.group_up(ranks, BLOCKS);
    let (let_go, go_on) = channel();
    let rules = SlowRules { rules: Rules::new(1), slow_after: 0, taken: 0, go_on };
    let stream = world.submit(&NewRequest { guide: Some(SharedGuide::new(rules)), ..guided(6, 1) });
    world.until(|engine| engine.stats().steps_outstanding);
    world.group_down("rank 0 was killed");
    drop(stream);
    world.until(|engine| engine.outstanding() == 0);
    let ranks = FakeRanks::new(Behaviour::WaitForMasks, BLOCKS);
    let second = ranks.masks.clone();
    world.engine.group_up(ranks, BLOCKS);
    let_go.send(()).expect("it waits");
    let asked = guided(1, 1);
    check_answer(&asked, &follow(world.submit(&asked)));
    assert_eq!((first.published.load(Relaxed), second.published.load(Relaxed)), (0, 1));
}

/// A seed whose rules go on for six tokens.
fn seed_of_long_rules() -> u64 {
    (0..).find(|&seed| expected(&guided(6, seed), MODEL_LEN_MAX, 64).len() == 7).expect("there are many")
}

#[test]
fn a_guide_that_is_busy_when_its_group_dies_answers_the_next_one() {
    // Before its first token, and in the middle.
    for (slow_after, begins) in [(0, Behaviour::Hang), (3, Behaviour::Work)] {
        let world = World::new(begins);
        let (let_go, go_on) = channel();
        let seed = seed_of_long_rules();
        let rules = SlowRules { rules: Rules::new(seed), slow_after, taken: 0, go_on };
        let slow = NewRequest { guide: Some(SharedGuide::new(rules)), ..guided(6, seed) };
        let mut stream = world.submit(&slow);
        let mut heard = hear(&mut stream, slow_after + 1);
        let held = |engine: &EngineHandle| engine.stats().deferrals_total > 0 && !engine.stats().steps_outstanding;
        world.until(|engine| begins == Behaviour::Hang || held(engine));
        world.group_down("rank 0 was killed");
        world.group_up(Behaviour::Work);
        world.until(|engine| engine.stats().running == 1);
        let_go.send(()).expect("it waits");
        heard.extend(follow(stream));
        check_answer(&slow, &heard);
    }
}

#[test]
fn a_mask_published_to_a_group_that_died_is_published_to_the_next() {
    let world = World::without_ranks();
    let ranks = FakeRanks::new(Behaviour::Hang, BLOCKS);
    let first = ranks.masks.clone();
    world.engine.group_up(ranks, BLOCKS);
    let asked = guided(6, seed_of_long_rules());
    let stream = world.submit(&asked);
    world.until(|_| first.published.load(Relaxed) == 1);
    world.group_down("rank 0 was killed");
    // These would wait in vain for a mask that is not published again.
    world.group_up(Behaviour::WaitForMasks);
    check_answer(&asked, &follow(stream));
}

#[test]
fn prompts_are_scored_and_pooled() {
    let world = World::new(Behaviour::Work);
    let scored = NewRequest { prompt_logprobs: Some(3), ..request(4) };
    let pooled = |pooling| NewRequest { pooling: Some(pooling), ..request(1) };
    let asked = [request(1), scored, pooled(Pooling::Mean), pooled(Pooling::Last)];
    for asked in &asked {
        check_answer(asked, &follow(world.submit(asked)));
    }
}
