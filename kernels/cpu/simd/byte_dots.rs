//! Products of bytes, summed in 32-bit integers: nothing but their speed, for measuring what a machine could do.

/// How a machine multiplies bytes.
#[derive(Clone, Copy)]
pub(crate) struct ByteDots {
    /// Their name for people.
    pub(crate) instructions: &'static str,
    /// Multiplications and additions of one round.
    pub(crate) operations: usize,
    /// Does so many rounds in registers; the sum is of no meaning.
    pub(crate) run: fn(usize) -> i32,
}

impl ByteDots {
    /// The best that this machine has in vectors of 256 bits, AVX-512 left aside: kernels have products of bytes in that.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn detect() -> Option<Self> {
        x86::detect()
    }

    /// The best that this machine has: none that this program knows.
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn detect() -> Option<Self> {
        None
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::{arch::x86_64::*, array, hint::black_box};

    use super::ByteDots;

    /// Chains that do not wait for each other: more than the four that are on their way in each of two units.
    const CHAINS: usize = 10;
    /// What they are multiplied by, in turns.
    const FACTORS: [i8; 2] = [-3, 2];
    /// 32 multiplications and as many additions of each vector.
    const OPERATIONS: usize = CHAINS * 64;

    pub(super) fn detect() -> Option<ByteDots> {
        let dots = |instructions, run| Some(ByteDots { instructions, operations: OPERATIONS, run });
        if is_x86_feature_detected!("avxvnni") {
            // SAFETY: just detected.
            return dots("avx-vnni", |rounds| unsafe { avx_vnni(rounds) });
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: just detected.
            return dots("avx2 maddubs+madd", |rounds| unsafe { avx2(rounds) });
        }
        None
    }

    /// A loop over rounds; in each, one step of every chain. The bytes change from round to round, so that no product
    /// can be taken out of the loop.
    macro_rules! rounds {
        ($rounds:expr, $step:expr) => {{
            let factors = FACTORS.map(|factor| _mm256_set1_epi8(black_box(factor)));
            let (mut bytes, one) = (_mm256_set1_epi8(black_box(3)), _mm256_set1_epi8(1));
            // They begin differently, or the compiler would see that some are the same.
            let mut chains: [__m256i; CHAINS] = array::from_fn(|chain| _mm256_set1_epi32(black_box(chain as i32)));
            for _ in 0..$rounds {
                bytes = _mm256_add_epi8(bytes, one);
                for i in 0..CHAINS {
                    chains[i] = $step(chains[i], bytes, factors[i % FACTORS.len()]);
                }
            }
            let mut sum = chains[0];
            for i in 1..CHAINS {
                sum = _mm256_add_epi32(sum, chains[i]);
            }
            _mm256_extract_epi32::<0>(sum)
        }};
    }

    #[target_feature(enable = "avx2")]
    fn avx2(rounds: usize) -> i32 {
        let ones = _mm256_set1_epi16(1);
        rounds!(rounds, |chain, bytes, factor| {
            _mm256_add_epi32(chain, _mm256_madd_epi16(_mm256_maddubs_epi16(bytes, factor), ones))
        })
    }

    #[target_feature(enable = "avx2,avxvnni")]
    fn avx_vnni(rounds: usize) -> i32 {
        rounds!(rounds, |chain, bytes, factor| _mm256_dpbusd_avx_epi32(chain, bytes, factor))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn rounds_are_really_done() {
            let Some(dots) = detect() else { return };
            // A 32-bit lane sums four bytes, 4 and then 5.
            let began: i32 = (0..CHAINS as i32).sum();
            let of_round = |byte: i32| CHAINS as i32 / 2 * 4 * byte * FACTORS.map(i32::from).iter().sum::<i32>();
            assert_eq!((dots.run)(0), began);
            assert_eq!((dots.run)(1), began + of_round(4));
            assert_eq!((dots.run)(2), began + of_round(4) + of_round(5));
        }
    }
}
