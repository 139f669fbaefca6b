//! GPTQ's tensors: `qweight [inputs × bits ÷ 32, outputs]`, words of neighbouring inputs, lowest bits first;
//! `qzeros [groups, outputs × bits ÷ 32]`, words of neighbouring outputs; `scales [groups, outputs]`; and for each input
//! its group, `g_idx [inputs]`. Layout: the packages `auto-gptq` and `gptqmodel`.

use super::{Groups, Kind, Numbers, Quants, Scale, Tensors, Words, numbers::word};
use crate::weights::{FileTensor, LoadError, encoding};

/// A matrix that GPTQ's tools have written.
pub(crate) struct Gptq {
    qweight: Words,
    qzeros: Option<Words>,
    scales: Numbers,
    groups: Groups,
    columns: usize,
    bits: usize,
    /// What is to be added to a word of zero points.
    added: u32,
}

impl Gptq {
    /// The matrix with `columns` inputs of the module that `tensors` belong to.
    pub(super) fn of(
        tensors: &Tensors,
        qweight: FileTensor,
        columns: usize,
        own: &encoding::Gptq,
    ) -> Result<Self, LoadError> {
        let qweight = Words::of(qweight)?;
        let Some(bits) = [4, 8].into_iter().find(|bits| columns * bits == qweight.rows * 32) else {
            let fault = format!("has {} rows, which for {columns} inputs are not 4 or 8 bits each", qweight.rows);
            return Err(qweight.tensor.fault(fault));
        };
        let scales = Numbers::of(tensors.required_of_module("scales")?)?;
        let qzeros = qzeros(tensors, own.symmetric)?;
        let count = scales_of(&scales, qzeros.as_ref(), qweight.columns, bits)?;
        let groups = match tensors.of_module("g_idx")? {
            // Where the settings' groups do not fit, this says which ones do.
            Some(g_idx) => {
                let runs = Groups::runs(columns, count, own.group).unwrap_or(Groups::Runs(1));
                runs.in_order(&g_idx, columns, count)?
            }
            None => Groups::runs(columns, count, own.group)
                .ok_or_else(|| scales.tensor.fault(format!("has {count} groups for {columns} inputs")))?,
        };
        let ones = if bits == 4 { 0x1111_1111 } else { 0x0101_0101 };
        let added = if own.less_one { ones } else { 0 };
        Ok(Self { qweight, qzeros, scales, groups, columns, bits, added })
    }
}

/// Zero points, which some settings allow to be left out.
pub(super) fn qzeros(tensors: &Tensors, optional: bool) -> Result<Option<Words>, LoadError> {
    match tensors.of_module("qzeros")? {
        None if optional => Ok(None),
        _ => Words::of(tensors.required_of_module("qzeros")?).map(Some),
    }
}

/// Checks scales and zero points against the outputs; answers how many groups there are.
pub(super) fn scales_of(
    scales: &Numbers,
    qzeros: Option<&Words>,
    outputs: usize,
    bits: usize,
) -> Result<usize, LoadError> {
    let (groups, found) = scales.tensor.flat();
    if found != outputs || groups == 0 {
        return Err(scales.tensor.fault(format!("has shape {groups} × {found}, there are {outputs} outputs")));
    }
    let words = (outputs * bits).div_ceil(32);
    if let Some(qzeros) = qzeros.filter(|qzeros| (qzeros.rows, qzeros.columns) != (groups, words)) {
        let Words { rows, columns, .. } = qzeros;
        return Err(qzeros.tensor.fault(format!("has shape {rows} × {columns} instead of {groups} × {words}")));
    }
    Ok(groups)
}

impl Quants for Gptq {
    fn shape(&self) -> (usize, usize) {
        (self.qweight.columns, self.columns)
    }

    fn kind(&self) -> Kind {
        if self.bits == 4 { Kind::U4 } else { Kind::U8 }
    }

    fn groups(&self) -> &Groups {
        &self.groups
    }

    fn codes(&self, row: usize, first: usize, to: &mut [u8]) {
        let (bytes, outputs) = (self.qweight.tensor.bytes(), self.qweight.columns);
        let (bits, mask) = (self.bits, (1u32 << self.bits) - 1);
        let (mut bit, mut rest) = (first * bits, to);
        while !rest.is_empty() {
            let mut word = word(bytes, bit / 32 * outputs + row) >> (bit % 32);
            let (own, others) = rest.split_at_mut(((32 - bit % 32) / bits).min(rest.len()));
            for code in own {
                *code = (word & mask) as u8;
                word >>= bits;
            }
            bit = (bit / 32 + 1) * 32;
            rest = others;
        }
    }

    /// The first layout has zero points less one, a word of them as one number: one that was 0 has borrowed from the next.
    fn scale(&self, row: usize, group: usize) -> Scale {
        let zero = match &self.qzeros {
            None => 1 << (self.bits - 1),
            Some(qzeros) => {
                let bit = row * self.bits;
                let word = qzeros.at(group, bit / 32).wrapping_add(self.added);
                (word >> (bit % 32) & ((1 << self.bits) - 1)) as i32
            }
        };
        Scale { scale: self.scales.at(group * self.qweight.columns + row), zero }
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

    use super::super::samples::{Sample, check, floats, grid, halves, ints, packed, scale};

    const OUTPUTS: usize = 16;
    const INPUTS: usize = 256;

    /// Quants, and zero points, the least among them.
    fn quant(bits: usize, row: usize, column: usize) -> u32 {
        ((row * 7 + column * 5 + column / 9) % (1 << bits)) as u32
    }

    fn zero(bits: usize, row: usize, group: usize) -> u32 {
        ((row * 3 + group) % (1 << bits)) as u32
    }

    /// The tensors of a module `a` with so many groups; in the first layout a word of zero points is one number.
    fn sample(bits: usize, groups: usize, less_one: bool) -> Sample {
        let columns_of = |word: usize| word * 32 / bits..(word + 1) * 32 / bits;
        let words =
            grid(INPUTS * bits / 32, OUTPUTS, |word, row| packed(bits, columns_of(word).map(|c| quant(bits, row, c))));
        let zeros: Vec<u8> = packed(bits, grid(groups, OUTPUTS, |group, row| zero(bits, row, group)));
        let ones = u32::from_le_bytes(packed(bits, vec![1; 32 / bits]).try_into().unwrap());
        let stored = zeros.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
        let stored = stored.map(|word| if less_one { word.wrapping_sub(ones) } else { word } as i32);
        Sample::new()
            .with("a.qweight", Dtype::I32, &[INPUTS * bits / 32, OUTPUTS], words.concat())
            .with("a.qzeros", Dtype::I32, &[groups, OUTPUTS * bits / 32], ints(stored))
            .with("a.scales", Dtype::F16, &[groups, OUTPUTS], halves(grid(groups, OUTPUTS, |g, row| scale(row, g))))
            .with("a.g_idx", Dtype::I32, &[INPUTS], ints((0..INPUTS).map(|c| (c * groups / INPUTS) as i32)))
    }

    fn settings(bits: usize, group: i64, format: &str) -> Value {
        json!({"quant_method": "gptq", "bits": bits, "group_size": group, "checkpoint_format": format})
    }

    fn value(bits: usize, scale: f32, row: usize, column: usize, group: usize) -> f32 {
        scale * (quant(bits, row, column) as f32 - zero(bits, row, group) as f32)
    }

    #[test]
    fn groups_become_blocks() {
        for (groups, format) in [(1, DType::WInt4), (2, DType::WInt4), (4, DType::WInt4G32), (16, DType::F32)] {
            for (layout, less_one) in [("gptq", true), ("gptq_v2", false)] {
                let group = INPUTS / groups;
                let own = settings(4, group as i64, layout);
                let matrix = sample(4, groups, less_one).matrix("a.weight", INPUTS, own).unwrap();
                assert_eq!(matrix.dtype(), format);
                let format = if format == DType::F32 { DType::BF16 } else { format };
                check(&matrix, format, |row, c| value(4, scale(row, c / group), row, c, c / group));
            }
        }
        // Parts are said to be in the format that they are read into.
        let matrix = sample(4, 2, true).matrix("a.weight", INPUTS, settings(4, 128, "gptq")).unwrap();
        assert_eq!(matrix.column_range(96..160).dtype(), DType::WInt4G32);
        assert_eq!(matrix.column_range(96..161).dtype(), DType::F32);
    }

    /// Scales that float16 does not hold need blocks whose scales are float32.
    #[test]
    fn other_scales_keep_their_values() {
        let odd = |row: usize, group: usize| 0.1 + scale(row, group);
        let scales = floats(grid(2, OUTPUTS, |group, row| odd(row, group)));
        let sample = sample(4, 2, true).with("a.scales", Dtype::F32, &[2, OUTPUTS], scales);
        let matrix = sample.matrix("a.weight", INPUTS, settings(4, 128, "gptq")).unwrap();
        check(&matrix, DType::WInt8, |row, c| value(4, odd(row, c / 128), row, c, c / 128));
    }

    #[test]
    fn eight_bits_become_bytes_where_they_fit() {
        let without_zeros = |groups| sample(8, groups, true).without("a.qzeros");
        for (groups, format) in [(2, DType::WInt8), (8, DType::Q8_0)] {
            let group = INPUTS / groups;
            let matrix = without_zeros(groups).matrix("a.weight", INPUTS, settings(8, group as i64, "gptq")).unwrap();
            check(&matrix, format, |row, c| scale(row, c / group) * (quant(8, row, c) as f32 - 128.0));
        }
        let matrix = sample(8, 2, true).matrix("a.weight", INPUTS, settings(8, 128, "gptq")).unwrap();
        check(&matrix, DType::F32, |row, c| value(8, scale(row, c / 128), row, c, c / 128));
    }

    #[test]
    fn groups_that_lie_apart_become_values() {
        let group = |column: usize| column * 13 % 4;
        let g_idx = ints((0..INPUTS).map(|column| group(column) as i32));
        let sample = sample(4, 4, true).with("a.g_idx", Dtype::I32, &[INPUTS], g_idx);
        let matrix = sample.matrix("a.weight", INPUTS, settings(4, 64, "gptq")).unwrap();
        assert_eq!(matrix.dtype(), DType::F32);
        check(&matrix, DType::BF16, |row, c| value(4, scale(row, group(c)), row, c, group(c)));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let of = |sample: Sample, expected: &str| {
            let line = sample.fault("a.weight", INPUTS, settings(4, 128, "gptq"));
            assert!(line.contains(expected), "{line}");
        };
        of(sample(4, 2, true).without("a.scales"), "tensor a.scales: is missing");
        let asymmetric = json!({"quant_method": "gptq", "sym": false});
        let line = sample(4, 2, true).without("a.qzeros").fault("a.weight", INPUTS, asymmetric);
        assert!(line.contains("tensor a.qzeros: is missing"), "{line}");
        let three_bits = sample(4, 2, true).with("a.qweight", Dtype::I32, &[24, OUTPUTS], vec![0; 24 * OUTPUTS * 4]);
        of(three_bits, "a.qweight: has 24 rows, which for 256 inputs are not 4 or 8 bits each");
        let halves = sample(4, 2, true).with("a.scales", Dtype::F16, &[2, 8], vec![0; 32]);
        of(halves, "a.scales: has shape 2 × 8, there are 16 outputs");
        let zeros = sample(4, 2, true).with("a.qzeros", Dtype::I32, &[1, 2], vec![0; 8]);
        of(zeros, "a.qzeros: has shape 1 × 2 instead of 2 × 2");
        let floats = sample(4, 2, true).with("a.qweight", Dtype::F32, &[32, OUTPUTS], vec![0; 32 * OUTPUTS * 4]);
        of(floats, "a.qweight: holds Weights(F32) in the shape [32, 16], where packed words would be");
        let short = sample(4, 2, true).with("a.g_idx", Dtype::I32, &[8], vec![0; 32]);
        of(short, "a.g_idx: has 8 elements, the model's settings ask for 256");
        let beyond = sample(4, 2, true).with("a.g_idx", Dtype::I32, &[INPUTS], ints((0..256).map(|c| c % 3)));
        of(beyond, "a.g_idx: names a group beyond the 2 that have scales");
        let infinite = vec![0x7c; 2 * OUTPUTS * 2];
        of(sample(4, 2, true).with("a.scales", Dtype::F16, &[2, OUTPUTS], infinite), "has a scale that is no number");
        let line = sample(4, 2, true).fault("a.weight", INPUTS, Value::Null);
        assert!(line.contains("does not name gptq or awq"), "{line}");
    }
}
