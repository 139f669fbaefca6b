//! What anybody may ask about the group at any time.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use workers::link::vitals::{Vitals, VitalsBoard};

use super::{
    report::{RankReport, RanksReport, ReportedState},
    stall::is_stalled,
};
use crate::{
    engine::{EngineHandle, EngineStats},
    liveness::Pulse,
};

/// The group's state: written by the supervisor's thread, read by anybody.
pub struct Status {
    world_size: usize,
    stall_timeout: Duration,
    engine: EngineHandle,
    /// Of the supervisor's own loop.
    pub pulse: Pulse,
    now: Mutex<Now>,
}

/// What changes from start to start.
#[derive(Default)]
struct Now {
    epoch: u64,
    restarts: u64,
    stage: Stage,
    /// Why a group broke last.
    last_error: Option<String>,
    /// Of each rank: its process while it lives.
    pids: Vec<Option<u32>>,
    vitals: Option<Arc<VitalsBoard>>,
}

/// Where the group is in its life.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Stage {
    /// Its ranks start and load.
    #[default]
    Loading,
    /// It takes steps.
    Serving,
    /// It is gone, for this reason.
    Down(String),
}

impl Status {
    /// Of a group that is to be started.
    pub fn new(world_size: usize, stall_timeout: Duration, engine: EngineHandle) -> Self {
        Self { world_size, stall_timeout, engine, pulse: Pulse::default(), now: Mutex::default() }
    }

    /// A start has given these processes and this board.
    pub fn started(&self, epoch: u64, pids: &[u32], vitals: Arc<VitalsBoard>) {
        let mut now = self.now();
        now.restarts += u64::from(epoch > now.epoch);
        now.epoch = epoch;
        now.stage = Stage::Loading;
        now.pids = pids.iter().copied().map(Some).collect();
        now.vitals = Some(vitals);
    }

    /// The engine has the group.
    pub fn serving(&self) {
        self.now().stage = Stage::Serving;
    }

    /// One rank's process has ended.
    pub fn died(&self, rank: usize) {
        if let Some(pid) = self.now().pids.get_mut(rank) {
            *pid = None;
        }
    }

    /// The group broke, for this reason.
    pub fn broke(&self, reason: &str) {
        self.now().last_error = Some(reason.to_owned());
    }

    /// All processes have ended.
    pub fn down(&self, reason: &str) {
        let mut now = self.now();
        now.stage = Stage::Down(reason.to_owned());
        now.pids.clear();
        now.vitals = None;
    }

    /// The body of `GET /ranks`.
    pub fn report(&self) -> RanksReport {
        let (now, stats) = (self.now(), self.engine.stats());
        let rank_report = |rank| match (now.pids.get(rank).copied().flatten(), &now.vitals) {
            (Some(pid), Some(board)) => self.of_living(rank, pid, board.read(rank), &stats),
            _ => RankReport::dead(rank),
        };
        let ranks = (0..self.world_size).map(rank_report).collect();
        let last_error = now.last_error.clone();
        RanksReport { world_size: self.world_size, epoch: now.epoch, restarts: now.restarts, last_error, ranks }
    }

    fn of_living(&self, rank: usize, pid: u32, vitals: Vitals, stats: &EngineStats) -> RankReport {
        let stalled = is_stalled(stats, std::slice::from_ref(&vitals), self.stall_timeout);
        let mut report = RankReport::alive(rank, pid, vitals);
        if report.state == ReportedState::Ready {
            report.kv_blocks_used = stats.blocks_used;
            report.state = if stalled { ReportedState::Stalled } else { ReportedState::Ready };
        }
        report
    }

    /// Whether work can be done; else why not, naming the rank.
    pub fn health(&self) -> Result<(), String> {
        let stage = self.now().stage.clone();
        if let Stage::Down(reason) = stage {
            return Err(format!("the ranks are down: {reason}"));
        }
        match self.report().ranks.iter().find(|rank| rank.state != ReportedState::Ready) {
            Some(RankReport { rank, state: ReportedState::Loading, load_progress, .. }) => {
                Err(format!("rank {rank} is loading, {:.0} % of its weights are there", load_progress * 100.0))
            }
            Some(rank) => Err(format!("rank {} is {}", rank.rank, rank.state)),
            None if stage == Stage::Loading => Err("the ranks are loading".into()),
            None => Ok(()),
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
