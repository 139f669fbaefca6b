//! What the conformance checks share: the same pseudo-random numbers everywhere, and how exact a device is.

use std::{env, sync::Arc};

use half::f16;

use crate::{DType, Matrix};

/// A small deterministic generator (SplitMix64; Steele, Lea and Flood 2014).
pub(crate) struct Samples(u64);

impl Samples {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Uniform in `-1..1`.
    pub(crate) fn float(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Bell-shaped about 0, as weights are: twelve uniform ones summed have variance 4.
    pub(crate) fn bell(&mut self) -> f32 {
        (0..12).map(|_| self.float()).sum()
    }

    pub(crate) fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.float()).collect()
    }

    /// Uniform in `0..bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound as u64) as usize
    }

    /// Random weights as `dtype` stores them, at an odd address.
    pub(crate) fn matrix(&mut self, dtype: DType, rows: usize, columns: usize) -> Matrix {
        let mut bytes = vec![0u8; 3];
        for _ in 0..rows * columns / dtype.block_elements() {
            bytes.extend(self.block(dtype));
        }
        Matrix::new(Arc::new(bytes), 3, dtype, rows, columns).expect("as many bytes as it needs")
    }

    /// One block of random weights as `dtype` stores them; of a plain format, one weight.
    pub(crate) fn block(&mut self, dtype: DType) -> Vec<u8> {
        let mut block: Vec<u8> = (0..dtype.block_bytes()).map(|_| self.bits() as u8).collect();
        let halves: &[usize] = match dtype {
            DType::F32 => return self.float().to_le_bytes().into(),
            DType::BF16 => return half::bf16::from_f32(self.float()).to_le_bytes().into(),
            DType::F16 | DType::Q8_0 | DType::Q4_0 | DType::Q5_0 | DType::IQ4_NL | DType::IQ4_XS => &[0],
            DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => &[0, 2],
            DType::Q2_K => &[80, 82],
            DType::Q3_K => &[108],
            DType::Q6_K => &[208],
            DType::TQ1_0 => &[52],
            DType::TQ2_0 => &[64],
            DType::WInt4 | DType::WInt4G32 => {
                block[2] %= 17;
                &[0]
            }
            DType::MXFP4 => {
                block[0] = 118 + block[0] % 10;
                &[]
            }
            DType::WInt8 | DType::F8_E4M3 => {
                block[..4].copy_from_slice(&self.float().to_le_bytes());
                &[]
            }
        };
        for &at in halves {
            block[at..at + 2].copy_from_slice(&f16::from_f32(self.float()).to_le_bytes());
        }
        if dtype == DType::F8_E4M3 {
            block[4..].iter_mut().filter(|code| **code & 0x7f == 0x7f).for_each(|code| *code ^= 1);
        }
        block
    }
}

/// The formats that checks go through: all; or those that `SHARDWIRE_TEST_FORMATS` names, for kernels built for few.
pub(crate) fn formats() -> impl Iterator<Item = DType> + Clone {
    let named = env::var("SHARDWIRE_TEST_FORMATS").ok();
    let is_named = move |dtype: &DType| {
        let is = |name: &str| name.eq_ignore_ascii_case(dtype.name());
        named.as_ref().is_none_or(|named| named.split(',').any(is))
    };
    DType::ALL.into_iter().filter(is_named)
}

/// A device as the checks see it: how exact it is.
pub(crate) trait Tested: crate::Backend {
    /// Values as activations store them.
    fn stored(&self, values: Vec<f32>) -> Vec<f32> {
        values
    }

    /// What may be off in a result made of such values, where the CPU may be off by `tolerance`.
    fn tolerance(&self, tolerance: f32) -> f32 {
        tolerance
    }

    /// What a product with weights of this format may be off by beside its sums, relative to the magnitudes of their
    /// terms, since activations are rounded for it.
    fn rounding(&self, _weight: DType) -> f32 {
        0.0
    }

    /// What of it is rounded, for its name: nothing, or ` in bf16`.
    fn precision(&self) -> &'static str {
        ""
    }

    /// Copies a tensor to the host, with what other ranks know of it: all come here.
    fn whole_to_host(&self, tensor: &Self::Tensor) -> Vec<f32> {
        self.to_host(tensor).expect("a copy")
    }

    /// A tensor of the residual stream.
    fn residual(&self, rows: usize, columns: usize, values: &[f32]) -> Self::Tensor {
        self.tensor(rows, columns, values).expect("memory")
    }
}

impl Tested for crate::cpu::Cpu {
    /// By half a step, of the largest of some activations; an average one is half as large. And by what weights are off, of the
    /// largest of some: an average one is a quarter as large.
    fn rounding(&self, weight: DType) -> f32 {
        use crate::{cpu::Rounding, matmul::Packed};
        if !Packed::are_integers(weight) {
            return 0.0;
        }
        let of_weights = 4.0 * Packed::rounding(weight, self.isa);
        match self.rounding {
            Rounding::Nothing => 0.0,
            Rounding::Shorts => 1.0 / 32768.0 + of_weights,
            Rounding::Bytes => 1.0 / 127.0 + of_weights,
        }
    }
}

impl Tested for crate::cuda::Cuda {
    fn stored(&self, values: Vec<f32>) -> Vec<f32> {
        self.act().decode(&self.act().encode(&values))
    }

    /// Results are rounded to 8 bits, and so is what is between fused operations.
    fn tolerance(&self, tolerance: f32) -> f32 {
        match self.act() {
            crate::cuda::Element::F32 => tolerance,
            crate::cuda::Element::BF16 => tolerance.max(1.0 / 128.0),
        }
    }

    fn precision(&self) -> &'static str {
        match self.act() {
            crate::cuda::Element::F32 => " in f32",
            crate::cuda::Element::BF16 => " in bf16",
        }
    }

    fn whole_to_host(&self, tensor: &Self::Tensor) -> Vec<f32> {
        self.collect_rows(tensor).expect("all are there");
        crate::memory::Memory::to_host(self, tensor).expect("a copy")
    }

    fn residual(&self, rows: usize, columns: usize, values: &[f32]) -> Self::Tensor {
        self.upload(self.floats(rows, columns).expect("memory"), values).expect("a copy")
    }
}

/// Whether two results are equal within `tolerance` times the larger of 1 and the expected magnitude.
pub(crate) fn assert_close(actual: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}: length");
    for (index, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let bound = tolerance * expected.abs().max(1.0);
        assert!((actual - expected).abs() <= bound, "{what}: element {index} is {actual}, expected {expected}");
    }
}
