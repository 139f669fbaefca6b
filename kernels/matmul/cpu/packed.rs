//! Quantized weights as integers: the products that decide how fast a model is.
//!
//! A stored weight is `scale · quant + offset`, scale and offset being those of at least 32 inputs. So are activations
//! here: 32 of them are 16-bit integers and a scale ([`Rounded`]). What remains of a product over 32 inputs is a sum of
//! integers, which is exact in whatever order it is computed, and its place in the sum of all 32s:
//!
//! ```text
//! y += (Σ q · a) · (scale · step) + offset · (step · Σ a)
//! ```
//!
//! The machine multiplies and adds sixteen such numbers where it has eight f32, and a quant is an integer as it is
//! stored. To be rounded to 16 bits costs an activation 2⁻¹⁶ of the largest of its 32 at most: that is closer to f32
//! than to bf16 (2⁻⁹), and far from the 8 bits that others round to. Who wants these all the same
//! ([`Rounding`](crate::cpu::Rounding)) has half the operations where products are of bytes, by the same kernels: of an
//! integer of 8 bits the upper byte is none.
//!
//! Sixteen outputs lie in sixteen lanes ([`Integers`]), in memory as they are read, so that no sum goes across lanes and each
//! output has one chain of sums, in the order of its inputs, whatever else is computed: a row's result has the same bits in
//! any company.
//!
//! Where the machine multiplies whole tiles of bytes there is a faster form of both, and of the sum: [`words`].

mod layout;
mod many;
mod multiply;
mod rounded;
#[cfg(target_arch = "x86_64")]
mod words;

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use self::words::{Cut, WordRows};
use self::{
    layout::{Layout, with_layout},
    multiply::Multiply,
    rounded::GroupRows,
};
use super::{Picked, Place};
use crate::{
    DType, Matrix,
    cpu::{Floats, Split, Tensor, simd::Isa, team::Team},
};

/// Inputs that have a scale in common, of weights as of activations.
const GROUP: usize = 32;
/// Fours of them, which are multiplied together.
const QUADS: usize = GROUP / 4;
/// Outputs side by side in lanes: a product begins with a multiple of them.
pub(crate) const SIDE: usize = 16;
/// Rows of activations that are computed side by side, at most. More would fit AVX-512's registers, but not the addresses of
/// their rows those of the others, and are no faster.
pub(super) const ROWS: usize = 4;
/// So many rows of activations stay in a core's second-level cache while weights pass by.
const ROWS_AT_ONCE: usize = 64;
/// From so many rows on a group's weights are kept in registers, where these suffice, while all rows pass.
pub(crate) const MANY_ROWS: usize = 8;
/// Outputs that are multiplied together then: parts of a product are best multiples of them.
pub(crate) const OUTPUTS_OF_MANY: usize = many::SIDES * SIDE;

/// A stored matrix, rearranged: side by side sixteen outputs after sixteen, of these the inputs span by span, or, for tiles,
/// stretch by stretch.
pub(crate) struct Integers {
    dtype: DType,
    /// Whether it is to be multiplied in words, and whether with activations of 8 bits.
    is_words: bool,
    bytes: bool,
    outputs: usize,
    /// Bytes of sixteen outputs.
    stride: usize,
    blocks: Floats,
}

impl Integers {
    /// Whether a format can be: it has integers, a scale and perhaps an offset.
    pub(crate) fn takes(dtype: DType) -> bool {
        with_layout!(dtype, L => L::STORED > 0, else false)
    }

    /// What a weight may be off by once it is rearranged for this instruction set, relative to the largest near it.
    pub(crate) fn rounding(dtype: DType, isa: Isa) -> f32 {
        let words = with_layout!(dtype, L => L::WIDTH.rounding_of_words(), else None);
        words.filter(|_| isa.has_tiles()).unwrap_or_default()
    }

    /// Rearranges a matrix that [`Self::takes`] says yes to, for products in this instruction set.
    /// Where `bytes`, activations will have 8 bits.
    pub(crate) fn new(matrix: &Matrix, bytes: bool, isa: Isa, team: &Team) -> Self {
        with_layout!(matrix.dtype(), L => Self::of::<L>(matrix, bytes, isa, team), else unreachable!("a format with a layout"))
    }

    fn of<L: Layout>(matrix: &Matrix, bytes: bool, isa: Isa, team: &Team) -> Self {
        #[cfg(target_arch = "x86_64")]
        if isa.has_tiles() && words::takes::<L>() {
            let cut = Cut::of(matrix.columns() / GROUP, bytes);
            return Self::packed(matrix, [true, bytes], words::stride::<L>(cut), team, |rows, to| {
                words::pack::<L>(rows, cut, to)
            });
        }
        let spans = matrix.columns() / (L::SPAN * GROUP);
        Self::packed(matrix, [false, bytes], spans * L::BYTES, team, |rows, to| {
            for (span, to) in to.chunks_exact_mut(L::BYTES).enumerate() {
                L::pack(rows.map(|row| &row[span * L::STORED..][..L::STORED]), to);
            }
        })
    }

    /// `pack` rearranges what sixteen outputs have stored as `stride` bytes.
    fn packed(
        matrix: &Matrix,
        [is_words, bytes]: [bool; 2],
        stride: usize,
        team: &Team,
        pack: impl Fn([&[u8]; SIDE], &mut [u8]) + Sync,
    ) -> Self {
        let sides = matrix.rows().div_ceil(SIDE);
        let mut blocks = Floats::new();
        blocks.resize((sides * stride).div_ceil(size_of::<f32>()));
        let split = Split::new(blocks.bytes_mut());
        team.run(sides, |side| {
            // SAFETY: each side has its own bytes.
            let to = unsafe { split.part(side * stride..(side + 1) * stride) };
            // What is missing is the last output once more: nobody asks for it.
            let rows: [&[u8]; SIDE] =
                std::array::from_fn(|lane| matrix.row((side * SIDE + lane).min(matrix.rows() - 1)));
            pack(rows, to);
        });
        Self { dtype: matrix.dtype(), is_words, bytes, outputs: matrix.rows(), stride, blocks }
    }

    /// Whether it is to be multiplied in words.
    pub(crate) fn is_words(&self) -> bool {
        self.is_words
    }

    /// The sixteen outputs that begin with this one.
    #[inline(always)]
    fn side(&self, first: usize) -> &[u8] {
        &self.blocks.bytes()[first / SIDE * self.stride..][..self.stride]
    }
}

/// Activations as integers, in groups or in words or both, as the weights are that they are multiplied with.
#[derive(Default)]
pub(crate) struct Rounded {
    has_words: bool,
    groups: GroupRows,
    #[cfg(target_arch = "x86_64")]
    words: WordRows,
}

/// What activations are wanted as.
#[derive(Clone, Copy)]
pub(crate) struct Kinds {
    pub(crate) groups: bool,
    pub(crate) words: bool,
    /// Of 8 bits.
    pub(crate) bytes: bool,
}

impl Rounded {
    /// Makes it that of `x`, whose columns are whole groups.
    pub(crate) fn convert(&mut self, x: &Tensor, kinds: Kinds, isa: Isa, team: &Team) {
        self.has_words = kinds.words;
        #[cfg(target_arch = "x86_64")]
        if let Some((avx512, _)) = isa.amx().filter(|_| kinds.words) {
            self.words.convert(x, kinds.bytes, avx512, team);
        }
        if kinds.groups {
            self.groups.convert(x, kinds.bytes, isa, team);
        }
    }

    /// Rows that are best multiplied together.
    pub(crate) fn block(&self) -> usize {
        #[cfg(target_arch = "x86_64")]
        if self.has_words {
            return self.words.block();
        }
        self.groups.block()
    }
}

/// Rows of activations times outputs `outputs` of a weight, the first of which is a multiple of [`SIDE`].
pub(crate) struct PackedProduct<'a> {
    pub(crate) x: &'a Rounded,
    pub(crate) picked: Picked<'a>,
    pub(crate) weight: &'a Integers,
    pub(crate) outputs: Range<usize>,
    pub(crate) place: Place<'a>,
}

impl PackedProduct<'_> {
    /// Computes it.
    pub(crate) fn run(&self, isa: Isa) {
        assert!(self.outputs.start.is_multiple_of(SIDE), "whole sides from the first output on");
        assert!(self.outputs.end <= self.weight.outputs, "outputs of the weight");
        #[cfg(target_arch = "x86_64")]
        if self.weight.is_words {
            return self.run_words(isa);
        }
        with_layout!(
            self.weight.dtype,
            L => self.runs(ROWS_AT_ONCE).for_each(|rows| isa.run(Multiply::<L>::of(self, &self.x.groups, rows))),
            else unreachable!("packed weights have a layout")
        );
    }

    /// Of the formats that [`words::takes`] says yes to: others are not worth compiling it for.
    #[cfg(target_arch = "x86_64")]
    fn run_words(&self, isa: Isa) {
        let amx = isa.amx().expect("who makes words has tiles");
        assert_eq!(self.weight.bytes, self.x.words.bytes(), "activations of so many bits");
        with_layout!(
            among Q4_0, Q4_1, Q4_K, Q6_K, WInt4, WInt4G32;
            self.weight.dtype,
            L => self.runs(words::ROWS_AT_ONCE).for_each(|rows| words::run::<L>(self, &self.x.words, rows, amx)),
            else unreachable!("only these are made words")
        );
    }

    /// Its rows, so many at most together.
    fn runs(&self, most: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let count = self.picked.count();
        (0..count).step_by(most).map(move |first| first..count.min(first + most))
    }
}
