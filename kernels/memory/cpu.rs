//! Memory on the CPU: the host's own.

use std::{borrow::Cow, ops::Range};

use super::Memory;
use crate::{
    Batch, KvShape, Matrix, Result,
    cpu::{Cpu, KvCache, Rounding, Tensor, Weight, lasting::Source},
    rotary::{Angles, Turns},
};

impl Memory for Cpu {
    type Tensor = Tensor;
    type Weight = Weight;
    type Batch = Batch;
    type KvCache = KvCache;
    type Angles = Angles;

    fn name(&self) -> String {
        format!("cpu ({} threads, {})", self.team.threads(), self.isa.name())
    }

    fn tensor(&self, rows: usize, columns: usize, values: &[f32]) -> Result<Tensor> {
        assert_eq!(values.len(), rows * columns, "a tensor has rows × columns values");
        let mut tensor = self.scratch(rows, columns);
        tensor.data_mut().copy_from_slice(values);
        Ok(tensor)
    }

    fn vector(&self, values: &[f32]) -> Result<Tensor> {
        self.tensor(1, values.len(), values)
    }

    fn to_host(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        Ok(tensor.data().to_vec())
    }

    fn rows_to_host<'a>(&self, tensor: &'a Tensor, rows: Range<usize>) -> Result<Cow<'a, [f32]>> {
        Ok(Cow::Borrowed(&tensor.data()[rows.start * tensor.columns()..rows.end * tensor.columns()]))
    }

    fn weight(&self, parts: Vec<Matrix>) -> Result<Weight> {
        Ok(Weight::new(parts))
    }

    fn prepare(&self, weight: &Weight) -> bool {
        if self.rounding != Rounding::Nothing {
            weight.pack(self.rounding, self.isa, &self.team);
        }
        weight.is_packed()
    }

    fn prepare_for_few(&self, weight: &Weight) -> bool {
        if self.rounding != Rounding::Nothing {
            weight.pack(self.rounding, self.isa.beside_tiles(), &self.team);
        }
        weight.is_packed()
    }

    fn batch(&self, batch: Batch) -> Result<Batch> {
        Ok(batch)
    }

    fn angles(&self, turns: Turns) -> Result<Angles> {
        Ok(Angles::new(turns))
    }

    fn room(&self, _: f64) -> Result<Option<u64>> {
        Ok(None)
    }

    fn kv_cache(&self, shape: KvShape) -> Result<KvCache> {
        KvCache::new(shape, self.kv_memory.clone().map_or(Source::Own, |file| Source::File(file, 0)))
    }
}
