//! Linear layers on a GPU.

use super::MatMul;
use crate::{
    Result,
    cuda::{Argument, Cuda, Element, Grid, Part, Pointer, Shape, Skinny, Source, Tensor, Weight},
    glu::{self, Activation},
};

const SOURCE: Source = Source { name: "matmul", text: include_str!("cuda.cu") };

/// Up to so many rows, each weight is decoded where it is multiplied, and read from memory once: blocks of the same
/// outputs, each with 16 rows, run side by side.
const SKINNY_ROWS_MAX: usize = 32;

impl MatMul for Cuda {
    fn matmul(&self, x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<Tensor> {
        self.product(x, weight, bias, self.activations(x.rows(), weight.outputs)?)
    }

    fn scores(&self, x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<Tensor> {
        self.product(x, weight, bias, self.floats(x.rows(), weight.outputs)?)
    }
}

impl Cuda {
    /// Writes `y`, the products of a weight's parts side by side.
    fn product(&self, x: &Tensor, weight: &Weight, bias: Option<&Tensor>, y: Tensor) -> Result<Tensor> {
        self.check(x, weight, bias);
        let results = if y.element() == Element::F32 { Results::Floats } else { Results::Activations };
        for (first, part) in weight.parts() {
            let columns = Columns {
                y: y.pointer().offset(first * y.element().bytes()),
                stride: weight.outputs,
                bias: bias.map(|bias| bias.pointer().offset(first * Element::F32.bytes())),
                results,
            };
            // SAFETY: `y` has a row of `weight.outputs` columns for each of x, of which the part's are written, and the
            // bias an element per output.
            unsafe { self.product_of_part(x, part, columns) }?;
        }
        Ok(y)
    }

    /// Gates times ups, `[rows, outputs / 2]`, where the first half of the outputs are the gates. None where both are not
    /// stored in one format.
    pub(crate) fn product_of_pairs(
        &self,
        x: &Tensor,
        weight: &Weight,
        bias: Option<&Tensor>,
        activation: Activation,
    ) -> Result<Option<Tensor>> {
        assert!(weight.outputs.is_multiple_of(2), "as many gates as ups");
        let mut parts = weight.parts();
        let (Some((_, part)), None) = (parts.next(), parts.next()) else { return Ok(None) };
        let y = self.activations(x.rows(), weight.outputs / 2)?;
        let (bias_pointer, results) = (bias.map(Tensor::pointer), Results::Gated(activation));
        let columns = Columns { y: y.pointer(), stride: y.columns(), bias: bias_pointer, results };
        self.check(x, weight, bias);
        // SAFETY: the part has all outputs, `y` a column for each two of them, and the bias an element per output.
        unsafe { self.product_of_part(x, part, columns) }?;
        Ok(Some(y))
    }

    fn check(&self, x: &Tensor, weight: &Weight, bias: Option<&Tensor>) {
        assert_eq!((x.columns(), x.element()), (weight.inputs, self.act()), "activations, one per input");
        let is_bias = |bias: &Tensor| (bias.elements(), bias.element()) == (weight.outputs, Element::F32);
        assert!(bias.is_none_or(is_bias), "a bias per output");
    }

    /// # Safety
    /// There is room for the results of each row of `x`, which has as many columns as the part; and a bias for each of
    /// the part's outputs.
    unsafe fn product_of_part(&self, x: &Tensor, part: &Part, columns: Columns) -> Result<()> {
        if x.rows() == 0 || part.rows == 0 {
            return Ok(());
        }
        let plan = self.plan(x.rows(), x.columns(), part);
        let Columns { y, stride, bias, results } = columns;
        let (kind, activation) = match results {
            Results::Activations => (0usize, Activation::Silu),
            Results::Floats => (1, Activation::Silu),
            Results::Gated(activation) => (2, activation),
        };
        let mut arguments = vec![
            y.into(),
            x.into(),
            part.pointer().into(),
            bias.into(),
            x.rows().into(),
            part.rows.into(),
            x.columns().into(),
            part.stride.into(),
            stride.into(),
            kind.into(),
        ];
        arguments.extend(glu::arguments(activation));
        arguments.extend(plan.tiles.map(Argument::from));
        // SAFETY: the caller's promise; the part has so many rows, `stride` bytes apart.
        unsafe { self.launch_for((&SOURCE, part.dtype), plan.entry, plan.grid, &mut arguments) }
    }

    /// Which kernel multiplies a part.
    fn plan(&self, rows: usize, inputs: usize, part: &Part) -> Plan {
        let multiprocessors = self.facts().multiprocessors as usize;
        if rows <= SKINNY_ROWS_MAX {
            // Two blocks, or nearly, hide each other's latencies on a multiprocessor.
            let skinny = Skinny::plan(part.dtype, part.rows, inputs, multiprocessors * 7 / 4);
            let (entry, at_once) = if rows <= 8 { ("skinny_8", 8) } else { ("skinny_16", 16) };
            let blocks = [rows.div_ceil(at_once) as u32, skinny.blocks(part.rows) as u32, 1];
            let (threads, shared_bytes) = (skinny.threads() as u32, skinny.shared_bytes as u32);
            return Plan { entry, grid: Grid { blocks, threads, shared_bytes }, tiles: Some(skinny.tiles) };
        }
        let blocks = |shape: Shape| [rows.div_ceil(shape.rows) as u32, part.rows.div_ceil(shape.outputs) as u32, 1];
        let shared_bytes = |shape: Shape| shape.shared_bytes(part.dtype, self.act()) as u32;
        let [across, down, _] = blocks(Shape::LARGE);
        let fills = (across * down) as usize >= multiprocessors;
        let fits = shared_bytes(Shape::LARGE) <= self.facts().shared_bytes_max;
        let (entry, shape) = if fills && fits { ("tiled_128", Shape::LARGE) } else { ("tiled_64", Shape::SMALL) };
        let (threads, shared_bytes) = (shape.threads as u32, shared_bytes(shape));
        Plan { entry, grid: Grid { blocks: blocks(shape), threads, shared_bytes }, tiles: None }
    }
}

/// Where the results of a part go, and what they are.
struct Columns {
    /// The first row's first.
    y: Pointer,
    /// From one row to the next, in results.
    stride: usize,
    /// For each output, f32.
    bias: Option<Pointer>,
    results: Results,
}

/// What becomes of a row's sums, one for each output.
#[derive(Clone, Copy)]
enum Results {
    /// They are rounded to activations …
    Activations,
    /// … or left in f32.
    Floats,
    /// Those of the first half are gates, those of the second ups; each two make one activation.
    Gated(Activation),
}

/// A kernel's launch.
struct Plan {
    entry: &'static str,
    grid: Grid,
    /// What a skinny kernel is told.
    tiles: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        DType,
        matmul::{ROUNDED, check_parts, tolerance},
        memory::Memory,
        samples::{Samples, Tested},
    };

    #[test]
    fn conforms() {
        for gpu in Cuda::kinds() {
            crate::matmul::check(&gpu);
        }
    }

    /// What formats differ by, and what the check has no room for: many steps, several tiles, full blocks.
    #[test]
    fn large_products_conform() {
        for gpu in Cuda::kinds() {
            let mut samples = Samples::new(2);
            for dtype in [DType::F32, DType::BF16, DType::Q4_0, DType::Q6_K, DType::WInt8] {
                for (rows, outputs, columns) in [(1, 600, 1024), (130, 140, 256)] {
                    let parts = vec![samples.matrix(dtype, outputs, columns)];
                    check_parts(&gpu, &mut samples, parts, rows, gpu.tolerance(tolerance(columns)).min(ROUNDED));
                }
            }
        }
    }

    /// With few rows no weight is rounded, and a row has the same bits however many there are.
    #[test]
    fn few_rows_are_exact_and_alike() {
        for gpu in Cuda::kinds() {
            let mut samples = Samples::new(3);
            for dtype in DType::ALL {
                let columns = 256;
                let matrix = samples.matrix(dtype, 20, columns);
                let weight = gpu.weight(vec![matrix.clone()]).expect("a weight");
                let x = gpu.stored(samples.floats(20 * columns));
                let scores = |rows: usize| {
                    let x = gpu.tensor(rows, columns, &x[..rows * columns]).expect("memory");
                    gpu.to_host(&gpu.scores(&x, &weight, None).expect("scores")).expect("a copy")
                };
                let all = scores(20);
                for rows in [1, 8, 9] {
                    assert_eq!(scores(rows), all[..rows * 20], "{}: {rows} rows of {dtype:?}", gpu.name());
                }
                let expected = crate::matmul::reference(&x, &[matrix], None);
                crate::matmul::assert_near(&all, &expected, tolerance(columns), &format!("{dtype:?}"));
            }
        }
    }
}
