//! What attention kernels are told, all in one struct.

use crate::{
    Heads,
    attention::Scoring,
    cuda::{Buffer, DeviceBatch, KvCache, Tensor},
};

/// As `Problem` in attention.cuh, where the fields are explained: the same in the same order.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Problem {
    output: u64,
    partial_values: u64,
    partial_sums: u64,
    qkv: u64,
    keys: u64,
    values: u64,
    key_scales: u64,
    value_scales: u64,
    sinks: u64,
    query_starts: u64,
    context_lengths: u64,
    block_tables: u64,
    sequences: i32,
    table_width: i32,
    block_size: i32,
    row_columns: i32,
    query_heads: i32,
    kv_heads: i32,
    head_dim: i32,
    value_dim: i32,
    group: i32,
    first_in_group: i32,
    packed: i32,
    window: i32,
    queries_least: i32,
    queries_most: i32,
    splits: i32,
    scale: f32,
}

impl Problem {
    /// All but what a pass decides: see [`Self::of_queries`] and [`Self::split`].
    pub(super) fn new(
        output: &Tensor,
        qkv: &Tensor,
        (cache, layer): (&KvCache, usize),
        heads: &Heads,
        scoring: &Scoring<Tensor>,
        batch: &DeviceBatch,
    ) -> Self {
        let layer = cache.layer(layer);
        Self {
            output: output.pointer().0,
            partial_values: 0,
            partial_sums: 0,
            qkv: qkv.pointer().0,
            keys: layer.keys.0,
            values: layer.values.0,
            key_scales: layer.key_scales.map_or(0, |scales| scales.0),
            value_scales: layer.value_scales.map_or(0, |scales| scales.0),
            sinks: scoring.sinks.map_or(0, |sinks| sinks.pointer().0),
            query_starts: batch.query_starts().0,
            context_lengths: batch.context_lengths().0,
            block_tables: batch.block_tables().0,
            sequences: int(batch.sequences()),
            table_width: int(batch.table_width),
            block_size: int(cache.shape.block_size),
            row_columns: int(qkv.columns()),
            query_heads: int(heads.query),
            kv_heads: int(heads.kv),
            head_dim: int(heads.dim),
            value_dim: int(heads.value_dim()),
            group: int(heads.group),
            first_in_group: int(heads.first_in_group),
            packed: int(packed(heads)),
            window: scoring.window.map_or(i32::MAX, int),
            queries_least: 1,
            queries_most: i32::MAX,
            splits: 1,
            scale: scoring.scale * std::f32::consts::LOG2_E,
        }
    }

    /// The same for sequences of `least` to `most` queries.
    pub(super) fn of_queries(self, least: usize, most: usize) -> Self {
        Self { queries_least: int(least), queries_most: i32::try_from(most).unwrap_or(i32::MAX), ..self }
    }

    /// The same where `splits` blocks share a tile's keys (or all of them, as the kernel has it), and put their results
    /// into these places.
    pub(super) fn split(self, splits: usize, values: &Buffer, sums: &Buffer) -> Self {
        Self { splits: int(splits), partial_values: values.pointer().0, partial_sums: sums.pointer().0, ..self }
    }
}

/// The most query heads of this rank that share a KV head.
pub(super) fn packed(heads: &Heads) -> usize {
    let mut of_kv_heads = vec![0; heads.kv];
    (0..heads.query).for_each(|query| of_kv_heads[heads.kv_of(query)] += 1);
    of_kv_heads.into_iter().max().unwrap_or(0)
}

fn int(size: usize) -> i32 {
    i32::try_from(size).expect("sizes are below 2³¹")
}
