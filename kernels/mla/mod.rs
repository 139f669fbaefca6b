//! Multi-head latent attention (DeepSeek-V2, 2024) in its absorbed form: the KV cache holds one latent vector and one
//! turned key part per token, the same for all heads; queries are brought into the latent space, and what attention
//! answers there is brought back.
//!
//! A head's key is `[rope | latent]`, and its value the latent part of it, so that the rotary embedding turns the first
//! elements of a head as everywhere else.

mod cpu;
#[allow(unsafe_code, reason = "launches kernels")]
mod cuda;

#[cfg(test)]
use crate::{
    DType, Heads, Matrix,
    matmul::dequantize,
    samples::{Samples, assert_close},
};
use crate::{Result, memory::Memory};

/// The sizes of one rank's latent heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatentHeads {
    /// Query heads of this rank.
    pub query: usize,
    /// Elements of a query that are not turned.
    pub nope: usize,
    /// Elements of a query, and of the shared key part, that are.
    pub rope: usize,
    /// Elements of the latent vector.
    pub latent: usize,
    /// Elements of a head's value.
    pub value: usize,
}

impl LatentHeads {
    /// Elements of a key in the cache.
    pub fn key(&self) -> usize {
        self.rope + self.latent
    }
}

/// See the module.
pub trait LatentAttention: Memory {
    /// The fused rows that attention reads, `[tokens, (query + 1) × (rope + latent)]`: each head's query `[rope | nope
    /// brought into the latent space]`, then the one key `[rope | normed latent]`. From `q [tokens, query × (nope + rope)]`
    /// and `kv [tokens, latent + rope]`; the latent is normalised with `norm [1, latent]`, and `key_up [query × latent,
    /// nope]` brings a head's nope part into its space.
    fn latent_rows(
        &self,
        q: &Self::Tensor,
        kv: &Self::Tensor,
        norm: (&Self::Tensor, f32),
        key_up: &Self::Weight,
        heads: &LatentHeads,
    ) -> Result<Self::Tensor>;

    /// `[tokens, query × value]` from `attended [tokens, query × latent]` by `value_up [query × value, latent]`.
    fn latent_values(
        &self,
        attended: &Self::Tensor,
        value_up: &Self::Weight,
        heads: &LatentHeads,
    ) -> Result<Self::Tensor>;
}

/// A head's part of a stacked weight times a vector, plainly and in f64.
#[cfg(test)]
fn times(weight: &Matrix, head: usize, outputs: usize, x: &[f32]) -> Vec<f32> {
    let mut values = vec![0.0; weight.columns()];
    let mut output = |row: usize| {
        dequantize(weight.dtype(), weight.row(head * outputs + row), &mut values);
        values.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum::<f64>() as f32
    };
    (0..outputs).map(&mut output).collect()
}

/// Compares a device's rows and values with the reference.
#[cfg(test)]
pub(crate) fn check<B: crate::Backend>(device: &B) {
    for (tokens, query, dtype) in [(0, 2, DType::F32), (1, 3, DType::BF16), (9, 2, DType::F32), (70, 4, DType::F16)] {
        let heads = LatentHeads { query, nope: 24, rope: 8, latent: 40, value: 20 };
        check_rows(device, heads, tokens, dtype);
        check_values(device, heads, tokens, dtype);
    }
}

#[cfg(test)]
fn check_rows<B: crate::Backend>(device: &B, heads: LatentHeads, tokens: usize, dtype: DType) {
    const EPS: f32 = 1e-6;
    let LatentHeads { query, nope, rope, latent, .. } = heads;
    let mut samples = Samples::new(tokens as u64);
    let key_up = samples.matrix(dtype, query * latent, nope);
    let (q, kv) = (samples.floats(tokens * query * (nope + rope)), samples.floats(tokens * (latent + rope)));
    let norm = samples.floats(latent);
    let mut expected = Vec::new();
    for (q, kv) in q.chunks_exact(query * (nope + rope)).zip(kv.chunks_exact(latent + rope)) {
        for (head, q) in q.chunks_exact(nope + rope).enumerate() {
            expected.extend(&q[nope..]);
            expected.extend(times(&key_up, head, latent, &q[..nope]));
        }
        expected.extend(&kv[latent..]);
        expected.extend(crate::rms_norm::reference(&kv[..latent], &norm, EPS));
    }
    let tensor = |rows, columns, values: &[f32]| device.tensor(rows, columns, values).expect("memory");
    let (q, kv) = (tensor(tokens, query * (nope + rope), &q), tensor(tokens, latent + rope, &kv));
    let key_up = device.weight(vec![key_up]).expect("a weight");
    let rows = device.latent_rows(&q, &kv, (&tensor(1, latent, &norm), EPS), &key_up, &heads).expect("rows");
    let fused = Heads { query, kv: 1, dim: heads.key(), group: query, first_in_group: 0, values_from: Some(rope) };
    let found = device.to_host(&rows).expect("a copy");
    assert_eq!(found.len(), tokens * fused.qkv_columns(), "as attention reads it");
    assert_close(&found, &expected, 1e-5, &format!("{tokens} tokens, {heads:?}"));
}

#[cfg(test)]
fn check_values<B: crate::Backend>(device: &B, heads: LatentHeads, tokens: usize, dtype: DType) {
    let LatentHeads { query, latent, value, .. } = heads;
    let mut samples = Samples::new(tokens as u64 + 1);
    let value_up = samples.matrix(dtype, query * value, latent);
    let attended = samples.floats(tokens * query * latent);
    let rows = attended.chunks_exact(latent).enumerate();
    let expected: Vec<f32> = rows.flat_map(|(index, row)| times(&value_up, index % query, value, row)).collect();
    let attended = device.tensor(tokens, query * latent, &attended).expect("memory");
    let value_up = device.weight(vec![value_up]).expect("a weight");
    let found = device.latent_values(&attended, &value_up, &heads).expect("values");
    assert_close(&device.to_host(&found).expect("a copy"), &expected, 1e-5, &format!("{tokens} tokens, {heads:?}"));
}
