//! Eight lanes as an array: what the compiler makes of it for the build's baseline.

use half::{bf16, f16};

use super::{Simd, wide::Two};

/// Present everywhere.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

/// Writes an operation lane by lane.
macro_rules! each {
    ($lane:ident => $value:expr) => {{
        let mut result = [Default::default(); 8];
        for $lane in 0..8 {
            result[$lane] = $value;
        }
        result
    }};
}

impl Simd for Portable {
    const DOTS_QUADS: bool = false;
    const REGISTERS: usize = 16;

    type F = [f32; 8];
    type I = [i32; 8];
    type Wide = Two<Self>;

    #[inline(always)]
    fn wide(self) -> Self::Wide {
        Two(self)
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        [value; 8]
    }

    #[inline(always)]
    fn load(self, from: &[f32; 8]) -> Self::F {
        *from
    }

    #[inline(always)]
    fn store(self, value: Self::F, to: &mut [f32; 8]) {
        *to = value;
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        each!(i => a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        each!(i => a[i] - b[i])
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        each!(i => a[i] * b[i])
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        each!(i => a[i] / b[i])
    }

    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        each!(i => if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        each!(i => if a[i] > b[i] { a[i] } else { b[i] })
    }

    /// Where the baseline has no fused instruction, two roundings: a fused one in software would be a hundred times
    /// slower.
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            each!(i => a[i].mul_add(b[i], c[i]))
        } else {
            each!(i => a[i] * b[i] + c[i])
        }
    }

    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        ((a[0] + a[1]) + (a[2] + a[3])) + ((a[4] + a[5]) + (a[6] + a[7]))
    }

    #[inline(always)]
    fn sum4(self, a: [Self::F; 4]) -> [f32; 4] {
        [self.sum(a[0]), self.sum(a[1]), self.sum(a[2]), self.sum(a[3])]
    }

    #[inline(always)]
    fn max_lane(self, a: Self::F) -> f32 {
        let mut max = a[0];
        for lane in &a[1..] {
            max = if *lane > max { *lane } else { max };
        }
        max
    }

    #[inline(always)]
    fn first(self, a: Self::F, count: usize, other: Self::F) -> Self::F {
        each!(i => if i < count { a[i] } else { other[i] })
    }

    #[inline(always)]
    fn splat_int(self, value: i32) -> Self::I {
        [value; 8]
    }

    #[inline(always)]
    fn bytes(self, from: &[u8; 8]) -> Self::I {
        each!(i => i32::from(from[i]))
    }

    #[inline(always)]
    fn signed_bytes(self, from: &[u8; 8]) -> Self::I {
        each!(i => i32::from(from[i] as i8))
    }

    #[inline(always)]
    fn words(self, from: &[u8; 32]) -> Self::I {
        let numbers = from.as_chunks::<4>().0;
        each!(i => i32::from_le_bytes(numbers[i]))
    }

    #[inline(always)]
    fn store_int(self, value: Self::I, to: &mut [i32; 8]) {
        *to = value;
    }

    #[inline(always)]
    fn add_int(self, a: Self::I, b: Self::I) -> Self::I {
        each!(i => a[i].wrapping_add(b[i]))
    }

    #[inline(always)]
    fn dot_pairs(self, a: Self::I, b: Self::I) -> Self::I {
        let low = |a: i32, b: i32| i32::from(a as i16) * i32::from(b as i16);
        each!(i => low(a[i], b[i]).wrapping_add(low(a[i] >> 16, b[i] >> 16)))
    }

    #[inline(always)]
    fn dot_quads(self, sum: Self::I, a: Self::I, b: Self::I) -> Self::I {
        let product = |a: i32, b: i32, at: i32| (a >> (8 * at) & 0xff) * i32::from((b >> (8 * at)) as i8);
        each!(i => {
            let [p, q, r, s] = [0, 1, 2, 3].map(|at| product(a[i], b[i], at));
            sum[i].wrapping_add(p + q + r + s)
        })
    }

    #[inline(always)]
    fn even_and_odd(self, a: Self::I) -> (Self::I, Self::I) {
        (each!(i => a[i] & 0x00ff_00ff), each!(i => a[i] >> 8 & 0x00ff_00ff))
    }

    #[inline(always)]
    fn split_quads(self, a: Self::I) -> Self::I {
        let upper = |pair: i32| (pair as i16).wrapping_add(0x80) >> 8;
        each!(i => {
            let (first, second) = (a[i % 4 * 2], a[i % 4 * 2 + 1]);
            let shorts = [first, first >> 16, second, second >> 16];
            i32::from_le_bytes(shorts.map(|short| if i < 4 { upper(short) as u8 } else { short as u8 }))
        })
    }

    #[inline(always)]
    fn pair_quads(self, a: Self::I) -> Self::I {
        each!(i => {
            let (first, second) = (a[i % 4 * 2] >> (i / 4 * 16), a[i % 4 * 2 + 1] >> (i / 4 * 16));
            pair(first as i16, second as i16)
        })
    }

    #[inline(always)]
    fn shorts(self, low: Self::F, high: Self::F) -> Self::I {
        let short = |at: usize| (if at < 8 { low[at] } else { high[at - 8] }).round_ties_even() as i16;
        each!(i => pair(short(2 * i), short(2 * i + 1)))
    }

    #[inline(always)]
    fn and(self, a: Self::I, b: Self::I) -> Self::I {
        each!(i => a[i] & b[i])
    }

    #[inline(always)]
    fn or(self, a: Self::I, b: Self::I) -> Self::I {
        each!(i => a[i] | b[i])
    }

    #[inline(always)]
    fn shift_left<const BY: i32>(self, a: Self::I) -> Self::I {
        each!(i => a[i] << BY)
    }

    #[inline(always)]
    fn shift_right<const BY: i32>(self, a: Self::I) -> Self::I {
        each!(i => (a[i] as u32 >> BY) as i32)
    }

    #[inline(always)]
    fn shift_right_each(self, a: Self::I, by: Self::I) -> Self::I {
        each!(i => (a[i] as u32 >> by[i]) as i32)
    }

    #[inline(always)]
    fn float(self, a: Self::I) -> Self::F {
        each!(i => a[i] as f32)
    }

    #[inline(always)]
    fn round(self, a: Self::F) -> Self::I {
        each!(i => a[i].round_ties_even() as i32)
    }

    #[inline(always)]
    fn bits(self, a: Self::I) -> Self::F {
        each!(i => f32::from_bits(a[i] as u32))
    }

    #[inline(always)]
    fn pick(self, table: [Self::F; 2], index: Self::I) -> Self::F {
        each!(i => table[(index[i] >> 3 & 1) as usize][(index[i] & 7) as usize])
    }

    #[inline(always)]
    fn splat_halves(self, bits: &[u8; 4]) -> (Self::F, Self::F) {
        let splat = |a, b| [f16::from_le_bytes([a, b]).to_f32(); 8];
        (splat(bits[0], bits[1]), splat(bits[2], bits[3]))
    }

    #[inline(always)]
    fn halves(self, bits: &[u16; 8]) -> Self::F {
        each!(i => f16::from_bits(bits[i]).to_f32())
    }

    #[inline(always)]
    fn half_bytes(self, bytes: &[u8; 16]) -> Self::F {
        let numbers = bytes.as_chunks::<2>().0;
        each!(i => f16::from_le_bytes(numbers[i]).to_f32())
    }

    #[inline(always)]
    fn bfloats(self, bits: &[u16; 8]) -> Self::F {
        each!(i => bf16::from_bits(bits[i]).to_f32())
    }

    #[inline(always)]
    fn exp2_round(self, n: Self::F) -> (Self::F, Self::F) {
        let rounded: Self::F = each!(i => n[i].round_ties_even());
        (each!(i => f32::from_bits(((rounded[i] as i32).wrapping_add(127) << 23) as u32)), rounded)
    }

    #[inline(always)]
    fn zero_below(self, a: Self::F, x: Self::F, limit: Self::F) -> Self::F {
        each!(i => if x[i] < limit[i] { 0.0 } else { a[i] })
    }
}

/// Two integers of 16 bits in one number.
#[inline(always)]
fn pair(low: i16, high: i16) -> i32 {
    i32::from(low as u16) | i32::from(high) << 16
}
