//! Linear layers: every main format of weights, from one row (decoding) to many (prefill).

use super::{
    Arithmetic, Bench, Case, Outcome, State, Timing, Work,
    shapes::{HEAD, MODELS},
    spread,
};
use crate::{
    DType, Matrix,
    conformance::fault_of,
    cpu::{Cpu, Rounding},
    matmul::{MatMul, Packed, assert_near, reference, tolerance},
    memory::Memory,
    samples::{Samples, Tested},
};

const FORMATS: [DType; 12] = [
    DType::Q4_1,
    DType::Q4_0,
    DType::Q8_0,
    DType::Q4_K,
    DType::Q6_K,
    DType::WInt8,
    DType::WInt4,
    DType::BF16,
    DType::F16,
    DType::F32,
    DType::F8_E4M3,
    DType::MXFP4,
];

const ROWS: [usize; 5] = [1, 4, 16, 64, 512];

/// Only the tokens that are chosen go through a model's head.
const ROWS_OF_HEAD: [usize; 3] = [1, 4, 16];

/// A product that is measured.
#[derive(Clone, Copy)]
struct Product {
    dtype: DType,
    rows: usize,
    inputs: usize,
    outputs: usize,
}

/// By formats; shapes whose rows are not whole blocks of a format are left out, as no model has them.
pub(super) fn cases() -> Vec<Case> {
    let of_format = |dtype: DType| {
        let layers = MODELS.into_iter().flat_map(|model| {
            let [narrow, wide] = [model.hidden, model.intermediate];
            [[narrow, wide], [wide, narrow]].map(|shape| (shape, &ROWS[..]))
        });
        let shapes = layers.chain([(HEAD, &ROWS_OF_HEAD[..])]);
        let products = shapes.flat_map(move |([inputs, outputs], rows)| {
            rows.iter().map(move |&rows| Product { dtype, rows, inputs, outputs })
        });
        products.filter(|product| product.inputs.is_multiple_of(product.dtype.block_elements()))
    };
    FORMATS.into_iter().flat_map(of_format).map(Product::case).collect()
}

/// What the device computes products of a format in, whatever it stores.
fn arithmetic(cpu: &Cpu, dtype: DType) -> Arithmetic {
    if !Packed::are_integers(dtype) {
        return Arithmetic::F32;
    }
    match cpu.rounding {
        Rounding::Nothing => Arithmetic::F32,
        Rounding::Shorts => Arithmetic::Int16,
        Rounding::Bytes => Arithmetic::Int8,
    }
}

impl Product {
    fn case(self) -> Case {
        let Self { dtype, rows, inputs, outputs } = self;
        let shape = format!("{rows} × {inputs} → {outputs}");
        Case::new("matmul", dtype.name(), shape, move |bench| self.measure(bench))
    }

    fn measure(self, bench: &Bench) -> Outcome {
        let Self { dtype, rows, inputs, outputs } = self;
        let cpu = &bench.cpu;
        let values = Samples::new(2).floats(rows * inputs);
        let x = cpu.tensor(rows, inputs, &values).expect("memory");
        let weights = bench.weights(dtype, [outputs, inputs]);
        let matrix = &bench.arena(dtype).matrices(outputs, inputs)[0];
        let fault = fault_of(|| self.check(cpu, &values, matrix));
        let mut next = weights.all.iter().cycle();
        let timing = Timing::measure(bench.time, || {
            cpu.matmul(&x, next.next().expect("a cycle"), None).expect("a product");
        });
        let bytes = dtype.bytes_of(inputs * outputs) + 4 * rows * (inputs + outputs);
        let operations = 2 * rows * inputs * outputs;
        Outcome {
            fault,
            timing,
            work: Work { bytes, operations, arithmetic: arithmetic(cpu, dtype), state: State::Cold },
        }
    }

    /// Compares some rows' and outputs' sums of the whole product with the reference.
    fn check(self, cpu: &Cpu, values: &[f32], matrix: &Matrix) {
        let Self { rows, inputs, outputs, .. } = self;
        let (some_rows, some_outputs) = (spread(rows, 5), spread(outputs, 67));
        let weight = cpu.weight(vec![matrix.clone()]).expect("a weight");
        let x = cpu.tensor(rows, inputs, values).expect("memory");
        let product = cpu.matmul(&x, &weight, None).expect("a product");
        let of_row = |&row: &usize| some_outputs.iter().map(move |&output| (row, output));
        let found: Vec<f32> = some_rows.iter().flat_map(of_row).map(|(row, output)| product.row(row)[output]).collect();
        let x: Vec<f32> = some_rows.iter().flat_map(|&row| values[row * inputs..][..inputs].to_vec()).collect();
        let parts: Vec<Matrix> = some_outputs.iter().map(|&output| matrix.row_range(output..output + 1)).collect();
        let tolerance = tolerance(inputs) + cpu.rounding(matrix.dtype());
        assert_near(&found, &reference(&x, &parts, None), tolerance, "matmul");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_whole_blocks_of_every_format() {
        let labels: Vec<String> = cases().iter().map(Case::label).collect();
        assert!(labels.contains(&"matmul mxfp4 16 × 576 → 49152".into()), "{labels:?}");
        assert!(labels.contains(&"matmul q4_k 512 × 1536 → 576".into()), "{labels:?}");
        assert!(
            !labels.iter().any(|label| label.starts_with("matmul q4_k") && label.contains("× 576 →")),
            "{labels:?}"
        );
        assert_eq!(labels.iter().filter(|label| label.contains("f32")).count(), 4 * ROWS.len() + ROWS_OF_HEAD.len());
    }
}
