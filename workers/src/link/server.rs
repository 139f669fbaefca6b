//! The server's side of the link.

use std::sync::Arc;

use super::{
    ends::{MaskWriter, ReportReader, StepWriter},
    error::LinkError,
    name::{LinkName, Role},
    ring::{RingMemory, RingReader, RingShape, RingWriter, Waiting, layout::READERS_MAX},
    shm::Segment,
    vitals::VitalsBoard,
};

/// The most ranks of one group.
pub const WORLD_SIZE_MAX: usize = READERS_MAX;

/// What a link is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkConfig {
    /// How many ranks, `1..=WORLD_SIZE_MAX`.
    pub world_size: usize,
    /// How often the group was started before.
    pub epoch: u64,
    /// Room of the step ring, rounded up to a power of two. A step may take up half of it.
    pub step_ring_bytes: usize,
    /// Room of the return ring, rounded up to a power of two. A report may take up half of it.
    pub return_ring_bytes: usize,
    /// Room of the mask ring, rounded up to a power of two. A mask may take up half of it.
    pub mask_ring_bytes: usize,
    /// Where CPU ranks meet for collectives; rounded up to whole pages, at least one.
    pub meeting_bytes: usize,
    /// Whether the server's threads have a core to spare, so that it may spin before it sleeps.
    pub spin: bool,
}

/// One start of a group, seen from the server. Take it apart to give each part to whom it belongs; the names in
/// `/dev/shm` go when `names` goes or [`unlink`](LinkNames::unlink)s them, the memory when all parts have gone.
pub struct ServerLink {
    /// Publishes the steps; the engine's.
    pub steps: StepWriter,
    /// Takes the reports; the engine's.
    pub reports: ReportReader,
    /// Publishes what guided sequences may go on with; the engine's, for rank 0 only.
    pub masks: MaskWriter,
    /// The ranks' vitals; the supervisor's and the monitor's.
    pub vitals: Arc<VitalsBoard>,
    /// The segments' names; the supervisor's.
    pub names: LinkNames,
}

/// The names of a link's segments, while workers still have to find them.
pub struct LinkNames {
    name: LinkName,
    segments: Vec<Arc<Segment>>,
}

impl ServerLink {
    /// Creates the five segments under a new random name.
    pub fn create(config: &LinkConfig) -> Result<Self, LinkError> {
        let LinkConfig { world_size, epoch, .. } = *config;
        if !(1..=WORLD_SIZE_MAX).contains(&world_size) {
            return Err(LinkError::Config(format!("{world_size} ranks, expected 1 to {WORLD_SIZE_MAX}")));
        }
        let name = LinkName::random();
        let ring = |role, readers, bytes| {
            RingMemory::create(&name.segment(epoch, role), RingShape { role, epoch, readers }, bytes)
        };
        let (steps, steps_segment) = ring(Role::Steps, world_size, config.step_ring_bytes)?;
        let (reports, reports_segment) = ring(Role::Reports, 1, config.return_ring_bytes)?;
        let (masks, masks_segment) = ring(Role::Masks, 1, config.mask_ring_bytes)?;
        let (vitals, vitals_segment) = VitalsBoard::create(&name.segment(epoch, Role::Vitals), world_size, epoch)?;
        let meeting = Segment::create(&name.segment(epoch, Role::Meeting), config.meeting_bytes)?;
        let waiting = Waiting::new(config.spin);
        let segments = vec![steps_segment, reports_segment, masks_segment, vitals_segment, meeting];
        let reports_name = name.segment(epoch, Role::Reports);
        Ok(Self {
            steps: StepWriter::new(RingWriter::new(steps, waiting)?),
            reports: ReportReader::new(RingReader::new(reports, 0, waiting)?, reports_name),
            masks: MaskWriter::new(RingWriter::new(masks, waiting)?),
            vitals: Arc::new(vitals),
            names: LinkNames { name, segments },
        })
    }

    /// What the workers are told (`WorkerConfig::link`).
    pub fn name(&self) -> String {
        self.names.name()
    }

    /// Takes the names away, once `vitals.all_attached()`: whatever dies from here on, nothing stays in `/dev/shm`.
    pub fn unlink(&mut self) {
        self.names.unlink();
    }
}

impl LinkNames {
    /// What the workers are told (`WorkerConfig::link`).
    pub fn name(&self) -> String {
        self.name.to_string()
    }

    /// Takes the names away; nobody can attach any more. May be called again.
    pub fn unlink(&mut self) {
        self.segments.drain(..).for_each(|segment| segment.unlink());
    }
}

impl Drop for LinkNames {
    fn drop(&mut self) {
        self.unlink();
    }
}
