//! Causal attention of the step's queries over the paged KV cache, softmax in f32.
//!
//! On the CPU, the keys of a query are visited in one fixed order (its blocks, from the first), so the result has the
//! same bits whether the query came alone, in a chunk, or after a cached prefix. On a GPU, few queries of a sequence are
//! seen to by another kernel than many, and how a context is shared among blocks depends on the others of the batch:
//! the same batch has the same bits.

#[allow(unsafe_code, reason = "threads write disjoint parts")]
mod cpu;
#[allow(unsafe_code, reason = "launches kernels")]
mod cuda;

use crate::{
    Batch, KvDType, KvShape,
    matmul::{decode_e4m3, encode_e4m3},
    rotary::{Pairing, Turns},
    samples::{Samples, Tested, assert_close},
};
use crate::{Heads, Result, memory::Memory};

/// How a layer weighs the positions that its queries see.
pub struct Scoring<'a, T> {
    /// What scores are multiplied by.
    pub scale: f32,
    /// How many positions a query sees at most, its own included (a sliding window); `None`: all.
    pub window: Option<usize>,
    /// A score per query head, `[1, heads.query]`, that joins the softmax without a value (GPT-OSS' attention sinks).
    pub sinks: Option<&'a T>,
}

/// See the module.
pub trait Attention: Memory {
    /// `[tokens, heads.query × value_dim]`: for each token of the batch the attention of its query heads (the first
    /// columns of `qkv`) over the positions of its sequence up to its own that the window shows, whose keys and values
    /// layer `layer` of the cache holds already (this step's included).
    fn attention(
        &self,
        qkv: &Self::Tensor,
        cache: &Self::KvCache,
        layer: usize,
        heads: &Heads,
        scoring: &Scoring<Self::Tensor>,
        batch: &Self::Batch,
    ) -> Result<Self::Tensor>;
}

/// What attention means for one query head of one token, plainly and in f64: `keys` and `values` are those of the
/// positions that it sees, as the cache stores them.
pub(crate) fn reference(query: &[f32], keys: &[&[f32]], values: &[&[f32]], scale: f32, sink: Option<f32>) -> Vec<f32> {
    let dot = |key: &&[f32]| query.iter().zip(*key).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum::<f64>();
    let scores: Vec<f64> = keys.iter().map(|key| dot(key) * f64::from(scale)).collect();
    let sink = sink.map(f64::from);
    let best = scores.iter().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - best).exp()).collect();
    let total: f64 = weights.iter().sum::<f64>() + sink.map_or(0.0, |sink| (sink - best).exp());
    let element =
        |d: usize| weights.iter().zip(values).map(|(weight, value)| weight * f64::from(value[d])).sum::<f64>();
    (0..values[0].len()).map(|d| (element(d) / total) as f32).collect()
}

/// Attention of one sequence from its first token on, whose fused rows are `rows` and, as the cache stores them, `kept`.
pub(crate) fn reference_of_rows(heads: &Heads, scale: f32, rows: &[f32], kept: &[f32]) -> Vec<f32> {
    let kept: Vec<&[f32]> = kept.chunks_exact(heads.qkv_columns()).collect();
    let rows = rows.chunks_exact(heads.qkv_columns()).enumerate();
    let of_head = |(position, row): (usize, &[f32]), head: usize| {
        let query = &row[head * heads.dim..][..heads.dim];
        let (keys, values) = heads.seen(head, &kept[..=position]);
        reference(query, &keys, &values, scale, None)
    };
    rows.flat_map(|row| (0..heads.query).flat_map(move |head| of_head(row, head)).collect::<Vec<_>>()).collect()
}

impl Heads {
    /// Of fused rows the keys and values that a query head reads.
    pub(crate) fn seen<'a>(&self, head: usize, rows: &[&'a [f32]]) -> (Vec<&'a [f32]>, Vec<&'a [f32]>) {
        let Heads { query, kv, dim, values_from, .. } = *self;
        let own = self.kv_of(head);
        let (key, value) = ((query + own) * dim, (query + kv + own) * dim);
        let value = values_from.map_or(value..value + dim, |from| key + from..key + dim);
        (rows.iter().map(|row| &row[key..key + dim]).collect(), rows.iter().map(|row| &row[value.clone()]).collect())
    }
}

/// A case of the conformance check: sequences whose first tokens are in the cache and whose last ones are computed.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) heads: Heads,
    pub(crate) block_size: usize,
    pub(crate) dtype: KvDType,
    pub(crate) window: Option<usize>,
    pub(crate) has_sinks: bool,
    /// For each sequence, tokens computed before and now.
    pub(crate) sequences: Vec<[usize; 2]>,
}

pub(crate) const SCALE: f32 = 0.3;

impl Case {
    /// Heads of `query` and `kv`, `group` to one, the first at `first_in_group`; blocks of `block_size`.
    pub(crate) fn new([query, kv, dim, group, first]: [usize; 5], block_size: usize, sequences: &[[usize; 2]]) -> Self {
        let heads = Heads { query, kv, dim, group, first_in_group: first, values_from: None };
        let sequences = sequences.to_vec();
        Self { heads, block_size, dtype: KvDType::F32, window: None, has_sinks: false, sequences }
    }

    pub(crate) fn dtype(self, dtype: KvDType) -> Self {
        Self { dtype, ..self }
    }

    pub(crate) fn window(self, window: usize) -> Self {
        Self { window: Some(window), ..self }
    }

    pub(crate) fn with_sinks(self) -> Self {
        Self { has_sinks: true, ..self }
    }

    pub(crate) fn values_from(mut self, first: usize) -> Self {
        self.heads.values_from = Some(first);
        self
    }

    /// Sinks of both signs, one far above every score.
    fn sinks(&self) -> Option<Vec<f32>> {
        let sink = |head: usize| [1.5, -3.0, 40.0, 0.0][head % 4];
        self.has_sinks.then(|| (0..self.heads.query).map(sink).collect())
    }
}

/// The rows `[positions][qkv columns]` of sequence `sequence`, the same in every case with as many columns.
fn rows<B: Tested>(device: &B, case: &Case, sequence: usize) -> Vec<f32> {
    let count: usize = case.sequences[sequence].iter().sum();
    device.stored(Samples::new(sequence as u64 + 1).floats(count * case.heads.qkv_columns()))
}

/// Computes the case on a device: stores what came before, then one step with all sequences. Blocks of the sequences
/// are interleaved.
pub(crate) fn compute<B: Tested>(device: &B, case: &Case) -> Vec<f32> {
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
        values_from: heads.values_from,
        dtype: case.dtype,
    };
    let sinks = case.sinks().map(|sinks| device.vector(&sinks).expect("memory"));
    let scoring = Scoring { scale: SCALE, window: case.window, sinks: sinks.as_ref() };
    let mut cache = device.kv_cache(shape).expect("memory");
    // Nothing turns: rows are kept as they are.
    let still = Turns { frequencies: Vec::new(), magnitude: 1.0, pairing: Pairing::Half, positions: usize::MAX };
    let angles = device.angles(still).expect("memory");
    forget(device, heads, shape, &mut cache, LAYER, &angles);
    let mut result = Vec::new();
    for now in [false, true] {
        let (mut batch, mut values) = (Batch { query_starts: vec![0], ..Batch::default() }, Vec::new());
        for (sequence, &[before, after]) in case.sequences.iter().enumerate() {
            let positions = if now { before..before + after } else { 0..before };
            let table: Vec<u32> = (0..blocks_each).map(|block| (block * count + sequence) as u32).collect();
            let columns = heads.qkv_columns();
            values.extend_from_slice(&rows(device, case, sequence)[positions.start * columns..positions.end * columns]);
            let slot = |p: usize| table[p / case.block_size] * case.block_size as u32 + (p % case.block_size) as u32;
            batch.slot_mapping.extend(positions.clone().map(slot));
            batch.context_lengths.push(positions.end as u32);
            batch.positions.extend(positions.map(|position| position as u32));
            batch.query_starts.push(batch.positions.len() as u32);
            batch.block_tables.push(table);
        }
        batch.tokens = vec![0; batch.positions.len()];
        let mut qkv = device.tensor(batch.positions.len(), heads.qkv_columns(), &values).expect("memory");
        let batch = device.batch(batch).expect("memory");
        device.rotary_store(&mut qkv, heads, None, &angles, (&mut cache, LAYER), &batch).expect("stored");
        if now {
            let output = device.attention(&qkv, &cache, LAYER, heads, &scoring, &batch).expect("attention");
            result = device.to_host(&output).expect("a copy");
        }
    }
    result
}

/// Has all slots of a layer hold what earlier sequences may have left there at worst: no numbers. What lies behind a
/// sequence's end weighs nothing, and must not be multiplied by that.
fn forget<B: Tested>(
    device: &B,
    heads: &Heads,
    shape: KvShape,
    cache: &mut B::KvCache,
    layer: usize,
    angles: &B::Angles,
) {
    let slots = (shape.blocks * shape.block_size) as u32;
    let batch = Batch {
        tokens: vec![0; slots as usize],
        positions: (0..slots).collect(),
        query_starts: vec![0, slots],
        context_lengths: vec![slots],
        block_tables: vec![(0..shape.blocks as u32).collect()],
        slot_mapping: (0..slots).collect(),
    };
    let batch = device.batch(batch).expect("memory");
    let values = vec![f32::NAN; slots as usize * heads.qkv_columns()];
    let mut qkv = device.tensor(slots as usize, heads.qkv_columns(), &values).expect("memory");
    device.rotary_store(&mut qkv, heads, None, angles, (cache, layer), &batch).expect("stored");
}

/// A key or a value as the cache stores it.
pub(crate) fn stored(dtype: KvDType, row: &[f32]) -> Vec<f32> {
    let greatest = row.iter().fold(0.0f32, |greatest, x| greatest.max(x.abs()));
    let round = |&x: &f32| match dtype {
        KvDType::F32 => x,
        KvDType::F16 => half::f16::from_f32(x).to_f32(),
        KvDType::BF16 => half::bf16::from_f32(x).to_f32(),
        KvDType::F8E4M3 => decode_e4m3(encode_e4m3(x)),
        KvDType::Int8 => (x * (1.0 / (greatest / 127.0))).round_ties_even() * (greatest / 127.0),
        KvDType::Int16 => (x * (32639.0 / greatest)).round_ties_even() * (greatest / 32639.0),
    };
    row.iter().map(round).collect()
}

fn expected<B: Tested>(device: &B, case: &Case) -> Vec<f32> {
    let heads = &case.heads;
    let mut result = Vec::new();
    for (sequence, &[before, after]) in case.sequences.iter().enumerate() {
        let rows = rows(device, case, sequence);
        let stored: Vec<f32> = rows.chunks_exact(heads.dim).flat_map(|row| stored(case.dtype, row)).collect();
        let stored: Vec<&[f32]> = stored.chunks_exact(heads.qkv_columns()).collect();
        for position in before..before + after {
            let first = case.window.map_or(0, |window| (position + 1).saturating_sub(window));
            for head in 0..heads.query {
                let query = &rows[position * heads.qkv_columns() + head * heads.dim..][..heads.dim];
                result.extend(attended(case, query, &stored[first..=position], head));
            }
        }
    }
    result
}

/// One query head over the rows that it sees.
fn attended(case: &Case, query: &[f32], seen: &[&[f32]], head: usize) -> Vec<f32> {
    let (keys, values) = case.heads.seen(head, seen);
    let sink = case.sinks().map(|sinks| sinks[head]);
    reference(query, &keys, &values, SCALE, sink)
}

/// Compares a device's attention, over keys and values that the device stored itself, with the reference. Where
/// activations are bf16, so are the weights that values are multiplied by: the sum of values below 1 is off by 2⁻⁹ at most,
/// and the answer's own rounding by as much; the tolerance is twice that.
pub(crate) fn check<B: Tested>(device: &B) {
    for case in [
        Case::new(
            [8, 8, 16, 1, 0],
            64,
            &[[9, 1], [40, 1], [37, 1], [11, 1], [132, 1], [3, 1], [9, 1], [9, 1], [3, 1], [127, 3], [0, 33]],
        )
        .dtype(KvDType::BF16),
        Case::new([1, 1, 16, 1, 0], 16, &[[0, 1]]),
        Case::new([9, 3, 64, 3, 0], 16, &[[0, 70], [33, 1], [5, 9]]),
        Case::new([4, 2, 32, 2, 0], 64, &[[63, 1], [64, 1], [0, 65]]).dtype(KvDType::F16),
        Case::new([4, 1, 80, 4, 0], 5, &[[0, 12], [100, 3]]).dtype(KvDType::BF16),
        Case::new([4, 2, 20, 2, 0], 12, &[[0, 70], [100, 3]]).dtype(KvDType::Int8),
        Case::new([3, 2, 20, 2, 1], 8, &[[1100, 2], [0, 0], [0, 8]]),
        Case::new([2, 1, 128, 2, 0], 128, &[[600, 1]]),
        Case::new([2, 2, 8, 1, 0], 1, &[[0, 3], [70, 2]]),
        Case::new([4, 2, 16, 2, 0], 16, &[[0, 90], [700, 1], [3, 1], [600, 80]]).window(16),
        Case::new([4, 2, 16, 2, 0], 64, &[[0, 150], [1300, 2], [0, 1]]).window(100),
        Case::new([2, 1, 24, 2, 0], 5, &[[0, 9], [40, 9]]).window(1),
        Case::new([8, 2, 16, 4, 0], 16, &[[0, 40], [900, 1], [0, 1]]).with_sinks(),
        Case::new([8, 2, 16, 4, 0], 24, &[[0, 40], [900, 3]]).with_sinks().window(33).dtype(KvDType::Int8),
        Case::new([4, 1, 40, 4, 0], 16, &[[0, 70], [530, 1], [5, 9]]).values_from(8),
        Case::new([16, 1, 76, 16, 0], 64, &[[0, 3], [600, 2]]).values_from(16).dtype(KvDType::BF16),
        Case::new([3, 1, 24, 3, 0], 5, &[[0, 20]]).values_from(16).dtype(KvDType::Int8),
        // Few queries per sequence: long and short contexts, all head dims of tensor cores and those between.
        Case::new([8, 2, 128, 4, 0], 16, &[[1000, 1], [77, 1], [0, 1], [0, 0], [300, 1]]).dtype(KvDType::BF16),
        Case::new([16, 2, 64, 8, 0], 24, &[[500, 2], [63, 1], [64, 1]]).dtype(KvDType::F16),
        Case::new([8, 1, 128, 8, 0], 12, &[[700, 2], [14, 1]]).dtype(KvDType::Int8).with_sinks(),
        Case::new([7, 3, 64, 4, 2], 8, &[[300, 3], [2, 4]]).dtype(KvDType::Int8).window(50),
        Case::new([8, 2, 72, 4, 0], 64, &[[900, 4], [0, 4]]).dtype(KvDType::BF16).window(250).with_sinks(),
        Case::new([2, 1, 256, 2, 0], 32, &[[200, 1]]).dtype(KvDType::BF16),
        Case::new([2, 2, 192, 1, 0], 16, &[[200, 9]]).dtype(KvDType::Int8),
        Case::new([8, 2, 128, 4, 0], 16, &[[300, 1], [77, 2]]).dtype(KvDType::F8E4M3),
        Case::new([6, 2, 48, 3, 0], 12, &[[90, 1], [0, 1]]).dtype(KvDType::F8E4M3).window(50),
        Case::new([4, 2, 20, 2, 0], 12, &[[0, 30], [100, 3]]).dtype(KvDType::F8E4M3),
        Case::new([20, 1, 64, 20, 0], 16, &[[260, 1], [31, 1]]).dtype(KvDType::F16),
        // Many: tiles of queries on the diagonal and before it, contexts that are shared by blocks, windows that end in
        // the middle of a tile.
        Case::new([8, 2, 128, 4, 0], 16, &[[0, 150], [200, 40], [0, 0], [77, 1]]).dtype(KvDType::BF16),
        Case::new([2, 2, 64, 1, 0], 24, &[[0, 200], [700, 130]]).dtype(KvDType::F16).window(100),
        Case::new([4, 1, 64, 4, 0], 12, &[[700, 33]]).dtype(KvDType::Int8).with_sinks(),
        Case::new([4, 1, 128, 4, 0], 32, &[[600, 30]]).dtype(KvDType::Int8).window(410),
        Case::new([4, 1, 64, 4, 0], 12, &[[200, 70]]).dtype(KvDType::F8E4M3).with_sinks(),
        Case::new([2, 1, 256, 2, 0], 16, &[[70, 90]]).dtype(KvDType::F8E4M3),
        Case::new([6, 2, 128, 5, 3], 16, &[[30, 90]]).dtype(KvDType::F16).with_sinks(),
        Case::new([4, 2, 256, 2, 0], 16, &[[60, 50]]).dtype(KvDType::BF16),
        Case::new([40, 1, 64, 40, 0], 16, &[[20, 5]]).dtype(KvDType::BF16),
        // More steps than a ring of them has parts: tiles of one head's queries, and of several heads'.
        Case::new([2, 2, 128, 1, 0], 64, &[[700, 300], [0, 70]]).dtype(KvDType::BF16),
        Case::new([8, 2, 128, 4, 0], 24, &[[500, 150]]).dtype(KvDType::BF16).window(290).with_sinks(),
        // Blocks of a whole step and of several, whose ends are not those of sequences and windows; and blocks that can't be
        // copied in boxes.
        Case::new([4, 2, 128, 2, 0], 128, &[[300, 60], [129, 70]]).dtype(KvDType::BF16).window(200),
        Case::new([2, 1, 128, 2, 0], 256, &[[400, 140]]).dtype(KvDType::F16),
        Case::new([4, 1, 128, 4, 0], 12, &[[100, 40]]).dtype(KvDType::BF16),
        // Latent rows: some heads and many, whole tiles of queries, rows that end within a step of products.
        Case::new([16, 1, 576, 16, 0], 64, &[[150, 1], [40, 1], [0, 0], [300, 1]]).values_from(64).dtype(KvDType::BF16),
        Case::new([40, 1, 576, 40, 0], 16, &[[140, 1], [33, 2]]).values_from(64).dtype(KvDType::Int8),
        Case::new([16, 1, 80, 16, 0], 5, &[[150, 3], [40, 1]]).values_from(16).dtype(KvDType::BF16),
        Case::new([8, 1, 72, 8, 0], 16, &[[90, 3], [0, 1]]).values_from(8).dtype(KvDType::F16).with_sinks(),
        Case::new([4, 1, 104, 4, 0], 12, &[[300, 30]]).values_from(40).dtype(KvDType::BF16).window(270),
        Case::new([80, 1, 48, 80, 0], 16, &[[70, 2]]).values_from(16).dtype(KvDType::Int8),
        Case::new([16, 1, 576, 16, 0], 16, &[[100, 1], [33, 9]]).values_from(64).dtype(KvDType::F8E4M3),
    ] {
        check_case(device, &case, 3e-6);
    }
}

/// The same in 16-bit integers, where weights and queries are rounded to such as well. Weights are to 15 bits of the
/// greatest of a tile.
#[cfg(test)]
pub(crate) fn check_int16<B: Tested>(device: &B) {
    for case in [
        Case::new([1, 1, 16, 1, 0], 16, &[[0, 1]]),
        Case::new([9, 3, 64, 3, 0], 64, &[[0, 70], [33, 1], [5, 9], [1100, 1]]),
        Case::new([8, 2, 128, 4, 0], 16, &[[0, 40], [900, 3], [77, 1]]),
        Case::new([4, 1, 80, 4, 0], 5, &[[0, 12], [100, 3]]),
        Case::new([4, 2, 20, 2, 0], 12, &[[0, 70], [100, 3]]),
        Case::new([3, 2, 96, 2, 1], 32, &[[600, 2], [0, 0], [0, 8]]),
        Case::new([2, 1, 256, 2, 0], 128, &[[600, 1], [0, 30]]),
        Case::new([4, 2, 16, 2, 0], 16, &[[0, 90], [700, 1], [3, 1], [600, 80]]).window(16),
        Case::new([4, 2, 64, 2, 0], 64, &[[0, 150], [1300, 2], [0, 1]]).window(100),
        Case::new([2, 1, 24, 2, 0], 5, &[[0, 9], [40, 9]]).window(1),
        Case::new([8, 2, 64, 4, 0], 24, &[[0, 40], [900, 3], [0, 1]]).with_sinks().window(33),
        Case::new([40, 1, 64, 40, 0], 16, &[[20, 5]]),
    ] {
        check_case(device, &case.dtype(KvDType::Int16), 3e-4);
    }
}

fn check_case<B: Tested>(device: &B, case: &Case, tolerance: f32) {
    let what = format!("{}: {case:?}", device.name());
    assert_close(&compute(device, case), &expected(device, case), device.tolerance(tolerance), &what);
}
