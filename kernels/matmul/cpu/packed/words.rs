//! Products in words, where the machine multiplies whole tiles of bytes (AMX).
//!
//! A tile's sums are worth their time only if they may stay there for many inputs, and so may have no scale in between.
//! So weights are integers of 16 bits here, activations too, and up to 576 inputs have a scale in common: a *stretch*. A
//! stored weight's place between zero and the largest of its stretch becomes such a *word*,
//!
//! ```text
//! word = quant · factor + offset
//! ```
//!
//! with a factor and an offset for what has a scale in common as it is stored, so that weights are read in as few bytes as
//! ever. What remains of a product over a stretch is a sum of products of words, exact in whatever order it is computed:
//!
//! ```text
//! y += ⌊Σ word · a ÷ 256⌋ · (scale of the words · 256 · scale of the activations)
//! ```
//!
//! So a weight is off by 1.5e-4 of the largest of its stretch at most where it is stored in 4 bits, and by 5.5e-4 where in 6
//! (one in bf16 is off by 2e-3 of itself); an activation by 2⁻¹⁶ of the largest of its own. Quants of 8 bits are not made words:
//! factors, being whole numbers, would be too small to be exact. Of 8 bits an activation is its word's lower byte; the sum is not
//! divided then.
//!
//! A word is two bytes, an upper one with a sign and a lower one without; those of activations both have one. Tiles multiply
//! each plane of bytes with each ([`tiled`]): four products of bytes where f32 in two bf16 each would take six. Few rows are not
//! worth a tile: for them quants are multiplied in vectors ([`few`]).

mod few;
mod rows;
mod tiled;

use std::ops::Range;

pub(super) use self::rows::{ROWS_AT_ONCE, WordRows};
use super::{
    GROUP, PackedProduct, QUADS, SIDE,
    layout::{LARGEST_WORD, Layout, MOST_SHARED, Width},
    rounded::LEAST,
};
use crate::cpu::simd::{Avx2, Avx512, Portable, Simd, Tiles, Wide};

/// Groups of a stretch at most: more products of the largest words with lower bytes would not fit 32 bits.
const STRETCH: usize = 18;
/// The same where activations have 8 bits.
const STRETCH_OF_BYTES: usize = 12;
/// Groups that fill a row of a tile.
const STEP: usize = 2;
/// Bytes of a vector.
const VECTOR: usize = 4 * SIDE;
/// How far ahead of the weights being read others are asked for.
const PREFETCH_BYTES: usize = 2048;

/// How a format's stretches of sixteen outputs lie in memory: the scales of their words, then, unit after unit, factors and
/// offsets of groups that have such in common, and the quants of each, with a sign.
trait Words: Layout {
    /// Bytes of a piece's factors, and of its offsets.
    const PIECE: usize = if Self::OFFSETS { 4 * SIDE } else { 2 * SIDE };

    /// Bytes of a unit's factors and offsets.
    const FACTORS: usize = Self::PIECES * Self::PIECE;

    /// Bytes of a unit.
    const UNIT: usize = Self::FACTORS + Self::SHARED * Self::QUANTS;

    /// Bytes of a stretch of so many groups, whole units.
    fn bytes_of(groups: usize) -> usize {
        (VECTOR + groups / Self::SHARED * Self::UNIT).next_multiple_of(VECTOR)
    }
}

impl<L: Layout> Words for L {}

/// A stretch of sixteen outputs.
struct Stretch<'a> {
    /// How much a word of each output is worth.
    scales: &'a [u8; VECTOR],
    units: &'a [u8],
}

impl<'a> Stretch<'a> {
    /// The first of `bytes`, of so many groups; and what follows.
    #[inline(always)]
    fn of<L: Layout>(bytes: &'a [u8], groups: usize) -> (Self, &'a [u8]) {
        let (own, rest) = bytes.split_at(L::bytes_of(groups));
        let (scales, units) = own.split_first_chunk().expect("a stretch's scales");
        (Self { scales, units }, rest)
    }

    /// Asks for as many bytes of weights as the group has, some way behind it.
    #[inline(always)]
    fn ask_ahead<L: Layout>(&self, avx512: Avx512, group: usize) {
        let bytes = L::UNIT / L::SHARED;
        let first = if group == 0 { 0 } else { VECTOR + group * bytes };
        for line in (first..VECTOR + (group + 1) * bytes).step_by(VECTOR) {
            avx512.prefetch(self.scales.as_ptr().wrapping_add(PREFETCH_BYTES + line));
        }
    }

    /// A group's quants.
    #[inline(always)]
    fn quants<L: Layout>(&self, group: usize) -> &'a [u8] {
        &self.units[group / L::SHARED * L::UNIT + L::FACTORS + group % L::SHARED * L::QUANTS..][..L::QUANTS]
    }

    /// Words of a group's inputs, quad after quad: the first and third of each four as pairs, then the second and fourth.
    #[inline(always)]
    fn words<L: Layout>(&self, avx512: Avx512, group: usize) -> [[<Avx512 as Wide>::I; 2]; QUADS] {
        let quants = self.quants::<L>(group);
        let mut words = [[avx512.splat_int(0); 2]; QUADS];
        for piece in 0..L::PIECES {
            let [factors, offsets] = self.pieces::<L>(group, piece);
            let (factors, offsets) = (avx512.twice(factors), avx512.twice(offsets));
            // A quant's highest bit is that of a pair: what is too much is taken off by the product.
            let factors = match L::WIDTH {
                Width::Four => avx512.shift_pairs_left::<3>(factors),
                _ => avx512.shift_pairs_left::<5>(factors),
            };
            for both in piece * QUADS / 2 / L::PIECES..(piece + 1) * QUADS / 2 / L::PIECES {
                let highest = highest::<L>(avx512, quants, both);
                for quad in 0..2 {
                    for odd in 0..2 {
                        let word = avx512.mul_pairs(highest[quad][odd], factors);
                        words[2 * both + quad][odd] = if L::OFFSETS { avx512.add_pairs(word, offsets) } else { word };
                    }
                }
            }
        }
        words
    }

    /// What a piece's quants are multiplied with, and, of a format that has such, its offset.
    #[inline(always)]
    fn factor_and_offset<L: Layout>(
        &self,
        avx512: Avx512,
        group: usize,
        piece: usize,
    ) -> (<Avx512 as Wide>::I, <Avx512 as Wide>::I) {
        let [factors, offsets] = self.pieces::<L>(group, piece);
        (avx512.shorts(factors), avx512.shorts(offsets))
    }

    /// The factors of a piece's outputs and their offsets; of a format that has none, no matter what.
    #[inline(always)]
    fn pieces<L: Layout>(&self, group: usize, piece: usize) -> [&'a [u8; 2 * SIDE]; 2] {
        let own = &self.units[group / L::SHARED * L::UNIT + piece * L::PIECE..][..L::PIECE];
        let shorts: &[[u8; 2 * SIDE]] = own.as_chunks().0;
        [&shorts[0], &shorts[if L::OFFSETS { 1 } else { 0 }]]
    }
}

/// Two quads of quants as the highest bits of pairs.
#[inline(always)]
fn highest<L: Layout>(avx512: Avx512, quants: &[u8], both: usize) -> [[<Avx512 as Wide>::I; 2]; 2] {
    if L::WIDTH == Width::Four {
        // Each byte has a quant of both quads.
        let words = avx512.words(quants[both * VECTOR..][..VECTOR].try_into().expect("a vector"));
        let highest = avx512.splat_int(0xf000_f000_u32.cast_signed());
        return [
            [avx512.shift_pairs_left::<12>(words), avx512.and(avx512.shift_pairs_left::<4>(words), highest)],
            [avx512.and(avx512.shift_pairs_left::<8>(words), highest), avx512.and(words, highest)],
        ];
    }
    let mut pairs = [[avx512.splat_int(0); 2]; 2];
    let highest = avx512.splat_int(0xfc00_fc00_u32.cast_signed());
    for (pairs, quad) in pairs.iter_mut().zip(L::WIDTH.quads(avx512, quants, both)) {
        *pairs = [avx512.shift_pairs_left::<10>(quad), avx512.and(avx512.shift_pairs_left::<2>(quad), highest)];
    }
    pairs
}

/// Whether a format's weights are made words.
pub(super) const fn takes<L: Layout>() -> bool {
    L::WIDTH.rounding_of_words().is_some()
}

/// How many groups there are, and how they are cut into stretches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cut {
    groups: usize,
    /// Those of a stretch; the last one may have fewer.
    of_stretch: usize,
}

impl Cut {
    /// Of so many groups stretches of about as many each: whole steps, and whole units of any format that there is in so many
    /// groups. They are shorter where activations have but 8 bits, of which one that is much larger than the others near it
    /// takes most.
    pub(super) fn of(groups: usize, bytes: bool) -> Self {
        let most = if bytes { STRETCH_OF_BYTES } else { STRETCH };
        let whole = if groups.is_multiple_of(MOST_SHARED) { MOST_SHARED } else { STEP };
        let count = groups.div_ceil(most / whole * whole).max(1);
        Self { groups, of_stretch: groups.div_ceil(count).next_multiple_of(whole).max(whole) }
    }

    /// The groups of each stretch.
    fn stretches(self) -> impl Iterator<Item = Range<usize>> {
        let Self { groups, of_stretch } = self;
        (0..groups).step_by(of_stretch).map(move |first| first..groups.min(first + of_stretch))
    }

    /// How many there are.
    #[inline(always)]
    fn count(self) -> usize {
        self.groups.div_ceil(self.of_stretch)
    }
}

/// Bytes of sixteen outputs.
pub(super) fn stride<L: Layout>(cut: Cut) -> usize {
    cut.stretches().map(|groups| L::bytes_of(groups.len())).sum()
}

/// Rearranges what sixteen outputs have stored.
pub(super) fn pack<L: Layout>(rows: [&[u8]; SIDE], cut: Cut, mut to: &mut [u8]) {
    for groups in cut.stretches() {
        let (own, rest) = to.split_at_mut(L::bytes_of(groups.len()));
        to = rest;
        let (scales, units) = own.split_at_mut(VECTOR);
        pack_scales::<L>(rows, groups.clone(), scales, units);
        for (unit, first) in units.chunks_exact_mut(L::UNIT).zip(groups.step_by(L::SHARED)) {
            for (group, to) in (first..).zip(unit[L::FACTORS..].chunks_exact_mut(L::QUANTS)) {
                for (lane, row) in rows.into_iter().enumerate() {
                    let stored = L::stored_quants(&row[group / L::SPAN * L::STORED..][..L::STORED], group % L::SPAN);
                    // They have no sign, and are so much too large as this bit alone is.
                    let highest = 1 << (L::WIDTH.bits() - 1);
                    L::WIDTH.put(stored.map(|quant| quant ^ highest), lane, to);
                }
            }
        }
    }
}

/// The scales of a stretch's words, and what makes words of quants.
fn pack_scales<L: Layout>(rows: [&[u8]; SIDE], groups: Range<usize>, scales: &mut [u8], units: &mut [u8]) {
    let half = (1 << (L::WIDTH.bits() - 1)) as f32;
    // Of each piece what quants between -1 and 1 are worth, and what lies half way.
    let mut pieces = Vec::with_capacity(STRETCH * L::PIECES);
    let mut heads = vec![0; L::HEADS];
    for group in groups.step_by(L::SHARED) {
        L::pack_heads(rows.map(|row| &row[group / L::SPAN * L::STORED..][..L::STORED]), &mut heads);
        for piece in 0..L::PIECES {
            let (mut worth, mut middle) = ([0.0; SIDE], [0.0; SIDE]);
            let wide = Portable.wide();
            let (scale, offset) = L::head(wide, &heads, group % L::SPAN * L::PIECES + piece);
            wide.store(wide.mul(scale, wide.splat(half)), &mut worth);
            if L::OFFSETS {
                wide.store(wide.fma(scale, wide.splat(half), offset), &mut middle);
            }
            pieces.push((worth, middle));
        }
    }
    for lane in 0..SIDE {
        let sizes = pieces.iter().map(|(worth, middle)| worth[lane].abs() + middle[lane].abs());
        // Of what is no number, so is the scale.
        let most = sizes.fold(0.0, |most: f32, size| if most >= size { most } else { size });
        let (scale, inverse) = match most {
            LEAST.. => (most / LARGEST_WORD, LARGEST_WORD / most),
            0.0..LEAST => (0.0, 0.0),
            _ => (f32::NAN, 0.0),
        };
        scales[4 * lane..][..4].copy_from_slice(&scale.to_le_bytes());
        let factors = units.chunks_exact_mut(L::UNIT).flat_map(|unit| unit[..L::FACTORS].chunks_exact_mut(L::PIECE));
        for ((worth, middle), to) in pieces.iter().zip(factors) {
            let mut put = |value: f32, at: usize| {
                to[at + 2 * lane..][..2].copy_from_slice(&((value * inverse).round_ties_even() as i16).to_le_bytes());
            };
            put(worth[lane] / half, 0);
            if L::OFFSETS {
                put(middle[lane], 2 * SIDE);
            }
        }
    }
}

/// Computes rows `rows` of a product.
pub(super) fn run<L: Layout>(product: &PackedProduct, x: &WordRows, rows: Range<usize>, amx: (Avx2<true>, Tiles)) {
    if rows.len() <= few::FEW_ROWS && x.has_sums() {
        few::run::<L>(product, x, rows, amx.0);
    } else {
        tiled::run::<L>(product, x, rows, amx);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::{
        DType, Matrix,
        cpu::{Cpu, Instructions},
        matmul::MatMul,
        memory::Memory,
        samples::Samples,
    };

    const INPUTS: usize = 512;

    /// Whatever computes them, vectors or tiles.
    #[test]
    fn what_is_no_number_stays_so_and_in_its_place() {
        let cpu = Cpu::solo(1, Instructions::Best);
        if !cpu.isa.has_tiles() {
            return;
        }
        let mut samples = Samples::new(3);
        for dtype in [DType::Q4_1, DType::Q6_K] {
            // The third output has a scale that is infinite.
            let stored = samples.matrix(dtype, 20, INPUTS);
            let mut bytes: Vec<u8> = (0..20).flat_map(|row| stored.row(row).to_vec()).collect();
            let of_row = dtype.bytes_of(INPUTS);
            let scale = 2 * of_row + if dtype == DType::Q6_K { 208 } else { 0 };
            bytes[scale..scale + 2].copy_from_slice(&half::f16::INFINITY.to_le_bytes());
            let matrix = Matrix::new(Arc::new(bytes), 0, dtype, 20, INPUTS).expect("as many bytes as it needs");
            let weight = cpu.weight(vec![matrix]).expect("a weight");
            for rows in [1, 2, 5, 20] {
                let mut x = samples.floats(rows * INPUTS);
                x[INPUTS - 1] = f32::NAN;
                let x = cpu.tensor(rows, INPUTS, &x).expect("memory");
                let product = cpu.matmul(&x, &weight, None).expect("a product");
                for (row, output) in (0..rows).flat_map(|row| (0..20).map(move |output| (row, output))) {
                    let is_number = row > 0 && output != 2;
                    let found = product.row(row)[output];
                    assert_eq!(found.is_finite(), is_number, "{dtype:?}, {rows} rows: {found} at {row}, {output}");
                }
            }
        }
    }
}
