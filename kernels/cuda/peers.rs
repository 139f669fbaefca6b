//! Memory of every rank's GPU that all ranks have mapped, in which small all-reduces happen (`all_reduce/cuda.cu`).

use super::driver::{Driver, IPC_HANDLE_BYTES, Pointer};
use super::region::Region;
use crate::{Result, group::Group};

/// The most ranks that meet there.
const RANKS_MAX: usize = 8;

/// Blocks that a launch may have; each has a staging area of its own, in two halves.
pub(crate) const BLOCKS: usize = 64;

/// Bytes of half an area.
pub(crate) const AREA_BYTES: usize = 64 << 10;

/// Flags, phases, areas.
const REGION_BYTES: usize = 4 * (BLOCKS * RANKS_MAX + BLOCKS) + BLOCKS * 2 * AREA_BYTES;

/// The ranks' regions, as they are mapped here.
pub(crate) struct Peers {
    driver: Driver,
    own: Region,
    rank: usize,
    /// By rank.
    regions: Vec<Pointer>,
    /// Those that were mapped for it.
    opened: Vec<Pointer>,
}

/// What kernels are told of them.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct PeersArgument {
    regions: [u64; RANKS_MAX],
    rank: i32,
    ranks: i32,
}

impl Peers {
    /// Maps every rank's region into every rank; none where the GPUs can't reach each other's memory, or one of the ranks
    /// could not map it: all ranks come to the same answer.
    pub(crate) fn meet(driver: &Driver, group: &Group) -> Result<Option<Self>> {
        let (rank, ranks) = (group.rank(), group.world_size());
        let own = Region::zeroed(driver, REGION_BYTES, "staging of all-reduces")?;
        driver.synchronize()?;
        let reaches = ranks <= RANKS_MAX && (0..ranks).all(|other| other == rank || driver.reaches(other));
        let handle = driver.share(own.pointer());
        let can = reaches && handle.is_ok();
        let mut words = vec![u32::from(can), std::process::id()];
        words.extend([own.pointer().0 as u32, (own.pointer().0 >> 32) as u32]);
        let bytes = handle.unwrap_or([0; IPC_HANDLE_BYTES]);
        words.extend(bytes.as_chunks::<4>().0.iter().map(|&bytes| u32::from_le_bytes(bytes)));
        let everybody = group.exchange(&words)?;
        if everybody.iter().any(|words| words[0] == 0) {
            return Ok(None);
        }
        let mut peers = Self { driver: driver.clone(), own, rank, regions: Vec::new(), opened: Vec::new() };
        let opened = everybody.iter().enumerate().all(|(other, words)| peers.open(other, &words[1..]));
        let all_opened = group.exchange(&[u32::from(opened)])?.iter().all(|words| words[0] == 1);
        Ok(all_opened.then_some(peers))
    }

    /// By what another rank says: its process, its own address of the region, and the region's name to other processes.
    fn open(&mut self, rank: usize, words: &[u32]) -> bool {
        let [process, low, high, name @ ..] = words else { return false };
        let mut handle = [0; IPC_HANDLE_BYTES];
        handle.as_chunks_mut::<4>().0.iter_mut().zip(name).for_each(|(to, word)| *to = word.to_le_bytes());
        let region = if rank == self.rank {
            Ok(self.own.pointer())
        } else if *process == std::process::id() {
            // Ranks as threads, in tests: an address means the same to all.
            self.driver.reach(rank).map(|()| Pointer(u64::from(*high) << 32 | u64::from(*low)))
        } else {
            self.driver.open_shared(handle).inspect(|&region| self.opened.push(region))
        };
        region.map(|region| self.regions.push(region)).is_ok()
    }

    pub(crate) fn argument(&self) -> PeersArgument {
        let mut regions = [0; RANKS_MAX];
        regions.iter_mut().zip(&self.regions).for_each(|(to, region)| *to = region.0);
        PeersArgument { regions, rank: self.rank as i32, ranks: self.regions.len() as i32 }
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        for &region in &self.opened {
            // SAFETY: opened by `open`, and not used after this. The driver waits for kernels that do.
            unsafe { self.driver.close_shared(region) };
        }
    }
}
