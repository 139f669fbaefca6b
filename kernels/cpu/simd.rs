//! Eight lanes of f32: the vocabulary in which every fast kernel is written once.
//!
//! A [`Kernel`] is generic over [`Simd`]; [`Isa::run`] compiles it per instruction set and picks the one that the
//! machine was found to have. All of a kernel must be `#[inline(always)]` down to the lanes, or its parts are compiled
//! for the build's baseline; closures around lanes are avoided for that reason.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod byte_dots;
mod portable;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod wide;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use byte_dots::ByteDots;
pub(crate) use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(crate) use tiles::{PlaneRows, Shaped, TileRow, Tiles, WordSums};
pub(crate) use wide::Wide;

/// Lanes of a vector.
pub(crate) const LANES: usize = 8;
/// Rows of a tile, where the machine has tiles.
pub(crate) const TILE_ROWS: usize = 16;

/// A line of the cache: sixteen numbers in two halves.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [[i32; 8]; 2]);

/// An instruction set whose presence its value proves, and eight-lane arithmetic in it.
pub(crate) trait Simd: Copy + Send + Sync {
    /// Whether [`Self::dot_quads`] is one instruction.
    const DOTS_QUADS: bool;
    /// How many vectors it holds in registers.
    const REGISTERS: usize;

    /// Eight f32.
    type F: Copy;
    /// Eight i32.
    type I: Copy;
    /// What it has for sixteen lanes.
    type Wide: Wide<Eight = Self>;

    fn wide(self) -> Self::Wide;

    /// Asks for the cache line at `address`, which may be anywhere: a hint has no effect but on time.
    fn prefetch(self, address: *const u8);
    fn splat(self, value: f32) -> Self::F;
    fn load(self, from: &[f32; 8]) -> Self::F;
    fn store(self, value: Self::F, to: &mut [f32; 8]);
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// The smaller; `b` where one is not a number.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// The larger; `b` where one is not a number.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a · b + c`, rounded once where the machine can.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `((0+1) + (2+3)) + ((4+5) + (6+7))`.
    fn sum(self, a: Self::F) -> f32;
    /// Four times [`Self::sum`].
    fn sum4(self, a: [Self::F; 4]) -> [f32; 4];
    /// The largest lane.
    fn max_lane(self, a: Self::F) -> f32;
    /// `a` where `a`'s lane index is below `count`, else `other`.
    fn first(self, a: Self::F, count: usize, other: Self::F) -> Self::F;

    fn splat_int(self, value: i32) -> Self::I;
    /// Eight bytes, zero-extended.
    fn bytes(self, from: &[u8; 8]) -> Self::I;
    /// Eight bytes, sign-extended.
    fn signed_bytes(self, from: &[u8; 8]) -> Self::I;
    /// Eight numbers (little-endian).
    fn words(self, from: &[u8; 32]) -> Self::I;
    fn store_int(self, value: Self::I, to: &mut [i32; 8]);
    fn add_int(self, a: Self::I, b: Self::I) -> Self::I;
    /// Of numbers that are two signed integers of 16 bits each: the sum of both products.
    fn dot_pairs(self, a: Self::I, b: Self::I) -> Self::I;
    /// Of numbers that are four bytes each: `sum` and the four products of `a`'s, which have no sign, with `b`'s, which do.
    fn dot_quads(self, sum: Self::I, a: Self::I, b: Self::I) -> Self::I;
    /// Of numbers that are four bytes each: the first and third as 16 bits, and the second and fourth.
    fn even_and_odd(self, a: Self::I) -> (Self::I, Self::I);
    /// Of sixteen 16-bit numbers, `256 · upper + lower`, by fours: the bytes `upper` of each, then the bytes `lower`, all of
    /// them signed.
    fn split_quads(self, a: Self::I) -> Self::I;
    /// The same: the first and third of each, then the second and fourth.
    fn pair_quads(self, a: Self::I) -> Self::I;
    /// Sixteen values, `low` first, rounded to signed integers of 16 bits, whose range they have: two in each number.
    fn shorts(self, low: Self::F, high: Self::F) -> Self::I;
    fn and(self, a: Self::I, b: Self::I) -> Self::I;
    fn or(self, a: Self::I, b: Self::I) -> Self::I;
    fn shift_left<const BY: i32>(self, a: Self::I) -> Self::I;
    fn shift_right<const BY: i32>(self, a: Self::I) -> Self::I;
    /// Each lane shifted right by the lane of `by`, zeros coming in.
    fn shift_right_each(self, a: Self::I, by: Self::I) -> Self::I;
    /// The numbers' values.
    fn float(self, a: Self::I) -> Self::F;
    /// The nearest integers (of two the even one), which have 32 bits.
    fn round(self, a: Self::F) -> Self::I;
    /// The numbers' bits as those of f32.
    fn bits(self, a: Self::I) -> Self::F;
    /// Of sixteen numbers, eight in each vector, for each lane the one that its low four bits say.
    fn pick(self, table: [Self::F; 2], index: Self::I) -> Self::F;
    /// Two half-precision numbers (little-endian), each in all lanes of its vector.
    fn splat_halves(self, bits: &[u8; 4]) -> (Self::F, Self::F);
    /// Eight half-precision numbers.
    fn halves(self, bits: &[u16; 8]) -> Self::F;
    /// The same of their bytes (little-endian).
    fn half_bytes(self, bytes: &[u8; 16]) -> Self::F;
    /// Eight bfloat16.
    fn bfloats(self, bits: &[u16; 8]) -> Self::F;
    /// `a · 2ⁿ`-scaling for [`exp`]: 2 to the power of `round(n)`, for `-126 ≤ n ≤ 127`; and `round(n)` itself.
    fn exp2_round(self, n: Self::F) -> (Self::F, Self::F);
    /// `a` where `x ≥ limit`, zero elsewhere; not-a-numbers stay.
    fn zero_below(self, a: Self::F, x: Self::F, limit: Self::F) -> Self::F;
}

/// `eˣ` in each lane: relative error below 2e-7, zero below -87.33, at most `e^88.37`.
///
/// `x = n·ln 2 + r` with `|r| ≤ ln 2 / 2` (Cody and Waite's two-part `ln 2`), `eʳ` by its Taylor polynomial of degree 7.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::F) -> S::F {
    const LOWEST: f32 = -87.33;
    const LN_2_HIGH: f32 = 355.0 / 512.0;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let bounded = simd.max(simd.splat(LOWEST), simd.min(simd.splat(88.37), x));
    let (power, n) = simd.exp2_round(simd.mul(bounded, simd.splat(std::f32::consts::LOG2_E)));
    let r = simd.fma(n, simd.splat(-LN_2_HIGH), bounded);
    let r = simd.fma(n, simd.splat(-LN_2_LOW), r);
    let mut sum = simd.splat(1.0 / 5040.0);
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = simd.fma(sum, r, simd.splat(coefficient));
    }
    simd.zero_below(simd.mul(sum, power), x, simd.splat(LOWEST))
}

/// Below it [`exp2`] is zero.
const EXP2_LOWEST: f32 = -126.0;
/// The polynomial of degree 6 whose greatest relative error from `2ʳ` is least (2e-9) for `|r| ≤ 1/2`; the highest power
/// first.
const EXP2: [f32; 7] =
    [1.534_581_2e-4, 1.339_993_1e-3, 9.618_489e-3, 5.550_328_6e-2, 2.402_264_6e-1, 6.931_472e-1, 1.0];

/// `2ˣ` in each lane, of `x` up to 127: relative error below 1e-7, zero below -126. What is not a number stays so.
///
/// `x = n + r` with `|r| ≤ 1/2`, `2ʳ` by a polynomial.
#[inline(always)]
pub(crate) fn exp2<S: Simd>(simd: S, x: S::F) -> S::F {
    let lowest = simd.splat(EXP2_LOWEST);
    let bounded = simd.max(lowest, x);
    let (power, n) = simd.exp2_round(bounded);
    let r = simd.sub(bounded, n);
    let mut sum = simd.splat(EXP2[0]);
    for coefficient in EXP2[1..].iter() {
        sum = simd.fma(sum, r, simd.splat(*coefficient));
    }
    simd.zero_below(simd.mul(sum, power), x, lowest)
}

/// Eight numbers of FP8 (e4m3). The four bits of exponent and three of mantissa become the lowest of f32's exponent and the
/// highest of its mantissa. That is the value times 2⁻¹²⁰ (biases 7 and 127), for subnormal numbers too; a power of two is
/// taken back without rounding.
#[inline(always)]
pub(crate) fn e4m3<S: Simd>(simd: S, codes: &[u8; 8]) -> S::F {
    let (bits, power) = (simd.splat_int(!0x7800_0000 & !0xf_ffff), simd.splat(f32::from_bits((120 + 127) << 23)));
    // The sign, extended, is the highest bit after the shift as before it.
    let shifted = simd.bits(simd.and(simd.shift_left::<20>(simd.signed_bytes(codes)), bits));
    simd.mul(shifted, power)
}

/// The eight (or fewer, then zeros follow) elements of `from` that begin at `at`.
#[inline(always)]
pub(crate) fn padded(from: &[f32], at: usize) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    let rest = &from[at..];
    let count = rest.len().min(LANES);
    lanes[..count].copy_from_slice(&rest[..count]);
    lanes
}

/// Arithmetic that is compiled for each instruction set.
pub(crate) trait Kernel {
    /// What it computes.
    type Output;

    /// Computes it; `#[inline(always)]` in every implementation.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Arithmetic that is compiled for AVX-512 alone, as there is no other use for it: what goes with tiles.
#[cfg(target_arch = "x86_64")]
pub(crate) trait Kernel512 {
    /// Computes it; `#[inline(always)]` in every implementation.
    fn run(self, avx512: Avx512);
}

/// The instruction set that a device uses, found once when it is made.
#[derive(Clone, Copy)]
pub(crate) enum Isa {
    /// Whatever the build's baseline offers.
    Portable(Portable),
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2<false>),
    /// The same with AVX-512's registers.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx2<true>),
    /// And with tiles of bytes.
    #[cfg(target_arch = "x86_64")]
    Amx(Avx2<true>, Tiles),
}

impl Isa {
    /// The best that this machine has.
    pub(crate) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let (Some(avx512), Some(tiles)) = (Avx2::detect(), Tiles::detect()) {
            return Isa::Amx(avx512, tiles);
        }
        Self::without_amx()
    }

    /// The best without tiles.
    pub(crate) fn without_amx() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(avx512) = Avx2::detect() {
            return Isa::Avx512(avx512);
        }
        Self::without_avx512()
    }

    /// The best without AVX-512.
    pub(crate) fn without_avx512() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(avx2) = Avx2::detect() {
            return Isa::Avx2(avx2);
        }
        Isa::Portable(Portable)
    }

    /// Its name for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Isa::Portable(_) => "portable",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Isa::Amx(..) => "amx",
        }
    }

    /// Whether products of bytes are one instruction.
    pub(crate) fn has_byte_dots(self) -> bool {
        struct Dots;

        impl Kernel for Dots {
            type Output = bool;

            #[inline(always)]
            fn run<S: Simd>(self, _: S) -> bool {
                S::DOTS_QUADS
            }
        }

        self.run(Dots)
    }

    /// Whether it multiplies whole tiles of bytes.
    pub(crate) fn has_tiles(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self.tiles().is_some();
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Its tiles.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn tiles(self) -> Option<Tiles> {
        self.amx().map(|(_, tiles)| tiles)
    }

    /// Its tiles, and the vectors beside them: kernels for tiles are not worth compiling for others.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn amx(self) -> Option<(Avx2<true>, Tiles)> {
        if let Isa::Amx(avx512, tiles) = self { Some((avx512, tiles)) } else { None }
    }

    /// The same without tiles: what is left is best for few rows.
    pub(crate) fn beside_tiles(self) -> Self {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx(avx512, _) => Isa::Avx512(avx512),
            other => other,
        }
    }

    /// Runs a kernel in it.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Isa::Portable(portable) => kernel.run(portable),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(avx2) => avx2.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(avx512) | Isa::Amx(avx512, _) => avx512.run(kernel),
        }
    }
}
