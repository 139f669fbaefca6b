//! Attention: decoding at short and long contexts, alone and with others, and a prompt from its beginning.

use super::{
    Arithmetic, Bench, Case, Outcome, State, Timing, Work,
    caches::cold_bytes,
    shapes::{MODELS, told},
    spread,
};
use crate::{
    Batch, Heads, KvDType, KvShape,
    attention::{Attention, Scoring, reference, stored},
    conformance::fault_of,
    cpu::{Cpu, KvCache, Tensor},
    memory::Memory,
    rotary::{Pairing, Rotary, Turns},
    samples::{Samples, assert_close},
};

/// As the server's own.
const BLOCK_SIZE: usize = 64;

/// Sequences whose last tokens ask, all as long.
#[derive(Clone, Copy)]
struct Asking {
    heads: Heads,
    dtype: KvDType,
    sequences: usize,
    queries: usize,
    context: usize,
}

/// `[sequences, queries of each, tokens that the last one sees]`
const SHAPES: [[usize; 3]; 6] = [[1, 1, 128], [1, 1, 2048], [16, 1, 128], [16, 1, 2048], [1, 512, 512], [1, 512, 2048]];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (dtype, format) in
        [(KvDType::F32, "f32"), (KvDType::F16, "f16"), (KvDType::Int16, "int16"), (KvDType::Int8, "int8")]
    {
        for [sequences, queries, context] in SHAPES {
            for heads in MODELS.map(|model| model.heads) {
                let shape = format!("{sequences} × {queries} of {context}, {}", told(&heads));
                let asking = Asking { heads, dtype, sequences, queries, context };
                cases.push(Case::new("attention", format, shape, move |bench| asking.measure(bench)));
            }
        }
    }
    cases
}

impl Asking {
    fn measure(self, bench: &Bench) -> Outcome {
        let (cpu, values) = (&bench.cpu, self.rows());
        let cache = self.cache(cpu, &values);
        let qkv = self.asking_rows(cpu, &values);
        let batch = cpu.batch(self.batch()).expect("memory");
        let scoring = Scoring { scale: self.scale(), window: None, sinks: None };
        let attend = |layer| cpu.attention(&qkv, &cache, layer, &self.heads, &scoring, &batch).expect("attention");
        let fault = fault_of(|| self.check(&attend(0), &values));
        let mut layers = (0..self.layers()).cycle();
        let timing = Timing::measure(bench.time, || drop(attend(layers.next().expect("a cycle"))));
        Outcome { fault, timing, work: self.work() }
    }

    fn work(self) -> Work {
        let Self { heads, dtype, sequences, queries, context } = self;
        let kept = sequences * context * 2 * heads.kv * dtype.row_bytes(heads.dim);
        let asked_and_answered = 2 * sequences * queries * heads.query * heads.dim * 4;
        let seen: usize = (context - queries + 1..=context).sum();
        Work {
            bytes: kept + asked_and_answered,
            operations: 4 * heads.query * heads.dim * sequences * seen,
            arithmetic: Arithmetic::F32,
            state: State::Cold,
        }
    }

    fn scale(self) -> f32 {
        1.0 / (self.heads.dim as f32).sqrt()
    }

    /// The fused rows of a sequence; all have the same.
    fn rows(self) -> Vec<f32> {
        Samples::new(3).floats(self.context * self.heads.qkv_columns())
    }

    fn blocks_each(self) -> usize {
        self.context.div_ceil(BLOCK_SIZE)
    }

    fn shape(self, layers: usize) -> KvShape {
        let Self { heads, dtype, .. } = self;
        KvShape {
            layers,
            blocks: self.sequences * self.blocks_each(),
            block_size: BLOCK_SIZE,
            kv_heads: heads.kv,
            head_dim: heads.dim,
            values_from: None,
            dtype,
        }
    }

    /// So many that keys and values of all go round in more memory than caches hold.
    fn layers(self) -> usize {
        let of_one = self.shape(1);
        cold_bytes().div_ceil(of_one.blocks * of_one.block_bytes())
    }

    /// Every sequence's rows in every layer.
    fn cache(self, cpu: &Cpu, values: &[f32]) -> KvCache {
        let mut cache = cpu.kv_cache(self.shape(self.layers())).expect("memory");
        // Nothing turns: rows are kept as they are.
        let still = Turns { frequencies: Vec::new(), magnitude: 1.0, pairing: Pairing::Half, positions: usize::MAX };
        let angles = cpu.angles(still).expect("memory");
        for sequence in 0..self.sequences {
            let slots = (0..self.context as u32).map(|position| self.first_slot(sequence) + position);
            let batch = Batch {
                positions: (0..self.context as u32).collect(),
                slot_mapping: slots.collect(),
                ..Batch::default()
            };
            for layer in 0..self.layers() {
                let mut qkv = cpu.tensor(self.context, self.heads.qkv_columns(), values).expect("memory");
                cpu.rotary_store(&mut qkv, &self.heads, None, &angles, (&mut cache, layer), &batch).expect("stored");
            }
        }
        cache
    }

    fn first_slot(self, sequence: usize) -> u32 {
        (sequence * self.blocks_each() * BLOCK_SIZE) as u32
    }

    /// The last rows of every sequence.
    fn asking_rows(self, cpu: &Cpu, values: &[f32]) -> Tensor {
        let columns = self.heads.qkv_columns();
        let last = &values[(self.context - self.queries) * columns..];
        cpu.tensor(self.sequences * self.queries, columns, &last.repeat(self.sequences)).expect("memory")
    }

    fn batch(self) -> Batch {
        let Self { sequences, queries, context, .. } = self;
        let asking = (context - queries) as u32..context as u32;
        let blocks = self.blocks_each() as u32;
        let slots = |sequence| asking.clone().map(move |position| self.first_slot(sequence) + position);
        Batch {
            tokens: vec![0; sequences * queries],
            positions: (0..sequences).flat_map(|_| asking.clone()).collect(),
            slot_mapping: (0..sequences).flat_map(slots).collect(),
            query_starts: (0..=sequences).map(|sequence| (sequence * queries) as u32).collect(),
            context_lengths: vec![context as u32; sequences],
            block_tables: (0..sequences as u32).map(|at| (at * blocks..(at + 1) * blocks).collect()).collect(),
        }
    }

    /// Compares some queries' answers with the reference.
    fn check(self, answers: &Tensor, values: &[f32]) {
        // Where keys and values are 16-bit integers, queries and weights become such, too.
        let tolerance = if self.dtype == KvDType::Int16 { 3e-4 } else { 3e-6 };
        let Heads { query, dim, .. } = self.heads;
        let columns = self.heads.qkv_columns();
        let kept: Vec<f32> = values.chunks_exact(dim).flat_map(|row| stored(self.dtype, row)).collect();
        let kept: Vec<&[f32]> = kept.chunks_exact(columns).collect();
        for asked in spread(self.queries, 4) {
            let position = self.context - self.queries + asked;
            for head in spread(query, 4) {
                let (keys, seen) = self.heads.seen(head, &kept[..=position]);
                let asking = &values[position * columns + head * dim..][..dim];
                let expected = reference(asking, &keys, &seen, self.scale(), None);
                for sequence in spread(self.sequences, 3) {
                    let found = &answers.row(sequence * self.queries + asked)[head * dim..][..dim];
                    assert_close(found, &expected, tolerance, &format!("position {position}, head {head}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_counts_every_key_and_value_once() {
        let heads = Heads { query: 4, kv: 2, dim: 8, group: 2, first_in_group: 0, values_from: None };
        let asking = Asking { heads, dtype: KvDType::F16, sequences: 3, queries: 2, context: 5 };
        let work = asking.work();
        // Two bytes of 8 elements of 2 KV heads, keys and values, 5 tokens of 3 sequences; 6 queries asked and answered.
        assert_eq!(work.bytes, 2 * 8 * 2 * 2 * 5 * 3 + 2 * 6 * 4 * 8 * 4);
        // Scores and sums, each a multiplication and an addition, of 4 + 5 positions.
        assert_eq!(work.operations, 4 * 4 * 8 * (4 + 5) * 3);
        let layers = asking.layers();
        assert!(layers * asking.shape(1).blocks * asking.shape(1).block_bytes() >= cold_bytes());
    }
}
