//! The deciding loop: admit → schedule → publish → collect → deliver.
//!
//! [`sequence`], [`scheduler`], [`speculation`] and [`block_pool`] are pure values: no I/O, no clock, no device. The loop
//! itself runs on a thread of its own, joined to the API by [`EngineHandle`] and to the ranks by [`Ranks`].

pub mod block_pool;
mod clients;
mod flow;
pub mod guide;
mod guides;
mod handle;
#[cfg(test)]
mod rank_model;
mod ranks;
pub mod request;
pub mod scheduler;
pub mod sequence;
#[cfg(test)]
mod simulation;
pub mod speculation;
mod stats;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    ops::ControlFlow,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use crossbeam::{
    channel::{Receiver, at, never, unbounded},
    select,
};
use tokio::sync::watch;
use workers::fault::Fault;

use self::{
    clients::Clients,
    guides::{Guides, News},
    handle::Command,
    request::{Event, Failure},
    scheduler::{Limits, Scheduler},
    sequence::{RequestKey, Sequence},
    stats::Board,
};

pub use self::{
    handle::{EngineHandle, RequestStream},
    ranks::{GroupEnd, Masks, Ranks, RanksError},
    scheduler::STEP_SIZES,
    stats::EngineStats,
};

/// How long the loop waits for a report before it looks at its commands: a group's end is noticed within this.
const COLLECT_TIMEOUT: Duration = Duration::from_millis(50);

/// Most requests that one line of the log names.
const NAMED_MAX: usize = 8;

/// The engine's bounds, fixed at its start. All are at least one, `waiting_max` excepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// Tokens in a KV block.
    pub block_size: usize,
    /// Most tokens in a step.
    pub batch_tokens_max: usize,
    /// Most tokens of prompts in a step, where sequences that are past theirs wait for their next token.
    pub prompt_tokens_beside: usize,
    /// Most sequences running at once.
    pub sequences_max: usize,
    /// Longest sequence, tokens.
    pub model_len_max: usize,
    /// Most sequences that wait beside `sequences_max` others; more are refused with `QueueFull`.
    pub waiting_max: usize,
    /// Whether the KV of prefixes seen before is used again.
    pub prefix_caching: bool,
    /// Whether what the ranks' caches hold outlives them, where somebody kills them from outside.
    pub cache_outlives_ranks: bool,
    /// Most steps on their way to the ranks: two are worth while where ranks begin one before they have told of the last.
    pub steps_at_once: usize,
    /// Whether tokens are drafted, and how. Then no step begins before the last was told: nobody knows how far it came.
    pub speculation: Option<speculation::Settings>,
    /// What tests want to go wrong in the loop.
    pub fault: Option<Fault>,
}

/// Told that the ranks answered nonsense or not at all, in words for the log. Called on the engine's thread: keep it short.
pub type OnBroken = Box<dyn Fn(String) + Send>;

/// The loop and what it owns.
pub struct Engine {
    config: EngineConfig,
    scheduler: Scheduler,
    ranks: Option<Box<dyn Ranks>>,
    clients: Clients,
    guides: Guides,
    commands: Receiver<Command>,
    /// Whether there was nothing to schedule, the last time: only a command or a guide can change that.
    stuck: bool,
    /// When a step was last published.
    published_at: Instant,
    board: Arc<Board>,
    on_broken: OnBroken,
}

impl Engine {
    /// Starts the loop on a thread of its own, without ranks yet.
    pub fn start(config: EngineConfig, on_broken: OnBroken) -> EngineHandle {
        let (sender, commands) = unbounded();
        let board = Arc::new(Board::default());
        let scheduler = Scheduler::new(Limits::of(&config));
        let clients = Clients::new(board.clone());
        let (ranks, guides, shared, own) = (None, Guides::start(), board.clone(), config.clone());
        let engine = Self {
            config: own,
            scheduler,
            ranks,
            clients,
            guides,
            commands,
            stuck: false,
            published_at: Instant::now(),
            board,
            on_broken,
        };
        let (alive, running) = watch::channel(());
        let life = move || {
            let _alive = alive; // closed by whatever ends this thread
            engine.run();
        };
        let thread = thread::Builder::new().name("sw-engine".into()).spawn(life);
        EngineHandle::new(config, shared, sender, thread.expect("the system can start a thread"), running)
    }

    /// The whole server in one loop. What a step gave is delivered while the ranks compute the next one.
    fn run(mut self) {
        while self.admit().is_continue() {
            let outcome = self.schedule_and_publish();
            self.deliver();
            let outcome = outcome.and_then(|()| self.collect());
            if let Err(broken) = outcome {
                self.give_up_group(broken.to_string());
            }
        }
        self.refuse_all();
    }

    /// Whatever is outstanding or was just submitted fails: the loop has ended.
    fn refuse_all(&mut self) {
        self.deliver();
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Submit { key, outlet, .. } = command {
                self.clients.add(key, outlet, None);
            }
        }
        self.clients.fail_all(Failure::Stopped);
    }

    /// Takes all commands and what guides have said; while there's nothing to do, waits for one.
    fn admit(&mut self) -> ControlFlow<()> {
        if self.is_idle() {
            self.wait()?;
        }
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command)?;
        }
        while let Ok(news) = self.guides.news.try_recv() {
            self.hear(news);
        }
        for key in self.clients.waited_too_long() {
            self.scheduler.cancel(key);
        }
        ControlFlow::Continue(())
    }

    fn is_idle(&self) -> bool {
        self.scheduler.has_no_events() && (self.ranks.is_none() || self.stuck)
    }

    /// Waits for a command, a guide or a deadline. Breaks where nobody is left who could give a command.
    fn wait(&mut self) -> ControlFlow<()> {
        if self.ranks.is_some() {
            self.config.fault.iter().for_each(|fault| fault.strike_idle());
        }
        let deadline = self.clients.next_deadline().map_or_else(never, at);
        select! {
            recv(self.commands) -> command => match command {
                Ok(command) => self.obey(command)?,
                Err(_) => return ControlFlow::Break(()),
            },
            recv(self.guides.news) -> news => if let Ok(news) = news {
                self.hear(news);
            },
            recv(deadline) -> _ => {}
        }
        ControlFlow::Continue(())
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Ready(key) => self.scheduler.release(key),
            News::Failed(key, why) => {
                // What it had generated until then is told first.
                self.deliver();
                self.scheduler.cancel(key);
                self.clients.tell(key, Event::Failed(Failure::Guide(why)));
            }
        }
    }

    fn obey(&mut self, command: Command) -> ControlFlow<()> {
        match command {
            Command::Submit { key, request, outlet } => {
                self.clients.add(key, outlet, request.max_waiting);
                self.scheduler.submit(Sequence::new(key, *request, self.config.model_len_max));
            }
            Command::Cancel(key) => {
                self.scheduler.cancel(key);
                self.clients.abort(key);
            }
            Command::Resume(key) => self.scheduler.resume(key),
            Command::GroupUp { ranks, kv_blocks } => {
                if let Err(unfit) = self.group_up(ranks, kv_blocks) {
                    self.give_up_group(unfit.to_string());
                }
            }
            Command::GroupDown(end) => self.group_down(&end),
            // Whoever asked may have given up waiting.
            Command::GiveSign(sign) => drop(sign.send(())),
            Command::Stop { ranks_lost } => {
                ranks_lost.into_iter().for_each(|reason| self.lose_started(&reason));
                return ControlFlow::Break(());
            }
        }
        self.board.update(&self.scheduler);
        ControlFlow::Continue(())
    }

    /// Publishes the next step, where there is one to compute; or further ones, where the ranks begin a step before they
    /// have told of the last. Guides are asked first: a mask that is there already shall not come too late again.
    fn schedule_and_publish(&mut self) -> Result<(), RanksError> {
        let Some(ranks) = &mut self.ranks else { return Ok(()) };
        let bears_another = |scheduler: &Scheduler| match scheduler.steps_in_flight() {
            0 => true,
            steps => steps < self.config.steps_at_once && scheduler.may_run_ahead(),
        };
        while bears_another(&self.scheduler) && self.scheduler.schedule() {
            self.scheduler.choosing().for_each(|sequence| self.guides.ask(sequence));
            if let Some(step) = self.scheduler.last_step() {
                self.config.fault.iter().for_each(|fault| fault.strike_at(step));
                ranks.publish(step)?;
                self.published_at = Instant::now();
            }
            self.board.note_progress();
        }
        self.stuck = self.scheduler.steps_in_flight() == 0;
        self.board.update(&self.scheduler);
        Ok(())
    }

    /// Waits a while for the report of the step on its way.
    fn collect(&mut self) -> Result<(), RanksError> {
        let Some(ranks) = &mut self.ranks else { return Ok(()) };
        if self.scheduler.steps_in_flight() > 0
            && let Some(report) = ranks.collect(COLLECT_TIMEOUT)?
        {
            self.scheduler.took(self.published_at.elapsed());
            self.scheduler.settle(report)?;
            self.scheduler.deferred().into_iter().for_each(|key| self.go_on_if_ready(key));
            self.board.note_progress();
        }
        self.board.update(&self.scheduler);
        Ok(())
    }

    /// A sequence whose mask came too late waits for it, but not for one that has come meanwhile.
    fn go_on_if_ready(&mut self, key: RequestKey) {
        if let Some(sequence) = self.scheduler.find(key)
            && self.guides.has_mask(sequence)
        {
            self.scheduler.release(key);
        }
    }

    /// Whoever is too far behind with reading waits until its reader has caught up, and nobody else does.
    fn deliver(&mut self) {
        let mut behind = Vec::new();
        for (key, event) in self.scheduler.events() {
            if self.clients.tell(key, event) {
                behind.push(key);
            }
        }
        for key in behind {
            self.scheduler.pause(key);
        }
    }

    fn group_up(&mut self, ranks: Box<dyn Ranks>, kv_blocks: usize) -> Result<(), RanksError> {
        if self.ranks.is_some() {
            self.group_down(&"its ranks were replaced".into());
        }
        // The ranks number slots with 32 bits; and with no block at all, requests would wait for ever.
        let slots = kv_blocks.checked_mul(self.config.block_size).and_then(|slots| u32::try_from(slots).ok());
        if slots.is_none_or(|slots| slots == 0) {
            return Err(RanksError::Protocol(format!("{kv_blocks} KV blocks can't be worked with")));
        }
        self.scheduler.group_up(kv_blocks);
        self.board.cache_tokens_max.store(self.scheduler.blocks().tokens_max(), Relaxed);
        self.board.ranks_up.store(true, Relaxed);
        self.guides.publish_to(Some(ranks.masks()));
        self.ranks = Some(ranks);
        Ok(())
    }

    /// Running sequences are replayed: each continues with the same tokens from where it was, because sampling depends on
    /// seed and position only. A group that was never up, or is down already, has nothing to lose.
    fn group_down(&mut self, GroupEnd { reason, is_suspicious }: &GroupEnd) {
        if self.ranks.take().is_none() {
            return;
        }
        self.guides.publish_to(None);
        let computing = names(self.scheduler.in_flight().map(|sequence| sequence.request_id.as_str()).collect());
        let replays = self.scheduler.counts.replays;
        let poisonous = self.scheduler.group_down(*is_suspicious);
        let (replayed, waiting) = (self.scheduler.counts.replays - replays, self.scheduler.waiting());
        self.board.ranks_up.store(false, Relaxed);
        self.board.update(&self.scheduler);
        self.deliver();
        for sequence in poisonous {
            tracing::error!(request = sequence.request_id, reason, "twice the ranks were lost over it: it is given up");
            self.clients.tell(sequence.key, Event::Failed(Failure::Poisonous(reason.clone())));
        }
        tracing::warn!(replayed, waiting, computing, "the ranks are gone: whoever ran goes on with the next ones");
    }

    /// No group will come any more: what had begun fails for want of it.
    fn lose_started(&mut self, reason: &str) {
        self.deliver();
        for key in self.scheduler.started() {
            self.clients.tell(key, Event::Failed(Failure::RanksLost(reason.to_owned())));
        }
    }

    fn give_up_group(&mut self, reason: String) {
        tracing::error!(reason, "the group of ranks is of no use any more");
        self.group_down(&reason.as_str().into());
        (self.on_broken)(reason);
    }
}

/// Requests for one line of a log.
fn names(requests: BTreeSet<&str>) -> String {
    let named = requests.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(" ");
    match requests.len().saturating_sub(NAMED_MAX) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// However the loop ended, nobody shall believe that it would still take requests.
impl Drop for Engine {
    fn drop(&mut self) {
        self.board.ranks_up.store(false, Relaxed);
    }
}
