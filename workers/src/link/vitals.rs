//! One page of counters per rank, left in shared memory by the rank's own step loop.
//!
//! Only the loop itself writes them: a side thread would live on, and look healthy, while the loop hangs. What the
//! device's sensors say is the exception, and no sign of life: it has a pen of its own, [`SensorsWriter`].

use std::{
    cell::Cell,
    marker::PhantomData,
    sync::{
        Arc,
        atomic::Ordering::{Acquire, Relaxed, Release},
    },
    time::Duration,
};

use kernels::sensors::Reading;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::{
    error::LinkError,
    page::{BoardHeader, Page, UNTOLD},
    shm::{PAGE_BYTES, Segment, View},
};

/// How long what the sensors said is true.
const READING_AGE_MAX: Duration = Duration::from_secs(10);

/// What a rank is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u32)]
pub enum RankState {
    /// The process is on its way to attach.
    Starting = 0,
    /// Weights are being read.
    Loading = 1,
    /// Steps are taken.
    Ready = 2,
    /// It has given up and said why.
    Failed = 3,
}

/// What a rank does at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u32)]
pub enum Phase {
    /// Waiting for a step.
    Idle = 0,
    /// Reading weights.
    Load = 1,
    /// The model's forward pass, its collectives included.
    Forward = 2,
    /// Choosing tokens, and learning them from rank 0.
    Sample = 3,
    /// Writing the report.
    Report = 4,
}

/// One rank's vitals, read at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Vitals {
    /// What the rank is.
    pub state: RankState,
    /// What it does.
    pub phase: Phase,
    /// The last step taken.
    pub step: u64,
    /// Milliseconds since the rank's loop last moved (took a step, finished one, loaded a tensor).
    pub last_progress_ms: u64,
    /// Share of its weights read, `0..=1`.
    pub load_progress: f32,
    /// Duration of the last step, microseconds.
    pub step_time_us: u64,
    /// How long it has waited for other ranks in collectives since its start, microseconds; none where the device doesn't tell.
    pub collective_wait_us: Option<u64>,
    /// Tokens computed since its start (prompt and decode).
    pub tokens_total: u64,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
    /// Memory in use on the device for weights and KV cache, bytes.
    pub device_memory_bytes: u64,
    /// KV blocks that this rank has room for.
    pub kv_blocks_total: u64,
    /// What the device's sensors said last; none where it has none, or where they have been silent for a while.
    pub reading: Option<Reading>,
    /// The device, for people.
    pub device: String,
    /// Why it failed, for people; empty while nothing did.
    pub error: String,
}

/// A rank's pen. Not `Sync`, so that it stays with the loop that it speaks for. Every stroke counts as progress, and is
/// cheap enough to be made several times a step.
pub struct VitalsWriter {
    page: Arc<View<Page>>,
    _one_thread: PhantomData<Cell<()>>,
}

/// Writes what a rank's device measures; for a thread of its own.
pub struct SensorsWriter(Arc<View<Page>>);

impl SensorsWriter {
    /// The sensors have just said this.
    pub fn write(&self, reading: &Reading) {
        self.0[0].sensors.write(reading, monotonic_ns());
    }
}

impl VitalsWriter {
    /// Opens the rank's page, and tells the server that this rank has attached.
    pub fn attach(segment: &str, rank: usize, world_size: usize, epoch: u64) -> Result<Self, LinkError> {
        let segment = Segment::open(segment)?;
        if let Some((what, expected, found)) = segment.view::<BoardHeader>(0, 1)?[0].difference(world_size, epoch) {
            return Err(LinkError::Mismatch { segment: segment.name().to_owned(), what, expected, found });
        }
        let writer = Self { page: Arc::new(segment.view((1 + rank) * PAGE_BYTES, 1)?), _one_thread: PhantomData };
        let page = writer.page();
        page.pid.store(std::process::id().into(), Relaxed);
        // SYNC: rank has attached (meets `VitalsBoard::attached`)
        if page.attached.swap(1, Release) != 0 {
            return Err(LinkError::Taken { segment: segment.name().to_owned(), end: format!("rank {rank}") });
        }
        writer.moved();
        Ok(writer)
    }

    /// The rank has become this.
    pub fn state(&self, state: RankState) {
        // SYNC: words before state (meets `VitalsBoard::read`): what was said before is seen with it.
        self.page().state.store(state as u32, Release);
        self.moved();
    }

    /// The rank does this from now on.
    pub fn phase(&self, phase: Phase) {
        self.page().phase.store(phase as u32, Relaxed);
        self.moved();
    }

    /// The rank has taken this step.
    pub fn progress(&self, step: u64) {
        self.page().step.store(step, Relaxed);
        self.moved();
    }

    /// This share of the weights is read, `0..=1`.
    pub fn loading(&self, share: f32) {
        self.page().load_progress.store(share.to_bits(), Relaxed);
        self.moved();
    }

    /// A step is done: how long it took, and how many tokens it computed.
    pub fn step_done(&self, duration: Duration, tokens: usize) {
        let microseconds = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.page().step_time_us.store(microseconds, Relaxed);
        self.page().tokens_total.fetch_add(tokens as u64, Relaxed);
        self.moved();
    }

    /// How long the rank has waited for others in collectives since its start, as far as the device tells it.
    pub fn collective_wait(&self, total: Option<Duration>) {
        let microseconds = total.map_or(UNTOLD, |total| total.as_micros() as u64);
        self.page().collective_wait_us.store(microseconds, Relaxed);
        self.moved();
    }

    /// What the process holds in memory, and what its weights and KV cache take up on the device; bytes.
    pub fn memory(&self, rss_bytes: u64, device_memory_bytes: u64) {
        self.page().rss_bytes.store(rss_bytes, Relaxed);
        self.page().device_memory_bytes.store(device_memory_bytes, Relaxed);
        self.moved();
    }

    /// The rank has room for this many KV blocks.
    pub fn kv_blocks(&self, blocks: usize) {
        self.page().kv_blocks_total.store(blocks as u64, Relaxed);
        self.moved();
    }

    /// What the device is called.
    pub fn device(&self, name: &str) {
        self.page().device.write(name);
        self.moved();
    }

    /// The pen for what the device measures.
    pub fn sensors(&self) -> SensorsWriter {
        SensorsWriter(self.page.clone())
    }

    /// The rank gives up, for this reason.
    pub fn fail(&self, reason: &str) {
        self.page().error.write(reason);
        self.state(RankState::Failed);
    }

    fn moved(&self) {
        self.page().last_progress_ns.store(monotonic_ns(), Relaxed);
    }

    fn page(&self) -> &Page {
        &self.page[0]
    }
}

/// All ranks' pages, as the server reads them.
pub struct VitalsBoard {
    pages: View<Page>,
}

impl VitalsBoard {
    /// Creates the segment with a page per rank: all `Starting`.
    pub fn create(segment: &str, world_size: usize, epoch: u64) -> Result<(Self, Arc<Segment>), LinkError> {
        let segment = Segment::create(segment, (1 + world_size) * PAGE_BYTES)?;
        let pages = segment.view::<Page>(PAGE_BYTES, world_size)?;
        pages.iter().for_each(|page| page.last_progress_ns.store(monotonic_ns(), Relaxed));
        segment.view::<BoardHeader>(0, 1)?[0].write(world_size, epoch);
        Ok((Self { pages }, segment))
    }

    /// How many ranks there are.
    pub fn world_size(&self) -> usize {
        self.pages.len()
    }

    /// Whether this rank has mapped the whole link.
    pub fn attached(&self, rank: usize) -> bool {
        // SYNC: rank has attached (meets `VitalsWriter::attach`)
        self.pages[rank].attached.load(Acquire) != 0
    }

    /// Whether every rank has: then the names may go.
    pub fn all_attached(&self) -> bool {
        (0..self.world_size()).all(|rank| self.attached(rank))
    }

    /// One rank's vitals now. What a rank wrote is an allegation: a state or phase that does not exist reads as
    /// [`RankState::Failed`] with a note in `error`, or as [`Phase::Idle`].
    pub fn read(&self, rank: usize) -> Vitals {
        let page = &self.pages[rank];
        // SYNC: words before state (meets `VitalsWriter::state`)
        let state = RankState::from_number(page.state.load(Acquire));
        let load_progress = f32::from_bits(page.load_progress.load(Relaxed));
        let idle_ns = monotonic_ns().saturating_sub(page.last_progress_ns.load(Relaxed));
        Vitals {
            state: state.unwrap_or(RankState::Failed),
            phase: Phase::from_number(page.phase.load(Relaxed)).unwrap_or(Phase::Idle),
            step: page.step.load(Relaxed),
            last_progress_ms: idle_ns / 1_000_000,
            load_progress: if load_progress.is_nan() { 0.0 } else { load_progress.clamp(0.0, 1.0) },
            step_time_us: page.step_time_us.load(Relaxed),
            collective_wait_us: Some(page.collective_wait_us.load(Relaxed)).filter(|told| *told != UNTOLD),
            tokens_total: page.tokens_total.load(Relaxed),
            rss_bytes: page.rss_bytes.load(Relaxed),
            device_memory_bytes: page.device_memory_bytes.load(Relaxed),
            kv_blocks_total: page.kv_blocks_total.load(Relaxed),
            reading: page.sensors.read().filter(|(_, at)| is_fresh(*at)).map(|(reading, _)| reading),
            device: page.device.read(),
            error: match state {
                Some(_) => page.error.read(),
                None => "the rank's vitals are corrupt: there is no such state".to_owned(),
            },
        }
    }

    /// Every rank's vitals, in order.
    pub fn read_all(&self) -> Vec<Vitals> {
        (0..self.world_size()).map(|rank| self.read(rank)).collect()
    }
}

impl RankState {
    fn from_number(number: u32) -> Option<Self> {
        [Self::Starting, Self::Loading, Self::Ready, Self::Failed].into_iter().find(|state| *state as u32 == number)
    }
}

impl Phase {
    fn from_number(number: u32) -> Option<Self> {
        let phases = [Self::Idle, Self::Load, Self::Forward, Self::Sample, Self::Report];
        phases.into_iter().find(|phase| *phase as u32 == number)
    }
}

/// Whether something of this moment (see [`monotonic_ns`]) still holds.
fn is_fresh(read_ns: u64) -> bool {
    monotonic_ns().saturating_sub(read_ns) <= READING_AGE_MAX.as_nanos() as u64
}

/// Nanoseconds of the clock that all processes of this machine share.
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use kernels::sensors::ThrottleReason;

    use super::*;
    use crate::link::name::{LinkName, Role};

    fn board(world_size: usize) -> (VitalsBoard, Arc<Segment>) {
        VitalsBoard::create(&LinkName::random().segment(4, Role::Vitals), world_size, 4).unwrap()
    }

    #[test]
    fn the_server_reads_what_a_rank_wrote() {
        let (board, segment) = board(2);
        let before = board.read(1);
        assert_eq!((before.state, before.phase, before.step), (RankState::Starting, Phase::Idle, 0));
        assert!(!board.attached(1));
        let rank = VitalsWriter::attach(segment.name(), 1, 2, 4).unwrap();
        assert!(board.attached(1) && !board.attached(0) && !board.all_attached());
        rank.state(RankState::Loading);
        rank.loading(0.5);
        rank.device("cpu");
        rank.kv_blocks(64);
        rank.memory(1, 2);
        rank.progress(9);
        rank.phase(Phase::Forward);
        rank.step_done(Duration::from_millis(3), 5);
        rank.step_done(Duration::from_millis(4), 6);
        rank.collective_wait(Some(Duration::from_millis(7)));
        let expected = Vitals {
            state: RankState::Loading,
            phase: Phase::Forward,
            step: 9,
            last_progress_ms: 0,
            load_progress: 0.5,
            step_time_us: 4_000,
            collective_wait_us: Some(7_000),
            tokens_total: 11,
            rss_bytes: 1,
            device_memory_bytes: 2,
            kv_blocks_total: 64,
            reading: None,
            device: "cpu".to_owned(),
            error: String::new(),
        };
        assert_eq!(Vitals { last_progress_ms: 0, ..board.read(1) }, expected);
        assert_eq!(board.read_all()[0].state, RankState::Starting, "another rank's page is its own");
        rank.collective_wait(None);
        assert_eq!(board.read(1).collective_wait_us, None);
        rank.fail("no such file");
        assert_eq!((board.read(1).state, board.read(1).error), (RankState::Failed, "no such file".to_owned()));
    }

    #[test]
    fn what_sensors_say_is_told_while_it_is_true_and_is_no_sign_of_life() {
        let (board, segment) = board(1);
        let rank = VitalsWriter::attach(segment.name(), 0, 1, 4).unwrap();
        assert_eq!(board.read(0).reading, None);
        let reading = Reading {
            memory_used_bytes: Some(63 << 30),
            temperature_c: Some(61),
            power_mw: None,
            throttle: Some([ThrottleReason::Heat].into_iter().collect()),
            ecc_errors: Some(0),
            ..Reading::default()
        };
        rank.page().last_progress_ns.store(monotonic_ns() - 5_000_000_000, Relaxed);
        let sensors = rank.sensors();
        std::thread::scope(|scope| scope.spawn(|| sensors.write(&reading)).join()).unwrap();
        assert_eq!(board.read(0).reading, Some(reading));
        assert!(board.read(0).last_progress_ms >= 5_000);
        rank.page().sensors.write(&reading, monotonic_ns() - 11_000_000_000);
        assert_eq!(board.read(0).reading, None, "sensors that say nothing any more");
    }

    #[test]
    fn progress_is_told_in_the_time_of_all_processes() {
        let (board, segment) = board(1);
        let rank = VitalsWriter::attach(segment.name(), 0, 1, 4).unwrap();
        rank.page().last_progress_ns.store(monotonic_ns() - 5_000_000_000, Relaxed);
        assert!(board.read(0).last_progress_ms >= 5_000);
        rank.page().last_progress_ns.store(u64::MAX, Relaxed);
        assert_eq!(board.read(0).last_progress_ms, 0, "a time to come is a lie, not an underflow");
    }

    #[test]
    fn a_page_of_lies_reads_as_a_failed_rank() {
        let (board, segment) = board(1);
        let rank = VitalsWriter::attach(segment.name(), 0, 1, 4).unwrap();
        rank.page().state.store(77, Relaxed);
        rank.page().phase.store(77, Relaxed);
        rank.page().load_progress.store(f32::NAN.to_bits(), Relaxed);
        let vitals = board.read(0);
        assert_eq!((vitals.state, vitals.phase, vitals.load_progress), (RankState::Failed, Phase::Idle, 0.0));
        assert!(vitals.error.contains("corrupt"));
    }

    #[test]
    fn a_rank_attaches_once_and_only_to_its_own_group() {
        let (_board, segment) = board(2);
        let attach =
            |rank, world_size, epoch| VitalsWriter::attach(segment.name(), rank, world_size, epoch).map(|_| ());
        attach(0, 2, 4).unwrap();
        assert!(matches!(attach(0, 2, 4), Err(LinkError::Taken { .. })));
        assert!(matches!(attach(1, 2, 5), Err(LinkError::Mismatch { what: "epoch", expected: 5, found: 4, .. })));
        assert!(matches!(attach(1, 3, 4), Err(LinkError::Mismatch { what: "world size", .. })));
    }
}
