//! Norms on a GPU.

use super::RmsNorm;
use crate::{
    Result,
    cuda::{Cuda, Element, Grid, Source, Tensor},
};

const SOURCE: Source = Source { name: "rms_norm", text: include_str!("cuda.cu") };

impl RmsNorm for Cuda {
    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        let y = self.activations(x.rows(), x.columns())?;
        check_weight(weight, x.columns());
        self.collect_rows(x)?;
        let entry = if x.element() == self.act() { "rms_norm" } else { "rms_norm_residual" };
        let arguments = &mut [(&y).into(), x.into(), weight.into(), x.columns().into(), eps.into()];
        // SAFETY: `y` has the shape of `x`, and the weight an element per column.
        unsafe { self.launch(&SOURCE, entry, by_rows(x), arguments) }?;
        Ok(y)
    }

    fn add_rms_norm(&self, residual: &mut Tensor, x: &Tensor, scale: f32, weight: &Tensor, eps: f32) -> Result<Tensor> {
        let y = self.activations(x.rows(), x.columns())?;
        check_weight(weight, x.columns());
        assert_eq!((residual.element(), x.element()), (Element::F32, self.act()), "a residual and a branch");
        assert_eq!((residual.rows(), residual.columns()), (x.rows(), x.columns()), "of the same shape");
        self.collect_rows(residual)?;
        let arguments = &mut [
            (&y).into(),
            (&*residual).into(),
            x.into(),
            weight.into(),
            x.columns().into(),
            scale.into(),
            eps.into(),
        ];
        // SAFETY: all three have the same shape, and the weight an element per column.
        unsafe { self.launch(&SOURCE, "add_rms_norm", by_rows(x), arguments) }?;
        Ok(y)
    }
}

/// A block for each row, with a thread for every few elements.
fn by_rows(x: &Tensor) -> Grid {
    let threads = x.columns().div_ceil(4).next_multiple_of(32).clamp(32, 1024) as u32;
    Grid { blocks: [x.rows() as u32, 1, 1], threads, shared_bytes: 0 }
}

fn check_weight(weight: &Tensor, length: usize) {
    assert_eq!((weight.elements(), weight.element()), (length, Element::F32), "a norm weight per element");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        for gpu in Cuda::kinds() {
            crate::rms_norm::check(&gpu);
        }
    }
}
