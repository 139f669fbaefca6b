//! Memory on a GPU.

use std::{borrow::Cow, ops::Range};

use super::Memory;
use crate::{
    Batch, KvShape, Matrix, Result,
    cuda::{Cuda, DeviceBatch, Element, KvCache, Region, RowsHere, Tensor, Weight},
    rotary::{DeviceAngles, Turns},
};

impl Memory for Cuda {
    type Tensor = Tensor;
    type Weight = Weight;
    type Batch = DeviceBatch;
    type KvCache = KvCache;
    type Angles = DeviceAngles;

    fn name(&self) -> String {
        let facts = self.facts();
        format!("cuda:{} ({})", facts.ordinal, facts.name)
    }

    fn tensor(&self, rows: usize, columns: usize, values: &[f32]) -> Result<Tensor> {
        self.upload(self.activations(rows, columns)?, values)
    }

    fn vector(&self, values: &[f32]) -> Result<Tensor> {
        self.upload(self.floats(1, values.len())?, values)
    }

    fn to_host(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        Ok(self.rows_to_host(tensor, 0..tensor.rows())?.into_owned())
    }

    fn rows_to_host<'a>(&self, tensor: &'a Tensor, rows: Range<usize>) -> Result<Cow<'a, [f32]>> {
        assert!(rows.end <= tensor.rows(), "rows that there are");
        assert_eq!(tensor.rows_here(), RowsHere::All, "whole tensors");
        let row_bytes = tensor.columns() * tensor.element().bytes();
        let mut bytes = vec![0; rows.len() * row_bytes];
        self.finish()?;
        // SAFETY: a tensor has as many bytes, and whoever made it enqueued what writes them.
        unsafe { self.driver().copy_out(&mut bytes, tensor.pointer().offset(rows.start * row_bytes)) }?;
        Ok(Cow::Owned(tensor.element().decode(&bytes)))
    }

    fn weight(&self, parts: Vec<Matrix>) -> Result<Weight> {
        Weight::new(self.driver(), &parts)
    }

    fn batch(&self, batch: Batch) -> Result<DeviceBatch> {
        self.upload_batch(batch)
    }

    fn angles(&self, turns: Turns) -> Result<DeviceAngles> {
        let Turns { frequencies, magnitude, pairing, positions: _ } = turns;
        let bytes = Element::F32.encode(&frequencies);
        let region = Region::with(self.driver(), bytes.len(), "rotary frequencies", [&bytes[..]])?;
        Ok(DeviceAngles { frequencies: region, pairs: frequencies.len(), magnitude, pairing })
    }

    fn room(&self, share: f64) -> Result<Option<u64>> {
        self.finish()?;
        let (free, total) = self.memory()?;
        Ok(Some(free.saturating_sub((total as f64 * (1.0 - share)) as u64)))
    }

    fn kv_cache(&self, shape: KvShape) -> Result<KvCache> {
        KvCache::new(self.driver(), shape)
    }
}

impl Cuda {
    /// Copies `values` into a fresh tensor of as many elements.
    pub(crate) fn upload(&self, tensor: Tensor, values: &[f32]) -> Result<Tensor> {
        assert_eq!(values.len(), tensor.elements(), "a tensor has rows × columns values");
        // SAFETY: a tensor has as many bytes as its elements.
        unsafe { self.driver().copy_in(tensor.pointer(), &tensor.element().encode(values)) }?;
        Ok(tensor)
    }
}
