//! Linear layers on a GPU.

mod middle;

use super::MatMul;
use crate::{
    DType, Result,
    cuda::{
        Argument, CublasLt, Cuda, Element, Grid, Operands, Part, Pointer, Product, Shape, Skinny, Source, Tensor,
        Weight,
    },
    glu::{self, Activation},
};

use middle::Middle;

const SOURCE: Source = Source { name: "matmul", text: include_str!("cuda.cu") };

/// Up to so many rows, unless there is a kernel for some (`middle`), each weight is decoded where it is multiplied, and read
/// from memory once: blocks of the same outputs, each with 16 rows, run side by side.
const SKINNY_ROWS_MAX: usize = 32;

/// From so many rows on NVIDIA's library is faster with weights that need no decoding (on an H100, 8192 → 28672: 166 µs
/// for 32 rows, where blocks side by side take 236).
const LIBRARY_ROWS_MIN: usize = 17;

/// From so many rows on it pays to decode a weight into memory, for the library to multiply (on an H100, 4096 rows: a
/// third of the time that tiles take which decode for themselves).
const DECODED_ROWS_MIN: usize = 256;

/// Decoded weights at most, bytes: they are for once.
const DECODED_BYTES_MAX: usize = 256 << 20;

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
            if x.rows() == 0 || part.rows == 0 {
                continue;
            }
            let y_at = y.pointer().offset(first * y.element().bytes());
            let bias_at = bias.map(|bias| bias.pointer().offset(first * Element::F32.bytes()));
            match self.plan(x.rows(), weight, (first, part), y.element(), bias.is_some())? {
                Plan::Library(library, product) => {
                    let operands = Operands { y: y_at, x: x.pointer(), weight: part.pointer(), bias: bias_at };
                    // SAFETY: as below.
                    unsafe { library.enqueue(&product, operands) }?;
                }
                Plan::Decoded(library, products) => {
                    // SAFETY: as below.
                    unsafe { self.product_of_decoded(library, &products, part, (y_at, y.element()), x, bias_at) }?;
                }
                Plan::Kernel(kernel) => {
                    let columns = Columns { y: y_at, stride: weight.outputs, bias: bias_at, results };
                    // SAFETY: `y` has a row of `weight.outputs` columns for each of x, of which the part's are written;
                    // x has `weight.inputs` columns, the part so many rows, and the bias an element per output.
                    unsafe { self.product_of_part(x, part, columns, kernel) }?;
                }
            }
        }
        Ok(y)
    }

    /// Gates times ups, `[rows, outputs / 2]`, where the first half of the outputs are the gates. None where both are not
    /// stored in one format, or NVIDIA's library multiplies.
    pub(crate) fn product_of_pairs(
        &self,
        x: &Tensor,
        weight: &Weight,
        bias: Option<&Tensor>,
        activation: Activation,
    ) -> Result<Option<Tensor>> {
        self.check(x, weight, bias);
        assert!(weight.outputs.is_multiple_of(2), "as many gates as ups");
        let mut parts = weight.parts();
        let (Some((first, part)), None) = (parts.next(), parts.next()) else { return Ok(None) };
        if x.rows() == 0 || part.rows == 0 {
            return Ok(None);
        }
        let plan = self.plan(x.rows(), weight, (first, part), self.act(), bias.is_some())?;
        let Plan::Kernel(kernel) = plan else { return Ok(None) };
        let y = self.activations(x.rows(), weight.outputs / 2)?;
        let (bias, results) = (bias.map(Tensor::pointer), Results::Gated(activation));
        let columns = Columns { y: y.pointer(), stride: y.columns(), bias, results };
        // SAFETY: x has `weight.inputs` columns, the part all outputs, `y` a column for each two of them, and the bias an
        // element per output.
        unsafe { self.product_of_part(x, part, columns, kernel) }?;
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
    unsafe fn product_of_part(&self, x: &Tensor, part: &Part, columns: Columns, kernel: Kernel) -> Result<()> {
        let (entry, grid, tiles) = match kernel {
            // SAFETY: the caller's promise.
            Kernel::Middle(middle) => return unsafe { self.product_by_warpgroups(x, part, columns, &middle) },
            Kernel::Skinny(entry, grid, tiles) => (entry, grid, Some(tiles)),
            Kernel::Tiled(entry, grid) => (entry, grid, None),
        };
        let Columns { y, stride, bias, results } = columns;
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
        ];
        arguments.extend(results.arguments());
        arguments.extend(tiles.map(Argument::from));
        // SAFETY: the caller's promise; the part has so many rows, `stride` bytes apart.
        unsafe { self.launch_for((&SOURCE, part.dtype), entry, grid, &mut arguments) }
    }

    /// Multiplies some outputs after the others, each decoded into the same memory.
    ///
    /// # Safety
    /// As for `product_of_part`.
    unsafe fn product_of_decoded(
        &self,
        library: &CublasLt,
        products: &[Product],
        part: &Part,
        (y, element): (Pointer, Element),
        x: &Tensor,
        bias: Option<Pointer>,
    ) -> Result<()> {
        const THREADS: usize = 256;
        let inputs = x.columns();
        let most = products.iter().map(|product| product.outputs).max().unwrap_or(0);
        let decoded = self.scratch(most * inputs * Element::BF16.bytes())?;
        let mut first = 0;
        for product in products {
            let from = part.pointer().offset(first * part.stride);
            let arguments = &mut [decoded.pointer().into(), from.into(), inputs.into(), part.stride.into()];
            // Four threads for each run of 32.
            let blocks = [(inputs.div_ceil(32) * 4).div_ceil(THREADS) as u32, product.outputs as u32, 1];
            let grid = Grid { blocks, threads: THREADS as u32, shared_bytes: 0 };
            let operands = Operands {
                y: y.offset(first * element.bytes()),
                x: x.pointer(),
                weight: decoded.pointer(),
                bias: bias.map(|bias| bias.offset(first * Element::F32.bytes())),
            };
            // SAFETY: the buffer has room for as many rows of `inputs`, which are the part's; what multiplies them comes
            // after on the one stream, and what decodes the next after that. The rest is the caller's promise.
            unsafe {
                self.launch_for((&SOURCE, part.dtype), "decode_weights", grid, arguments)?;
                library.enqueue(product, operands)?;
            }
            first += product.outputs;
        }
        Ok(())
    }

    /// What multiplies a part of a weight, which begins at output `first`: NVIDIA's library where it can, or a kernel.
    fn plan(
        &self,
        rows: usize,
        weight: &Weight,
        (first, part): (usize, &Part),
        y: Element,
        has_bias: bool,
    ) -> Result<Plan<'_>> {
        if let Some(library) = self.cublaslt()
            && let Some(product) = library_product(rows, weight, (first, part), y, has_bias)
        {
            if part.dtype == DType::BF16 {
                if library.knows(&product)? {
                    return Ok(Plan::Library(library, product));
                }
            } else {
                let products = pieces(&product, self.facts().multiprocessors as usize);
                if products.iter().try_fold(true, |all, product| Ok(all && library.knows(product)?))? {
                    return Ok(Plan::Decoded(library, products));
                }
            }
        }
        Ok(Plan::Kernel(self.kernel(rows, weight.inputs, part)?))
    }

    /// Which kernel multiplies a part.
    fn kernel(&self, rows: usize, inputs: usize, part: &Part) -> Result<Kernel> {
        let multiprocessors = self.facts().multiprocessors as usize;
        if let Some(middle) = self.middle(part, inputs, rows)? {
            return Ok(Kernel::Middle(middle));
        }
        if rows <= SKINNY_ROWS_MAX {
            // Two blocks, or nearly, hide each other's latencies on a multiprocessor.
            let skinny = Skinny::plan(part.dtype, part.rows, inputs, multiprocessors * 7 / 4);
            let (entry, at_once) = if rows <= 8 { ("skinny_8", 8) } else { ("skinny_16", 16) };
            let blocks = [rows.div_ceil(at_once) as u32, skinny.blocks(part.rows) as u32, 1];
            let (threads, shared_bytes) = (skinny.threads() as u32, skinny.shared_bytes as u32);
            return Ok(Kernel::Skinny(entry, Grid { blocks, threads, shared_bytes }, skinny.tiles));
        }
        let blocks = |shape: Shape| [rows.div_ceil(shape.rows) as u32, part.rows.div_ceil(shape.outputs) as u32, 1];
        let shared_bytes = |shape: Shape| shape.shared_bytes(part.dtype, self.act()) as u32;
        let [across, down, _] = blocks(Shape::LARGE);
        let fills = (across * down) as usize >= multiprocessors;
        let fits = shared_bytes(Shape::LARGE) <= self.facts().shared_bytes_max;
        let (entry, shape) = if fills && fits { ("tiled_128", Shape::LARGE) } else { ("tiled_64", Shape::SMALL) };
        let (threads, shared_bytes) = (shape.threads as u32, shared_bytes(shape));
        Ok(Kernel::Tiled(entry, Grid { blocks: blocks(shape), threads, shared_bytes }))
    }
}

/// Who multiplies.
enum Plan<'a> {
    Library(&'a CublasLt, Product),
    /// The library, some outputs after the others, from weights that are decoded for it.
    Decoded(&'a CublasLt, Vec<Product>),
    Kernel(Kernel),
}

/// A kernel's launch.
enum Kernel {
    /// For few rows; each block has so many tiles of outputs.
    Skinny(&'static str, Grid, usize),
    /// For many.
    Tiled(&'static str, Grid),
    /// For some, where products of warpgroups are there.
    Middle(Middle),
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

impl Results {
    /// What kernels are told of them: `results`, `activation`, `limit` and `alpha`.
    fn arguments<'a>(self) -> [Argument<'a>; 4] {
        let (kind, activation) = match self {
            Self::Activations => (0usize, Activation::Silu),
            Self::Floats => (1, Activation::Silu),
            Self::Gated(activation) => (2, activation),
        };
        let [activation, limit, alpha] = glu::arguments(activation);
        [kind.into(), activation, limit, alpha]
    }
}

/// A product as NVIDIA's library is told of it; none if it stays with our kernels. With those stay: few rows, for which
/// memory is the limit, and whose results must not depend on how many they are; weights to decode, unless rows are so many
/// that this is little beside multiplying, and f32 ones, which bf16 would spoil; a bias of another type than the result,
/// which the library can't add; and matrices whose rows don't begin where the widest load can read.
fn library_product(
    rows: usize,
    weight: &Weight,
    (first, part): (usize, &Part),
    y: Element,
    has_bias: bool,
) -> Option<Product> {
    const WIDEST_LOAD: usize = 16;
    let (x, outputs_before) = (Element::BF16, first * y.bytes());
    let is_aligned = |bytes: usize| bytes.is_multiple_of(WIDEST_LOAD);
    let (rows_min, weight_stride) = match part.dtype {
        DType::F32 => return None,
        DType::BF16 => (LIBRARY_ROWS_MIN, part.stride / x.bytes()),
        _ => (DECODED_ROWS_MIN, weight.inputs),
    };
    let begins_well =
        [weight.inputs * x.bytes(), weight.outputs * y.bytes(), outputs_before].into_iter().all(is_aligned);
    (rows >= rows_min && (!has_bias || y == Element::F32) && begins_well).then(|| Product {
        rows,
        inputs: weight.inputs,
        outputs: part.rows,
        weight_stride,
        y_stride: weight.outputs,
        y,
        has_bias,
        y_alignment: 1 << outputs_before.trailing_zeros().min(MEMORY_ALIGNMENT.trailing_zeros()),
    })
}

/// A product in pieces: each with so many outputs that tiles of them keep all multiprocessors busy, and no more than
/// that, for what is decoded is best read before it leaves the cache.
fn pieces(product: &Product, multiprocessors: usize) -> Vec<Product> {
    /// Rows, or outputs, of a tile of the library's.
    const TILE: usize = 128;
    let tiles = (4 * multiprocessors).div_ceil(product.rows.div_ceil(TILE));
    let at_most = DECODED_BYTES_MAX / (product.inputs * Element::BF16.bytes()) / TILE;
    let outputs = TILE * tiles.min(at_most).max(1);
    let starts = (0..product.outputs).step_by(outputs);
    starts.map(|start| Product { outputs: outputs.min(product.outputs - start), ..*product }).collect()
}

/// What a tensor's address is a multiple of, bytes.
const MEMORY_ALIGNMENT: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        matmul::{ROUNDED, check_parts, tolerance},
        memory::Memory,
        samples::{Samples, Tested, formats},
    };

    /// With NVIDIA's library, where it is there, and without.
    #[test]
    fn conforms() {
        for gpu in Cuda::kinds().into_iter().chain(Cuda::without_cublaslt()) {
            crate::matmul::check(&gpu);
        }
    }

    /// What the library takes, and what it leaves: each is computed rightly by `check`.
    #[test]
    fn many_rows_of_dense_weights_are_left_to_the_library() {
        for gpu in Cuda::kinds() {
            let mut samples = Samples::new(4);
            let mut taken =
                |dtypes: &[DType], outputs: usize, inputs: usize, rows: usize, y: Element, has_bias: bool| {
                    let parts = dtypes.iter().map(|dtype| samples.matrix(*dtype, outputs, inputs)).collect();
                    let weight = gpu.weight(parts).expect("a weight");
                    let plan = |at| gpu.plan(rows, &weight, at, y, has_bias).expect("a plan");
                    weight.parts().map(|at| matches!(plan(at), Plan::Library(..))).collect::<Vec<bool>>()
                };
            let is_there = gpu.act() == Element::BF16 && libraries_are_there();
            let (dense, narrow) = (&[DType::BF16][..], Element::BF16);
            assert_eq!(taken(dense, 40, 64, 33, narrow, false), [is_there]);
            assert_eq!(taken(dense, 40, 64, 33, Element::F32, true), [is_there]);
            assert_eq!(taken(&[DType::F16, DType::BF16], 40, 64, 33, narrow, false), [false, is_there]);
            assert_eq!(taken(dense, 40, 64, 16, narrow, false), [false], "few rows");
            assert_eq!(taken(dense, 40, 64, 17, narrow, false), [is_there]);
            assert_eq!(taken(dense, 40, 64, 33, narrow, true), [false], "a bias that it can't add");
            assert_eq!(taken(dense, 42, 64, 33, narrow, false), [false], "results that begin anywhere");
            assert_eq!(taken(dense, 40, 60, 33, narrow, false), [false], "rows that begin anywhere");
            assert_eq!(taken(&[DType::Q8_0], 40, 64, 255, narrow, false), [false], "a format to decode");
        }
    }

    /// Formats that are decoded into memory for the library, in one piece and in several.
    #[test]
    fn many_rows_of_weights_to_decode() {
        for gpu in Cuda::kinds() {
            let mut samples = Samples::new(6);
            let (rows, outputs, inputs) = (DECODED_ROWS_MIN + 2, 264, 256);
            let near = |actual: &Tensor, expected: &[[f64; 2]], what: &str| {
                let actual = gpu.to_host(actual).expect("a copy");
                crate::matmul::assert_near(&actual, expected, gpu.tolerance(tolerance(inputs)).min(ROUNDED), what);
            };
            for dtype in formats().filter(|dtype| *dtype != DType::F32) {
                let matrix = samples.matrix(dtype, outputs, inputs);
                let weight = gpu.weight(vec![matrix.clone()]).expect("a weight");
                let values = gpu.stored(samples.floats(rows * inputs));
                let x = gpu.tensor(rows, inputs, &values).expect("memory");
                let bias = samples.floats(outputs);
                let expected = crate::matmul::reference(&values, &[matrix], Some(&bias));
                let bias = gpu.vector(&bias).expect("memory");
                near(&gpu.scores(&x, &weight, Some(&bias)).expect("scores"), &expected, &format!("{dtype:?}"));
                let (Some(library), Some(at)) = (gpu.cublaslt(), weight.parts().next()) else { continue };
                let product = library_product(rows, &weight, at, Element::F32, true).expect("one for the library");
                let halves = pieces(&product, 1);
                assert_eq!(halves.iter().map(|half| half.outputs).collect::<Vec<_>>(), [256, 8]);
                if dtype != DType::BF16 {
                    assert!(halves.iter().all(|half| library.knows(half).expect("an answer")));
                    let y = gpu.floats(rows, outputs).expect("memory");
                    let to = (y.pointer(), Element::F32);
                    // SAFETY: `y` has a row of `outputs` for each of x, and the bias as many elements.
                    unsafe { gpu.product_of_decoded(library, &halves, at.1, to, &x, Some(bias.pointer())) }
                        .expect("a product");
                    near(&y, &expected, &format!("{dtype:?} in pieces"));
                }
            }
        }
    }

    fn libraries_are_there() -> bool {
        crate::cuda::check_products().is_ok()
    }

    /// A step is recorded with what was chosen before; meanwhile nothing is, and what is new is left to kernels.
    #[test]
    fn the_library_multiplies_in_recorded_steps() {
        for gpu in Cuda::kinds().into_iter().filter(|gpu| gpu.act() == Element::BF16) {
            let mut samples = Samples::new(5);
            let (inputs, outputs) = (64, 40);
            let matrix = samples.matrix(DType::BF16, outputs, inputs);
            let weight = gpu.weight(vec![matrix.clone()]).expect("a weight");
            let values = gpu.stored(samples.floats(49 * inputs));
            let [few, seen, new] =
                [1, 48, 49].map(|rows| gpu.tensor(rows, inputs, &values[..rows * inputs]).expect("memory"));
            // Room for both results, and kernels for what the library leaves.
            let both = [&few, &seen].map(|x| gpu.scores(x, &weight, None).expect("a product"));
            drop((both, gpu.floats(new.rows(), outputs).expect("memory")));
            let recorded = gpu.record(|| {
                drop(gpu.scores(&new, &weight, None)?);
                gpu.scores(&seen, &weight, None)
            });
            let (graph, place) = recorded.expect("no error").expect("it can be recorded");
            gpu.replay(&graph).expect("a run");
            let actual = gpu.to_host(&gpu.tensor_at(place)).expect("a copy");
            let expected = crate::matmul::reference(&values[..48 * inputs], &[matrix], None);
            crate::matmul::assert_near(&actual, &expected, gpu.tolerance(tolerance(inputs)).min(ROUNDED), "recorded");
        }
    }

    /// What formats differ by, and what the check has no room for: many steps, several tiles, full blocks.
    #[test]
    fn large_products_conform() {
        for gpu in Cuda::kinds().into_iter().chain(Cuda::without_cublaslt()) {
            let mut samples = Samples::new(2);
            for dtype in [DType::F32, DType::BF16, DType::Q4_0, DType::Q6_K, DType::WInt8] {
                for (rows, outputs, columns) in [(1, 600, 1024), (130, 140, 256), (67, 144, 512)] {
                    let parts = vec![samples.matrix(dtype, outputs, columns)];
                    check_parts(&gpu, &mut samples, parts, rows, gpu.tolerance(tolerance(columns)).min(ROUNDED));
                }
            }
        }
    }

    /// With few rows no weight is rounded, and a row has the same bits however many there are.
    #[test]
    fn few_rows_are_exact_and_alike() {
        for gpu in Cuda::kinds().into_iter().chain(Cuda::without_cublaslt()) {
            let mut samples = Samples::new(3);
            for dtype in formats() {
                let columns = 256;
                let matrix = samples.matrix(dtype, 20, columns);
                let weight = gpu.weight(vec![matrix.clone()]).expect("a weight");
                let by_warpgroups = gpu.has_warpgroups() && middle::has_kernel(dtype);
                let most = if dtype == DType::BF16 || by_warpgroups { 16 } else { 20 };
                let x = gpu.stored(samples.floats(most * columns));
                let scores = |rows: usize| {
                    let x = gpu.tensor(rows, columns, &x[..rows * columns]).expect("memory");
                    gpu.to_host(&gpu.scores(&x, &weight, None).expect("scores")).expect("a copy")
                };
                let all = scores(most);
                for rows in [1, 8, 9] {
                    assert_eq!(scores(rows), all[..rows * 20], "{}: {rows} rows of {dtype:?}", gpu.name());
                }
                let expected = crate::matmul::reference(&x, &[matrix], None);
                crate::matmul::assert_near(&all, &expected, tolerance(columns), &format!("{dtype:?}"));
            }
        }
    }
}
