//! Gated linear units on a GPU.

use super::{Activation, Glu};
use crate::{
    Result,
    cuda::{Argument, Cuda, Grid, Source, Tensor, Weight},
    matmul::MatMul,
};

const SOURCE: Source = Source { name: "glu", text: include_str!("cuda.cu") };

impl Glu for Cuda {
    fn glu(&self, gate_up: &Tensor, activation: Activation) -> Result<Tensor> {
        const THREADS: usize = 256;
        assert!(gate_up.columns().is_multiple_of(2), "as many gates as ups");
        assert_eq!(gate_up.element(), self.act(), "gates and ups are activations");
        let (rows, columns) = (gate_up.rows(), gate_up.columns() / 2);
        let y = self.activations(rows, columns)?;
        let (entry, length) = if columns.is_multiple_of(8) { ("glu_by_8", 8) } else { ("glu_by_1", 1) };
        let (per_row, count) = (columns / length, rows * columns / length);
        let [kind, limit, alpha] = arguments(activation);
        let arguments = &mut [(&y).into(), gate_up.into(), per_row.into(), count.into(), kind, limit, alpha];
        let grid = Grid { blocks: [count.div_ceil(THREADS) as u32, 1, 1], threads: THREADS as u32, shared_bytes: 0 };
        // SAFETY: `y` has half as many columns as `gate_up`, `per_row` runs of `length` in each row.
        unsafe { self.launch(&SOURCE, entry, grid, arguments) }?;
        Ok(y)
    }

    fn gated_product(
        &self,
        x: &Tensor,
        gate_up: &Weight,
        bias: Option<&Tensor>,
        activation: Activation,
    ) -> Result<Tensor> {
        match self.product_of_pairs(x, gate_up, bias, activation)? {
            Some(gated) => Ok(gated),
            None => self.glu(&self.matmul(x, gate_up, bias)?, activation),
        }
    }
}

/// An activation as kernels take it: which, the limit, alpha.
pub(crate) fn arguments(activation: Activation) -> [Argument<'static>; 3] {
    let (kind, limit, alpha) = match activation {
        Activation::Silu => (0usize, 0.0, 0.0),
        Activation::GeluTanh => (1, 0.0, 0.0),
        Activation::Clamped { limit, alpha } => (2, limit, alpha),
    };
    [kind.into(), limit.into(), alpha.into()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        DType,
        glu::{ACTIVATIONS, check_product},
        samples::Samples,
    };

    #[test]
    fn conforms() {
        for gpu in Cuda::kinds().into_iter().chain(Cuda::without_cublaslt()) {
            crate::glu::check(&gpu);
        }
    }

    /// What the check has no room for: many steps, several tiles, full blocks.
    #[test]
    fn large_products_conform() {
        for gpu in Cuda::kinds().into_iter().chain(Cuda::without_cublaslt()) {
            let mut samples = Samples::new(2);
            for dtype in [DType::F32, DType::BF16, DType::Q6_K, DType::WInt4] {
                for (activation, (rows, width)) in ACTIVATIONS.into_iter().zip([(1, 600), (12, 130), (130, 140)]) {
                    let halves = [dtype, dtype].map(|dtype| samples.matrix(dtype, width, 512));
                    check_product(&gpu, &mut samples, halves, rows, activation);
                }
            }
        }
    }
}
