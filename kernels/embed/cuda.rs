//! Embedding rows on a GPU.

use super::Embed;
use crate::{
    Result,
    cuda::{Cuda, DeviceBatch, Grid, Source, Tensor, Weight},
};

const SOURCE: Source = Source { name: "embed", text: include_str!("cuda.cu") };

impl Embed for Cuda {
    /// The residual stream, f32.
    fn embed(&self, table: &Weight, first_token: u32, scale: f32, batch: &DeviceBatch) -> Result<Tensor> {
        let (tokens, columns) = (batch.tokens(), table.inputs);
        let y = self.floats(tokens, columns)?;
        // A thread for each eight columns.
        let threads = columns.div_ceil(8).next_multiple_of(32).min(256);
        let blocks = [tokens as u32, columns.div_ceil(8 * threads) as u32, 1];
        let grid = Grid { blocks, threads: threads as u32, shared_bytes: 0 };
        for (first, part) in table.parts() {
            let arguments = &mut [
                (&y).into(),
                part.pointer().into(),
                batch.token_ids().into(),
                self.choices().pointer().into(),
                first_token.wrapping_add(first as u32).into(),
                part.rows.into(),
                first_token.into(),
                table.outputs.into(),
                columns.into(),
                part.stride.into(),
                scale.into(),
                // One of the launches writes the rows that no part has.
                (first == 0).into(),
            ];
            // SAFETY: `y` has a row per token of the table's columns, and the part so many rows, `stride` bytes apart.
            // Places are of choices that there can be, as was asserted when the batch was uploaded.
            unsafe { self.launch_for((&SOURCE, part.dtype), "embed", grid, arguments) }?;
        }
        Ok(y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        for gpu in Cuda::kinds() {
            crate::embed::check(&gpu);
        }
    }
}
