//! The flat batch of a step, as every operation sees it; and the shapes that attention needs.

use crate::KvDType;

/// In a batch's [tokens](Batch::tokens): not an id, but the place of an ask in the choice before, whose token it is. Only
/// devices that choose ([`crate::choose`]) take such a batch.
pub const CHOSEN: u32 = 1 << 31;

/// One step's tokens, all sequences end to end. Every rank builds the same one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token ids, `[tokens]`; or [`CHOSEN`] with a place, where the host has perhaps not seen the token yet.
    pub tokens: Vec<u32>,
    /// Index of each token in its own sequence, `[tokens]`.
    pub positions: Vec<u32>,
    /// Where each token's key and value go: `block × block_size + offset`, `[tokens]`.
    pub slot_mapping: Vec<u32>,
    /// Where each sequence begins in the flat batch, `[sequences + 1]`, the last entry = tokens.
    pub query_starts: Vec<u32>,
    /// Tokens that each sequence's last query sees, itself included, `[sequences]`.
    pub context_lengths: Vec<u32>,
    /// Each sequence's blocks in order, at least `context_length / block_size` rounded up, `[sequences]`.
    pub block_tables: Vec<Vec<u32>>,
}

impl Batch {
    /// `tokens` tokens in sequences of at most `longest`, each from its beginning and in blocks of its own: what a step
    /// looks like, for trials.
    pub fn sample(tokens: usize, longest: usize, block_size: usize) -> Self {
        let mut batch = Self { tokens: vec![0; tokens], query_starts: vec![0], ..Self::default() };
        let mut blocks = 0;
        for start in (0..tokens).step_by(longest.max(1)) {
            let length = longest.min(tokens - start);
            let own: Vec<u32> = (blocks..blocks + length.div_ceil(block_size) as u32).collect();
            blocks += own.len() as u32;
            batch.positions.extend(0..length as u32);
            batch.slot_mapping.extend((0..length as u32).map(|position| own[0] * block_size as u32 + position));
            batch.query_starts.push((start + length) as u32);
            batch.context_lengths.push(length as u32);
            batch.block_tables.push(own);
        }
        batch
    }

    /// `sequences` sequences of one token each, all in the same slot: what a decoding step looks like to kernels, for
    /// trials of which nobody looks at the result.
    pub fn alike(sequences: usize) -> Self {
        Self {
            tokens: vec![0; sequences],
            positions: vec![0; sequences],
            slot_mapping: vec![0; sequences],
            query_starts: (0..=sequences as u32).collect(),
            context_lengths: vec![1; sequences],
            block_tables: vec![vec![0]; sequences],
        }
    }

    /// The same queries, each as the only one of a sequence: those before it are in the cache when it looks for them, as a
    /// layer stores all keys and values before any query reads.
    pub fn apart(self) -> Self {
        let queries = self.tokens.len();
        if self.context_lengths.len() == queries {
            return self;
        }
        let counts = self.query_starts.windows(2).map(|ends| (ends[1] - ends[0]) as usize);
        let tables = self.block_tables.iter().zip(counts).flat_map(|(table, count)| vec![table.clone(); count]);
        Self {
            query_starts: (0..=queries as u32).collect(),
            context_lengths: self.positions.iter().map(|position| position + 1).collect(),
            block_tables: tables.collect(),
            ..self
        }
    }
}

/// The heads of one rank. Query heads are a contiguous range of the model's; so are the KV heads they read.
/// Where a boundary between ranks falls inside a group of query heads, both ranks hold that KV head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads of this rank.
    pub query: usize,
    /// KV heads of this rank.
    pub kv: usize,
    /// Elements of a head.
    pub dim: usize,
    /// Query heads that share one KV head, in the whole model.
    pub group: usize,
    /// Place of this rank's first query head within its group, `0..group`.
    pub first_in_group: usize,
    /// Where a value is no row of its own but the last elements of its key (multi-head latent attention): the first of
    /// them, a multiple of eight.
    pub values_from: Option<usize>,
}

impl Heads {
    /// The KV head (of this rank) that a query head (of this rank) reads.
    pub fn kv_of(&self, query: usize) -> usize {
        (self.first_in_group + query) / self.group
    }

    /// Columns of a fused query-key-value row: query heads, then key heads, then value heads, where they have rows of
    /// their own.
    pub fn qkv_columns(&self) -> usize {
        let value_heads = if self.values_from.is_none() { self.kv } else { 0 };
        (self.query + self.kv + value_heads) * self.dim
    }

    /// Elements of a value, and of what attention answers per query head.
    pub fn value_dim(&self) -> usize {
        self.dim - self.values_from.unwrap_or(0)
    }
}

/// The size of a rank's KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Layers of the model.
    pub layers: usize,
    /// Blocks, each of `block_size` slots.
    pub blocks: usize,
    /// Slots of a block.
    pub block_size: usize,
    /// KV heads of this rank.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// As in [`Heads::values_from`].
    pub values_from: Option<usize>,
    /// Storage format.
    pub dtype: KvDType,
}

impl KvShape {
    /// Bytes of one block over all layers, keys and values.
    pub fn block_bytes(&self) -> usize {
        let rows = if self.values_from.is_none() { 2 } else { 1 };
        self.layers * rows * self.block_size * self.kv_heads * self.dtype.row_bytes(self.head_dim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_apart_see_what_they_saw_together() {
        let batch = Batch {
            tokens: vec![7, 8, 9, 5],
            positions: vec![3, 4, 5, 0],
            slot_mapping: vec![11, 4, 5, 0],
            query_starts: vec![0, 3, 4],
            context_lengths: vec![6, 1],
            block_tables: vec![vec![2, 1], vec![0]],
        };
        let apart = Batch {
            query_starts: vec![0, 1, 2, 3, 4],
            context_lengths: vec![4, 5, 6, 1],
            block_tables: vec![vec![2, 1], vec![2, 1], vec![2, 1], vec![0]],
            ..batch.clone()
        };
        assert_eq!(batch.apart(), apart);
        assert_eq!(apart.clone().apart(), apart);
    }
}
