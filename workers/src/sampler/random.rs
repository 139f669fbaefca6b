//! The counter-based random stream: a number is a hash of (seed, position), so nothing is carried from step to step and
//! a sequence that is replayed draws what it drew.

/// A number in `0..1` with 53 random bits.
pub(super) fn uniform(seed: u64, position: u64) -> f64 {
    let bits = mix(mix(seed.wrapping_add(GOLDEN_GAMMA)) ^ mix(position.wrapping_mul(GOLDEN_GAMMA)));
    (bits >> 11) as f64 * (-53f64).exp2()
}

/// 2⁶⁴ divided by the golden ratio, odd (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators").
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's finaliser, variant 13 of Stafford's "Better bit mixing" (2011): each bit of the input moves each bit of
/// the output with probability one half.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs of SplitMix64 from seed 0, as its authors' reference code prints them.
    #[test]
    fn mixes_as_splitmix64() {
        let output = |n: u64| mix(GOLDEN_GAMMA.wrapping_mul(n));
        assert_eq!([output(1), output(2)], [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
    }

    #[test]
    fn is_even_over_positions_and_over_seeds() {
        let check = |draw: &dyn Fn(u64) -> f64| {
            let mut tenths = [0u32; 10];
            (0..100_000).for_each(|n| tenths[(draw(n) * 10.0) as usize] += 1);
            // Nine degrees of freedom: 33.7 is exceeded once in 10,000 times by chance. The draw is fixed.
            let chi_square: f64 = tenths.iter().map(|&n| (f64::from(n) - 1e4).powi(2) / 1e4).sum();
            assert!(chi_square < 33.7, "{tenths:?}");
        };
        check(&|n| uniform(42, n));
        check(&|n| uniform(n, 7));
        check(&|n| uniform(n, n));
    }
}
