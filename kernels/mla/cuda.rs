//! Latent heads on a GPU.

use super::{LatentAttention, LatentHeads};
use crate::{
    DeviceError, Result,
    cuda::{Argument, Cuda, Element, Grid, Part, Pointer, Shape, Skinny, Source, Tensor, Weight},
};

const SOURCE: Source = Source { name: "mla", text: include_str!("cuda.cu") };

/// Up to so many rows, weights are decoded where they are multiplied.
const FEW_ROWS_MAX: usize = 32;

impl LatentAttention for Cuda {
    fn latent_rows(
        &self,
        q: &Tensor,
        kv: &Tensor,
        (norm, eps): (&Tensor, f32),
        key_up: &Weight,
        heads: &LatentHeads,
    ) -> Result<Tensor> {
        let LatentHeads { query, nope, rope, latent, .. } = *heads;
        assert_eq!((kv.rows(), kv.columns()), (q.rows(), latent + rope), "rows hold the latent and the turned part");
        assert_eq!(
            (norm.elements(), norm.element()),
            (latent, Element::F32),
            "a norm weight per element of the latent"
        );
        assert_eq!((q.element(), kv.element()), (self.act(), self.act()), "queries, latents are activations");
        assert_eq!(key_up.inputs, nope, "the weight's inputs are the nope part");
        let rows = self.activations(q.rows(), (query + 1) * heads.key())?;
        let rest = Rest { kv: kv.pointer(), norm: norm.pointer(), eps, rope };
        let products = ByHeads {
            x: q,
            x_step: nope + rope,
            y: &rows,
            y_first: rope,
            y_step: heads.key(),
            heads: query,
            outputs: latent,
            rest: Some(rest),
        };
        products.launch(self, key_up)?;
        Ok(rows)
    }

    fn latent_values(&self, attended: &Tensor, value_up: &Weight, heads: &LatentHeads) -> Result<Tensor> {
        let LatentHeads { query, latent, value, .. } = *heads;
        assert_eq!(attended.element(), self.act(), "what attention answers are activations");
        assert_eq!(value_up.inputs, latent, "the weight's inputs are the latent space");
        let values = self.activations(attended.rows(), query * value)?;
        let products = ByHeads {
            x: attended,
            x_step: latent,
            y: &values,
            y_first: 0,
            y_step: value,
            heads: query,
            outputs: value,
            rest: None,
        };
        products.launch(self, value_up)?;
        Ok(values)
    }
}

/// Each head's columns of `x` times its rows of a weight.
struct ByHeads<'a> {
    x: &'a Tensor,
    /// Columns from a head to the next; the weight's inputs are the first of them.
    x_step: usize,
    y: &'a Tensor,
    /// Where the first head's outputs begin.
    y_first: usize,
    y_step: usize,
    heads: usize,
    /// Of a head.
    outputs: usize,
    rest: Option<Rest>,
}

/// What latent rows hold besides.
struct Rest {
    kv: Pointer,
    norm: Pointer,
    eps: f32,
    rope: usize,
}

impl ByHeads<'_> {
    fn launch(&self, device: &Cuda, weight: &Weight) -> Result<()> {
        let Self { x, x_step, y, y_first, y_step, heads, outputs, ref rest } = *self;
        assert_eq!(x.columns(), heads * x_step, "rows hold all heads");
        assert_eq!(weight.outputs, heads * outputs, "the weight has the outputs of all heads");
        if x.rows() == 0 {
            return Ok(());
        }
        for (first, part) in weight.parts() {
            assert!(first % outputs == 0 && part.rows % outputs == 0, "a head's rows have one format");
            // Blocks of quantized weights are multiplied by whole words of x.
            if part.dtype.is_quantized() && x_step % 8 != 0 {
                return Err(DeviceError::Unsupported(format!("latent heads of {x_step} with {}", part.dtype.name())));
            }
            let (first_head, own_heads) = (first / outputs, part.rows / outputs);
            // The first launch writes the rest, too.
            let rest = rest.as_ref().filter(|_| first == 0);
            let Plan { entry, grid, tiles } = self.plan(device, part, weight.inputs, own_heads, rest.is_some());
            let bytes = y.element().bytes();
            let arguments = &mut [
                y.pointer().offset((y_first + first_head * y_step) * bytes).into(),
                y_step.into(),
                y.columns().into(),
                x.pointer().offset(first_head * x_step * bytes).into(),
                x_step.into(),
                x.columns().into(),
                part.pointer().into(),
                part.stride.into(),
                x.rows().into(),
                outputs.into(),
                weight.inputs.into(),
                own_heads.into(),
                Argument::from(tiles),
                rest.map(|rest| rest.kv).into(),
                rest.map(|rest| rest.norm).into(),
                rest.map_or(0.0, |rest| rest.eps).into(),
                heads.into(),
                rest.map_or(0, |rest| rest.rope).into(),
            ];
            // SAFETY: rows of `x` and `y` hold the columns of all heads, as many as the weight has inputs and outputs for
            // each; with the rest, `y` holds all that is listed in `cuda.cu`, and `q`, `kv` and `norm` are as asserted.
            unsafe { device.launch_for((&SOURCE, part.dtype), entry, grid, arguments) }?;
        }
        Ok(())
    }

    fn plan(&self, device: &Cuda, part: &Part, inputs: usize, heads: usize, has_rest: bool) -> Plan {
        let (rows, layers) = (self.x.rows(), (heads + usize::from(has_rest)) as u32);
        if rows > FEW_ROWS_MAX {
            let shape = Shape::SMALL;
            let blocks = [self.outputs.div_ceil(shape.outputs) as u32, rows.div_ceil(shape.rows) as u32, layers];
            let shared_bytes = shape.shared_bytes(part.dtype, device.act()) as u32;
            let grid = Grid { blocks, threads: shape.threads as u32, shared_bytes };
            return Plan { entry: "heads_64", grid, tiles: 1 };
        }
        let (entry, at_once) = if rows <= 8 { ("heads_8", 8) } else { ("heads_16", 16) };
        let blocks_wanted = device.facts().multiprocessors as usize * 7 / 8 / heads;
        let plan = Skinny::plan(part.dtype, self.outputs, inputs, blocks_wanted);
        let blocks = [plan.blocks(self.outputs) as u32, rows.div_ceil(at_once) as u32, layers];
        let grid = Grid { blocks, threads: plan.threads() as u32, shared_bytes: plan.shared_bytes as u32 };
        Plan { entry, grid, tiles: plan.tiles }
    }
}

/// A kernel's launch.
struct Plan {
    entry: &'static str,
    grid: Grid,
    /// Tiles of outputs in a block of few rows.
    tiles: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        for gpu in Cuda::kinds() {
            crate::mla::check(&gpu);
        }
    }
}
