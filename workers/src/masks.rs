//! Rank 0's masks: what guided sequences may go on with, as it comes from the server.
//!
//! Masks come when they are ready, not when they are needed. One that is not there when everything else of a step is done
//! is waited for a moment only ([`Grace`]); its sequence is deferred then, and the mask is kept for the step that tries
//! again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::link::mask::{Allowed, TokenMask};
use crate::link::{LinkError, MaskReader, step::SequenceId};

/// The masks that came and were not needed yet: one per sequence, the newest.
#[derive(Default)]
pub struct Masks {
    ring: Option<MaskReader>,
    held: HashMap<SequenceId, TokenMask>,
    held_max: usize,
}

/// One choice that needs a mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Awaited {
    /// Whose.
    pub id: SequenceId,
    /// The sequence's length before it.
    pub position: u32,
}

/// How long a step waits for masks that have not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grace {
    /// Others wait for this step, which took so long until now: an eighth of that, and 2 ms at most. To defer costs a
    /// sequence one step more; to wait costs every sequence the grace. An eighth is little beside the step, and in models
    /// large enough to serve it is about the time that a mask takes.
    Shared(Duration),
    /// Nothing is in the step but sequences that miss their masks: 20 ms. Computed again at once they would only keep the
    /// cores from those who make the masks; but whoever is newly admitted waits this long at most.
    Alone,
}

impl Grace {
    fn duration(self) -> Duration {
        match self {
            Self::Shared(step) => (step / 8).min(Duration::from_millis(2)),
            Self::Alone => Duration::from_millis(20),
        }
    }
}

impl Masks {
    /// Those that come by `ring`, for at most `sequences_max` running sequences. Ranks other than 0 have no ring.
    pub fn new(ring: Option<MaskReader>, sequences_max: usize) -> Self {
        // The server may be a step ahead, with other sequences in it.
        Self { ring, held: HashMap::new(), held_max: 2 * sequences_max.max(1) }
    }

    /// Keeps the masks of those sequences only that `is_running`.
    pub fn retain(&mut self, is_running: impl Fn(SequenceId) -> bool) {
        self.held.retain(|&id, _| is_running(id));
    }

    /// Takes all that have come, so that the ring has room for others. [`LinkError`] if it is corrupt.
    pub fn receive(&mut self) -> Result<(), LinkError> {
        while self.take(Duration::ZERO)? {}
        Ok(())
    }

    /// Takes all that have come, and if some of `awaited` are still missing, waits for them as long as `grace` allows.
    /// [`LinkError`] if the ring is corrupt.
    pub fn collect(&mut self, awaited: &[Awaited], grace: impl Fn(usize) -> Grace) -> Result<(), LinkError> {
        self.receive()?;
        let missing = self.missing(awaited);
        if missing == 0 {
            return Ok(());
        }
        let deadline = Instant::now() + grace(missing).duration();
        while self.missing(awaited) > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.take(left)? {
                break;
            }
        }
        Ok(())
    }

    /// The mask of this choice, if it has come. It is needed once; one for an earlier choice is needed no more.
    pub fn find(&mut self, awaited: Awaited) -> Option<Allowed> {
        let held = self.held.get(&awaited.id)?.position;
        let mask = if held <= awaited.position { self.held.remove(&awaited.id) } else { None };
        mask.filter(|_| held == awaited.position).map(|mask| mask.allowed)
    }

    /// Takes the next mask; answers whether one came in time.
    fn take(&mut self, timeout: Duration) -> Result<bool, LinkError> {
        let Some(ring) = &mut self.ring else { return Ok(false) };
        let mask = ring.take(timeout)?;
        let came = mask.is_some();
        mask.into_iter().for_each(|mask| self.keep(mask));
        Ok(came)
    }

    /// A mask is an allegation: it may be late, come twice, or be of nobody. Only so many are kept.
    fn keep(&mut self, mask: TokenMask) {
        let known = self.held.get(&mask.id).map(|held| held.position);
        let is_newer = known.is_none_or(|known| known <= mask.position);
        if is_newer && (known.is_some() || self.held.len() < self.held_max) {
            self.held.insert(mask.id, mask);
        }
    }

    fn missing(&self, awaited: &[Awaited]) -> usize {
        let has = |awaited: &&Awaited| self.held.get(&awaited.id).is_some_and(|mask| mask.position == awaited.position);
        awaited.len() - awaited.iter().filter(has).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(id: u64, position: u32) -> TokenMask {
        TokenMask { id: SequenceId(id), position, allowed: Allowed::Only(vec![position]) }
    }

    fn at(id: u64, position: u32) -> Awaited {
        Awaited { id: SequenceId(id), position }
    }

    #[test]
    fn the_newest_mask_serves_its_own_choice_once() {
        let mut masks = Masks::new(None, 2);
        [mask(1, 5), mask(1, 4), mask(2, 9)].into_iter().for_each(|mask| masks.keep(mask));
        assert_eq!(masks.missing(&[at(1, 5), at(2, 9), at(3, 0)]), 1);
        assert_eq!(masks.find(at(1, 4)), None, "a mask for later is kept");
        assert_eq!(masks.find(at(1, 5)), Some(Allowed::Only(vec![5])));
        assert_eq!(masks.find(at(1, 5)), None);
        assert_eq!(masks.find(at(2, 10)), None, "one for a choice made already is dropped");
        assert_eq!(masks.find(at(2, 9)), None);
    }

    #[test]
    fn no_more_are_kept_than_sequences_may_need() {
        let mut masks = Masks::new(None, 2);
        (0..100).for_each(|id| masks.keep(mask(id, 1)));
        assert_eq!(masks.held.len(), 4);
        masks.keep(mask(3, 2));
        assert_eq!(masks.find(at(3, 2)), Some(Allowed::Only(vec![2])), "who has one may have a newer one");
        masks.retain(|id| id.0 == 1);
        assert_eq!(masks.held.len(), 1);
    }
}
