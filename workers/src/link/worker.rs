//! A worker's side of the link.

use std::sync::Arc;

use super::{
    ends::{MaskReader, ReportWriter, StepReader},
    error::LinkError,
    name::{LinkName, Role},
    ring::{RingMemory, RingReader, RingShape, RingWriter, Waiting},
    shm::Segment,
    vitals::VitalsWriter,
};

/// What a worker was told about the link it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat<'a> {
    /// The link's name, as [`ServerLink::name`](super::server::ServerLink::name) gave it.
    pub link: &'a str,
    /// This worker's index.
    pub rank: usize,
    /// How many ranks there are.
    pub world_size: usize,
    /// How often the group was started before.
    pub epoch: u64,
    /// Whether this rank's loop has a core of its own, so that it may spin before it sleeps.
    pub spin: bool,
}

/// The link, seen from one rank.
pub struct WorkerLink {
    /// Takes the steps.
    pub steps: StepReader,
    /// Publishes the reports; rank 0 has it, nobody else.
    pub reports: Option<ReportWriter>,
    /// Takes what guided sequences may go on with; rank 0 has it, nobody else.
    pub masks: Option<MaskReader>,
    /// This rank's vitals.
    pub vitals: VitalsWriter,
    /// Where CPU ranks meet for collectives; zeros, until ranks write to it.
    pub meeting: Arc<Segment>,
}

impl WorkerLink {
    /// Attaches to the link that the server created, and lets the server see that this rank has.
    pub fn attach(seat: Seat<'_>) -> Result<Self, LinkError> {
        let Seat { rank, world_size, epoch, .. } = seat;
        if rank >= world_size {
            return Err(LinkError::Config(format!("rank {rank} of {world_size}")));
        }
        let name: LinkName = seat.link.parse()?;
        let (segment, waiting) = (|role| name.segment(epoch, role), Waiting::new(seat.spin));
        let ring = |role, readers| RingMemory::attach(&segment(role), RingShape { role, epoch, readers });
        let steps = RingReader::new(ring(Role::Steps, world_size)?, rank, waiting)?;
        let (mut reports, mut masks) = (None, None);
        if rank == 0 {
            reports = Some(ReportWriter::new(RingWriter::new(ring(Role::Reports, 1)?, waiting)?));
            masks = Some(MaskReader::new(RingReader::new(ring(Role::Masks, 1)?, 0, waiting)?, segment(Role::Masks)));
        }
        let meeting = Segment::open(&segment(Role::Meeting))?;
        // Last: from here on the server sees this rank as attached.
        let vitals = VitalsWriter::attach(&segment(Role::Vitals), rank, world_size, epoch)?;
        Ok(Self { steps: StepReader::new(steps, segment(Role::Steps)), reports, masks, vitals, meeting })
    }
}
