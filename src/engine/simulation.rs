//! The scheduler's rules played out on a [`RankModel`]: at random, then one by one.

use std::collections::{HashMap, HashSet};

use proptest::{collection::vec, option, prelude::*, sample::Index};
use workers::link::{
    report::StepReport,
    sampling::Sampling,
    step::{Pooling, Step},
};

use super::{
    guide::SharedGuide,
    rank_model::{RankModel, Rules, STOP_TOKEN, allowed, expected, gathered},
    request::{EarlyStop, Event, Failure, Finish, NewRequest},
    scheduler::{Counts, Limits, Scheduler},
    sequence::{RequestKey, Sequence, as_u32},
    speculation,
};

#[derive(Debug, Clone)]
struct World {
    limits: Limits,
    blocks: usize,
    model_len_max: usize,
    /// Most steps on their way at once.
    ahead: usize,
    /// For the first masks: how many turns of the loop each comes too late; those after them come in time.
    late: Vec<usize>,
}

#[derive(Debug, Clone)]
enum Move {
    Arrive(Box<Asked>),
    Cancel(Index),
    /// Its reader is too far behind, or has caught up.
    Read {
        whose: Index,
        enough: bool,
    },
    Turn,
    /// The group dies, perhaps of steps just published. The next one is there at the next turn.
    Die {
        publishes: bool,
        suspicious: bool,
    },
}

/// What a client asks for. A guide has a state, so each arrival gets its own.
#[derive(Debug, Clone)]
struct Asked {
    request: NewRequest,
    guided: bool,
}

fn limits() -> impl Strategy<Value = Limits> {
    let reports = (1..9usize, 1..3usize);
    let speculation = option::of((1..6usize, 1..4usize).prop_map(|(draft_max, ngram_min)| {
        let ngram_max = ngram_min + 3;
        speculation::Settings { draft_max, ngram_min, ngram_max }
    }));
    (1..5usize, (1..20usize, 1..20usize), 1..6usize, any::<[bool; 2]>(), reports, speculation).prop_map(
        |(block_size, tokens, sequences_max, [prefix_caching, cache_outlives_ranks], reports, speculation)| {
            let (scored_max, embeddings_max) = reports;
            Limits {
                cache_outlives_ranks,
                speculation,
                block_size,
                batch_tokens_max: tokens.0,
                prompt_tokens_beside: tokens.1,
                sequences_max,
                introduced_tokens_max: 0,
                scored_max,
                embeddings_max,
                prefix_caching,
            }
        },
    )
}

fn worlds() -> impl Strategy<Value = World> {
    (limits(), 1..14usize, 8..40usize, 1..3usize, vec(0..4usize, 0..30)).prop_map(
        |(limits, blocks, model_len_max, ahead, late)| World {
            limits: Limits { introduced_tokens_max: model_len_max, ..limits },
            blocks,
            model_len_max,
            ahead,
            late,
        },
    )
}

/// Prompts begin alike, so that prefixes are shared.
fn plain_requests() -> impl Strategy<Value = NewRequest> {
    (1..8usize, vec(1..3u32, 0..4), 1..20u32, 0..4u32, 0..3u64).prop_map(
        |(alike, own, max_tokens, min_tokens, seed)| {
            let prompt = (1..).take(alike).chain(own).collect();
            let sampling = Sampling { seed, min_tokens, stop_token_ids: vec![STOP_TOKEN], ..Sampling::default() };
            NewRequest { id: String::new(), prompt, sampling, max_tokens, ..NewRequest::default() }
        },
    )
}

fn requests() -> impl Strategy<Value = Asked> {
    let wishes = (0..3i64, option::weighted(0.3, 1..5u32), option::weighted(0.3, 0..3u32), 0..8u8);
    let salts = option::weighted(0.2, "[ab]");
    (plain_requests(), any::<bool>(), wishes, salts).prop_map(
        |(plain, guided, (priority, window, prompt_logprobs, pooling), cache_salt)| {
            let pooling = [Some(Pooling::Mean), Some(Pooling::Last)].get(usize::from(pooling)).copied().flatten();
            let prompt_logprobs = prompt_logprobs.filter(|_| pooling.is_none());
            let early_stop = window.map(|window| EarlyStop { window, threshold: 0.9 });
            let request = NewRequest { priority, early_stop, prompt_logprobs, pooling, cache_salt, ..plain };
            Asked { request, guided: guided && pooling.is_none() }
        },
    )
}

fn moves(deaths: bool) -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        6 => requests().prop_map(|asked| Move::Arrive(Box::new(asked))),
        2 => any::<Index>().prop_map(Move::Cancel),
        3 => (any::<Index>(), any::<bool>()).prop_map(|(whose, enough)| Move::Read { whose, enough }),
        12 => Just(Move::Turn),
        1 => (any::<bool>(), any::<bool>()).prop_map(move |(publishes, suspicious)| {
            if deaths { Move::Die { publishes, suspicious } } else { Move::Turn }
        }),
    ];
    vec(one, 1..60)
}

/// The scheduler and a rank, one turn of the loop at a time.
struct Play {
    world: World,
    scheduler: Scheduler,
    rank: RankModel,
    /// Whether the group is up.
    up: bool,
    /// Whether what its cache held outlives it.
    kept: bool,
    reports: Vec<StepReport>,
    requests: Vec<NewRequest>,
    cancelled: HashSet<usize>,
    poisonous: HashSet<usize>,
    heard: Vec<Vec<Event>>,
    /// Of each priority.
    last_started: HashMap<i64, RequestKey>,
    /// Sequences held, and for how many turns.
    held: Vec<(RequestKey, usize)>,
    /// Sequences that were paused once.
    slow: HashSet<RequestKey>,
    pauses: usize,
    /// Masks asked for up to now.
    masks: usize,
}

impl Play {
    fn new(world: World) -> Self {
        let mut scheduler = Scheduler::new(world.limits);
        scheduler.group_up(world.blocks);
        let rank = RankModel::new(world.blocks, world.limits.block_size);
        Self {
            world,
            scheduler,
            rank,
            up: true,
            kept: false,
            reports: Vec::new(),
            requests: Vec::new(),
            cancelled: HashSet::new(),
            poisonous: HashSet::new(),
            heard: Vec::new(),
            last_started: HashMap::new(),
            held: Vec::new(),
            slow: HashSet::new(),
            pauses: 0,
            masks: 0,
        }
    }

    fn arrive(&mut self, Asked { mut request, guided }: Asked) {
        request.guide = guided.then(|| SharedGuide::new(Rules::new(request.sampling.seed)));
        let key = RequestKey(self.requests.len() as u64);
        self.scheduler.submit(Sequence::new(key, request.clone(), self.world.model_len_max));
        self.requests.push(request);
        self.heard.push(Vec::new());
    }

    fn make(&mut self, next: Move) {
        match next {
            Move::Arrive(asked) => self.arrive(*asked),
            Move::Cancel(index) if !self.requests.is_empty() => {
                let request = index.index(self.requests.len());
                self.scheduler.cancel(RequestKey(request as u64));
                self.cancelled.insert(request);
            }
            Move::Read { whose, enough } if !self.requests.is_empty() => {
                self.read(RequestKey(whose.index(self.requests.len()) as u64), enough);
            }
            Move::Cancel(_) | Move::Read { .. } => {}
            Move::Turn => {
                self.start_group(self.world.blocks);
                self.turn();
            }
            Move::Die { publishes, suspicious } => {
                if publishes && self.up {
                    self.publish();
                }
                self.die(suspicious);
            }
        }
        self.assert_consistent();
    }

    fn assert_consistent(&self) {
        self.scheduler.assert_consistent(|key| self.slow.contains(&key));
    }

    fn read(&mut self, key: RequestKey, enough: bool) {
        if enough {
            self.scheduler.resume(key);
        } else {
            self.scheduler.pause(key);
            self.slow.insert(key);
            self.pauses += 1;
        }
    }

    /// The group dies, and with it what it knew and had not told. Masks and releases on their way are not its concern.
    fn die(&mut self, suspicious: bool) {
        let (ran, replays) = (self.scheduler.running() as u64, self.scheduler.counts.replays);
        let poisonous = self.scheduler.group_down(suspicious);
        assert!(self.scheduler.counts.replays - replays + poisonous.len() as u64 >= ran);
        assert_eq!((self.scheduler.running(), self.scheduler.steps_in_flight()), (0, 0));
        self.poisonous.extend(poisonous.iter().map(|sequence| sequence.key.0 as usize));
        self.reports.clear();
        self.kept = self.world.limits.cache_outlives_ranks && !suspicious && (self.up || self.kept);
        self.up = false;
        self.hear();
    }

    /// A fresh group, with a cache of so many blocks, unless one is up.
    fn start_group(&mut self, blocks: usize) {
        if !std::mem::replace(&mut self.up, true) {
            self.scheduler.group_up(blocks);
            let before = std::mem::replace(&mut self.rank, RankModel::new(blocks, self.world.limits.block_size));
            if self.kept {
                self.rank.inherit(before);
            }
        }
    }

    /// Publishes steps until enough are on their way.
    fn publish(&mut self) {
        let preemptions = self.scheduler.counts.preemptions;
        self.release_held();
        while self.scheduler.steps_in_flight() < self.world.ahead && self.scheduler.schedule() {
            let step = self.scheduler.last_step().expect("one was scheduled").clone();
            self.check_bounds(&step, preemptions);
            self.tell_masks();
            self.reports.push(self.rank.apply(&step));
        }
        self.assert_consistent();
    }

    /// Publishes steps, then settles one. A report reaches the scheduler only then.
    fn turn(&mut self) {
        self.publish();
        if !self.reports.is_empty() {
            let report = self.reports.remove(0);
            self.scheduler.settle(report).expect("the rank answers what it was asked");
            self.note_held();
        } else if self.world.ahead == 1 {
            let nothing_to_do = self.scheduler.has_no_work() || self.scheduler.all_are_held();
            assert!(nothing_to_do, "with something to do, there is a step");
        }
        self.hear();
    }

    fn hear(&mut self) {
        for (key, event) in self.scheduler.events() {
            if matches!(event, Event::Started { .. }) {
                let before = self.last_started.insert(self.requests[key.0 as usize].priority, key);
                assert!(before < Some(key), "among equals: first come, first served");
            }
            self.heard[key.0 as usize].push(event);
        }
    }

    /// What guides would say of the step just scheduled, where it comes in time.
    fn tell_masks(&mut self) {
        for sequence in self.scheduler.choosing() {
            let late = self.world.late.get(self.masks).is_some_and(|&turns| turns > 0);
            self.masks += 1;
            if !late {
                let generated = &sequence.tokens[sequence.prompt_length..];
                let allowed = allowed(sequence.sampling.seed, generated);
                self.rank.masks.insert(sequence.id, (as_u32(sequence.tokens.len()), allowed));
            }
        }
    }

    fn note_held(&mut self) {
        for key in self.scheduler.deferred() {
            let turns = self.world.late.get(self.masks.saturating_sub(1)).copied().unwrap_or(1);
            self.held.push((key, turns));
        }
    }

    fn release_held(&mut self) {
        for (key, turns) in std::mem::take(&mut self.held) {
            match turns {
                0 => self.scheduler.release(key),
                turns => self.held.push((key, turns - 1)),
            }
        }
    }

    fn check_bounds(&self, step: &Step, preemptions_before: u64) {
        let limits = &self.world.limits;
        let tokens = step.rows();
        assert!((1..=limits.batch_tokens_max).contains(&tokens));
        assert!(step.batch.len() <= limits.sequences_max);
        assert!(step.batch.iter().map(|chunk| chunk.scored.len()).sum::<usize>() <= limits.scored_max);
        assert_eq!(self.scheduler.counts.batch_tokens, tokens as u64);
        let introduced: usize = step.started.iter().map(|sequence| sequence.tokens.len() + 1).sum();
        assert!(step.started.len() <= 1 || introduced <= limits.introduced_tokens_max);
        let preempted = self.scheduler.counts.preemptions > preemptions_before;
        let only_new = step.batch.len() == step.started.len();
        let admits = !step.started.is_empty() && !only_new;
        assert!(self.world.ahead > 1 || !preempted || !admits, "no admission in a step that preempts");
    }

    /// Turns until all is done, with readers who have caught up. The most urgent gets a token in each, unless it is held;
    /// and none computes anything again but for a more urgent one.
    fn finish(&mut self) {
        let lengths: usize =
            self.requests.iter().map(|request| request.prompt.len() + request.max_tokens as usize).sum();
        let alike = self.requests.windows(2).all(|pair| pair[0].priority == pair[1].priority);
        let again = if alike { 1 } else { self.requests.len() + 1 };
        self.slow.clone().into_iter().for_each(|key| self.read(key, true));
        let again = again + self.pauses;
        let late: usize = self.world.late.iter().map(|turns| turns + 2).sum();
        let turns_max = ((lengths + 1) * again + late) * self.world.ahead;
        let turns = (0..turns_max).take_while(|_| {
            self.make(Move::Turn);
            !self.scheduler.has_no_work()
        });
        assert!(turns.count() < turns_max, "somebody starves");
        assert_eq!(self.scheduler.blocks().held(), 0);
        let counts = &self.scheduler.counts;
        assert_eq!(counts.step_sizes.iter().sum::<u64>(), counts.steps);
    }

    fn check_outcome(&self, request: usize) {
        let (asked, heard) = (&self.requests[request], &self.heard[request]);
        let tokens_max = self.world.blocks * self.world.limits.block_size;
        if asked.prompt.len() >= tokens_max {
            return assert!(matches!(heard[..], [Event::Failed(Failure::TooLarge(_))]));
        }
        let expected = expected(asked, self.world.model_len_max, tokens_max);
        if self.poisonous.contains(&request) {
            return assert!(begins_with(&expected, &gathered(heard)), "until it was given up");
        }
        assert_eq!(gathered(heard), expected, "as if it were alone");
        let Event::Started { cached_tokens } = heard[0] else { panic!("it starts first: {heard:?}") };
        assert!((cached_tokens as usize) < asked.prompt.len());
        let whole = asked.prompt_logprobs.is_some() || asked.pooling == Some(Pooling::Mean);
        assert!(!whole || cached_tokens == 0, "all of it had to be calculated");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_everybody_is_served_as_if_alone(world in worlds(), moves in moves(false)) {
        play_out(world, moves);
    }

    #[test]
    fn whenever_groups_die_everybody_is_served_as_if_they_lived(world in worlds(), moves in moves(true)) {
        play_out(world, moves);
    }
}

fn play_out(world: World, moves: Vec<Move>) {
    let mut play = Play::new(world);
    for next in moves {
        play.make(next);
    }
    play.finish();
    for request in (0..play.requests.len()).filter(|request| !play.cancelled.contains(request)) {
        play.check_outcome(request);
    }
}

/// Whether these are the first of all events. The last of them may be log-probabilities that are not complete.
fn begins_with(all: &[Event], heard: &[Event]) -> bool {
    let Some((last, before)) = heard.split_last() else { return true };
    let whole = all.starts_with(heard);
    whole
        || (all.starts_with(before)
            && matches!((&all[before.len()], last),
        (Event::PromptLogprobs(all), Event::PromptLogprobs(some)) if all.starts_with(some)))
}

fn request(prompt: &[u32], max_tokens: u32) -> NewRequest {
    let (prompt, sampling) = (prompt.to_vec(), Sampling::default());
    NewRequest { id: String::new(), prompt, sampling, max_tokens, ..NewRequest::default() }
}

/// Blocks of two tokens.
fn play(blocks: usize, batch_tokens_max: usize, requests: &[NewRequest]) -> Play {
    play_with(None, blocks, batch_tokens_max, requests)
}

fn play_with(
    speculation: Option<speculation::Settings>,
    blocks: usize,
    batch_tokens_max: usize,
    requests: &[NewRequest],
) -> Play {
    let (introduced_tokens_max, prefix_caching) = (20, true);
    let (scored_max, embeddings_max) = (4, 1);
    let limits = Limits {
        block_size: 2,
        batch_tokens_max,
        prompt_tokens_beside: batch_tokens_max,
        sequences_max: 8,
        introduced_tokens_max,
        scored_max,
        embeddings_max,
        prefix_caching,
        cache_outlives_ranks: false,
        speculation,
    };
    let mut play = Play::new(World { limits, blocks, model_len_max: 100, ahead: 1, late: Vec::new() });
    requests.iter().for_each(|request| arrive(&mut play, request.clone()));
    play
}

fn arrive(play: &mut Play, request: NewRequest) {
    play.make(Move::Arrive(Box::new(Asked { request, guided: false })));
}

fn next_step(play: &mut Play) -> Step {
    assert!(play.scheduler.schedule(), "a step");
    play.scheduler.last_step().expect("it is on its way").clone()
}

/// `start..end` of each chunk of the next step.
fn next_chunks(play: &mut Play) -> Vec<(u64, u32, u32)> {
    let step = next_step(play);
    let report = play.rank.apply(&step);
    play.scheduler.settle(report).expect("a report");
    step.batch.iter().map(|chunk| (chunk.id.0, chunk.start, chunk.start + chunk.count)).collect()
}

#[test]
fn decode_goes_before_prefill_and_prefill_in_chunks() {
    let mut play = play(50, 4, &[request(&[1, 2, 3], 9), request(&[4; 9], 9), request(&[5; 3], 9)]);
    assert_eq!(next_chunks(&mut play), [(1, 0, 3), (2, 0, 1)]);
    assert_eq!(next_chunks(&mut play), [(1, 3, 4), (2, 1, 4)]);
    assert_eq!(next_chunks(&mut play), [(1, 4, 5), (2, 4, 7)]);
    assert_eq!(next_chunks(&mut play), [(1, 5, 6), (2, 7, 9), (3, 0, 1)]);
    assert_eq!(next_chunks(&mut play), [(1, 6, 7), (2, 9, 10), (3, 1, 3)]);
    play.finish();
}

#[test]
fn the_last_admitted_gives_way_and_comes_back_under_another_id() {
    let mut play = play(4, 20, &[request(&[1, 2, 3], 6), request(&[4, 5, 6], 6)]);
    assert_eq!(next_chunks(&mut play), [(1, 0, 3), (2, 0, 3)]);
    assert_eq!(next_chunks(&mut play), [(1, 3, 4), (2, 3, 4)]);
    assert_eq!(next_chunks(&mut play), [(1, 4, 5)]);
    assert_eq!((play.scheduler.counts.preemptions, play.scheduler.waiting()), (1, 1));
    play.finish();
    assert_eq!(play.rank.last_id, 3);
    (0..2).for_each(|index| play.check_outcome(index));
}

#[test]
fn a_prompt_is_admitted_once_all_of_it_would_fit() {
    let mut play = play(4, 3, &[request(&[1, 2, 3], 2), request(&[4; 6], 1)]);
    assert_eq!(next_chunks(&mut play), [(1, 0, 3)]);
    assert_eq!(next_chunks(&mut play), [(1, 3, 4)], "three blocks are needed, two are left");
    assert_eq!(next_chunks(&mut play), [(2, 0, 3)]);
    assert_eq!(next_chunks(&mut play), [(2, 3, 6)]);
}

#[test]
fn a_prompt_seen_before_is_found_up_to_its_last_token() {
    let prompt = [1, 2, 3, 4, 5, 6];
    let mut play = play(50, 20, &[request(&prompt, 3)]);
    play.finish();
    arrive(&mut play, request(&prompt, 3));
    assert_eq!(next_chunks(&mut play), [(2, 4, 6)]);
    play.finish();
    let token_of = |event: &Event| match event {
        Event::Token { token, .. } => Some(*token),
        _ => None,
    };
    let generated: Vec<_> = play.heard[1].iter().filter_map(token_of).collect();
    let answer = [&prompt[..], &generated].concat();
    arrive(&mut play, request(&answer, 3));
    assert_eq!(next_chunks(&mut play), [(3, 8, 9)], "generated tokens are cached too");
    let Counts { prefix_queried_tokens, prefix_hit_tokens, prompt_tokens, .. } = play.scheduler.counts;
    assert_eq!((prefix_queried_tokens, prefix_hit_tokens, prompt_tokens), (6 + 6 + 9, 4 + 8, 6 + 2 + 1));
}

#[test]
fn a_prompt_is_found_by_those_of_its_salt_only() {
    let prompt = [1, 2, 3, 4, 5, 6];
    let salted = |salt: Option<&str>| NewRequest { cache_salt: salt.map(str::to_owned), ..request(&prompt, 3) };
    let mut play = play(50, 20, &[salted(Some("a"))]);
    play.finish();
    for (id, salt, start) in [(2, None, 0), (3, Some("b"), 0), (4, Some("a"), 4), (5, None, 4)] {
        arrive(&mut play, salted(salt));
        assert_eq!(next_chunks(&mut play), [(id, start, 6)], "{salt:?}");
        play.finish();
    }
}

#[test]
fn the_urgent_are_admitted_first_and_give_way_last() {
    let urgent = |priority, token| NewRequest { priority, ..request(&[token; 3], 6) };
    let mut play = play(4, 20, &[urgent(7, 1), urgent(-7, 2)]);
    assert_eq!(next_chunks(&mut play), [(1, 0, 3), (2, 0, 3)]);
    assert_eq!(play.heard.iter().map(Vec::len).collect::<Vec<_>>(), [0, 0]);
    assert_eq!(next_chunks(&mut play), [(1, 3, 4), (2, 3, 4)]);
    assert_eq!(next_chunks(&mut play), [(1, 4, 5)], "the second to come runs on, the first gave way");
    assert_eq!((play.scheduler.counts.preemptions, play.scheduler.waiting()), (1, 1));
    arrive(&mut play, urgent(8, 3));
    play.finish();
    (0..3).for_each(|index| play.check_outcome(index));
    assert_eq!(play.last_started.len(), 3);
}

#[test]
fn a_choice_without_its_mask_is_put_off_and_made_again() {
    let mut play = play(50, 20, &[]);
    play.world.late = vec![1];
    play.make(Move::Arrive(Box::new(Asked { request: request(&[1, 2, 3], 2), guided: true })));
    arrive(&mut play, request(&[4, 5, 6], 4));
    play.turn();
    assert_eq!((play.scheduler.counts.deferrals, play.held.len()), (1, 1));
    assert_eq!(next_chunks(&mut play), [(2, 3, 4)], "the other goes on");
    play.scheduler.release(RequestKey(0));
    play.held.clear();
    assert!(play.scheduler.schedule());
    let step = play.scheduler.last_step().expect("a step");
    let chunks: Vec<_> = step.batch.iter().map(|chunk| (chunk.id.0, chunk.start, chunk.count)).collect();
    assert_eq!(chunks, [(1, 2, 1), (2, 4, 1)], "its last token again");
}

#[test]
fn who_says_the_same_again_gets_several_tokens_in_a_step() {
    let settings = speculation::Settings { draft_max: 3, ngram_min: 1, ngram_max: 4 };
    let mut play = play_with(Some(settings), 50, 20, &[request(&[1], 40)]);
    play.finish();
    play.check_outcome(0);
    let Counts { steps, generation_tokens, drafts, draft_tokens, accepted_tokens, .. } = play.scheduler.counts;
    assert_eq!(generation_tokens, 40);
    // A chain over 13 tokens is in its circle after 13 at the latest; from then on all drafts are right.
    assert!(steps <= 13 + 2 + 27_u64.div_ceil(4), "{steps} steps");
    assert!(draft_tokens <= 3 * drafts && accepted_tokens >= 3 * (27 / 4) && steps + accepted_tokens == 40);
}

#[test]
fn nobody_loses_blocks_for_a_draft() {
    let settings = speculation::Settings { draft_max: 3, ngram_min: 1, ngram_max: 4 };
    let requests = [request(&[5, 5, 5, 5], 9), request(&[6, 6, 6, 6], 9)];
    let mut play = play_with(Some(settings), 6, 10, &requests);
    let drafts = |step: &Step| step.batch.iter().map(|chunk| chunk.draft.len()).collect::<Vec<_>>();
    assert_eq!(next_chunks(&mut play), [(1, 0, 4), (2, 0, 4)]);
    play.scheduler.find(RequestKey(0)).expect("it runs").tokens[4] = 5;
    play.scheduler.find(RequestKey(1)).expect("it runs").tokens[4] = 6;
    let step = next_step(&mut play);
    // The last two blocks are for the next token of each, and have room for one more.
    assert_eq!(drafts(&step), [1, 1]);
    assert_eq!(play.scheduler.counts.preemptions, 0);
}

#[test]
fn a_frame_has_a_bound_though_cached_tokens_take_no_budget() {
    let prompt: Vec<_> = (1..10).collect();
    let mut play = play(50, 20, &[request(&prompt, 3)]);
    play.finish();
    (0..3).for_each(|_| arrive(&mut play, request(&prompt, 3)));
    assert_eq!(next_chunks(&mut play), [(2, 8, 9), (3, 8, 9)]);
    assert_eq!(next_chunks(&mut play), [(2, 9, 10), (3, 9, 10), (4, 8, 9)]);
}

#[test]
fn a_sequence_ends_where_the_whole_cache_does() {
    let mut play = play(3, 20, &[request(&[1, 2], 50), request(&[1; 6], 1)]);
    play.finish();
    (0..2).for_each(|index| play.check_outcome(index));
    assert_eq!(play.heard[0].len(), 1 + 5 + 1);
}

#[test]
fn a_report_that_was_not_asked_for_changes_nothing() {
    let mut play = play(9, 20, &[request(&[1, 2], 5)]);
    assert!(play.scheduler.settle(StepReport::default()).is_err());
    let step = next_step(&mut play);
    let right = play.rank.apply(&step);
    let check = |scheduler: &mut Scheduler, spoil: fn(&mut StepReport)| {
        let mut report = right.clone();
        spoil(&mut report);
        assert!(scheduler.settle(report).is_err());
    };
    check(&mut play.scheduler, |report| report.step += 1);
    check(&mut play.scheduler, |report| report.tokens.clear());
    check(&mut play.scheduler, |report| report.tokens[0].id.0 += 1);
    check(&mut play.scheduler, |report| report.tokens.extend(report.tokens.clone()));
    play.scheduler.settle(right.clone()).expect("the right one is still awaited");
    assert!(play.scheduler.settle(right).is_err(), "and only once");
}

/// Publishes a step that the group dies of; which sequences turn out to be poisonous.
fn die_of_next(play: &mut Play) -> Vec<u64> {
    next_step(play);
    die(play)
}

fn die(play: &mut Play) -> Vec<u64> {
    let known = play.poisonous.clone();
    play.die(true);
    let mut poisonous: Vec<_> = play.poisonous.difference(&known).map(|&request| request as u64).collect();
    poisonous.sort_unstable();
    play.start_group(play.world.blocks);
    poisonous
}

#[test]
fn after_a_death_suspects_come_back_one_by_one() {
    let mut play = play(50, 20, &[request(&[1, 2, 3], 9), request(&[4, 5, 6], 9), request(&[7, 8, 9], 9)]);
    assert_eq!(next_chunks(&mut play), [(1, 0, 3), (2, 0, 3), (3, 0, 3)]);
    assert_eq!(die_of_next(&mut play), [0; 0]);
    assert_eq!((play.scheduler.counts.replays, play.scheduler.waiting()), (3, 3));
    assert_eq!(next_chunks(&mut play), [(4, 0, 4)]);
    assert_eq!(next_chunks(&mut play), [(4, 4, 5), (5, 0, 4)]);
    assert_eq!(next_chunks(&mut play), [(4, 5, 6), (5, 4, 5), (6, 0, 4)]);
    play.finish();
    (0..3).for_each(|index| play.check_outcome(index));
}

#[test]
fn what_two_groups_died_of_ends_and_nothing_else() {
    let mut play = play(50, 20, &[request(&[1, 2, 3], 9), request(&[4, 5, 6], 9)]);
    assert_eq!(die_of_next(&mut play), [0; 0]);
    arrive(&mut play, request(&[7, 8, 9], 9));
    assert_eq!(die_of_next(&mut play), [0], "of those in the step it alone was computed at the first death, too");
    play.finish();
    (0..3).for_each(|index| play.check_outcome(index));
    assert_eq!((play.heard[0].len(), play.scheduler.counts.poisonous, play.scheduler.counts.finished), (1, 1, 2));
}

#[test]
fn who_came_further_between_two_deaths_is_not_poisonous() {
    let mut play = play(50, 20, &[request(&[1, 2, 3], 9)]);
    for _ in 0..4 {
        assert_eq!(die_of_next(&mut play), [0; 0]);
        next_chunks(&mut play);
    }
    play.finish();
    play.check_outcome(0);
}

#[test]
fn to_come_as_far_as_before_is_no_progress() {
    let mut play = play(50, 4, &[request(&[1; 9], 9)]);
    assert_eq!(next_chunks(&mut play), [(1, 0, 4)]);
    assert_eq!(die_of_next(&mut play), [0; 0]);
    assert_eq!(next_chunks(&mut play), [(2, 0, 4)]);
    assert_eq!(die_of_next(&mut play), [0]);
}

#[test]
fn who_is_not_being_computed_is_not_suspected() {
    let mut play = play(50, 20, &[request(&[1, 2, 3], 9)]);
    next_chunks(&mut play);
    for _ in 0..3 {
        assert_eq!(die(&mut play), [0; 0], "nothing is on its way");
    }
    play.finish();
    play.check_outcome(0);
}

#[test]
fn the_next_group_s_cache_bounds_what_is_replayed() {
    let mut play = play(50, 20, &[request(&[1], 9), request(&[2; 7], 9), request(&[3; 5], 9)]);
    (0..3).for_each(|_| drop(next_chunks(&mut play)));
    play.die(true);
    play.start_group(3);
    play.turn();
    assert!(matches!(play.heard[1].last(), Some(Event::Failed(Failure::TooLarge(_)))), "prompts of six do not fit");
    assert_eq!(play.heard[2].last(), Some(&Event::Finished(Finish::Length)), "it has eight tokens already");
    play.die(true);
    play.start_group(50);
    play.finish();
    play.check_outcome(0);
}
