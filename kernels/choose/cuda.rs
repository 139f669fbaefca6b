//! Choosing on a GPU.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{Ask, Choose, Chosen, Draw};
use crate::{
    Backend, Result,
    cuda::{Cuda, Driver, Element, Grid, Pinned, Pointer, Region, Source, Tensor},
};

const SOURCE: Source = Source { name: "choose", text: include_str!("cuda.cu") };

/// Columns that a block reads.
const SLICE: usize = 4096;

/// Tokens that the kernels' sums of weights have room for.
const VOCABULARY_MAX: usize = 1 << 19;

/// What kernels keep of a slice, …
const SLICE_BYTES: usize = 24;

/// … and of a row whose distribution is cut.
const TALLY_BYTES: usize = 45_200;

/// Most asks of a choice.
pub(crate) const ASKS_MAX: usize = 1 << 15;

/// What kernels say of an ask: the token, and its logit where that is not finite.
const CHOSEN_BYTES: usize = 2 * size_of::<u32>();

/// Marks a token whose logit is not finite.
const NOT_FINITE: u32 = 1 << 31;

/// What was chosen last: where kernels find it, and where the host does.
pub(crate) struct Choices {
    /// `(u32, f32) [ASKS_MAX]`, and as many more as shares of ranks are rounded up by.
    words: Region,
    fetched: Mutex<Pinned>,
    /// Choices that were asked for.
    count: AtomicU64,
}

/// A choice on its way.
pub struct Choice {
    asks: usize,
    number: u64,
}

impl Choices {
    /// For so many ranks.
    pub(crate) fn new(driver: &Driver, ranks: usize) -> Result<Self> {
        let words = Region::zeroed(driver, (ASKS_MAX + ranks) * CHOSEN_BYTES, "chosen tokens")?;
        Ok(Self { words, fetched: Mutex::new(driver.pinned(ASKS_MAX * CHOSEN_BYTES)?), count: AtomicU64::new(0) })
    }

    pub(crate) fn pointer(&self) -> Pointer {
        self.words.pointer()
    }

    /// Enqueues that the first words come to the host.
    fn fetch(&self, asks: usize) -> Result<Choice> {
        if asks > 0 {
            // SAFETY: as many were enqueued to be written, and all were zeroed at the start.
            unsafe { self.fetched().fetch(self.pointer(), asks * CHOSEN_BYTES) }?;
        }
        Ok(Choice { asks, number: self.count.fetch_add(1, Relaxed) + 1 })
    }

    fn fetched(&self) -> MutexGuard<'_, Pinned> {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Choose for Cuda {
    type Choice = Choice;

    fn begin_choice(&self, shard: &Tensor, vocabulary: usize, asks: &[Ask]) -> Result<Option<Choice>> {
        if vocabulary > VOCABULARY_MAX || asks.len() > ASKS_MAX {
            return Ok(None);
        }
        match self.group().world_size() {
            1 => self.enqueue_choice(shard, vocabulary, asks, 0)?,
            // Each rank has a row of its own, and they are in order.
            ranks if asks.len() >= ranks && asks.iter().map(|ask| ask.row).eq(0..asks.len()) => {
                self.enqueue_spread(shard, vocabulary, asks, ranks)?;
            }
            ranks => self.enqueue_choice(&self.gather_columns(shard, ranks)?, vocabulary, asks, 0)?,
        }
        self.choices().fetch(asks.len()).map(Some)
    }

    fn choose(&self, logits: &Tensor, vocabulary: usize, asks: &[Ask]) -> Result<Option<Vec<Chosen>>> {
        if vocabulary > VOCABULARY_MAX || asks.len() > ASKS_MAX {
            return Ok(None);
        }
        self.enqueue_choice(logits, vocabulary, asks, 0)?;
        let choice = self.choices().fetch(asks.len())?;
        self.chosen(choice).map(Some)
    }

    fn is_chosen(&self, choice: &Choice) -> Result<bool> {
        self.check_others()?;
        Ok(choice.asks == 0 || self.choices().fetched().is_done()?)
    }

    fn chosen(&self, choice: Choice) -> Result<Vec<Chosen>> {
        let is_last = choice.number == self.choices().count.load(Relaxed);
        assert!(is_last, "tokens are taken before the next choice is asked for");
        self.wait_until(|| self.is_chosen(&choice))?;
        let mut fetched = self.choices().fetched();
        let words = &fetched.contents()?[..choice.asks * CHOSEN_BYTES];
        let words = words.as_chunks().0.iter().copied().map(u32::from_le_bytes).collect::<Vec<_>>();
        let chosen = words.as_chunks().0.iter().map(|&[token, value]| match token & NOT_FINITE {
            0 => Chosen::Token(token),
            _ => Chosen::NotFinite { token: token & !NOT_FINITE, value: f32::from_bits(value) },
        });
        Ok(chosen.collect())
    }
}

impl Cuda {
    /// Enqueues the choice, each rank by its share of the rows: a logit goes to one rank instead of all, and only words
    /// that say what was chosen go to everybody. The i-th ask is of row i.
    fn enqueue_spread(&self, shard: &Tensor, vocabulary: usize, asks: &[Ask], ranks: usize) -> Result<()> {
        let (rank, share) = (self.group().rank(), asks.len().div_ceil(ranks));
        let rows_of = |rank: usize| (rank * share).min(asks.len())..((rank + 1) * share).min(asks.len());
        let own = rows_of(rank);
        let logits = self.alike(shard, own.len(), ranks * shard.columns())?;
        self.with_communicator(|communicator| {
            let (to, from) = (logits.pointer(), shard.pointer());
            // SAFETY: the shard has a row for each ask; there is room for the own rows of all ranks' columns.
            unsafe { communicator.all_to_all(self.driver(), to, from, shard.columns(), (rank, ranks), rows_of) }
        })?;
        let logits = self.side_by_side(logits, ranks)?;
        let asks: Vec<Ask> = (asks[own.clone()].iter()).map(|ask| Ask { row: ask.row - own.start, ..*ask }).collect();
        self.enqueue_choice(&logits, vocabulary, &asks, rank * share)?;
        let words = self.choices().pointer();
        self.with_communicator(|communicator| {
            let own = words.offset(rank * share * CHOSEN_BYTES);
            // SAFETY: there is room for a share of words for each rank, as the asks are no more than there is room for,
            // rounded up; the own ones lie where they are gathered to.
            unsafe { communicator.all_gather(self.driver(), words, own, 2 * share, Element::F32) }
        })
    }

    /// Enqueues what leaves the choice's words, a pair for each ask, from place `first` on.
    fn enqueue_choice(&self, logits: &Tensor, vocabulary: usize, asks: &[Ask], first: usize) -> Result<()> {
        if asks.is_empty() {
            return Ok(());
        }
        assert_eq!(logits.element(), Element::F32, "logits are f32");
        assert!((1..=logits.columns()).contains(&vocabulary), "tokens that there are");
        assert!(asks.iter().all(|ask| ask.row < logits.rows()), "rows that there are");
        // Those that cut come first: only they have tallies.
        let (cutting, others): (Vec<_>, Vec<_>) =
            asks.iter().map(|ask| DeviceAsk::of(ask, vocabulary)).zip(first as u32..).partition(|(ask, _)| ask.cuts());
        let words: Vec<u8> = cutting.iter().chain(&others).flat_map(|(ask, place)| ask.encode(*place)).collect();
        let device_asks = self.scratch(words.len())?;
        // SAFETY: the buffer was taken for as many bytes.
        unsafe { self.driver().copy_in(device_asks.pointer(), &words) }?;
        let count = vocabulary.div_ceil(SLICE);
        let slices = self.scratch(asks.len() * count * SLICE_BYTES)?;
        let tallies = self.scratch(cutting.len() * TALLY_BYTES)?;
        let chosen_at = self.choices().pointer().into();
        let [tallies_at, slices_at, asks_at] = [&tallies, &slices, &device_asks].map(|buffer| buffer.pointer().into());
        let [logits_at, stride, columns] = [logits.into(), logits.columns().into(), vocabulary.into()];
        let by_slices = |asks: usize| Grid { blocks: [count as u32, asks as u32, 1], threads: 256, shared_bytes: 0 };
        let by_rows = |asks: usize| Grid { blocks: [asks as u32, 1, 1], threads: 1024, shared_bytes: 0 };
        // SAFETY: asks are of rows that there are, and have as many slices and tallies as was taken memory for.
        unsafe {
            let arguments = &mut [slices_at, tallies_at, asks_at, logits_at, stride, columns];
            self.launch(&SOURCE, "survey", by_slices(asks.len()), arguments)?;
            let arguments = &mut [tallies_at, slices_at, asks_at, logits_at, stride, columns];
            self.launch(&SOURCE, "tally", by_slices(cutting.len()), arguments)?;
            self.launch(&SOURCE, "bracket", by_rows(cutting.len()), &mut [tallies_at, asks_at])?;
            self.launch(&SOURCE, "gather", by_slices(cutting.len()), arguments)?;
            let arguments = &mut [chosen_at, tallies_at, slices_at, asks_at, logits_at, stride, columns];
            self.launch(&SOURCE, "settle", by_rows(asks.len()), arguments)?;
        }
        Ok(())
    }
}

/// An ask as kernels read it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct DeviceAsk {
    row: u32,
    /// Octaves that a weight falls by where its logit falls by 1; 0: the greatest is chosen.
    steepness: f32,
    /// Shares are in units of 2⁻⁶⁴.
    uniform: u64,
    /// 0: all.
    top_p: u64,
    top_k: u32,
    min_p: f32,
}

impl DeviceAsk {
    fn of(ask: &Ask, vocabulary: usize) -> Self {
        let row = ask.row as u32;
        let Some(Draw { temperature, top_k, top_p, min_p, uniform }) = ask.draw else {
            return Self { row, steepness: 0.0, uniform: 0, top_p: 0, top_k: 0, min_p: 0.0 };
        };
        let share = |share: f64| (share * 64f64.exp2()) as u64;
        Self {
            row,
            steepness: (std::f64::consts::LOG2_E / f64::from(temperature)) as f32,
            uniform: share(uniform),
            top_p: if top_p < 1.0 { share(top_p.into()).max(1) } else { 0 },
            top_k: if top_k < vocabulary { top_k as u32 } else { 0 },
            min_p,
        }
    }

    fn cuts(&self) -> bool {
        self.top_p > 0 || self.top_k > 0 || self.min_p > 0.0
    }

    /// As `Ask` in the kernels' text; `place`: of its token among those chosen.
    fn encode(&self, place: u32) -> Vec<u8> {
        let Self { row, steepness, uniform, top_p, top_k, min_p } = *self;
        let words = [steepness.to_bits(), min_p.to_bits(), top_k, row, place, 0];
        let shares = [uniform, top_p].map(u64::to_le_bytes).concat();
        [shares, words.map(u32::to_le_bytes).concat()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::CudaConfig;

    #[test]
    fn conforms() {
        for gpu in Cuda::kinds() {
            crate::choose::check(&gpu);
        }
    }

    #[test]
    fn ranks_conform() {
        let config =
            CudaConfig { cache: Some(std::env::temp_dir().join("shardwire-test-kernels")), ..Default::default() };
        for ranks in (2..=4).filter(|&ranks| crate::cuda::find(ranks).is_ok()) {
            Cuda::each_of(&config, ranks, crate::choose::check_among).expect("GPUs");
        }
    }
}
