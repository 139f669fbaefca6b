//! What the machine reaches at best, by loops that do nothing else: the denominators of every share.

use std::{array, hint::black_box, time::Duration};

use super::{Timing, caches::cold_bytes};
#[cfg(target_arch = "x86_64")]
use crate::cpu::simd::{TILE_ROWS, TileRow, Tiles};
use crate::cpu::{
    Cpu, Floats,
    simd::{self, Kernel, LANES, Simd, Wide},
};

/// What a device's threads reach together: the best of some runs, so that neighbours do little harm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peaks {
    /// Bytes per second read from memory, one after another.
    pub memory: f64,
    /// Bytes per second read from the cores' own second caches (128 KiB each thread).
    pub cache: f64,
    /// Multiplications and additions of f32 per second, in the vectors that kernels use.
    pub f32: f64,
    /// Those of 16-bit integers, as packed weights are multiplied: with tiles of bytes four products of these.
    pub int16: f64,
    /// Those of bytes, where there are instructions for them; kernels use those of AVX-512 and tiles.
    pub int8: Option<Int8Peak>,
}

/// Products of bytes, summed in 32-bit integers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Int8Peak {
    /// By which instructions.
    pub instructions: &'static str,
    /// Multiplications and additions per second.
    pub peak: f64,
}

/// Bytes that a thread reads at once from memory.
const STRETCH: usize = 1 << 20;
/// Bytes that stay in a core's second cache, and leave the first.
const IN_CACHE: usize = 128 << 10;
/// How often a thread reads them, and how many products of vectors it makes, before it looks for the next item.
const PASSES: usize = 256;
const STEPS: usize = 480_000;
const ROUNDS: usize = STEPS / 12;

/// Every share is told by these: they get at least so much time each, to find the machine at its best.
const TIME_MIN: Duration = Duration::from_millis(300);

/// Measures all of them, each for about `time`.
pub(super) fn measure(cpu: &Cpu, time: Duration) -> Peaks {
    let (isa, time) = (cpu.isa, time.max(TIME_MIN));
    let int8 = int8(cpu, time);
    Peaks {
        memory: memory(cpu, time),
        cache: cache(cpu, time),
        f32: of_items(cpu, time, STEPS * 2 * SIDE, || {
            black_box(isa.run(Multiply { factor: black_box(0.999_999) }));
        }),
        int16: match int8 {
            Some(Int8Peak { peak, .. }) if isa.has_tiles() => peak / 4.0,
            _ => of_items(cpu, time, STEPS * 4 * SIDE, || {
                black_box(isa.run(MultiplyIntegers::<false> { factor: black_box(3) }));
            }),
        },
        int8,
    }
}

/// Of the best instruction that kernels use, or of what the machine has where it lacks those.
fn int8(cpu: &Cpu, time: Duration) -> Option<Int8Peak> {
    let isa = cpu.isa;
    #[cfg(target_arch = "x86_64")]
    if let Some(tiles) = isa.tiles() {
        let peak = of_items(cpu, time, TILE_STEPS * 4 * TILE_OPERATIONS, || multiply_tiles(tiles));
        return Some(Int8Peak { instructions: "amx-int8", peak });
    }
    if isa.has_byte_dots() {
        let peak = of_items(cpu, time, STEPS * 8 * SIDE, || {
            black_box(isa.run(MultiplyIntegers::<true> { factor: black_box(3) }));
        });
        return Some(Int8Peak { instructions: "avx512-vnni", peak });
    }
    simd::ByteDots::detect().map(|dots| Int8Peak {
        instructions: dots.instructions,
        peak: of_items(cpu, time, ROUNDS * dots.operations, || {
            black_box((dots.run)(ROUNDS));
        }),
    })
}

/// Steps of a loop over products of whole tiles, four in each, and the operations of one.
#[cfg(target_arch = "x86_64")]
const TILE_STEPS: usize = 5_000;
#[cfg(target_arch = "x86_64")]
const TILE_OPERATIONS: usize = 2 * TILE_ROWS * TILE_ROWS * size_of::<TileRow>();

/// Products of tiles, whose loading takes less time than they do: of bytes as weights have them, for those of zeros take less
/// power, and with it time.
#[cfg(target_arch = "x86_64")]
fn multiply_tiles(tiles: Tiles) {
    let tiles = tiles.shaped(TILE_ROWS, size_of::<TileRow>());
    let row = |row: usize| TileRow(array::from_fn(|at| ((row * size_of::<TileRow>() + at) * 0x9e37).to_le_bytes()[1]));
    let planes = |first: usize| [0, TILE_ROWS].map(|plane| array::from_fn(|at| row(first + plane + at)));
    let (x, w) = black_box((planes(0), planes(2 * TILE_ROWS)));
    tiles.clear_words();
    for _ in 0..TILE_STEPS {
        tiles.add_words::<false>([&x[0], &x[1]], &w);
    }
}

fn memory(cpu: &Cpu, time: Duration) -> f64 {
    let bytes = cold_bytes();
    let buffer = ones(bytes / 4);
    let stretches: Vec<&[f32]> = buffer.chunks_exact(STRETCH / 4).collect();
    let isa = cpu.isa;
    let read = |at: usize| {
        black_box(isa.run(Read(stretches[at])));
    };
    per_second(stretches.len() * STRETCH, time, || cpu.team.run(stretches.len(), read))
}

fn cache(cpu: &Cpu, time: Duration) -> f64 {
    let buffers: Vec<Floats> = (0..items(cpu)).map(|_| ones(IN_CACHE / 4)).collect();
    let isa = cpu.isa;
    let read = |at: usize| {
        for _ in 0..PASSES {
            black_box(isa.run(Read(black_box(&buffers[at]))));
        }
    };
    per_second(buffers.len() * PASSES * IN_CACHE, time, || cpu.team.run(buffers.len(), read))
}

/// Some operations per item, on all threads.
fn of_items(cpu: &Cpu, time: Duration, operations: usize, item: impl Fn() + Sync) -> f64 {
    let items = items(cpu);
    per_second(items * operations, time, || cpu.team.run(items, |_| item()))
}

/// So many that the threads end nearly together.
fn items(cpu: &Cpu) -> usize {
    cpu.team.threads() * 8
}

fn per_second(amount: usize, time: Duration, run: impl FnMut()) -> f64 {
    amount as f64 / Timing::measure(time, run).least.as_secs_f64()
}

/// Not zeros: those would be one page, seen many times.
fn ones(length: usize) -> Floats {
    let mut floats = Floats::new();
    floats.resize(length);
    floats.fill(1.0);
    floats
}

/// Adds up a slice in as many chains as hide an addition's latency.
struct Read<'a>(&'a [f32]);

impl Kernel for Read<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let mut sums = [simd.splat(0.0); LANES];
        for eight in self.0.as_chunks::<LANES>().0.as_chunks::<LANES>().0 {
            for i in 0..LANES {
                sums[i] = simd.add(sums[i], simd.load(&eight[i]));
            }
        }
        total(simd, &sums)
    }
}

/// Lanes of the vectors that products are made in.
const SIDE: usize = 16;

/// Calls a sum over chains that do not wait for each other: as many as hide a product's latency, and registers hold.
macro_rules! in_chains {
    ($simd:ident, $self:ident.$sum:ident($value:ident)) => {
        match $simd::Wide::REGISTERS {
            1 => $self.$sum::<$simd, 12>($value),
            _ => $self.$sum::<$simd, 6>($value),
        }
    };
}

/// Multiply-adds in registers.
struct Multiply {
    factor: f32,
}

impl Kernel for Multiply {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        in_chains!(S, self.sum(simd))
    }
}

impl Multiply {
    #[inline(always)]
    fn sum<S: Simd, const N: usize>(self, simd: S) -> f32 {
        let wide = simd.wide();
        let (factor, term) = (wide.splat(self.factor), wide.splat(1e-7));
        let mut chains: [_; N] = array::from_fn(|chain| wide.splat(chain as f32 * 1e-3));
        for _ in 0..STEPS / N {
            for chain in &mut chains {
                *chain = wide.fma(*chain, factor, term);
            }
        }
        lanes(wide, &chains)
    }
}

/// Products of integers in registers: quads of bytes, or pairs of 16-bit ones.
struct MultiplyIntegers<const BYTES: bool> {
    factor: i32,
}

impl<const BYTES: bool> Kernel for MultiplyIntegers<BYTES> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        in_chains!(S, self.sum(simd))
    }
}

impl<const BYTES: bool> MultiplyIntegers<BYTES> {
    #[inline(always)]
    fn sum<S: Simd, const N: usize>(self, simd: S) -> f32 {
        let wide = simd.wide();
        let (mut factor, one) = (wide.splat_int(self.factor), wide.splat_int(1));
        // They begin differently, or the compiler would see that they are the same.
        let mut chains: [_; N] = array::from_fn(|chain| wide.splat_int(chain as i32));
        for _ in 0..STEPS / N {
            for chain in &mut chains {
                *chain = match BYTES {
                    true => wide.dot_quads(*chain, factor, one),
                    false => wide.add_int(*chain, wide.dot_pairs(*chain, factor)),
                };
            }
            // Others each time, so that no product can be taken out of the loop.
            factor = wide.add_int(factor, one);
        }
        lanes(wide, &chains.map(|chain| wide.float(chain)))
    }
}

/// The sum of all lanes.
#[inline(always)]
fn lanes<W: Wide>(wide: W, sums: &[W::F]) -> f32 {
    let mut all = wide.splat(0.0);
    for &sum in sums {
        all = wide.add(all, sum);
    }
    let mut lanes = [0.0; SIDE];
    wide.store(all, &mut lanes);
    lanes.iter().sum()
}

#[inline(always)]
fn total<S: Simd>(simd: S, sums: &[S::F]) -> f32 {
    let mut all = simd.splat(0.0);
    for &sum in sums {
        all = simd.add(all, sum);
    }
    simd.sum(all)
}
