//! Weights that are 16-bit floats, rearranged in the order in which products read them.
//!
//! Read row by row, several outputs' weights are several streams, more than the processor follows by itself. So sixteen
//! outputs lie in sixteen lanes, as those of [`packed`](super::packed) do: one stream, however few inputs there are.
//!
//! An output is the sum of two chains of fused multiply-adds: over the first half of its inputs, and over the second. That
//! is its order of arithmetic in any company. An input of the first half and its fellow of the second lie together, for
//! what they are multiplied with does not: the compiler would load neighbours as one number, and take them apart at great
//! cost.

use std::{marker::PhantomData, ops::Range};

use super::{
    Place, Rows,
    packed::{ROWS, SIDE},
};
use crate::{
    DType, Matrix,
    cpu::{
        Floats, Split,
        simd::{Isa, Kernel, Simd, Wide},
        team::Team,
    },
};

/// Bytes of a pair of inputs.
const PAIR_BYTES: usize = 2 * 2 * SIDE;
/// So many rows of activations stay in a core's second-level cache while weights pass by. Each time they pass they are used so
/// often that it does not matter where they come from. A multiple of how many are computed side by side.
const ROWS_AT_ONCE: usize = 24;
/// Rows that are best multiplied by one thread, one after the other: they stay in its cache while several outputs pass by.
pub(super) const BLOCK: usize = 3 * ROWS_AT_ONCE;
/// How far ahead of the weights being read others are asked for.
const PREFETCH_BYTES: usize = 2048;

/// A stored matrix, rearranged: sixteen outputs after sixteen, of these pair after pair of inputs.
pub(crate) struct Halves {
    dtype: DType,
    outputs: usize,
    /// Bytes of sixteen outputs.
    stride: usize,
    blocks: Floats,
}

impl Halves {
    /// Whether a matrix can be rearranged: it is of 16-bit floats, and each input has a fellow.
    pub(crate) fn takes(matrix: &Matrix) -> bool {
        matches!(matrix.dtype(), DType::F16 | DType::BF16) && matrix.columns().is_multiple_of(2)
    }

    /// Rearranges a matrix that [`Self::takes`] says yes to.
    pub(crate) fn new(matrix: &Matrix, team: &Team) -> Self {
        match matrix.dtype() {
            DType::BF16 => Self::of::<BFloats>(matrix, team),
            _ => Self::of::<Ieee>(matrix, team),
        }
    }

    fn of<P: Pair>(matrix: &Matrix, team: &Team) -> Self {
        let steps = matrix.columns() / 2;
        let stride = steps * PAIR_BYTES;
        let sides = matrix.rows().div_ceil(SIDE);
        let mut blocks = Floats::new();
        blocks.resize(sides * stride / size_of::<f32>());
        let split = Split::new(blocks.bytes_mut());
        team.run(sides, |side| {
            // SAFETY: each side has its own bytes.
            let to = unsafe { split.part(side * stride..(side + 1) * stride) };
            // What is missing is the last output once more: nobody asks for it.
            let rows: [&[[u8; 2]]; SIDE] =
                std::array::from_fn(|lane| matrix.row((side * SIDE + lane).min(matrix.rows() - 1)).as_chunks().0);
            for (step, to) in to.as_chunks_mut::<PAIR_BYTES>().0.iter_mut().enumerate() {
                for (lane, row) in rows.iter().enumerate() {
                    P::put([row[step], row[steps + step]], lane, to);
                }
            }
        });
        Self { dtype: matrix.dtype(), outputs: matrix.rows(), stride, blocks }
    }

    /// The sixteen outputs that begin with this one.
    #[inline(always)]
    fn side(&self, first: usize) -> &[[u8; PAIR_BYTES]] {
        self.blocks.bytes()[first / SIDE * self.stride..][..self.stride].as_chunks().0
    }
}

/// How two inputs' weights of sixteen outputs lie together.
trait Pair {
    /// Puts both of an output where they belong.
    fn put(both: [[u8; 2]; 2], lane: usize, to: &mut [u8; PAIR_BYTES]);

    /// The first one's of all outputs, and the second one's.
    fn both<W: Wide>(wide: W, from: &[u8; PAIR_BYTES]) -> [W::F; 2];
}

/// bfloat16: of each output the first one's bits, above them the second one's. They are the upper bits of an f32.
struct BFloats;

/// Half precision: the first one's of all outputs, then the second one's.
struct Ieee;

impl Pair for BFloats {
    fn put(both: [[u8; 2]; 2], lane: usize, to: &mut [u8; PAIR_BYTES]) {
        to[4 * lane..][..4].copy_from_slice(both.as_flattened());
    }

    #[inline(always)]
    fn both<W: Wide>(wide: W, from: &[u8; PAIR_BYTES]) -> [W::F; 2] {
        let words = wide.words(from);
        let second = wide.and(words, wide.splat_int(0xffff_0000_u32.cast_signed()));
        [wide.bits(wide.shift_left::<16>(words)), wide.bits(second)]
    }
}

impl Pair for Ieee {
    fn put(both: [[u8; 2]; 2], lane: usize, to: &mut [u8; PAIR_BYTES]) {
        for (bits, to) in both.iter().zip(to.as_chunks_mut::<{ PAIR_BYTES / 2 }>().0) {
            to[2 * lane..][..2].copy_from_slice(bits);
        }
    }

    #[inline(always)]
    fn both<W: Wide>(wide: W, from: &[u8; PAIR_BYTES]) -> [W::F; 2] {
        let [first, second]: &[[u8; PAIR_BYTES / 2]; 2] = from.as_chunks().0.try_into().expect("both");
        [wide.half_bytes(first), wide.half_bytes(second)]
    }
}

/// Whole rows of activations times outputs `outputs` of a weight, the first of which is a multiple of [`SIDE`].
pub(crate) struct HalvesProduct<'a> {
    pub(crate) x: Rows<'a>,
    pub(crate) weight: &'a Halves,
    pub(crate) outputs: Range<usize>,
    pub(crate) place: Place<'a>,
}

impl HalvesProduct<'_> {
    /// Computes it.
    pub(crate) fn run(&self, isa: Isa) {
        assert!(self.outputs.start.is_multiple_of(SIDE), "whole sides from the first output on");
        assert!(self.outputs.end <= self.weight.outputs, "outputs of the weight");
        let count = self.x.count();
        for first in (0..count).step_by(ROWS_AT_ONCE) {
            let rows = first..count.min(first + ROWS_AT_ONCE);
            match self.weight.dtype {
                DType::BF16 => isa.run(Multiply::<BFloats> { product: self, rows, pair: PhantomData }),
                _ => isa.run(Multiply::<Ieee> { product: self, rows, pair: PhantomData }),
            }
        }
    }
}

/// Rows `rows` of a product.
struct Multiply<'a, P> {
    product: &'a HalvesProduct<'a>,
    rows: Range<usize>,
    pair: PhantomData<P>,
}

impl<P: Pair> Kernel for Multiply<'_, P> {
    type Output = ();

    /// Outputs outside, rows inside: sixteen outputs' weights stay in the first-level cache while all rows pass.
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for output in self.product.outputs.clone().step_by(SIDE) {
            let mut row = self.rows.start;
            while row < self.rows.end {
                row += match self.rows.end - row {
                    1 => self.some::<S, 1>(simd, output, row),
                    ROWS.. if S::REGISTERS == 32 => self.some::<S, ROWS>(simd, output, row),
                    _ => self.some::<S, 2>(simd, output, row),
                };
            }
        }
    }
}

impl<P: Pair> Multiply<'_, P> {
    /// Of each of `M` rows from `row` on the sums of sixteen outputs; returns `M`. The first rows ask for weights ahead, the
    /// others find them in the cache.
    #[inline(always)]
    fn some<S: Simd, const M: usize>(&self, simd: S, output: usize, row: usize) -> usize {
        let (wide, is_first) = (simd.wide(), row == self.rows.start);
        let HalvesProduct { x, weight, outputs, place } = self.product;
        let weights = weight.side(output);
        let steps = weights.len();
        let mut halves: [[&[f32]; 2]; M] = [[&[]; 2]; M];
        for (index, halves) in halves.iter_mut().enumerate() {
            *halves = x.row(row + index).split_at(steps).into();
        }
        assert!(halves.as_flattened().iter().all(|half| half.len() == steps), "rows of as many inputs");
        let mut chains = [[wide.splat(0.0); 2]; M];
        for (step, both) in weights.iter().enumerate() {
            if is_first {
                simd.prefetch(both.as_ptr().wrapping_add(PREFETCH_BYTES));
            }
            let both = P::both(wide, both);
            // By indices: of arrays lent to iterators the compiler keeps nothing in registers.
            for m in 0..M {
                for half in 0..2 {
                    // SAFETY: each half has as many inputs as there are steps, as asserted above.
                    let value = wide.splat(unsafe { *halves[m][half].get_unchecked(step) });
                    chains[m][half] = wide.fma(both[half], value, chains[m][half]);
                }
            }
        }
        let (first, count) = (output - outputs.start, (outputs.end - output).min(SIDE));
        for (index, [lower, upper]) in chains.into_iter().enumerate() {
            let mut values = [0.0; SIDE];
            wide.store(wide.add(lower, upper), &mut values);
            place.put_side(row + index, first, &values, count);
        }
        M
    }
}
