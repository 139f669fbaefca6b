//! Normalisation on the CPU.

use super::RmsNorm;
use crate::{
    Result,
    cpu::{
        Cpu, Tensor,
        simd::{Isa, Kernel, LANES, Simd, padded},
    },
};

/// What a normalised element costs a thread, roughly: only sharing among threads depends on it.
const NANOSECONDS: f64 = 0.3;

impl RmsNorm for Cpu {
    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        let mut output = self.scratch(x.rows(), x.columns());
        let (isa, columns) = (self.isa, x.columns());
        assert_eq!(columns, weight.data().len(), "a norm weight per column");
        self.team.share_rows([(output.data_mut(), columns)], x.rows(), NANOSECONDS * columns as f64, |row, [to]| {
            to.copy_from_slice(x.row(row));
            normalise(isa, to, weight.data(), eps);
        });
        Ok(output)
    }

    fn add_rms_norm(&self, residual: &mut Tensor, x: &Tensor, scale: f32, weight: &Tensor, eps: f32) -> Result<Tensor> {
        assert_eq!((x.rows(), x.columns()), (residual.rows(), residual.columns()), "x has the residual's shape");
        assert_eq!(x.columns(), weight.data().len(), "a norm weight per column");
        let mut output = self.scratch(x.rows(), x.columns());
        let (isa, columns) = (self.isa, x.columns());
        let slices = [(residual.data_mut(), columns), (output.data_mut(), columns)];
        self.team.share_rows(slices, x.rows(), NANOSECONDS * columns as f64, |row, [sum, to]| {
            for (sum, x) in sum.iter_mut().zip(x.row(row)) {
                *sum += scale * x;
            }
            to.copy_from_slice(sum);
            normalise(isa, to, weight.data(), eps);
        });
        Ok(output)
    }
}

/// Normalises one row in place.
pub(crate) fn normalise(isa: Isa, values: &mut [f32], weight: &[f32], eps: f32) {
    isa.run(Normalise { values, weight, eps });
}

struct Normalise<'a> {
    values: &'a mut [f32],
    weight: &'a [f32],
    eps: f32,
}

impl Kernel for Normalise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mean = squares(simd, self.values) / self.values.len() as f32;
        let scale = 1.0 / (mean + self.eps).sqrt();
        for (value, weight) in self.values.iter_mut().zip(self.weight) {
            *value = *value * scale * weight;
        }
    }
}

/// The sum of squares: four chains, each taking every fourth eight of the elements.
#[inline(always)]
fn squares<S: Simd>(simd: S, values: &[f32]) -> f32 {
    let mut chains = [simd.splat(0.0); 4];
    let (blocks, rest) = values.as_chunks::<{ 4 * LANES }>();
    for block in blocks {
        for (chain, eight) in chains.iter_mut().zip(block.as_chunks::<LANES>().0) {
            let eight = simd.load(eight);
            *chain = simd.fma(eight, eight, *chain);
        }
    }
    for start in (0..rest.len()).step_by(LANES) {
        let eight = simd.load(&padded(rest, start));
        chains[0] = simd.fma(eight, eight, chains[0]);
    }
    simd.sum(simd.add(simd.add(chains[0], chains[1]), simd.add(chains[2], chains[3])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        for cpu in Cpu::kinds() {
            crate::rms_norm::check(&cpu);
        }
    }
}
