//! Eight lanes as one AVX2 register, with FMA and F16C; and maybe with AVX-512's registers, which are twice as many, and
//! its products of bytes (VNNI).

use std::arch::x86_64::*;

use super::{Kernel, Kernel512, Simd, Wide, avx512::Avx512, wide::Two};

/// Exists only where the three extensions were found, and those of AVX-512 where it is `WIDE`: [`Avx2::detect`] is the only
/// way to make one.
#[derive(Clone, Copy)]
pub(crate) struct Avx2<const WIDE: bool>(());

impl<const WIDE: bool> Avx2<WIDE> {
    /// The proof, if this machine has it.
    pub(crate) fn detect() -> Option<Self> {
        let has_avx2 =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        let has_avx512 = is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni");
        (has_avx2 && (has_avx512 || !WIDE)).then_some(Self(()))
    }

    /// Runs a kernel compiled for the extensions.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output
    where
        Self: Widened,
    {
        // SAFETY: `self` proves that the machine has the extensions.
        unsafe { if WIDE { run_wide(self, kernel) } else { run(self, kernel) } }
    }
}

impl Avx2<true> {
    /// Runs a kernel that is for AVX-512 alone.
    #[inline]
    pub(crate) fn run_512<K: Kernel512>(self, kernel: K) {
        // SAFETY: `self` proves that the machine has the extensions.
        unsafe { run_512(Avx512(self), kernel) }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn run<K: Kernel, const WIDE: bool>(avx2: Avx2<WIDE>, kernel: K) -> K::Output
where
    Avx2<WIDE>: Widened,
{
    kernel.run(avx2)
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512vl,avx512bw,avx512dq,avx512vnni")]
fn run_wide<K: Kernel, const WIDE: bool>(avx2: Avx2<WIDE>, kernel: K) -> K::Output
where
    Avx2<WIDE>: Widened,
{
    kernel.run(avx2)
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512vl,avx512bw,avx512dq,avx512vnni")]
fn run_512<K: Kernel512>(avx512: Avx512, kernel: K) {
    kernel.run(avx512);
}

/// What it has for sixteen lanes.
pub(crate) trait Widened: Sized {
    type Wide: Wide<Eight = Self>;

    fn widened(self) -> Self::Wide;
}

impl Widened for Avx2<false> {
    type Wide = Two<Self>;

    #[inline(always)]
    fn widened(self) -> Self::Wide {
        Two(self)
    }
}

impl Widened for Avx2<true> {
    type Wide = Avx512;

    #[inline(always)]
    fn widened(self) -> Self::Wide {
        Avx512(self)
    }
}

/// The even numbers of eight, then the odd ones.
#[inline]
#[target_feature(enable = "avx2")]
fn apart(numbers: __m256i) -> __m256i {
    _mm256_permutevar8x32_epi32(numbers, _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7))
}

/// Evaluates an expression of intrinsics.
macro_rules! avx2 {
    ($value:expr) => {{
        // SAFETY: an `Avx2` exists only where AVX2, FMA and F16C were detected. Pointers in the expressions come from
        // references to arrays of the size that the intrinsic reads or writes, none of which asks for alignment.
        unsafe { $value }
    }};
}

impl<const WIDE: bool> Simd for Avx2<WIDE>
where
    Self: Widened,
{
    const DOTS_QUADS: bool = WIDE;
    const REGISTERS: usize = if WIDE { 32 } else { 16 };

    type F = __m256;
    type I = __m256i;
    type Wide = <Self as Widened>::Wide;

    #[inline(always)]
    fn wide(self) -> Self::Wide {
        self.widened()
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        avx2!(_mm_prefetch::<_MM_HINT_T0>(address.cast()))
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        avx2!(_mm256_set1_ps(value))
    }

    #[inline(always)]
    fn load(self, from: &[f32; 8]) -> Self::F {
        avx2!(_mm256_loadu_ps(from.as_ptr()))
    }

    #[inline(always)]
    fn store(self, value: Self::F, to: &mut [f32; 8]) {
        avx2!(_mm256_storeu_ps(to.as_mut_ptr(), value))
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        avx2!(_mm256_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        avx2!(_mm256_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        avx2!(_mm256_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        avx2!(_mm256_div_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        avx2!(_mm256_min_ps(a, b))
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        avx2!(_mm256_max_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        avx2!(_mm256_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        self.sum4([a; 4])[0]
    }

    #[inline(always)]
    fn sum4(self, [a, b, c, d]: [Self::F; 4]) -> [f32; 4] {
        let mut sums = [0.0; 4];
        avx2!({
            let halves = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
            let sum = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves));
            _mm_storeu_ps(sums.as_mut_ptr(), sum);
        });
        sums
    }

    #[inline(always)]
    fn max_lane(self, a: Self::F) -> f32 {
        avx2!({
            let half = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let pair = _mm_max_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_max_ss(pair, _mm_movehdup_ps(pair)))
        })
    }

    #[inline(always)]
    fn first(self, a: Self::F, count: usize, other: Self::F) -> Self::F {
        avx2!({
            let index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let chosen = _mm256_cmpgt_epi32(_mm256_set1_epi32(count.min(8) as i32), index);
            _mm256_blendv_ps(other, a, _mm256_castsi256_ps(chosen))
        })
    }

    #[inline(always)]
    fn splat_int(self, value: i32) -> Self::I {
        avx2!(_mm256_set1_epi32(value))
    }

    #[inline(always)]
    fn bytes(self, from: &[u8; 8]) -> Self::I {
        avx2!(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.as_ptr().cast())))
    }

    #[inline(always)]
    fn signed_bytes(self, from: &[u8; 8]) -> Self::I {
        avx2!(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.as_ptr().cast())))
    }

    #[inline(always)]
    fn words(self, from: &[u8; 32]) -> Self::I {
        avx2!(_mm256_loadu_si256(from.as_ptr().cast()))
    }

    #[inline(always)]
    fn store_int(self, value: Self::I, to: &mut [i32; 8]) {
        avx2!(_mm256_storeu_si256(to.as_mut_ptr().cast(), value))
    }

    #[inline(always)]
    fn add_int(self, a: Self::I, b: Self::I) -> Self::I {
        avx2!(_mm256_add_epi32(a, b))
    }

    #[inline(always)]
    fn dot_pairs(self, a: Self::I, b: Self::I) -> Self::I {
        avx2!(_mm256_madd_epi16(a, b))
    }

    #[inline(always)]
    fn dot_quads(self, sum: Self::I, a: Self::I, b: Self::I) -> Self::I {
        if WIDE {
            // SAFETY: a wide one exists only where VNNI was detected, too.
            return unsafe { _mm256_dpbusd_epi32(sum, a, b) };
        }
        let ((even, odd), (lower, upper)) = (
            self.even_and_odd(a),
            avx2!({
                // Signs come in from above.
                (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b)), _mm256_srai_epi16::<8>(b))
            }),
        );
        self.add_int(sum, self.add_int(self.dot_pairs(even, lower), self.dot_pairs(odd, upper)))
    }

    #[inline(always)]
    fn even_and_odd(self, a: Self::I) -> (Self::I, Self::I) {
        avx2!((_mm256_and_si256(a, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(a)))
    }

    #[inline(always)]
    fn split_quads(self, a: Self::I) -> Self::I {
        avx2!({
            // The upper byte is one more where the lower one is below zero.
            let upper = _mm256_add_epi16(a, _mm256_set1_epi16(0x80));
            let bytes = _mm256_blendv_epi8(a, upper, _mm256_set1_epi16(0xff00u16 as i16));
            let order = _mm_setr_epi8(1, 3, 5, 7, 0, 2, 4, 6, 9, 11, 13, 15, 8, 10, 12, 14);
            apart(_mm256_shuffle_epi8(bytes, _mm256_broadcastsi128_si256(order)))
        })
    }

    #[inline(always)]
    fn pair_quads(self, a: Self::I) -> Self::I {
        avx2!({
            let order = _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
            apart(_mm256_shuffle_epi8(a, _mm256_broadcastsi128_si256(order)))
        })
    }

    #[inline(always)]
    fn shorts(self, low: Self::F, high: Self::F) -> Self::I {
        avx2!({
            // Packing takes four of each in turn.
            let mixed = _mm256_packs_epi32(_mm256_cvtps_epi32(low), _mm256_cvtps_epi32(high));
            _mm256_permute4x64_epi64::<0b11_01_10_00>(mixed)
        })
    }

    #[inline(always)]
    fn and(self, a: Self::I, b: Self::I) -> Self::I {
        avx2!(_mm256_and_si256(a, b))
    }

    #[inline(always)]
    fn or(self, a: Self::I, b: Self::I) -> Self::I {
        avx2!(_mm256_or_si256(a, b))
    }

    #[inline(always)]
    fn shift_left<const BY: i32>(self, a: Self::I) -> Self::I {
        avx2!(_mm256_slli_epi32::<BY>(a))
    }

    #[inline(always)]
    fn shift_right<const BY: i32>(self, a: Self::I) -> Self::I {
        avx2!(_mm256_srli_epi32::<BY>(a))
    }

    #[inline(always)]
    fn shift_right_each(self, a: Self::I, by: Self::I) -> Self::I {
        avx2!(_mm256_srlv_epi32(a, by))
    }

    #[inline(always)]
    fn float(self, a: Self::I) -> Self::F {
        avx2!(_mm256_cvtepi32_ps(a))
    }

    #[inline(always)]
    fn round(self, a: Self::F) -> Self::I {
        avx2!(_mm256_cvtps_epi32(a))
    }

    #[inline(always)]
    fn bits(self, a: Self::I) -> Self::F {
        avx2!(_mm256_castsi256_ps(a))
    }

    #[inline(always)]
    fn pick(self, [low, high]: [Self::F; 2], index: Self::I) -> Self::F {
        avx2!({
            // A permutation looks at three bits of each lane, a blend at the sign, to which the fourth bit goes.
            let upper = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index));
            let (low, high) = (_mm256_permutevar8x32_ps(low, index), _mm256_permutevar8x32_ps(high, index));
            _mm256_blendv_ps(low, high, upper)
        })
    }

    #[inline(always)]
    fn splat_halves(self, bits: &[u8; 4]) -> (Self::F, Self::F) {
        avx2!({
            let pair = _mm_cvtph_ps(_mm_cvtsi32_si128(i32::from_le_bytes(*bits)));
            (_mm256_broadcastss_ps(pair), _mm256_broadcastss_ps(_mm_movehdup_ps(pair)))
        })
    }

    #[inline(always)]
    fn halves(self, bits: &[u16; 8]) -> Self::F {
        avx2!(_mm256_cvtph_ps(_mm_loadu_si128(bits.as_ptr().cast())))
    }

    #[inline(always)]
    fn half_bytes(self, bytes: &[u8; 16]) -> Self::F {
        avx2!(_mm256_cvtph_ps(_mm_loadu_si128(bytes.as_ptr().cast())))
    }

    #[inline(always)]
    fn bfloats(self, bits: &[u16; 8]) -> Self::F {
        avx2!({
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(bits.as_ptr().cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        })
    }

    #[inline(always)]
    fn exp2_round(self, n: Self::F) -> (Self::F, Self::F) {
        avx2!({
            let int = _mm256_cvtps_epi32(n);
            let bits = _mm256_slli_epi32::<23>(_mm256_add_epi32(int, _mm256_set1_epi32(127)));
            (_mm256_castsi256_ps(bits), _mm256_cvtepi32_ps(int))
        })
    }

    #[inline(always)]
    fn zero_below(self, a: Self::F, x: Self::F, limit: Self::F) -> Self::F {
        avx2!(_mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x, limit), a))
    }
}
