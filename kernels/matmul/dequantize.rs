//! What stored weights stand for, one at a time: the plain meaning of every [`DType`], against which the fast texts are
//! checked. Layouts and formulas of the formats named as in ggml are ggml's (`ggml-common.h`, `ggml-quants.c`); all
//! products are rounded as there. Those of our own are described at [`DType`].

use half::{bf16, f16};

use super::e4m3::decode_e4m3;
use crate::DType;

/// What the nibbles of IQ4_NL and IQ4_XS stand for.
pub(super) const IQ4: [f32; 16] =
    [-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0];

/// What FP4 numbers (e2m1: a sign, two bits of exponent, one of mantissa) stand for, times two.
pub(super) const TWICE_E2M1: [f32; 16] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, -0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

/// Writes the values of a stored row; `row` holds `values.len()` weights of `dtype`.
pub fn dequantize(dtype: DType, row: &[u8], values: &mut [f32]) {
    assert_eq!(row.len(), dtype.bytes_of(values.len()), "a row of {} {dtype:?} weights", values.len());
    let blocks = row.chunks_exact(dtype.block_bytes());
    for (block, values) in blocks.zip(values.chunks_exact_mut(dtype.block_elements())) {
        for (index, value) in values.iter_mut().enumerate() {
            *value = element(dtype, block, index);
        }
    }
}

/// Weight `i` of a block.
#[inline]
pub(super) fn element(dtype: DType, block: &[u8], i: usize) -> f32 {
    match dtype {
        DType::F32 => float_at(block, 0),
        DType::F16 => half_at(block, 0),
        DType::BF16 => bf16::from_le_bytes([block[0], block[1]]).to_f32(),
        DType::Q8_0 => half_at(block, 0) * f32::from(block[2 + i] as i8),
        DType::Q4_0 => half_at(block, 0) * (f32::from(nibble(&block[2..], i)) - 8.0),
        DType::Q4_1 => half_at(block, 0) * f32::from(nibble(&block[4..], i)) + half_at(block, 2),
        DType::Q5_0 => {
            let quant = nibble(&block[6..], i) | bit(&block[2..], i) << 4;
            half_at(block, 0) * (f32::from(quant) - 16.0)
        }
        DType::Q5_1 => {
            let quant = nibble(&block[8..], i) | bit(&block[4..], i) << 4;
            half_at(block, 0) * f32::from(quant) + half_at(block, 2)
        }
        DType::Q2_K => {
            let (scale, minimum) = (block[i / 16] & 15, block[i / 16] >> 4);
            let quant = two_bits(&block[16..], i);
            half_at(block, 80) * f32::from(scale) * f32::from(quant) - half_at(block, 82) * f32::from(minimum)
        }
        DType::Q3_K => {
            let quant = two_bits(&block[32..], i) | (block[i % 32] >> (i / 32) & 1) << 2;
            let scale = half_at(block, 108) * (f32::from(scale_of_sixteen(&block[96..], i / 16)) - 32.0);
            scale * (f32::from(quant) - 4.0)
        }
        DType::Q4_K => scaled(block, i / 32, paired_nibble(&block[16..], i)),
        DType::Q5_K => {
            let high = block[16 + i % 32] >> (i / 32) & 1;
            scaled(block, i / 32, paired_nibble(&block[48..], i) | high << 4)
        }
        DType::Q6_K => {
            let (half, within) = (i / 128, i % 128);
            let low = block[half * 64 + within % 64] >> (within / 64 * 4) & 15;
            let high = block[128 + half * 32 + within % 32] >> (within / 32 * 2) & 3;
            let scale = half_at(block, 208) * f32::from(block[192 + i / 16] as i8);
            scale * (f32::from(low | high << 4) - 32.0)
        }
        DType::IQ4_NL => half_at(block, 0) * IQ4[usize::from(nibble(&block[2..], i))],
        DType::IQ4_XS => {
            let group = i / 32;
            let low = block[4 + group / 2] >> (group % 2 * 4) & 15;
            let high = block[2 + group / 4] >> (group % 4 * 2) & 3;
            let scale = half_at(block, 0) * (f32::from(low | high << 4) - 32.0);
            scale * IQ4[usize::from(nibble(&block[8 + group * 16..], i % 32))]
        }
        DType::MXFP4 => half_e8m0(block[0]) * TWICE_E2M1[usize::from(nibble(&block[1..], i))],
        DType::TQ1_0 => half_at(block, 52) * (f32::from(third(block, i)) - 1.0),
        DType::TQ2_0 => half_at(block, 64) * (f32::from(two_bits(block, i)) - 1.0),
        DType::WInt8 => float_at(block, 0) * f32::from(block[4 + i] as i8),
        DType::WInt4 => {
            half_at(block, 0) * (f32::from(nibble(&block[4 + i / 32 * 16..], i % 32)) - f32::from(block[2]))
        }
        DType::WInt4G32 => half_at(block, 0) * (f32::from(nibble(&block[3..], i)) - f32::from(block[2])),
        DType::F8_E4M3 => float_at(block, 0) * decode_e4m3(block[4 + i]),
    }
}

fn float_at(block: &[u8], at: usize) -> f32 {
    f32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Of 32 nibbles, the low halves of 16 bytes come first, then the high ones.
fn nibble(bytes: &[u8], i: usize) -> u8 {
    bytes[i % 16] >> (i / 16 * 4) & 15
}

/// Of 256 nibbles, every 32 bytes hold 64: low halves, then high ones.
fn paired_nibble(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15
}

/// Of 256 numbers of two bits, every 32 bytes hold 128: the lowest bits of all 32 bytes, then those above them.
fn two_bits(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3
}

/// One of 256 numbers from 0 to 2. A byte is a fraction of 256 whose digits in base three are the weights: the first
/// 32 bytes hold five rows of 32, the next 16 five rows of 16, the last four bytes four rows of four.
fn third(bytes: &[u8], i: usize) -> u8 {
    let (byte, digit) = match i {
        0..160 => (bytes[i % 32], i / 32),
        160..240 => (bytes[32 + i % 16], (i - 160) / 16),
        _ => (bytes[48 + i % 4], (i - 240) / 4),
    };
    let rest = byte.wrapping_mul([1, 3, 9, 27, 81][digit]);
    ((u16::from(rest) * 3) >> 8) as u8
}

/// Half of the power of two that an exponent of eight bits (e8m0) stands for, so that even the least one is a number of
/// f32.
pub(super) fn half_e8m0(exponent: u8) -> f32 {
    // 2⁻¹²⁸ and 2⁻¹²⁷ are subnormal.
    f32::from_bits(if exponent < 2 { 0x20_0000 << exponent } else { u32::from(exponent - 1) << 23 })
}

fn bit(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 8] >> (i % 8) & 1
}

/// The scale and the minimum of one of a K-block's 8 groups, 6 bits each, packed in 12 bytes from byte 4 on.
fn scale_and_minimum(block: &[u8], group: usize) -> (u8, u8) {
    let packed = &block[4..16];
    match group {
        0..4 => (packed[group] & 63, packed[group + 4] & 63),
        _ => (packed[group + 4] & 15 | packed[group - 4] >> 6 << 4, packed[group + 4] >> 4 | packed[group] >> 6 << 4),
    }
}

/// One of a Q3_K block's sixteen 6-bit scales: the lower four bits in eight bytes, then the upper two in four.
fn scale_of_sixteen(packed: &[u8], i: usize) -> u8 {
    packed[i % 8] >> (i / 8 * 4) & 15 | (packed[8 + i % 4] >> (i / 4 * 2) & 3) << 4
}

fn scaled(block: &[u8], group: usize, quant: u8) -> f32 {
    let (scale, minimum) = scale_and_minimum(block, group);
    half_at(block, 0) * f32::from(scale) * f32::from(quant) - half_at(block, 2) * f32::from(minimum)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random blocks and their values by the `gguf` package.
    #[test]
    fn agrees_with_the_golden_vectors() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/golden/gguf/dequant_vectors.json");
        let golden: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let own = [DType::F32, DType::WInt8, DType::WInt4, DType::WInt4G32, DType::F8_E4M3];
        for dtype in DType::ALL.into_iter().filter(|dtype| !own.contains(dtype)) {
            let golden = &golden["types"][format!("{dtype:?}")];
            let expected: Vec<f32> =
                golden["values"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect();
            check(dtype, &bytes(golden["hex"].as_str().unwrap()), &expected);
        }
    }

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
    }

    fn check(dtype: DType, row: &[u8], expected: &[f32]) {
        let mut values = vec![0.0; expected.len()];
        dequantize(dtype, row, &mut values);
        assert_eq!(values, expected, "{dtype:?}");
    }

    /// Blocks of our own, laid out here by hand.
    #[test]
    fn our_own_formats_are_laid_out_as_described() {
        let quants: Vec<i8> = (0..128).map(|i| (i * 37 % 256) as i8).collect();
        let row = [&0.3f32.to_le_bytes()[..], &quants.iter().map(|&q| q as u8).collect::<Vec<_>>()].concat();
        check(DType::WInt8, &row, &quants.iter().map(|&q| 0.3 * f32::from(q)).collect::<Vec<_>>());

        let codes = [0x00, 0x01, 0x07, 0x08, 0x38, 0x7e, 0x81, 0xb9].repeat(16);
        let values = [0.0, 1.0 / 512.0, 7.0 / 512.0, 1.0 / 64.0, 1.0, 448.0, -1.0 / 512.0, -1.125].repeat(16);
        check(
            DType::F8_E4M3,
            &[&(-0.7f32).to_le_bytes()[..], &codes].concat(),
            &values.iter().map(|v| -0.7 * v).collect::<Vec<_>>(),
        );

        // The low halves of byte i are i, the high ones 15 − i.
        let nibbles: Vec<u8> = (0..16).map(|i| i | (15 - i) << 4).collect();
        let values: Vec<f32> = (0..16).chain((0..16).rev()).map(|q| 0.5 * (q as f32 - 9.0)).collect();
        check(DType::WInt4G32, &[&[0x00, 0x38, 9][..], &nibbles].concat(), &values);
        check(DType::WInt4, &[&[0x00, 0x38, 9, 0][..], &nibbles.repeat(4)].concat(), &values.repeat(4));
    }
}
