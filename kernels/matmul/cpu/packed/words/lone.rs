//! One row, of weights whose words are not made of quants by whole factors: words are multiplied as they are made.

use std::{cell::RefCell, marker::PhantomData};

use super::{Layout, PackedProduct, QUADS, SIDE, STEP, Stretch, WordRows, Words, rows::Lines, stretches};
use crate::cpu::simd::{Avx2, Avx512, Kernel512, TileRow, Wide};

thread_local! {
    /// Each thread's own, kept from call to call.
    static SPREAD: RefCell<Spread> = const { RefCell::new(Spread(Vec::new())) };
}

/// A row of activations as pairs, step by step.
#[derive(Default)]
pub(super) struct Spread(Vec<Step>);

/// A step's: of upper bytes and of lower ones.
type Step = [Plane; 2];

/// Of each quad the first and third byte as a pair, and the second and fourth.
type Plane = [TileRow; 2];

impl Spread {
    /// Makes it that of the row whose first line is `lines[0]`.
    pub(super) fn fill(&mut self, lines: &[TileRow], layout: Lines, avx512: Avx2<true>) {
        self.0.resize(layout.steps(), [[TileRow::ZERO; 2]; 2]);
        avx512.run_512(Fill { steps: &mut self.0, lines, layout });
    }
}

struct Fill<'a> {
    steps: &'a mut [Step],
    lines: &'a [TileRow],
    layout: Lines,
}

impl Kernel512 for Fill<'_> {
    #[inline(always)]
    fn run(self, avx512: Avx512) {
        let lines = self.lines.iter().step_by(self.layout.rows);
        for ([even, odd], line) in self.steps.as_flattened_mut().iter_mut().zip(lines) {
            let bytes = avx512.words(&line.0);
            avx512.store_words(avx512.divide_pairs::<8>(avx512.shift_pairs_left::<8>(bytes)), &mut even.0);
            avx512.store_words(avx512.divide_pairs::<8>(bytes), &mut odd.0);
        }
    }
}

/// Computes row `row` of a product.
pub(super) fn run<L: Layout>(product: &PackedProduct, x: &WordRows, row: usize, avx512: Avx2<true>) {
    assert!(!L::WHOLE && !L::OFFSETS, "words are parts of quants");
    let (picked, layout) = (product.picked.at(row), x.layout());
    let scales = &x.scales()[layout.scale(picked)..];
    let run = |Spread(steps): &Spread| {
        assert!(steps.len() == layout.steps(), "a row of as many inputs");
        avx512.run_512(Lone::<L> { product, bytes: x.bytes, row, layout, scales, steps, format: PhantomData });
    };
    match x.lone() {
        Some(spread) => run(spread),
        None => SPREAD.with_borrow_mut(|spread| {
            spread.fill(&x.lines()[layout.line(picked)..], layout, avx512);
            run(spread);
        }),
    }
}

struct Lone<'a, L> {
    product: &'a PackedProduct<'a>,
    /// Whether words of activations have 8 bits.
    bytes: bool,
    row: usize,
    layout: Lines,
    scales: &'a [f32],
    steps: &'a [Step],
    format: PhantomData<L>,
}

impl<L: Layout> Kernel512 for Lone<'_, L> {
    #[inline(always)]
    fn run(self, avx512: Avx512) {
        for output in self.product.outputs.clone().step_by(SIDE) {
            if self.bytes { self.some::<true>(avx512, output) } else { self.some::<false>(avx512, output) }
        }
    }
}

impl<L: Layout> Lone<'_, L> {
    /// Sixteen outputs. Where `BYTES`, words of activations are their lower bytes.
    #[inline(always)]
    fn some<const BYTES: bool>(&self, avx512: Avx512, output: usize) {
        let PackedProduct { weight, outputs, place, .. } = self.product;
        let mut rest = weight.side(output);
        let mut chain = avx512.splat(0.0);
        for (index, groups) in stretches(self.layout.groups).enumerate() {
            let (stretch, behind) = Stretch::of::<L>(rest, groups.len());
            // More than one of each, since a sum waits for the one before.
            let mut uppers = [avx512.splat_int(0); 2];
            let mut lowers = uppers;
            for (group, own) in groups.enumerate() {
                stretch.ask_ahead::<L>(avx512, group);
                let words = stretch.words::<L>(avx512, group);
                let [upper, lower] = &self.steps[own / STEP];
                for (words, at) in words.into_iter().zip(own % STEP * QUADS..) {
                    for odd in 0..2 {
                        if !BYTES {
                            let pair = splat(avx512, &upper[odd], at);
                            uppers[odd] = avx512.dot_pairs_onto(uppers[odd], words[odd], pair);
                        }
                        let pair = splat(avx512, &lower[odd], at);
                        lowers[odd] = avx512.dot_pairs_onto(lowers[odd], words[odd], pair);
                    }
                }
            }
            let mut sum = avx512.add_int(lowers[0], lowers[1]);
            if !BYTES {
                sum = avx512.add_int(avx512.divide::<8>(sum), avx512.add_int(uppers[0], uppers[1]));
            }
            let of_weights = avx512.bits(avx512.words(stretch.scales));
            let scale = avx512.mul(of_weights, avx512.splat(self.scales[index * self.layout.rows]));
            chain = avx512.fma(avx512.float(sum), scale, chain);
            rest = behind;
        }
        let mut values = [0.0; SIDE];
        avx512.store(chain, &mut values);
        place.put(self.row, output - outputs.start, &values[..(outputs.end - output).min(SIDE)]);
    }
}

/// One of a step's pairs in all lanes.
#[inline(always)]
fn splat(avx512: Avx512, pairs: &TileRow, quad: usize) -> <Avx512 as Wide>::I {
    avx512.splat_int(i32::from_le_bytes(pairs.0.as_chunks().0[quad]))
}
