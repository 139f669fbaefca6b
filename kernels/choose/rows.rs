//! One row of numbers, as long as a vocabulary: its greatest, its sum, its exponentials. Plain loops without branches,
//! compiled for the machine's vectors; all give the same bits in any of them.

use std::sync::OnceLock;

use crate::cpu::{
    Instructions,
    simd::{Isa, Kernel, Simd},
};

/// Index of the first that is not finite.
pub fn not_finite(values: &[f32]) -> Option<usize> {
    // Unlike a search it is done many at a time.
    let fine = isa().run(Finite(values));
    (!fine).then(|| values.iter().position(|value| !value.is_finite())).flatten()
}

/// Index of the greatest value, the first of equals.
pub fn argmax(values: &[f32]) -> Option<usize> {
    values.first()?;
    Some(isa().run(Argmax(values)))
}

/// The greatest value; minus infinity where there is none.
pub fn maximum(values: &[f32]) -> f32 {
    isa().run(Maximum(values))
}

/// The sum in f64, by 8 running sums.
pub fn sum(values: &[f32]) -> f64 {
    isa().run(Sum(values))
}

/// Writes `e^((value − greatest) / divisor)` of each value, none of which is above `greatest`: within 2e-7 of it, zero
/// below `e^-87`.
///
/// # Panics
/// If `to` is not as long as `values`.
pub fn exponentials(values: &[f32], greatest: f32, divisor: f32, to: &mut [f32]) {
    assert_eq!(values.len(), to.len(), "a place for each");
    isa().run(Exponentials { values, greatest, divisor, to });
}

/// The machine's instructions, found once.
fn isa() -> Isa {
    static FOUND: OnceLock<Isa> = OnceLock::new();
    *FOUND.get_or_init(|| Instructions::Best.isa())
}

struct Finite<'a>(&'a [f32]);

impl Kernel for Finite<'_> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> bool {
        self.0.iter().fold(true, |fine, value| fine & value.is_finite())
    }
}

struct Maximum<'a>(&'a [f32]);

impl Kernel for Maximum<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f32 {
        greatest(self.0)
    }
}

struct Argmax<'a>(&'a [f32]);

impl Kernel for Argmax<'_> {
    type Output = usize;

    /// Searches only where the greatest is known to be.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        const CHUNK: usize = 128;
        let mut best = (0, self.0[0]);
        for (index, chunk) in self.0.chunks(CHUNK).enumerate() {
            let greatest = greatest(chunk);
            if greatest > best.1 {
                best = (index, greatest);
            }
        }
        let start = best.0 * CHUNK;
        start + self.0[start..].iter().position(|&value| value == best.1).unwrap_or(0)
    }
}

/// By 32 running maxima that the compiler keeps in registers.
#[inline(always)]
fn greatest(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<32>();
    let mut lanes = [f32::NEG_INFINITY; 32];
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = greater(*lane, value);
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| greater(a, b))
}

#[inline(always)]
fn greater(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

struct Sum<'a>(&'a [f32]);

impl Kernel for Sum<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f64 {
        let (chunks, rest) = self.0.as_chunks::<8>();
        let mut lanes = [0f64; 8];
        for chunk in chunks {
            for (lane, &value) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(value);
            }
        }
        let mut sum = 0.0;
        for lane in lanes {
            sum += lane;
        }
        for &value in rest {
            sum += f64::from(value);
        }
        sum
    }
}

struct Exponentials<'a> {
    values: &'a [f32],
    greatest: f32,
    divisor: f32,
    to: &'a mut [f32],
}

impl Kernel for Exponentials<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { values, greatest, divisor, to } = self;
        for (to, &value) in to.iter_mut().zip(values) {
            *to = exp((value - greatest) / divisor);
        }
    }
}

/// `e^x` for `x <= 0`, within 2e-7 of its value, zero below -87; without a branch or a call, so that the compiler does
/// several at once. Range reduction as Cody & Waite (1980), then the series of `e^r` for `|r| <= ln 2 / 2`.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4; // 355/512: products with small integers are exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const ROUND: f32 = 12_582_912.0; // 1.5 × 2²³: adding it leaves no bits for a fraction
    let bounded = if x > -87.0 { x } else { -87.0 };
    let shifted = bounded * std::f32::consts::LOG2_E + ROUND;
    let exponent = shifted - ROUND;
    let r = bounded - exponent * LN2_HIGH - exponent * LN2_LOW;
    let mut series = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series * r + coefficient;
    }
    // The low bits of `shifted` are the integer itself; moved up by 23 they are a float's exponent.
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1f32.to_bits()));
    if x > -87.0 { series * power } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_close_to_the_real_ones() {
        let values: Vec<f32> = (0..87_000).map(|i| -(i as f32) / 1000.0).collect();
        let mut found = vec![0.0; values.len()];
        exponentials(&values, 0.0, 1.0, &mut found);
        for (x, found) in values.iter().zip(found) {
            let exact = f64::from(*x).exp();
            assert!((f64::from(found) - exact).abs() <= 2e-7 * exact, "exp({x})");
        }
        let mut found = [7.0; 3];
        exponentials(&[2.5, f32::NEG_INFINITY, 2.0], 2.5, 0.5, &mut found);
        assert_eq!(found[..2], [1.0, 0.0]);
        assert!((found[2] - (-1f32).exp()).abs() < 1e-7);
    }

    #[test]
    fn the_greatest_is_the_first_of_equals() {
        let mut values = vec![0.5; 1000];
        assert_eq!((argmax(&values), maximum(&values), argmax(&[])), (Some(0), 0.5, None));
        (values[700], values[300]) = (3.0, 3.0);
        assert_eq!((argmax(&values), maximum(&values), maximum(&[])), (Some(300), 3.0, f32::NEG_INFINITY));
        assert_eq!((argmax(&[-0.0, 0.0]), argmax(&[f32::NEG_INFINITY; 3])), (Some(0), Some(0)));
    }

    #[test]
    fn what_is_not_finite_is_found() {
        let mut values = vec![1.0; 100];
        assert_eq!((not_finite(&values), not_finite(&[])), (None, None));
        (values[70], values[99]) = (f32::NEG_INFINITY, f32::NAN);
        assert_eq!(not_finite(&values), Some(70));
    }

    #[test]
    fn a_sum_counts_every_value() {
        let values: Vec<f32> = (1..=1003).map(|value| value as f32).collect();
        assert_eq!(sum(&values), 1003.0 * 1004.0 / 2.0);
    }
}
