//! How the products of experts are launched: where an expert's matrices lie, and how many of its visits a block takes.

use super::visits::Visits;
use crate::{
    DType, Result,
    cuda::{Argument, Cuda, Grid, Pointer, Shape, Skinny, Source, Weight},
    glu::{self, Activation},
};

const SOURCE: Source = Source { name: "experts", text: include_str!("../experts/cuda.cu") };

/// How many visits of an expert a block takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// So few that weights are decoded where they are multiplied: 8, 16 or 32.
    Few(usize),
    /// As many as a tile has rows.
    Many(Shape),
}

impl Size {
    /// For experts that `visits` are shared among, on average so many to each.
    ///
    /// A tile reads its weights once and computes as many rows as it has, filled or not. While a weight of WINT4
    /// arrives, 0.53 bytes at 85 % of an A100's 2.04 TB/s, one of its 108 multiprocessors (at 1.41 GHz) has time for
    /// 48 multiply-adds of tensor cores and 6.0 instructions of a lane. As compiled for sm_80, a weight takes
    ///
    /// | rows of a tile | multiply-adds | instructions |
    /// |---|---|---|
    /// | 16 | 16 | 3.2 |
    /// | 32 | 32 | 3.9 |
    /// | 64 | 64 | 9.7, as weights pass through shared memory once more |
    ///
    /// so that memory decides up to 32 rows, and no longer with 64. (A weight of bf16 has 180 and 22: there all keep
    /// up.) Of 128 tokens with 8 of 64 experts an expert has 16 visits, and 43 % have more: tiles of 32, of which
    /// those with up to 16 visits compute only half, are 23 rows on average and 3.5 instructions, with all weights
    /// read once; tiles of 16 are 23 too, but 4.6, and 43 % of the weights are read twice; those of 64 compute four
    /// times what is useful. Of 32 on average 45 % have a second tile of 32, so that it is 5.7 instructions and up to
    /// 47 rows, which just keeps up. With more, two tiles compute what one of 64 does, and read twice.
    ///
    /// With few rows, x comes from the L1 cache: 4 bytes a weight with 32 of them, at 128 bytes a cycle two thirds of the
    /// time that a weight of WINT4 has. Whether its lines collide there, only a GPU can tell.
    pub(super) fn of(visits: usize, experts: usize, fits: impl Fn(Shape) -> bool) -> Self {
        // Of 12 on average, one expert in ten has more than 16; its weights then are read twice, once from the cache.
        let on_average = visits.div_ceil(experts);
        match on_average {
            ..=2 => Self::Few(8),
            3..=12 => Self::Few(16),
            13..=32 => Self::Few(32),
            33..=64 => Self::Many(Shape::SMALL),
            _ if fits(Shape::LARGE) => Self::Many(Shape::LARGE),
            _ => Self::Many(Shape::SMALL),
        }
    }

    /// Visits of a tile.
    pub(super) fn visits(self) -> usize {
        match self {
            Self::Few(visits) => visits,
            Self::Many(shape) => shape.rows,
        }
    }

    fn entry(self) -> &'static str {
        match self {
            Self::Few(..=8) => "experts_8",
            Self::Few(..=16) => "experts_16",
            Self::Few(_) => "experts_32",
            Self::Many(Shape::SMALL) => "experts_64",
            Self::Many(_) => "experts_128",
        }
    }
}

/// Experts next to each other whose matrices are alike, and equal steps apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    first: usize,
    experts: usize,
    pub(super) dtype: DType,
    /// The first row of the first expert.
    pointer: Pointer,
    /// Bytes from an expert to the next.
    step: u64,
    /// Bytes from a row to the next.
    stride: u64,
    /// Bytes from a row to what is paired with it.
    to_second: u64,
}

impl Run {
    /// The matrices of a stacked weight: `rows` rows of each of `experts`, an expert's first row being `first_row` of it.
    /// An expert's matrix is one of those that the weight was made of.
    pub(super) fn all(weight: &Weight, experts: usize, rows: usize, first_row: impl Fn(usize) -> usize) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        let mut parts = weight.parts().peekable();
        for expert in 0..experts {
            let row = first_row(expert);
            while parts.next_if(|(first, part)| first + part.rows <= row).is_some() {}
            let &(first, part) = parts.peek().expect("a weight has the rows of all experts");
            assert!(row + rows <= first + part.rows, "a matrix has one format");
            let (dtype, stride) = (part.dtype, part.stride as u64);
            let pointer = part.pointer().offset((row - first) * part.stride);
            if !runs.last_mut().is_some_and(|run| run.take(dtype, stride, pointer)) {
                runs.push(Self { first: expert, experts: 1, dtype, pointer, step: 0, stride, to_second: stride });
            }
        }
        runs
    }

    /// Takes the next expert, whose matrix is at `pointer`, if it goes on as the run does: the second says how far apart
    /// all are.
    fn take(&mut self, dtype: DType, stride: u64, pointer: Pointer) -> bool {
        let away = pointer.0 - self.pointer.0;
        let step = if self.experts == 1 { away } else { self.step };
        let goes_on = (dtype, stride) == (self.dtype, self.stride) && away == self.experts as u64 * step;
        if goes_on {
            self.step = step;
            self.experts += 1;
        }
        goes_on
    }

    /// Gates paired with ups, where one launch can read both.
    pub(super) fn paired(gates: &[Self], ups: &[Self]) -> Option<Vec<Self>> {
        let pair = |(gate, up): (&Self, &Self)| {
            let to_second = up.pointer.0.checked_sub(gate.pointer.0)?;
            let alike = Self { pointer: gate.pointer, ..*up } == *gate;
            alike.then_some(Self { to_second, ..*gate })
        };
        if gates.len() != ups.len() {
            return None;
        }
        gates.iter().zip(ups).map(pair).collect()
    }
}

/// A product of all visited experts.
pub(super) struct Product<'a> {
    pub(super) visits: &'a Visits,
    pub(super) size: Size,
    /// `[tokens, inputs]`, or where `of_visits` `[visits, inputs]`.
    pub(super) x: Pointer,
    pub(super) of_visits: bool,
    pub(super) inputs: usize,
    /// An expert's, `bias_step` after that of the expert before.
    pub(super) bias: Option<Pointer>,
    pub(super) bias_step: usize,
    /// Rows `y_stride` elements apart, one for each visit.
    pub(super) y: Pointer,
    pub(super) y_stride: usize,
    /// Results in a row.
    pub(super) width: usize,
    /// Rows are gates paired with ups, of which this makes results.
    pub(super) gates: Option<Activation>,
}

impl Product<'_> {
    /// # Safety
    /// `runs` have `width` rows (or pairs) of `inputs` for each of their experts, `x`, `y` and the biases as many rows and
    /// columns as the fields say, for all experts and visits of the lists.
    pub(super) unsafe fn launch(&self, device: &Cuda, runs: &[Run]) -> Result<()> {
        for run in runs {
            let (grid, tiles_of_outputs) = self.grid(device, run);
            // Neighbouring outputs are pairs too.
            let pair_stride = if self.gates.is_some() { run.stride } else { 2 * run.stride };
            let visitors = (!self.of_visits).then_some(self.visits.visitors);
            let mut arguments = vec![
                self.y.into(),
                self.x.into(),
                visitors.into(),
                self.visits.tiles.into(),
                self.visits.starts.into(),
                run.pointer.into(),
                run.step.into(),
                run.to_second.into(),
                pair_stride.into(),
                self.bias.into(),
                self.bias_step.into(),
                run.first.into(),
                run.experts.into(),
                self.width.into(),
                self.inputs.into(),
                self.y_stride.into(),
                self.gates.is_some().into(),
            ];
            arguments.extend(glu::arguments(self.gates.unwrap_or(Activation::Silu)));
            arguments.push(Argument::from(tiles_of_outputs));
            // SAFETY: the caller's promise; tiles name only visits of the lists.
            unsafe { device.launch_for((&SOURCE, run.dtype), self.size.entry(), grid, &mut arguments) }?;
        }
        Ok(())
    }

    /// The grid, and how many tiles of outputs a block of few visits takes.
    fn grid(&self, device: &Cuda, run: &Run) -> (Grid, usize) {
        let outputs = if self.gates.is_some() { 2 * self.width } else { self.width };
        let tiles = self.visits.tiles_max as u32;
        match self.size {
            Size::Few(_) => {
                // Enough blocks that a single token fills the GPU. More tokens make no fewer of them, so that a row's result
                // does not depend on how many there are.
                let blocks_wanted = device.facts().multiprocessors as usize * 7 / 8 / self.visits.slots;
                let plan = Skinny::plan(run.dtype, outputs, self.inputs, blocks_wanted);
                let blocks = [plan.blocks(outputs) as u32, tiles, 1];
                let (threads, shared_bytes) = (plan.threads() as u32, plan.shared_bytes as u32);
                (Grid { blocks, threads, shared_bytes }, plan.tiles)
            }
            Size::Many(shape) => {
                let blocks = [outputs.div_ceil(shape.outputs) as u32, tiles, 1];
                let shared_bytes = shape.shared_bytes(run.dtype, device.act()) as u32;
                (Grid { blocks, threads: shape.threads as u32, shared_bytes }, 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_as_large_as_visits_need() {
        for (visits, experts, expected) in [
            (1, 64, Size::Few(8)),
            (12 * 64, 64, Size::Few(16)),
            (12 * 64 + 1, 64, Size::Few(32)),
            (128 * 8, 64, Size::Few(32)),
            (32 * 64, 64, Size::Few(32)),
            (32 * 64 + 1, 64, Size::Many(Shape::SMALL)),
            (64 * 64 + 1, 64, Size::Many(Shape::LARGE)),
        ] {
            assert_eq!(Size::of(visits, experts, |_| true), expected, "{visits} visits, {experts} experts");
        }
        assert_eq!(Size::of(65, 1, |_| false), Size::Many(Shape::SMALL), "what fits");
    }
}
