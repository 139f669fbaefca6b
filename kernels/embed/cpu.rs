//! Embedding rows on the CPU.

use super::Embed;
use crate::{
    Batch, Result,
    cpu::{Cpu, Tensor, Weight},
    matmul::decode,
};

impl Embed for Cpu {
    fn embed(&self, table: &Weight, first_token: u32, scale: f32, batch: &Batch) -> Result<Tensor> {
        let mut output = self.scratch(batch.tokens.len(), table.inputs());
        for (row, &token) in batch.tokens.iter().enumerate() {
            let values = output.row_mut(row);
            match token.checked_sub(first_token) {
                Some(own) if (own as usize) < table.outputs() => {
                    let (part, row) = table.row(own as usize);
                    decode(self.isa, part, row, values);
                    if scale != 1.0 {
                        values.iter_mut().for_each(|value| *value *= scale);
                    }
                }
                _ => values.fill(0.0),
            }
        }
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        for cpu in Cpu::kinds() {
            crate::embed::check(&cpu);
        }
    }
}
