//! AutoAWQ's tensors (its version "gemm"): `qweight [inputs, outputs ÷ 8]` and `qzeros [groups, outputs ÷ 8]`, words of
//! eight neighbouring outputs in an order of their own, and `scales [groups, outputs]`. Layout: the package `autoawq`.

use super::{
    Groups, Kind, Numbers, Quants, Scale, Tensors, Words,
    gptq::{qzeros, scales_of},
    numbers::word,
};
use crate::weights::{FileTensor, LoadError, encoding};

const BITS: usize = 4;

/// Where in a word each of eight outputs is, bits: from the lowest on there are outputs 0, 2, 4, 6, 1, 3, 5 and 7.
const SHIFTS: [u32; 8] = [0, 16, 4, 20, 8, 24, 12, 28];

/// A matrix that AutoAWQ has written.
pub(crate) struct Awq {
    qweight: Words,
    qzeros: Option<Words>,
    scales: Numbers,
    groups: Groups,
}

impl Awq {
    /// The matrix with `columns` inputs of the module that `tensors` belong to.
    pub(super) fn of(
        tensors: &Tensors,
        qweight: FileTensor,
        columns: usize,
        own: &encoding::Awq,
    ) -> Result<Self, LoadError> {
        let qweight = Words::of(qweight)?;
        if qweight.rows != columns {
            let fault = format!("has {} rows, the model's settings ask for {columns} inputs", qweight.rows);
            return Err(qweight.tensor.fault(fault));
        }
        let scales = Numbers::of(tensors.required_of_module("scales")?)?;
        let qzeros = qzeros(tensors, own.symmetric)?;
        let count = scales_of(&scales, qzeros.as_ref(), qweight.columns * 8, BITS)?;
        let groups = Groups::runs(columns, count, own.group)
            .ok_or_else(|| scales.tensor.fault(format!("has {count} groups for {columns} inputs")))?;
        Ok(Self { qweight, qzeros, scales, groups })
    }
}

impl Quants for Awq {
    fn shape(&self) -> (usize, usize) {
        (self.qweight.columns * 8, self.qweight.rows)
    }

    fn kind(&self) -> Kind {
        Kind::U4
    }

    fn groups(&self) -> &Groups {
        &self.groups
    }

    fn codes(&self, row: usize, first: usize, to: &mut [u8]) {
        let (bytes, words) = (self.qweight.tensor.bytes(), self.qweight.columns);
        for (column, code) in (first..).zip(to) {
            *code = (word(bytes, column * words + row / 8) >> SHIFTS[row % 8] & 15) as u8;
        }
    }

    /// Without zero points, they are in the middle.
    fn scale(&self, row: usize, group: usize) -> Scale {
        let zero = match &self.qzeros {
            None => 8,
            Some(qzeros) => (qzeros.at(group, row / 8) >> SHIFTS[row % 8] & 15) as i32,
        };
        Scale { scale: self.scales.at(group * self.shape().0 + row), zero }
    }

    fn tensors(&self) -> Vec<&FileTensor> {
        let qzeros = self.qzeros.as_ref().map(|qzeros| &qzeros.tensor);
        [&self.qweight.tensor, &self.scales.tensor].into_iter().chain(qzeros).collect()
    }
}

#[cfg(test)]
mod tests {
    use ::safetensors::Dtype;
    use kernels::DType;
    use serde_json::{Value, json};

    use super::super::samples::{Sample, check, grid, halves, packed, scale};

    const OUTPUTS: usize = 16;
    const INPUTS: usize = 256;

    fn quant(row: usize, column: usize) -> u32 {
        ((row * 7 + column * 5 + column / 9) % 16) as u32
    }

    fn zero(row: usize, group: usize) -> u32 {
        ((row * 3 + group) % 16) as u32
    }

    /// The output that is at a place among a row's halves of bytes.
    fn output(place: usize) -> usize {
        place / 8 * 8 + [0, 2, 4, 6, 1, 3, 5, 7][place % 8]
    }

    fn sample(groups: usize) -> Sample {
        let quants = packed(4, grid(INPUTS, OUTPUTS, |column, place| quant(output(place), column)));
        let zeros = packed(4, grid(groups, OUTPUTS, |group, place| zero(output(place), group)));
        Sample::new()
            .with("a.qweight", Dtype::I32, &[INPUTS, OUTPUTS / 8], quants)
            .with("a.qzeros", Dtype::I32, &[groups, OUTPUTS / 8], zeros)
            .with("a.scales", Dtype::F16, &[groups, OUTPUTS], halves(grid(groups, OUTPUTS, |g, row| scale(row, g))))
    }

    fn settings(group: usize) -> Value {
        json!({"quant_method": "awq", "bits": 4, "group_size": group})
    }

    fn symmetric() -> Value {
        json!({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": false})
    }

    #[test]
    fn groups_become_blocks() {
        for (groups, format) in [(2, DType::WInt4), (8, DType::WInt4G32), (16, DType::BF16)] {
            let group = INPUTS / groups;
            let matrix = sample(groups).matrix("a.weight", INPUTS, settings(group)).unwrap();
            let value = |row, c| quant(row, c) as f32 - zero(row, c / group) as f32;
            check(&matrix, format, |row, c| scale(row, c / group) * value(row, c));
        }
        let matrix = sample(2).without("a.qzeros").matrix("a.weight", INPUTS, symmetric()).unwrap();
        check(&matrix, DType::WInt4, |row, c| scale(row, c / 128) * (quant(row, c) as f32 - 8.0));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let of = |sample: Sample, columns, expected: &str| {
            let line = sample.fault("a.weight", columns, settings(128));
            assert!(line.contains(expected), "{line}");
        };
        of(sample(2).without("a.scales"), INPUTS, "tensor a.scales: is missing");
        of(sample(2), 128, "a.qweight: has 256 rows, the model's settings ask for 128 inputs");
        of(sample(2).without("a.qzeros"), INPUTS, "tensor a.qzeros: is missing");
        let other = sample(2).with("a.scales", Dtype::F16, &[3, OUTPUTS], vec![0; 96]).without("a.qzeros");
        let line = other.fault("a.weight", INPUTS, symmetric());
        assert!(line.contains("a.scales: has 3 groups for 256 inputs"), "{line}");
    }
}
