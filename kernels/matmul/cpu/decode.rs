//! Stored weights as floats in memory.

use std::marker::PhantomData;

use super::{
    super::{
        dequantize,
        formats::{Format, GROUP},
    },
    with_format::with_format,
};
use crate::{
    DType, Matrix,
    cpu::simd::{Isa, Kernel, LANES, Simd},
};

/// Writes the values of row `row` of `matrix`, then zeros to the end of `values`.
pub(crate) fn decode(isa: Isa, matrix: &Matrix, row: usize, values: &mut [f32]) {
    with_format!(matrix.dtype(), F => {
        isa.run(Decode::<F> { stored: matrix.row(row), columns: matrix.columns(), values, format: PhantomData })
    })
}

struct Decode<'a, F> {
    stored: &'a [u8],
    columns: usize,
    values: &'a mut [f32],
    format: PhantomData<F>,
}

impl<F: Format> Kernel for Decode<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let whole = self.columns / GROUP;
        let (whole_values, rest) = self.values.split_at_mut(whole * GROUP);
        let blocks = self.stored.chunks_exact(F::BYTES).zip(whole_values.chunks_exact_mut(F::GROUPS * GROUP));
        for (block, values) in blocks {
            let header = F::header(simd, block);
            for (group, values) in values.chunks_exact_mut(GROUP).enumerate() {
                let decoded = F::group(simd, block, &header, group);
                for (decoded, values) in decoded.into_iter().zip(values.as_chunks_mut::<LANES>().0) {
                    simd.store(decoded, values);
                }
            }
        }
        if !rest.is_empty() {
            rest.copy_from_slice(&decoded_tail(F::DTYPE, self.stored, self.columns)[..rest.len()]);
        }
    }
}

/// The values of the columns after the last whole group, then zeros. Only formats without blocks have such columns.
#[cold]
#[inline(never)]
pub(super) fn decoded_tail(dtype: DType, stored: &[u8], columns: usize) -> [f32; GROUP] {
    let mut values = [0.0; GROUP];
    let count = columns % GROUP;
    dequantize(dtype, &stored[dtype.bytes_of(columns - count)..], &mut values[..count]);
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cpu::Cpu, samples::Samples};

    /// The vector forms mean exactly what the plain ones do.
    #[test]
    fn formats_decode_exactly() {
        let mut samples = Samples::new(3);
        for cpu in Cpu::kinds() {
            for dtype in DType::ALL {
                let matrix = samples.matrix(dtype, 1, 1024);
                let mut expected = vec![0.0; 1024];
                dequantize(dtype, matrix.row(0), &mut expected);
                let mut values = vec![f32::NAN; 1024];
                decode(cpu.isa, &matrix, 0, &mut values);
                assert_eq!(values, expected, "{dtype:?}, {}", cpu.isa.name());
            }
        }
    }
}
