//! Activations as words, a stretch of them with a scale of their own.

use super::{super::rounded::LARGEST_BYTE, Cut, GROUP, LEAST, SIDE, STEP, few::Sums};
use crate::cpu::{
    LARGEST_SHORT, Split, Tensor,
    simd::{Avx2, Avx512, Kernel512, TILE_ROWS, TileRow, Wide},
    team::Team,
};

/// So many bytes of activations stay in a core's second-level cache while weights pass by.
const BYTES_AT_ONCE: usize = 1 << 20;
/// Rows that pass by weights as long as these are unpacked: more would gain little.
pub(in super::super) const ROWS_AT_ONCE: usize = 256;
/// Fewer make it not worth while to unpack weights for them.
const ROWS_LEAST: usize = 64;
/// Of so many rows some products may have few: sums of more would be made in vain.
const SUMMED_ROWS: usize = 64;
/// What converting an element costs a thread, roughly: only sharing among threads depends on it.
const NANOSECONDS: f64 = 0.2;

/// Rows of activations: of each tile its lines in the order in which they are multiplied.
#[derive(Default)]
pub(crate) struct WordRows {
    layout: Lines,
    /// Rows that are best multiplied together.
    block: usize,
    /// Whether words have 8 bits.
    pub(super) bytes: bool,
    lines: Vec<TileRow>,
    /// What an activation's word is worth, 256 times that of 16 bits.
    scales: Vec<f32>,
    /// What a group's words sum up to, unless rows are many: `[tiles][groups][rows of a tile]`.
    sums: Vec<Sums>,
}

/// How rows lie in memory: `[tiles][steps][planes][rows of a tile]` of 64 bytes each, scales `[tiles][stretches][rows of a tile]`.
#[derive(Clone, Copy, Default)]
pub(super) struct Lines {
    pub(super) cut: Cut,
    /// Rows of a tile: as many as there are, if they are few.
    pub(super) rows: usize,
}

impl Lines {
    /// Rows of tiles that a row is.
    #[inline(always)]
    pub(super) fn steps(self) -> usize {
        self.cut.groups.div_ceil(STEP)
    }

    /// Where a row's upper bytes of its first step are; the lower ones are a tile's rows behind them, and so on.
    #[inline(always)]
    pub(super) fn line(self, row: usize) -> usize {
        row / self.rows * self.rows * self.steps() * 2 + row % self.rows
    }

    /// Where a row's first sums are; the next ones are a tile's rows behind them.
    #[inline(always)]
    pub(super) fn sum(self, row: usize) -> usize {
        row / self.rows * self.rows * self.cut.groups + row % self.rows
    }

    /// Where a row's first scale is; the next one is a tile's rows behind it.
    #[inline(always)]
    pub(super) fn scale(self, row: usize) -> usize {
        row / self.rows * self.rows * self.cut.count() + row % self.rows
    }
}

impl WordRows {
    /// Makes it that of `x`, whose columns are whole groups.
    pub(in super::super) fn convert(&mut self, x: &Tensor, bytes: bool, avx512: Avx2<true>, team: &Team) {
        let (rows, columns) = (x.rows(), x.columns());
        assert!(columns.is_multiple_of(GROUP), "whole groups");
        // Blocks of about as many rows each, of whole tiles.
        let most = (BYTES_AT_ONCE / (2 * columns).max(1)).clamp(ROWS_LEAST, ROWS_AT_ONCE);
        self.block = rows.div_ceil(rows.div_ceil(most).max(1)).max(1);
        if self.block > TILE_ROWS {
            self.block = self.block.next_multiple_of(TILE_ROWS);
        }
        let layout = Lines { cut: Cut::of(columns / GROUP, bytes), rows: self.block.min(TILE_ROWS) };
        (self.layout, self.bytes) = (layout, bytes);
        let room = rows.next_multiple_of(layout.rows);
        self.lines.resize(layout.line(room), TileRow::ZERO);
        self.scales.resize(layout.scale(room), 0.0);
        self.sums.resize(if rows <= SUMMED_ROWS { layout.sum(room) } else { 0 }, Sums::default());
        let (lines, scales) = (Split::new(&mut self.lines), Split::new(&mut self.scales));
        let sums = (rows <= SUMMED_ROWS).then(|| Split::new(&mut self.sums));
        let grain = rows.div_ceil(4 * team.threads()).max(1);
        team.share(rows.div_ceil(grain), NANOSECONDS * (grain * columns) as f64, |item| {
            for row in item * grain..rows.min((item + 1) * grain) {
                let (first, scale) = (layout.line(row), layout.scale(row));
                let sums = sums.as_ref().map(|sums| (sums, layout.sum(row)));
                let place =
                    Place { lines: &lines, scales: &scales, sums, cut: layout.cut, apart: layout.rows, first, scale };
                avx512.run_512(Convert { values: x.row(row), bytes, place });
            }
        });
    }

    /// Rows that lie together, and are best multiplied together.
    pub(in super::super) fn block(&self) -> usize {
        self.block
    }

    /// Whether words have 8 bits.
    pub(in super::super) fn bytes(&self) -> bool {
        self.bytes
    }

    /// Whether sums are there.
    pub(super) fn has_sums(&self) -> bool {
        !self.sums.is_empty()
    }

    /// All of them, where [`Lines`] says.
    pub(super) fn sums(&self) -> &[Sums] {
        &self.sums
    }

    /// Where rows are.
    #[inline(always)]
    pub(super) fn layout(&self) -> Lines {
        self.layout
    }

    /// All of them, where [`Lines`] says.
    #[inline(always)]
    pub(super) fn lines(&self) -> &[TileRow] {
        &self.lines
    }

    /// All of their scales, where [`Lines`] says.
    #[inline(always)]
    pub(super) fn scales(&self) -> &[f32] {
        &self.scales
    }
}

/// Where a row goes.
struct Place<'a> {
    lines: &'a Split<'a, TileRow>,
    scales: &'a Split<'a, f32>,
    /// And where its first ones are, if they are wanted.
    sums: Option<(&'a Split<'a, Sums>, usize)>,
    cut: Cut,
    apart: usize,
    first: usize,
    scale: usize,
}

/// The sums of a line's bytes: of each group's first half and its second.
#[inline(always)]
fn sums_of_halves(avx512: Avx512, line: &TileRow) -> [[i32; 2]; STEP] {
    let of_quads = avx512.dot_quads(avx512.splat_int(0), avx512.splat_int(0x0101_0101), avx512.words(&line.0));
    let [first, second, third, fourth] = avx512.sums_of_fours(of_quads);
    [[first, second], [third, fourth]]
}

struct Convert<'a> {
    values: &'a [f32],
    bytes: bool,
    place: Place<'a>,
}

impl Kernel512 for Convert<'_> {
    #[inline(always)]
    fn run(self, avx512: Avx512) {
        let Place { lines, scales, sums, cut, apart, first, scale } = self.place;
        for (stretch, groups) in cut.stretches().enumerate() {
            let sixteens = self.values[groups.start * GROUP..groups.end * GROUP].as_chunks::<SIDE>().0;
            let mut most = avx512.splat_int(0);
            for values in sixteens {
                // Without their signs, bits are in the order of the numbers, and those of what is none above all others.
                let size = avx512.and(avx512.of_bits(avx512.load(values)), avx512.splat_int(i32::MAX));
                most = avx512.max_int(most, size);
            }
            let most = f32::from_bits(avx512.max_int_lane(most).cast_unsigned());
            let largest = if self.bytes { LARGEST_BYTE } else { LARGEST_SHORT };
            let (worth, inverse) = match most {
                0.0..LEAST => (0.0, 0.0),
                f32::INFINITY => (f32::NAN, 0.0),
                // Of what is not a number, so is the scale.
                _ => (most / largest * if self.bytes { 1.0 } else { 256.0 }, largest / most),
            };
            // SAFETY: each row is one item's, and its stretches lie apart.
            unsafe { scales.part(scale + stretch * apart..scale + stretch * apart + 1)[0] = worth };
            let inverse = avx512.splat(inverse);
            for (index, values) in sixteens.chunks(STEP * GROUP / SIDE).enumerate() {
                let mut both = [TileRow::ZERO; 2];
                for (at, values) in values.iter().enumerate() {
                    let word = avx512.round(avx512.mul(avx512.load(values), inverse));
                    let upper = avx512.shift_right::<8>(avx512.add_int(word, avx512.splat_int(128)));
                    both[0].0.as_chunks_mut::<SIDE>().0[at] = avx512.low_bytes(upper);
                    both[1].0.as_chunks_mut::<SIDE>().0[at] = avx512.low_bytes(word);
                }
                if let Some((sums, at)) = sums {
                    let [uppers, lowers] = [sums_of_halves(avx512, &both[0]), sums_of_halves(avx512, &both[1])];
                    for step in 0..STEP.min(groups.len() - STEP * index) {
                        let at = at + (groups.start + STEP * index + step) * apart;
                        // SAFETY: each row is one item's, and the sums of its groups lie apart.
                        unsafe { sums.part(at..at + 1)[0] = [uppers[step], lowers[step]] };
                    }
                }
                for (plane, own) in both.into_iter().enumerate() {
                    let at = first + ((groups.start / STEP + index) * 2 + plane) * apart;
                    // SAFETY: each row is one item's, and its lines lie apart.
                    unsafe { lines.part(at..at + 1)[0] = own };
                }
            }
        }
    }
}
