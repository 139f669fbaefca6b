//! What anybody may ask about the group at any time.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use workers::link::vitals::VitalsBoard;

use super::report::{RankReport, RanksReport, ReportedState};
use crate::engine::EngineHandle;

/// The group's state: written by the supervisor's thread, read by anybody.
pub struct Status {
    world_size: usize,
    stall_timeout: Duration,
    engine: EngineHandle,
    now: Mutex<Now>,
}

/// What changes from start to start.
#[derive(Default)]
struct Now {
    epoch: u64,
    restarts: u64,
    stage: Stage,
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
        Self { world_size, stall_timeout, engine, now: Mutex::default() }
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

    /// All processes have ended.
    pub fn down(&self, reason: &str) {
        let mut now = self.now();
        now.stage = Stage::Down(reason.to_owned());
        now.pids.clear();
        now.vitals = None;
    }

    /// The body of `GET /ranks`.
    pub fn report(&self) -> RanksReport {
        let now = self.now();
        let kv_blocks_used = self.engine.stats().blocks_used;
        let rank_report = |rank| match (now.pids.get(rank).copied().flatten(), &now.vitals) {
            (Some(pid), Some(board)) => RankReport::alive(rank, pid, board.read(rank)),
            _ => RankReport::dead(rank),
        };
        let mut ranks: Vec<_> = (0..self.world_size).map(rank_report).collect();
        for rank in ranks.iter_mut().filter(|rank| rank.state == ReportedState::Ready) {
            rank.kv_blocks_used = kv_blocks_used;
            if self.is_stalled(rank) {
                rank.state = ReportedState::Stalled;
            }
        }
        RanksReport { world_size: self.world_size, epoch: now.epoch, restarts: now.restarts, ranks }
    }

    /// Whether work can be done; else why not, naming the rank.
    pub fn health(&self) -> Result<(), String> {
        let stage = self.now().stage.clone();
        if let Stage::Down(reason) = stage {
            return Err(format!("the ranks are down: {reason}"));
        }
        match self.report().ranks.iter().find(|rank| rank.state != ReportedState::Ready) {
            Some(rank) => Err(format!("rank {} is {}", rank.rank, rank.state)),
            None if stage == Stage::Loading => Err("the ranks are loading".into()),
            None => Ok(()),
        }
    }

    /// Work is outstanding, and neither this rank nor any report has come for the stall limit.
    fn is_stalled(&self, rank: &RankReport) -> bool {
        let stats = self.engine.stats();
        let silent = stats.since_progress.min(Duration::from_millis(rank.last_progress_ms));
        stats.steps_outstanding && silent >= self.stall_timeout
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
