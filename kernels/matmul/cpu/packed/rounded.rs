//! Activations as integers of 16 bits, or of 8, 32 with a scale of their own.

use super::{GROUP, QUADS, ROWS_AT_ONCE};
use crate::cpu::{
    LARGEST_SHORT, Split, Tensor,
    simd::{Isa, Kernel, LANES, Line, Simd},
    team::Team,
};

/// The largest of 8 bits: its upper byte is none.
pub(super) const LARGEST_BYTE: f32 = 127.0;
/// What has magnitudes that are all below this is zero: the inverse of its step would not be finite.
pub(super) const LEAST: f32 = 1e-30;
/// What converting an element costs a thread, roughly: only sharing among threads depends on it.
const NANOSECONDS: f64 = 0.4;

/// Rows of activations, `[blocks][groups][rows of a block]`: where many rows pass by a group's weights, their groups are
/// neighbours in memory; a lone row's are so, too.
#[derive(Default)]
pub(crate) struct GroupRows {
    groups: usize,
    /// Rows of a block.
    block: usize,
    /// Whether integers have 8 bits.
    pub(super) bytes: bool,
    quads: Vec<Quads>,
    heads: Vec<Head>,
}

/// A group's integers by fours: of each four the first factor of its product, then of each the second. These are their upper
/// bytes and their lower ones, or, without [`Simd::DOTS_QUADS`], the first and third and the second and fourth. (Factors that
/// are needed together must not be neighbours: the compiler would load both as one number, and take them apart again at
/// great cost.)
pub(super) type Quads = Line;

/// What a group of activations has in common.
#[derive(Clone, Copy, Default)]
pub(super) struct Head {
    /// An activation is its integer times this.
    pub(super) step: f32,
    /// The activations' sum.
    pub(super) sum: f32,
    /// What a sum of products begins with where quants have lost their sign: less the integers' sum, times what each quant
    /// has too much. Of nibbles, …
    pub(super) less_8: i32,
    /// … of bytes, …
    pub(super) less_128: i32,
    /// … and of six bits, that of each half.
    pub(super) less_32: [i32; 2],
}

impl GroupRows {
    /// Makes it that of `x`, whose columns are whole groups.
    pub(crate) fn convert(&mut self, x: &Tensor, bytes: bool, isa: Isa, team: &Team) {
        let (rows, columns) = (x.rows(), x.columns());
        assert!(columns.is_multiple_of(GROUP), "whole groups");
        // Blocks of about as many rows each.
        let blocks = rows.div_ceil(ROWS_AT_ONCE).max(1);
        let block = rows.div_ceil(blocks).max(1);
        (self.groups, self.block, self.bytes) = (columns / GROUP, block, bytes);
        let largest = if bytes { LARGEST_BYTE } else { LARGEST_SHORT };
        let count = blocks * self.block * self.groups;
        self.quads.resize(count, Quads::default());
        self.heads.resize(count, Head::default());
        let layout = self.layout();
        let (quads, heads) = (Split::new(&mut self.quads), Split::new(&mut self.heads));
        let grain = rows.div_ceil(4 * team.threads()).max(1);
        team.share(rows.div_ceil(grain), NANOSECONDS * (grain * columns) as f64, |item| {
            for row in item * grain..rows.min((item + 1) * grain) {
                let first = layout.first(row);
                let place = |group: usize| {
                    let at = first + layout.later(group);
                    // SAFETY: each row is one item's, and the groups of each lie apart.
                    unsafe { (&mut quads.part(at..at + 1)[0], &mut heads.part(at..at + 1)[0]) }
                };
                isa.run(Convert { values: x.row(row), largest, place });
            }
        });
    }

    /// Rows that lie together, and are best multiplied together.
    pub(crate) fn block(&self) -> usize {
        self.block
    }

    /// Where a row's groups are.
    #[inline(always)]
    pub(super) fn layout(&self) -> Blocks {
        Blocks { groups: self.groups, rows: self.block }
    }

    /// Groups from this place on: what [`Blocks`] says.
    #[inline(always)]
    pub(super) fn from(&self, place: usize) -> (&[Quads], &[Head]) {
        (&self.quads[place..], &self.heads[place..])
    }
}

/// How rows lie in memory.
#[derive(Clone, Copy)]
pub(super) struct Blocks {
    /// Groups of a row.
    pub(super) groups: usize,
    /// Rows of a block.
    rows: usize,
}

impl Blocks {
    /// Where a row's first group is.
    #[inline(always)]
    pub(super) fn first(self, row: usize) -> usize {
        row / self.rows * self.rows * self.groups + row % self.rows
    }

    /// How far behind its first one group `group` of a row is.
    #[inline(always)]
    pub(super) fn later(self, group: usize) -> usize {
        group * self.rows
    }
}

/// `place` gives where a group goes; each is asked for once.
struct Convert<'a, P> {
    values: &'a [f32],
    largest: f32,
    place: P,
}

impl<'p, P: Fn(usize) -> (&'p mut Quads, &'p mut Head)> Kernel for Convert<'_, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let groups = self.values.as_chunks::<GROUP>().0;
        for (group, values) in groups.iter().enumerate() {
            let (quads, head) = (self.place)(group);
            let eights = values.as_chunks::<LANES>().0;
            let mut most = simd.splat(0.0);
            for eight in eights {
                let value = simd.load(eight);
                most = simd.max(simd.max(value, simd.sub(simd.splat(0.0), value)), most);
            }
            let most = simd.max_lane(most);
            // Of what is not a number, so is the step.
            let (step, inverse) = if most < LEAST { (0.0, 0.0) } else { (most / self.largest, self.largest / most) };
            let inverse = simd.splat(inverse);
            let mut halves = [0; 2];
            for (half, eights) in eights.as_chunks::<2>().0.iter().enumerate() {
                let [low, high] = [simd.mul(simd.load(&eights[0]), inverse), simd.mul(simd.load(&eights[1]), inverse)];
                let shorts = simd.shorts(low, high);
                let own = if S::DOTS_QUADS { simd.split_quads(shorts) } else { simd.pair_quads(shorts) };
                let mut both = [0; LANES];
                simd.store_int(own, &mut both);
                for (to, own) in quads.0.iter_mut().zip(both.as_chunks::<{ QUADS / 2 }>().0) {
                    to.as_chunks_mut().0[half] = *own;
                }
                let mut sums = [0; LANES];
                simd.store_int(simd.dot_pairs(shorts, simd.splat_int(0x0001_0001)), &mut sums);
                halves[half] = sums.iter().sum::<i32>();
            }
            let total = halves[0] + halves[1];
            *head = Head {
                step,
                sum: step * total as f32,
                less_8: -8 * total,
                less_128: -128 * total,
                less_32: halves.map(|half| -32 * half),
            };
        }
    }
}
