//! From floats, or from what other tools quantized, to stored blocks.

mod blocks;
mod int4;

use half::{bf16, f16};

pub use self::blocks::{store_f8, store_wint4, store_wint8};
use super::e4m3::{E4M3_MAX, encode_e4m3};
use crate::DType;

/// Whether [`quantize`] can write a format.
pub const fn is_quantizable(dtype: DType) -> bool {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => true,
        DType::Q8_0 | DType::WInt8 | DType::WInt4 | DType::WInt4G32 | DType::F8_E4M3 => true,
        DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 => false,
        DType::Q2_K | DType::Q3_K | DType::Q4_K | DType::Q5_K | DType::Q6_K => false,
        DType::IQ4_NL | DType::IQ4_XS | DType::MXFP4 | DType::TQ1_0 | DType::TQ2_0 => false,
    }
}

/// Appends `values` as `dtype` stores a row: each as near as the format's scale allows, for 4 bits with the scale and
/// zero point that were found best. The same values give the same bytes on every machine.
///
/// Values are finite, which is the caller's to check: others give some block, in F16 and BF16 themselves. Scales that
/// f16 can't hold become its greatest.
///
/// # Panics
/// Where `dtype` is not one of those that [`is_quantizable`] names, or `values` are not whole blocks.
pub fn quantize(dtype: DType, values: &[f32], to: &mut Vec<u8>) {
    assert!(
        values.len().is_multiple_of(dtype.block_elements()),
        "{} values are not whole {dtype:?} blocks",
        values.len()
    );
    to.reserve(dtype.bytes_of(values.len()));
    match dtype {
        DType::F32 => to.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        DType::F16 => to.extend(values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes())),
        DType::BF16 => to.extend(values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes())),
        DType::Q8_0 => values.as_chunks().0.iter().for_each(|group| q8_0(group, to)),
        DType::WInt8 => values.as_chunks().0.iter().for_each(|group| wint8(group, to)),
        DType::WInt4 => values.as_chunks::<128>().0.iter().for_each(|group| int4::quantize(group, to)),
        DType::WInt4G32 => values.as_chunks::<32>().0.iter().for_each(|group| int4::quantize(group, to)),
        DType::F8_E4M3 => values.as_chunks::<128>().0.iter().for_each(|group| quantize_f8(f8_scale(group), group, to)),
        other => panic!("nothing is quantized to {other:?}"),
    }
}

/// The scale with which the greatest of `values` becomes the greatest FP8 number: that of a block, or of many that
/// share one (128 rows × 128 columns).
pub fn f8_scale(values: &[f32]) -> f32 {
    greatest(values) / E4M3_MAX
}

/// Appends `values`, a multiple of 128, as F8_E4M3 blocks of a given scale: value ÷ scale, rounded, saturating at ±448.
pub fn quantize_f8(scale: f32, values: &[f32], to: &mut Vec<u8>) {
    let (groups, rest) = values.as_chunks::<128>();
    assert!(rest.is_empty(), "{} values are not whole F8_E4M3 blocks", values.len());
    for group in groups {
        store_f8(scale, &group.map(|value| encode_e4m3(steps(value, scale))), to);
    }
}

fn q8_0(group: &[f32; 32], to: &mut Vec<u8>) {
    let scale = half_scale(greatest(group) / 127.0);
    to.extend(scale.to_le_bytes());
    to.extend(group.map(|value| signed_byte(value, scale.to_f32()) as u8));
}

fn wint8(group: &[f32; 128], to: &mut Vec<u8>) {
    let scale = greatest(group) / 127.0;
    store_wint8(scale, &group.map(|value| signed_byte(value, scale)), to);
}

fn signed_byte(value: f32, scale: f32) -> i8 {
    steps(value, scale).round_ties_even().clamp(-127.0, 127.0) as i8
}

/// How many times the scale a value is. A scale of zero means that all of a group's values are zeros, or nearly.
fn steps(value: f32, scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { value / scale }
}

/// The greatest magnitude, not more than f32 holds.
fn greatest(values: &[f32]) -> f32 {
    crate::cpu::greatest(values).min(f32::MAX)
}

/// As f16 holds it.
fn half_scale(scale: f32) -> f16 {
    f16::from_f32(scale.min(f16::MAX.to_f32()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{matmul::dequantize, samples::Samples};

    /// Groups of 128 of very different kinds.
    pub(super) fn groups() -> Vec<Vec<f32>> {
        let mut samples = Samples::new(11);
        let mut groups = vec![vec![0.0; 128], vec![0.7; 128], vec![-0.02; 128]];
        for size in [1e-9, 1e-6, 0.02, 1.0, 1e3] {
            groups.push((0..128).map(|_| size * samples.float()).collect());
            groups.push((0..128).map(|_| size * samples.float().abs()).collect());
            groups.push((0..128).map(|_| -size * (0.5 + samples.float().abs())).collect());
            groups.push((0..128).map(|_| size * samples.bell()).collect());
            groups.push((0..128).map(|i| size * samples.bell() * if i % 61 == 7 { 9.0 } else { 1.0 }).collect());
        }
        groups
    }

    pub(super) fn there_and_back(dtype: DType, values: &[f32]) -> Vec<f32> {
        let mut stored = vec![0xaa];
        quantize(dtype, values, &mut stored);
        assert_eq!(stored.len(), 1 + dtype.bytes_of(values.len()), "{dtype:?} is appended");
        let mut back = vec![f32::NAN; values.len()];
        dequantize(dtype, &stored[1..], &mut back);
        back
    }

    /// `bound` says how far a value may come back, given it and the greatest of those that share its scale.
    fn check(dtype: DType, bound: impl Fn(f32, f32) -> f32) {
        for group in groups() {
            let back = there_and_back(dtype, &group);
            let shared = if dtype.is_quantized() { dtype.block_elements() } else { 128 };
            for (values, back) in group.chunks(shared).zip(back.chunks(shared)) {
                for (&value, back) in values.iter().zip(back) {
                    let error = (value - back).abs();
                    assert!(error <= bound(value.abs(), greatest(values)), "{dtype:?}: {value} became {back}");
                }
            }
        }
    }

    #[test]
    fn values_come_back_as_near_as_the_format_allows() {
        // Half of a last place: of 24, 11 and 8 significant bits, or of f16's least number.
        check(DType::F32, |_, _| 0.0);
        check(DType::F16, |value, _| if value < 65520.0 { value / 2048.0 + 2f32.powi(-25) } else { f32::INFINITY });
        check(DType::BF16, |value, _| value / 256.0);
        // Half a step; a step that is a half itself may be wrong by its last place, or too small to be there.
        check(DType::Q8_0, |_, greatest| greatest / 127.0 * 0.501 + 127.0 * 2f32.powi(-25));
        check(DType::WInt8, |_, greatest| greatest / 127.0 * 0.50001);
        // Half of a last place of four significant bits, or of the least number; the scale is rounded as well.
        check(DType::F8_E4M3, |value, greatest| value / 15.999 + greatest / 448.0 / 1023.0);
    }

    #[test]
    fn what_is_zero_stays_zero() {
        for dtype in DType::ALL.into_iter().filter(|&dtype| is_quantizable(dtype)) {
            let mut stored = Vec::new();
            quantize(dtype, &[0.0; 128], &mut stored);
            assert_eq!(stored[..2], [0, 0], "{dtype:?}: the scale");
            assert_eq!(there_and_back(dtype, &[0.0; 128]), [0.0; 128], "{dtype:?}");
        }
    }

    /// Weights that a file should not hold: no panic, and no not-a-number out of quants.
    #[test]
    fn what_is_not_finite_gives_some_block() {
        for dtype in DType::ALL.into_iter().filter(|&dtype| is_quantizable(dtype) && dtype.is_quantized()) {
            for strange in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::from_bits(1)] {
                let mut values = [0.25; 128];
                values[77] = strange;
                let back = there_and_back(dtype, &values);
                assert!(back.iter().all(|back| !back.is_nan()), "{dtype:?}: {strange} among others");
            }
        }
    }

    #[test]
    fn blocks_of_a_given_scale() {
        let values: Vec<f32> = (0..256).map(|i| (i - 100) as f32 * 0.37).collect();
        let scale = f8_scale(&values);
        assert_eq!(scale, 155.0 * 0.37 / 448.0);
        let (mut rounded, mut copied) = (Vec::new(), Vec::new());
        quantize_f8(scale, &values, &mut rounded);
        for block in rounded.chunks_exact(DType::F8_E4M3.block_bytes()) {
            assert_eq!(block[..4], scale.to_le_bytes());
            store_f8(scale, block[4..].try_into().unwrap(), &mut copied);
        }
        assert_eq!(rounded, copied);
        let mut back = vec![0.0; 256];
        dequantize(DType::F8_E4M3, &rounded, &mut back);
        assert!(values.iter().zip(&back).all(|(a, b)| (a - b).abs() <= a.abs() / 15.9 + scale / 1023.0));
    }

    #[test]
    #[should_panic = "nothing is quantized to Q4_K"]
    fn other_formats_are_refused() {
        quantize(DType::Q4_K, &[0.0; 256], &mut Vec::new());
    }

    #[test]
    #[should_panic = "127 values are not whole WInt8 blocks"]
    fn parts_of_blocks_are_refused() {
        quantize(DType::WInt8, &[0.0; 127], &mut Vec::new());
    }
}
