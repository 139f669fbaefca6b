//! Floats as integers of 16 bits with a scale in common, `256 · upper + lower`, in sixteen lanes: how heads are rounded, those
//! that are kept as those that ask.

use super::simd::{Simd, Wide};

/// The greatest magnitude; what is no number is none.
#[inline(always)]
pub(crate) fn greatest_size<S: Simd>(simd: S, sixteens: impl Iterator<Item = [f32; 16]>) -> f32 {
    let wide = simd.wide();
    let mut most = wide.splat(0.0);
    for values in sixteens {
        let values = wide.load(&values);
        most = wide.max(wide.max(values, wide.sub(wide.splat(0.0), values)), most);
    }
    greatest_lane(simd, most)
}

/// The greatest of sixteen values.
#[inline(always)]
pub(crate) fn greatest_lane<S: Simd>(simd: S, values: <S::Wide as Wide>::F) -> f32 {
    let [lower, upper] = simd.wide().halves(values);
    simd.max_lane(simd.max(lower, upper))
}

/// Sixteen numbers, once multiplied at most [`LARGEST_SHORT`](super::LARGEST_SHORT), rounded: their upper bytes, with a sign,
/// and the integers themselves, whose lowest bytes, with a sign, are the lower ones.
#[inline(always)]
pub(crate) fn in_planes<W: Wide>(wide: W, values: &[f32; 16], factor: f32) -> [W::I; 2] {
    let numbers = wide.round(wide.mul(wide.load(values), wide.splat(factor)));
    // The upper byte is one more where the lower one is below zero.
    [wide.shift_right::<8>(wide.add_int(numbers, wide.splat_int(128))), numbers]
}
