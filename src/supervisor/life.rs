//! The supervisor's thread: epoch after epoch, it starts the group, watches it, and takes it down.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use tokio::sync::mpsc::UnboundedSender;
use workers::{
    fault::Fault,
    link::vitals::{RankState, Vitals},
    worker::DeviceChoice,
};

use super::{
    AvailableCores, CorePlan, Event, Outcome, SupervisorConfig,
    cause::root_cause,
    group::Group,
    kv_memory::KvMemory,
    leftovers,
    loading::LoadingDisplay,
    ranks::LinkRanks,
    restart::{Failed, RestartPolicy, Verdict},
    stall::{is_stalled, stall_in_loading, tell_stall},
    status::Status,
};
use crate::engine::{EngineHandle, EngineStats, GroupEnd};

/// How often the vitals of a loading group are looked at.
const LOADING_TICK: Duration = Duration::from_millis(20);

/// After the first death: how long others may take to tell a cause that explains it.
const GRACE: Duration = Duration::from_millis(300);

/// All that the thread owns.
pub struct Life {
    pub config: SupervisorConfig,
    pub engine: EngineHandle,
    pub status: Arc<Status>,
    pub events: Receiver<Event>,
    pub exits: Sender<Event>,
    pub outcomes: UnboundedSender<Outcome>,
}

/// Why an epoch ended.
enum End {
    /// The server stops.
    Stopped,
    /// The group broke, for this reason.
    Broken(GroupEnd),
}

/// What a group did from when it was ready until it broke.
#[derive(Default)]
struct Served {
    /// Until it last moved; nothing if it never did a step, for then it has proved nothing.
    time: Duration,
    /// Sequences that the engine had given up by then, because groups died of them.
    poisonous: u64,
}

impl Served {
    fn until_now(ready_at: Instant, steps_before: u64, stats: &EngineStats) -> Self {
        let silence = if stats.steps_outstanding { stats.since_progress } else { Duration::ZERO };
        let moved = ready_at.elapsed().saturating_sub(silence);
        let time = if stats.steps_total > steps_before { moved } else { Duration::ZERO };
        Self { time, poisonous: stats.poisonous_total }
    }
}

impl Life {
    /// Lives until the server stops, the first start fails or too many restarts were needed.
    pub fn live(self) {
        let swept = leftovers::sweep(Path::new(leftovers::SHARED_MEMORY), SystemTime::now());
        if swept > 0 {
            tracing::info!("removed {swept} shared-memory segments that a killed server had left");
        }
        let plan = self.core_plan();
        let ranks = if self.config.worker.device == DeviceChoice::Cpu { self.config.worker.world_size } else { 0 };
        let kv_memory = match KvMemory::for_ranks(ranks) {
            Ok(kv_memory) => kv_memory,
            Err(error) => return self.tell(Outcome::LoadFailed(format!("no memory for the KV cache: {error}"))),
        };
        let (born, mut policy) = (Instant::now(), RestartPolicy::new(self.config.restarts_max));
        let mut was_ready = false;
        for epoch in 0.. {
            let (end, served) = self.one_epoch(epoch, &plan, &kv_memory);
            let End::Broken(GroupEnd { reason, .. }) = end else { return };
            was_ready |= served.is_some();
            if !was_ready {
                return self.tell(Outcome::LoadFailed(reason));
            }
            let Served { time, poisonous } = served.unwrap_or_default();
            match policy.failed(Failed { at: born.elapsed(), served: time, poisonous }) {
                Verdict::GiveUp => return self.tell(Outcome::GaveUp(reason)),
                Verdict::RestartAfter(pause) => {
                    tracing::error!("{reason}; starting all ranks again in {} s", pause.as_secs_f32());
                    if self.is_stopped_within(pause) {
                        return;
                    }
                }
            }
        }
    }

    fn core_plan(&self) -> CorePlan {
        let SupervisorConfig { threads_per_rank, gpus, .. } = &self.config;
        let available = AvailableCores::of_this_process();
        match gpus.is_empty() {
            true => CorePlan::new(self.config.worker.world_size, *threads_per_rank, &available),
            false => CorePlan::beside(gpus, *threads_per_rank, &available, Path::new("/")),
        }
    }

    /// One start of the group, from its birth until nothing is left of it; and how it served, if it was ready.
    fn one_epoch(&self, epoch: u64, plan: &CorePlan, kv_memory: &KvMemory) -> (End, Option<Served>) {
        let exits = self.exits.clone();
        let on_exit = move |rank| drop(exits.send(Event::Exited { epoch, rank }));
        let (mut group, ranks) = match Group::start(&self.config, plan, kv_memory, epoch, on_exit) {
            Ok(started) => started,
            Err(error) => return (End::Broken(error.to_string().into()), None),
        };
        self.status.started(epoch, &group.pids(), group.board());
        let (end, served) = match self.load(&mut group) {
            Ok(kv_blocks) => {
                let (ready_at, steps_before) = (Instant::now(), self.engine.stats().steps_total);
                let end = self.serve(&mut group, ranks, kv_blocks, plan);
                // Before the engine hears of this end: what it gives up then, the next group proves right or wrong.
                (end, Some(Served::until_now(ready_at, steps_before, &self.engine.stats())))
            }
            Err(end) => (end, None),
        };
        self.take_down(group, &end);
        (end, served)
    }

    /// Waits until every rank is ready; answers the KV blocks that all have room for.
    fn load(&self, group: &mut Group) -> Result<usize, End> {
        let mut display = LoadingDisplay::new(self.config.worker.world_size);
        loop {
            if let Some(end) = self.next_event(group, LOADING_TICK, Alarms::Stale) {
                return Err(end);
            }
            let vitals = group.vitals();
            display.show(&vitals);
            self.config.fault.iter().for_each(|fault| fault.strike_loading());
            group.unlink_when_attached();
            if let Some(end) = self.loading_fault(group, &vitals) {
                return Err(end);
            }
            if vitals.iter().all(|vitals| vitals.state == RankState::Ready) {
                let kv_blocks = vitals.iter().map(|vitals| vitals.kv_blocks_total).min().unwrap_or(0);
                return Ok(kv_blocks as usize);
            }
        }
    }

    /// A rank that says it failed, or that says nothing for too long.
    fn loading_fault(&self, group: &mut Group, vitals: &[Vitals]) -> Option<End> {
        if let Some(rank) = vitals.iter().position(|vitals| vitals.state == RankState::Failed) {
            return Some(self.broken_by(group, rank));
        }
        let silence = stall_in_loading(&group.pids(), vitals, self.config.stall_timeout)?;
        Some(End::Broken(tell_stall(&group.pids(), vitals, silence).into()))
    }

    /// Hands the group to the engine and watches until something ends it.
    fn serve(&self, group: &mut Group, ranks: LinkRanks, kv_blocks: usize, plan: &CorePlan) -> End {
        self.engine.group_up(Box::new(ranks), kv_blocks);
        self.status.serving();
        self.tell(Outcome::Ready { epoch: group.epoch(), kv_blocks, threads_per_rank: plan.threads_per_rank });
        let tick = (self.config.stall_timeout / 10).clamp(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            if let Some(end) = self.next_event(group, tick, Alarms::Fresh) {
                return end;
            }
            let vitals = group.vitals();
            if let Some(rank) = vitals.iter().position(|vitals| vitals.state == RankState::Failed) {
                return self.broken_by(group, rank);
            }
            let stats = self.engine.stats();
            if let Some(fault) = self.config.fault {
                self.strike(fault, &stats);
            }
            if is_stalled(&stats, &vitals, self.config.stall_timeout) {
                return End::Broken(tell_stall(&group.pids(), &vitals, self.config.stall_timeout).into());
            }
        }
    }

    /// Does what tests want to go wrong here, if its moment has come.
    fn strike(&self, fault: Fault, stats: &EngineStats) {
        fault.strike_after(stats.steps_total);
        if !stats.steps_outstanding {
            fault.strike_idle();
        }
    }

    /// Waits for one event, at most `timeout`; answers how it ends the epoch, if it does.
    fn next_event(&self, group: &mut Group, timeout: Duration, alarms: Alarms) -> Option<End> {
        self.status.pulse.beat();
        match (self.events.recv_timeout(timeout), alarms) {
            (Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected), _) => Some(End::Stopped),
            (Ok(Event::Exited { epoch, rank }), _) if epoch == group.epoch() => Some(self.broken_by(group, rank)),
            (Ok(Event::Alarm(reason)), Alarms::Fresh) => Some(self.broken_by_alarm(group, reason)),
            _ => None,
        }
    }

    /// One rank is known to be lost: listens a moment longer where that may be the consequence of another's end.
    fn broken_by(&self, group: &mut Group, rank: usize) -> End {
        let deadline = Instant::now() + GRACE;
        group.note_death(rank);
        self.status.died(rank);
        while group.fates().iter().all(|fate| fate.is_consequence() || fate.exit.is_none()) {
            match self.events.recv_deadline(deadline) {
                Ok(Event::Exited { epoch, rank }) if epoch == group.epoch() => {
                    group.note_death(rank);
                    self.status.died(rank);
                }
                Ok(Event::Stop) => return End::Stopped,
                Ok(_) => {}
                Err(_) => break,
            }
        }
        End::Broken(root_cause(&group.fates()))
    }

    /// The engine's link broke: most likely since a rank is dying at this moment, which says more.
    fn broken_by_alarm(&self, group: &mut Group, reason: String) -> End {
        match self.events.recv_timeout(GRACE) {
            Ok(Event::Exited { epoch, rank }) if epoch == group.epoch() => self.broken_by(group, rank),
            Ok(Event::Stop) => End::Stopped,
            _ => End::Broken(reason.into()),
        }
    }

    /// Leaves no process, and lets the engine and the onlookers know.
    fn take_down(&self, group: Group, end: &End) {
        match end {
            End::Stopped => {
                self.engine.group_down("the server is stopping".into());
                group.stop();
                self.status.down("the server is stopping");
            }
            End::Broken(end) => {
                self.status.broke(&end.reason);
                self.engine.group_down(end.clone());
                group.kill();
                self.status.down(&end.reason);
            }
        }
    }

    /// Waits out a pause; answers whether the server stops meanwhile.
    fn is_stopped_within(&self, pause: Duration) -> bool {
        let deadline = Instant::now() + pause;
        loop {
            self.status.pulse.beat();
            match self.events.recv_deadline(deadline) {
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return true,
                Err(RecvTimeoutError::Timeout) => return false,
                Ok(_) => {}
            }
        }
    }

    /// A server that listens no more needs no news.
    fn tell(&self, outcome: Outcome) {
        let _ = self.outcomes.send(outcome);
    }
}

/// Whether the engine's alarms can be about this group: before it was handed over, they are about the one before.
#[derive(Clone, Copy)]
enum Alarms {
    Stale,
    Fresh,
}
