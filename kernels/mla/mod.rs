//! Multi-head latent attention (DeepSeek-V2, 2024) in its absorbed form: the KV cache holds one latent vector and one
//! turned key part per token, the same for all heads; queries are brought into the latent space, and what attention
//! answers there is brought back.
//!
//! A head's key is `[rope | latent]`, and its value the latent part of it, so that the rotary embedding turns the first
//! elements of a head as everywhere else.

mod cpu;
#[allow(unsafe_code, reason = "launches kernels")]
mod cuda;

use crate::{
    DType, Heads, Matrix,
    matmul::{assert_near, dequantize},
    samples::{Samples, Tested},
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

/// A head's part of a stacked weight times a vector, plainly and in f64: each sum, and that of its terms' magnitudes.
fn times(weight: &Matrix, head: usize, outputs: usize, x: &[f32]) -> Vec<[f64; 2]> {
    let mut values = vec![0.0; weight.columns()];
    let mut output = |row: usize| {
        dequantize(weight.dtype(), weight.row(head * outputs + row), &mut values);
        let products = values.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x));
        products.fold([0.0; 2], |[sum, size], product| [sum + product, size + product.abs()])
    };
    (0..outputs).map(&mut output).collect()
}

/// Compares a device's rows and values with the reference.
pub(crate) fn check<B: Tested>(device: &B) {
    let plain = LatentHeads { query: 2, nope: 24, rope: 8, latent: 40, value: 20 };
    let blocks = LatentHeads { query: 3, nope: 64, rope: 16, latent: 128, value: 33 };
    for (tokens, dtype, heads) in [
        (0, DType::F32, plain),
        (1, DType::BF16, LatentHeads { query: 3, ..plain }),
        (9, DType::F32, plain),
        (70, DType::F16, LatentHeads { query: 4, ..plain }),
        // Heads that do not begin at multiples of 16 bytes.
        (3, DType::BF16, LatentHeads { nope: 21, rope: 6, latent: 37, ..plain }),
        (40, DType::F32, LatentHeads { nope: 21, rope: 6, latent: 37, ..plain }),
        (2, DType::Q8_0, blocks),
        (17, DType::Q8_0, blocks),
        (35, DType::Q8_0, blocks),
    ] {
        check_rows(device, heads, tokens, dtype);
        check_values(device, heads, tokens, dtype);
    }
}

/// What a sum may be off by, relative to the magnitudes of its terms.
const TOLERANCE: f32 = 2e-6;

fn check_rows<B: Tested>(device: &B, heads: LatentHeads, tokens: usize, dtype: DType) {
    const EPS: f32 = 1e-6;
    let LatentHeads { query, nope, rope, latent, .. } = heads;
    let mut samples = Samples::new(tokens as u64);
    let key_up = samples.matrix(dtype, query * latent, nope);
    let q = device.stored(samples.floats(tokens * query * (nope + rope)));
    let kv = device.stored(samples.floats(tokens * (latent + rope)));
    let norm = samples.floats(latent);
    // What is copied is exact.
    let copied = |&value: &f32| [f64::from(value), 0.0];
    let normed = |value: f32| [f64::from(value), f64::from(value.abs().max(1.0))];
    let mut expected = Vec::new();
    for (q, kv) in q.chunks_exact(query * (nope + rope)).zip(kv.chunks_exact(latent + rope)) {
        for (head, q) in q.chunks_exact(nope + rope).enumerate() {
            expected.extend(q[nope..].iter().map(copied));
            expected.extend(times(&key_up, head, latent, &q[..nope]));
        }
        expected.extend(kv[latent..].iter().map(copied));
        expected.extend(crate::rms_norm::reference(&kv[..latent], &norm, EPS).into_iter().map(normed));
    }
    let tensor = |rows, columns, values: &[f32]| device.tensor(rows, columns, values).expect("memory");
    let (q, kv) = (tensor(tokens, query * (nope + rope), &q), tensor(tokens, latent + rope, &kv));
    let key_up = device.weight(vec![key_up]).expect("a weight");
    let norm = device.vector(&norm).expect("memory");
    let rows = device.latent_rows(&q, &kv, (&norm, EPS), &key_up, &heads).expect("rows");
    let fused = Heads { query, kv: 1, dim: heads.key(), group: query, first_in_group: 0, values_from: Some(rope) };
    let found = device.to_host(&rows).expect("a copy");
    assert_eq!(found.len(), tokens * fused.qkv_columns(), "as attention reads it");
    let what = format!("{}: rows of {tokens} tokens, {dtype:?}, {heads:?}", device.name());
    assert_near(&found, &expected, device.tolerance(TOLERANCE), &what);
}

fn check_values<B: Tested>(device: &B, heads: LatentHeads, tokens: usize, dtype: DType) {
    let LatentHeads { query, latent, value, .. } = heads;
    let mut samples = Samples::new(tokens as u64 + 1);
    // The first heads are stored in this format, the others in another.
    let halves = [(query / 2, dtype), (query - query / 2, DType::F16)]
        .map(|(heads, dtype)| samples.matrix(dtype, heads * value, latent));
    let attended = device.stored(samples.floats(tokens * query * latent));
    let of_head = |head: usize, x: &[f32]| match head.checked_sub(query / 2) {
        None => times(&halves[0], head, value, x),
        Some(head) => times(&halves[1], head, value, x),
    };
    let rows = attended.chunks_exact(latent).enumerate();
    let expected: Vec<[f64; 2]> = rows.flat_map(|(index, row)| of_head(index % query, row)).collect();
    let attended = device.tensor(tokens, query * latent, &attended).expect("memory");
    let value_up = device.weight(halves.clone().into()).expect("a weight");
    let found = device.latent_values(&attended, &value_up, &heads).expect("values");
    let what = format!("{}: values of {tokens} tokens, {dtype:?}, {heads:?}", device.name());
    assert_near(&device.to_host(&found).expect("a copy"), &expected, device.tolerance(TOLERANCE), &what);
}
