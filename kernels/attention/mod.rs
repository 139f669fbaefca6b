//! Causal attention of the step's queries over the paged KV cache, softmax in f32.
//!
//! The keys of a query are visited in one fixed order (its blocks, from the first), so the result has the same bits
//! whether the query came alone, in a chunk, or after a cached prefix.

#[allow(unsafe_code, reason = "threads write disjoint parts")]
mod cpu;

#[cfg(test)]
use crate::{
    Batch, KvDType, KvShape,
    samples::{Samples, assert_close},
};
use crate::{Heads, Result, memory::Memory};

/// See the module.
pub trait Attention: Memory {
    /// `[tokens, heads.query × head_dim]`: for each token of the batch the attention of its query heads (the first
    /// columns of `qkv`) over positions `0 ..= its own` of its sequence, whose keys and values layer `layer` of the cache
    /// holds already (this step's included). Scores are scaled by `scale`.
    fn attention(
        &self,
        qkv: &Self::Tensor,
        cache: &Self::KvCache,
        layer: usize,
        heads: &Heads,
        scale: f32,
        batch: &Self::Batch,
    ) -> Result<Self::Tensor>;
}

/// What attention means for one query head of one token, plainly and in f64: `keys` and `values` are those of the
/// positions that it sees, as the cache stores them.
#[cfg(test)]
fn reference(query: &[f32], keys: &[&[f32]], values: &[&[f32]], scale: f32) -> Vec<f32> {
    let dot = |key: &&[f32]| query.iter().zip(*key).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum::<f64>();
    let scores: Vec<f64> = keys.iter().map(|key| dot(key) * f64::from(scale)).collect();
    let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - best).exp()).collect();
    let total: f64 = weights.iter().sum();
    let element =
        |d: usize| weights.iter().zip(values).map(|(weight, value)| weight * f64::from(value[d])).sum::<f64>();
    (0..query.len()).map(|d| (element(d) / total) as f32).collect()
}

/// A case of the conformance check: sequences whose first tokens are in the cache and whose last ones are computed.
#[cfg(test)]
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) heads: Heads,
    pub(crate) block_size: usize,
    pub(crate) dtype: KvDType,
    /// For each sequence, tokens computed before and now.
    pub(crate) sequences: Vec<[usize; 2]>,
}

#[cfg(test)]
pub(crate) const SCALE: f32 = 0.3;

/// The rows `[positions][qkv columns]` of sequence `sequence`, the same in every case with as many columns.
#[cfg(test)]
pub(crate) fn rows(case: &Case, sequence: usize) -> Vec<f32> {
    let count: usize = case.sequences[sequence].iter().sum();
    Samples::new(sequence as u64 + 1).floats(count * case.heads.qkv_columns())
}

/// Computes the case on a device: stores what came before, then one step with all sequences. Blocks of the sequences
/// are interleaved.
#[cfg(test)]
pub(crate) fn compute<B: crate::Backend>(device: &B, case: &Case) -> Vec<f32> {
    const LAYER: usize = 1;
    let heads = &case.heads;
    let count = case.sequences.len();
    let blocks_each = case.sequences.iter().map(|[a, b]| (a + b).div_ceil(case.block_size)).max().unwrap_or(0);
    let shape = KvShape {
        layers: 2,
        blocks: blocks_each * count,
        block_size: case.block_size,
        kv_heads: heads.kv,
        head_dim: heads.dim,
        dtype: case.dtype,
    };
    let mut cache = device.kv_cache(shape).expect("memory");
    let mut result = Vec::new();
    for now in [false, true] {
        let (mut batch, mut values) = (Batch { query_starts: vec![0], ..Batch::default() }, Vec::new());
        for (sequence, &[before, after]) in case.sequences.iter().enumerate() {
            let positions = if now { before..before + after } else { 0..before };
            let table: Vec<u32> = (0..blocks_each).map(|block| (block * count + sequence) as u32).collect();
            let columns = heads.qkv_columns();
            values.extend_from_slice(&rows(case, sequence)[positions.start * columns..positions.end * columns]);
            let slot = |p: usize| table[p / case.block_size] * case.block_size as u32 + (p % case.block_size) as u32;
            batch.slot_mapping.extend(positions.clone().map(slot));
            batch.context_lengths.push(positions.end as u32);
            batch.positions.extend(positions.map(|position| position as u32));
            batch.query_starts.push(batch.positions.len() as u32);
            batch.block_tables.push(table);
        }
        batch.tokens = vec![0; batch.positions.len()];
        let qkv = device.tensor(batch.positions.len(), heads.qkv_columns(), &values).expect("memory");
        let batch = device.batch(batch).expect("memory");
        device.store_kv(&mut cache, LAYER, &qkv, heads, &batch).expect("stored");
        if now {
            let output = device.attention(&qkv, &cache, LAYER, heads, SCALE, &batch).expect("attention");
            result = device.to_host(&output).expect("a copy");
        }
    }
    result
}

#[cfg(test)]
fn expected(case: &Case) -> Vec<f32> {
    let (heads, dim) = (&case.heads, case.heads.dim);
    let round = |x: f32| match case.dtype {
        KvDType::F32 => x,
        KvDType::F16 => half::f16::from_f32(x).to_f32(),
        KvDType::BF16 => half::bf16::from_f32(x).to_f32(),
    };
    let mut result = Vec::new();
    for (sequence, &[before, after]) in case.sequences.iter().enumerate() {
        let rows = rows(case, sequence);
        let stored: Vec<f32> = rows.iter().map(|&x| round(x)).collect();
        for position in before..before + after {
            let seen: Vec<&[f32]> = stored.chunks_exact(heads.qkv_columns()).take(position + 1).collect();
            for head in 0..heads.query {
                let column = |first: usize, head: usize| (first + head) * dim..(first + head + 1) * dim;
                let keys: Vec<&[f32]> = seen.iter().map(|row| &row[column(heads.query, heads.kv_of(head))]).collect();
                let values: Vec<&[f32]> =
                    seen.iter().map(|row| &row[column(heads.query + heads.kv, heads.kv_of(head))]).collect();
                let query = &rows[position * heads.qkv_columns()..][column(0, head)];
                result.extend(reference(query, &keys, &values, SCALE));
            }
        }
    }
    result
}

/// Compares a device's attention, over keys and values that the device stored itself, with the reference.
#[cfg(test)]
pub(crate) fn check<B: crate::Backend>(device: &B) {
    let heads = |query, kv, dim, group, first_in_group| Heads { query, kv, dim, group, first_in_group };
    for case in [
        Case { heads: heads(1, 1, 16, 1, 0), block_size: 16, dtype: KvDType::F32, sequences: vec![[0, 1]] },
        Case {
            heads: heads(9, 3, 64, 3, 0),
            block_size: 16,
            dtype: KvDType::F32,
            sequences: vec![[0, 70], [33, 1], [5, 9]],
        },
        Case {
            heads: heads(4, 2, 32, 2, 0),
            block_size: 64,
            dtype: KvDType::F16,
            sequences: vec![[63, 1], [64, 1], [0, 65]],
        },
        Case { heads: heads(4, 1, 80, 4, 0), block_size: 5, dtype: KvDType::BF16, sequences: vec![[0, 12], [100, 3]] },
        Case {
            heads: heads(3, 2, 20, 2, 1),
            block_size: 8,
            dtype: KvDType::F32,
            sequences: vec![[1100, 2], [0, 0], [0, 8]],
        },
        Case { heads: heads(2, 1, 128, 2, 0), block_size: 128, dtype: KvDType::F32, sequences: vec![[600, 1]] },
        Case { heads: heads(2, 2, 8, 1, 0), block_size: 1, dtype: KvDType::F32, sequences: vec![[0, 3], [70, 2]] },
    ] {
        assert_close(&compute(device, &case), &expected(&case), 2e-6, &format!("{}: {case:?}", device.name()));
    }
}
