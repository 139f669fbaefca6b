//! Sixteen lanes as one register of AVX-512.

use std::arch::{asm, x86_64::*};

use super::{Avx2, EXP2, EXP2_LOWEST, Wide};

/// Exists only where AVX-512 was found: what proves it is within.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(pub(super) Avx2<true>);

/// Evaluates an expression of intrinsics.
macro_rules! avx512 {
    ($value:expr) => {{
        // SAFETY: an `Avx512` exists only where AVX-512 F, BW, VL, DQ and VNNI were detected. Pointers in the expressions come
        // from references to arrays of the size that the intrinsic reads or writes, none of which asks for alignment.
        unsafe { $value }
    }};
}

/// The instruction itself: of the intrinsic the compiler makes two, for a chain of sums to be shorter, whatever else is to be
/// done.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dpwssd(mut sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: registers in, a register out.
    unsafe {
        asm!(
            "vpdpwssd {sum}, {a}, {b}",
            sum = inout(zmm_reg) sum, a = in(zmm_reg) a, b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// What only kernels for it alone use. A pair is two integers of 16 bits, with a sign, in one number.
impl Avx512 {
    /// Asks for the cache line at `address`, which may be anywhere: a hint has no effect but on time.
    #[inline(always)]
    pub(crate) fn prefetch(self, address: *const u8) {
        avx512!(_mm_prefetch::<_MM_HINT_T0>(address.cast()))
    }

    /// Sixteen integers of 16 bits (little-endian), each as both of a pair.
    #[inline(always)]
    pub(crate) fn twice(self, from: &[u8; 32]) -> __m512i {
        let once = avx512!(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast())));
        self.or(once, self.shift_left::<16>(once))
    }

    /// The same integers as numbers.
    #[inline(always)]
    pub(crate) fn shorts(self, from: &[u8; 32]) -> __m512i {
        avx512!(_mm512_cvtepi16_epi32(_mm256_loadu_si256(from.as_ptr().cast())))
    }

    /// The lower halves of products.
    #[inline(always)]
    pub(crate) fn mul_int(self, a: __m512i, b: __m512i) -> __m512i {
        avx512!(_mm512_mullo_epi32(a, b))
    }

    #[inline(always)]
    pub(crate) fn xor(self, a: __m512i, b: __m512i) -> __m512i {
        avx512!(_mm512_xor_si512(a, b))
    }

    #[inline(always)]
    pub(crate) fn add_pairs(self, a: __m512i, b: __m512i) -> __m512i {
        avx512!(_mm512_add_epi16(a, b))
    }

    /// `a · b / 2¹⁵`, the nearest integers (of two the greater one).
    #[inline(always)]
    pub(crate) fn mul_pairs(self, a: __m512i, b: __m512i) -> __m512i {
        avx512!(_mm512_mulhrs_epi16(a, b))
    }

    #[inline(always)]
    pub(crate) fn shift_pairs_left<const BY: u32>(self, a: __m512i) -> __m512i {
        avx512!(_mm512_slli_epi16::<BY>(a))
    }

    /// Zeros come in.
    #[inline(always)]
    pub(crate) fn shift_pairs_right<const BY: u32>(self, a: __m512i) -> __m512i {
        avx512!(_mm512_srli_epi16::<BY>(a))
    }

    /// Of whole numbers: signs come in.
    #[inline(always)]
    pub(crate) fn divide<const BY: u32>(self, a: __m512i) -> __m512i {
        avx512!(_mm512_srai_epi32::<BY>(a))
    }

    /// `sum` and both products of pairs.
    #[inline(always)]
    pub(crate) fn dot_pairs_onto(self, sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        avx512!(dpwssd(sum, a, b))
    }

    /// The sums of the first four lanes, of the next four, and so on.
    #[inline(always)]
    pub(crate) fn sums_of_fours(self, a: __m512i) -> [i32; 4] {
        let mut sums = [0; 4];
        avx512!({
            let twos = _mm512_add_epi32(a, _mm512_shuffle_epi32::<0b01_00_11_10>(a));
            let fours = _mm512_add_epi32(twos, _mm512_shuffle_epi32::<0b10_11_00_01>(twos));
            let first = _mm512_castsi512_si128(_mm512_maskz_compress_epi32(0x1111, fours));
            _mm_storeu_si128(sums.as_mut_ptr().cast(), first);
        });
        sums
    }

    #[inline(always)]
    pub(crate) fn max_int(self, a: __m512i, b: __m512i) -> __m512i {
        avx512!(_mm512_max_epi32(a, b))
    }

    /// The largest lane.
    #[inline(always)]
    pub(crate) fn max_int_lane(self, a: __m512i) -> i32 {
        avx512!(_mm512_reduce_max_epi32(a))
    }

    /// The bits of numbers.
    #[inline(always)]
    pub(crate) fn of_bits(self, a: __m512) -> __m512i {
        avx512!(_mm512_castps_si512(a))
    }
}

impl Wide for Avx512 {
    const REGISTERS: usize = 1;

    type Eight = Avx2<true>;
    type F = __m512;
    type I = __m512i;

    #[inline(always)]
    fn join(self, [lower, upper]: [__m256; 2]) -> Self::F {
        avx512!(_mm512_insertf32x8::<1>(_mm512_castps256_ps512(lower), upper))
    }

    #[inline(always)]
    fn halves(self, value: Self::F) -> [__m256; 2] {
        avx512!([_mm512_castps512_ps256(value), _mm512_extractf32x8_ps::<1>(value)])
    }

    #[inline(always)]
    fn load(self, from: &[f32; 16]) -> Self::F {
        avx512!(_mm512_loadu_ps(from.as_ptr()))
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        avx512!(_mm512_set1_ps(value))
    }

    #[inline(always)]
    fn store(self, value: Self::F, to: &mut [f32; 16]) {
        avx512!(_mm512_storeu_ps(to.as_mut_ptr(), value))
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        avx512!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        avx512!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        avx512!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        avx512!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        avx512!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn first(self, a: Self::F, count: usize, other: Self::F) -> Self::F {
        avx512!(_mm512_mask_mov_ps(other, ((1u32 << count.min(16)) - 1) as __mmask16, a))
    }

    #[inline(always)]
    fn exp2(self, x: Self::F) -> Self::F {
        let lowest = self.splat(EXP2_LOWEST);
        let bounded = self.max(lowest, x);
        avx512!({
            let n = _mm512_cvtps_epi32(bounded);
            let r = self.sub(bounded, self.float(n));
            let power = self.bits(_mm512_slli_epi32::<23>(_mm512_add_epi32(n, _mm512_set1_epi32(127))));
            let mut sum = self.splat(EXP2[0]);
            for coefficient in EXP2[1..].iter() {
                sum = self.fma(sum, r, self.splat(*coefficient));
            }
            // What is not a number is no less than anything.
            _mm512_maskz_mul_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, lowest), sum, power)
        })
    }

    #[inline(always)]
    fn splat_int(self, value: i32) -> Self::I {
        avx512!(_mm512_set1_epi32(value))
    }

    #[inline(always)]
    fn bytes(self, from: &[u8; 16]) -> Self::I {
        avx512!(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.as_ptr().cast())))
    }

    #[inline(always)]
    fn signed_bytes(self, from: &[u8; 16]) -> Self::I {
        avx512!(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.as_ptr().cast())))
    }

    #[inline(always)]
    fn words(self, from: &[u8; 64]) -> Self::I {
        avx512!(_mm512_loadu_si512(from.as_ptr().cast()))
    }

    #[inline(always)]
    fn store_words(self, value: Self::I, to: &mut [u8; 64]) {
        avx512!(_mm512_storeu_si512(to.as_mut_ptr().cast(), value))
    }

    #[inline(always)]
    fn low_bytes(self, a: Self::I) -> [u8; 16] {
        let mut bytes = [0; 16];
        avx512!(_mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(a)));
        bytes
    }

    #[inline(always)]
    fn add_int(self, a: Self::I, b: Self::I) -> Self::I {
        avx512!(_mm512_add_epi32(a, b))
    }

    #[inline(always)]
    fn dot_pairs(self, a: Self::I, b: Self::I) -> Self::I {
        avx512!(_mm512_madd_epi16(a, b))
    }

    #[inline(always)]
    fn dot_quads(self, sum: Self::I, a: Self::I, b: Self::I) -> Self::I {
        avx512!(_mm512_dpbusd_epi32(sum, a, b))
    }

    #[inline(always)]
    fn even_and_odd(self, a: Self::I) -> (Self::I, Self::I) {
        avx512!((_mm512_and_si512(a, _mm512_set1_epi16(0xff)), _mm512_srli_epi16::<8>(a)))
    }

    #[inline(always)]
    fn and(self, a: Self::I, b: Self::I) -> Self::I {
        avx512!(_mm512_and_si512(a, b))
    }

    #[inline(always)]
    fn or(self, a: Self::I, b: Self::I) -> Self::I {
        avx512!(_mm512_or_si512(a, b))
    }

    #[inline(always)]
    fn shift_left<const BY: i32>(self, a: Self::I) -> Self::I {
        avx512!(_mm512_sll_epi32(a, _mm_cvtsi32_si128(BY)))
    }

    #[inline(always)]
    fn shift_right<const BY: i32>(self, a: Self::I) -> Self::I {
        avx512!(_mm512_srl_epi32(a, _mm_cvtsi32_si128(BY)))
    }

    #[inline(always)]
    fn float(self, a: Self::I) -> Self::F {
        avx512!(_mm512_cvtepi32_ps(a))
    }

    #[inline(always)]
    fn round(self, a: Self::F) -> Self::I {
        avx512!(_mm512_cvtps_epi32(a))
    }

    #[inline(always)]
    fn bits(self, a: Self::I) -> Self::F {
        avx512!(_mm512_castsi512_ps(a))
    }

    #[inline(always)]
    fn half_bytes(self, bytes: &[u8; 32]) -> Self::F {
        avx512!(_mm512_cvtph_ps(_mm256_loadu_si256(bytes.as_ptr().cast())))
    }
}
