//! What stored weights stand for, one at a time: the plain meaning of every [`DType`], against which the fast texts are
//! checked. Layouts and formulas are ggml's (`ggml-common.h`, `ggml-quants.c`); all products are rounded as there.

use half::{bf16, f16};

use crate::DType;

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
fn element(dtype: DType, block: &[u8], i: usize) -> f32 {
    match dtype {
        DType::F32 => f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
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
    }
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
        for dtype in DType::ALL.into_iter().filter(|&dtype| dtype != DType::F32) {
            check(dtype, &golden["types"][format!("{dtype:?}")]);
        }
    }

    fn check(dtype: DType, golden: &serde_json::Value) {
        let hex = golden["hex"].as_str().unwrap();
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
        let expected: Vec<f32> =
            golden["values"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect();
        let mut values = vec![0.0; expected.len()];
        dequantize(dtype, &bytes, &mut values);
        assert_eq!(values, expected, "{dtype:?}");
    }
}
