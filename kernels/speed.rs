//! How fast a GPU does what decoding is made of, for whoever has one (`shardwire selftest --speed`).
//!
//! Nearly all of decoding is reading weights and keys once, so that each operation's bytes per second are told beside
//! those of a copy within the same memory. Runs are recorded as one graph, so that starting them costs nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    Batch, DType, Heads, KvDType, KvShape, Matrix, Result,
    all_reduce::AllReduce,
    attention::{Attention, Scoring},
    choose::{Ask, Choose, Draw},
    cuda::{Cuda, CudaConfig},
    group::Group,
    matmul::MatMul,
    memory::Memory,
    rms_norm::RmsNorm,
    select_rows::SelectRows,
};

/// How large what is measured is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sizes {
    /// As in a large model: weights that no cache holds.
    Real,
    /// As small as can be, to try the measuring itself.
    Small,
}

/// What came of one measurement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Speed {
    /// The device, for people.
    pub device: String,
    /// The operation.
    pub operation: &'static str,
    /// Of what.
    pub shape: String,
    /// One run; the fastest of some.
    pub took: Duration,
    /// What a run reads and writes at least.
    pub bytes: usize,
    /// Multiplications and additions of a run, where they are many.
    pub operations: usize,
}

impl Speed {
    /// Bytes per second.
    pub fn bandwidth(&self) -> f64 {
        self.bytes as f64 / self.took.as_secs_f64()
    }
}

/// Runs of one recording, and how often it is repeated.
const RUNS: u32 = 20;
const REPEATS: usize = 5;

/// Measures the GPU of `config`, a rank alone.
pub fn measure_gpu(config: &CudaConfig, sizes: Sizes, tell: &mut dyn FnMut(Speed)) -> Result<()> {
    let gpu = Cuda::open(config.clone(), Group::solo())?;
    let bench = Bench { gpu: &gpu, sizes };
    tell(bench.copy()?);
    for dtype in [DType::BF16, DType::F8_E4M3, DType::WInt8, DType::WInt4, DType::Q4_K, DType::MXFP4] {
        for rows in [1, 16] {
            tell(bench.product(dtype, rows)?);
        }
    }
    tell(bench.product(DType::BF16, bench.pick(4096, 64))?);
    for dtype in [KvDType::BF16, KvDType::Int8] {
        tell(bench.attention(dtype)?);
    }
    tell(bench.norm()?);
    tell(bench.choice()?);
    Ok(())
}

/// Measures what the first `ranks` GPUs do together: messages of 16 KiB to 8 MiB, where sizes are real.
pub fn measure_gpus(config: &CudaConfig, ranks: usize, sizes: Sizes, tell: &mut dyn FnMut(Speed)) -> Result<()> {
    let all = Cuda::each_of(config, ranks, |gpu| {
        let bench = Bench { gpu, sizes };
        [1, 8, 64, 512].into_iter().map(|rows| bench.all_reduce(rows)).collect::<Result<Vec<_>>>()
    })?;
    let first = all.into_iter().next().unwrap_or(Ok(Vec::new()))?;
    first.into_iter().for_each(tell);
    Ok(())
}

struct Bench<'a> {
    gpu: &'a Cuda,
    sizes: Sizes,
}

impl Bench<'_> {
    fn pick(&self, real: usize, small: usize) -> usize {
        match self.sizes {
            Sizes::Real => real,
            Sizes::Small => small,
        }
    }

    fn copy(&self) -> Result<Speed> {
        let bytes = self.pick(512 << 20, 1 << 16);
        let x = self.gpu.floats(bytes >> 12, 1024)?;
        let rows: Vec<u32> = (0..x.rows() as u32).collect();
        // Rows that follow one another are copied by the driver.
        let run = || self.gpu.select_rows(&x, &rows).map(drop);
        self.time("copy", format!("{} KiB", bytes >> 10), [2 * bytes, 0], run)
    }

    fn product(&self, dtype: DType, rows: usize) -> Result<Speed> {
        let (inputs, outputs) = (self.pick(8192, 256), self.pick(28_672, 64));
        let bytes = dtype.bytes_of(inputs) * outputs;
        let stored = Matrix::new(Arc::new(vec![0u8; bytes]), 0, dtype, outputs, inputs).expect("as many bytes");
        let weight = self.gpu.weight(vec![stored])?;
        let x = self.gpu.activations(rows, inputs)?;
        let moved = bytes + x.bytes() + rows * outputs * self.gpu.act().bytes();
        let shape = format!("{rows} × {inputs} → {outputs}, {dtype:?}");
        self.time("matmul", shape, [moved, 2 * rows * inputs * outputs], || {
            self.gpu.matmul(&x, &weight, None).map(drop)
        })
    }

    /// Decoding: a query of each sequence.
    fn attention(&self, dtype: KvDType) -> Result<Speed> {
        const BLOCK_SIZE: usize = 64;
        let (sequences, context) = (self.pick(32, 2), self.pick(4096, 128));
        let heads = Heads { query: 32, kv: 8, dim: 128, group: 4, first_in_group: 0, values_from: None };
        let own = context / BLOCK_SIZE;
        let blocks = sequences * own;
        let shape =
            KvShape { layers: 1, blocks, block_size: BLOCK_SIZE, kv_heads: 8, head_dim: 128, values_from: None, dtype };
        let cache = self.gpu.kv_cache(shape)?;
        let last = context as u32 - 1;
        let batch = Batch {
            tokens: vec![0; sequences],
            positions: vec![last; sequences],
            slot_mapping: (1..=blocks as u32)
                .filter(|end| (*end as usize).is_multiple_of(own))
                .map(|end| end * 64 - 1)
                .collect(),
            query_starts: (0..=sequences as u32).collect(),
            context_lengths: vec![context as u32; sequences],
            block_tables: (0..blocks as u32).collect::<Vec<_>>().chunks(own).map(<[u32]>::to_vec).collect(),
        };
        let batch = self.gpu.batch(batch)?;
        let qkv = self.gpu.activations(sequences, heads.qkv_columns())?;
        let scoring = Scoring { scale: 0.09, window: None, sinks: None };
        let shape = format!("{sequences} sequences of {context}, 32 heads on 8 of 128, {dtype:?}");
        let run = || self.gpu.attention(&qkv, &cache, 0, &heads, &scoring, &batch).map(drop);
        self.time("attention", shape, [blocks * cache.shape.block_bytes(), 0], run)
    }

    fn norm(&self) -> Result<Speed> {
        let (rows, columns) = (self.pick(128, 4), self.pick(8192, 64));
        let mut residual = self.gpu.floats(rows, columns)?;
        let x = self.gpu.activations(rows, columns)?;
        let weight = self.gpu.vector(&vec![1.0; columns])?;
        let moved = 2 * residual.bytes() + 2 * x.bytes();
        let run = || self.gpu.add_rms_norm(&mut residual, &x, 1.0, &weight, 1e-5).map(drop);
        self.time("rms_norm", format!("{rows} × {columns}, added to the residual stream"), [moved, 0], run)
    }

    /// Not recorded, as it is in no step: its asks come from the host.
    fn choice(&self) -> Result<Speed> {
        let (rows, tokens) = (self.pick(32, 2), self.pick(128_000, 5000));
        let logits = self.gpu.upload(self.gpu.floats(rows, tokens)?, &vec![0.0; rows * tokens])?;
        let draw = Draw { temperature: 0.8, top_k: 0, top_p: 0.95, min_p: 0.0, uniform: 0.5 };
        let asks: Vec<Ask> = (0..rows).map(|row| Ask { row, draw: Some(draw) }).collect();
        let mut took = Duration::MAX;
        for _ in 0..REPEATS {
            let started = Instant::now();
            self.gpu.choose(&logits, tokens, &asks)?;
            took = took.min(started.elapsed());
        }
        let shape = format!("{rows} of {tokens} tokens by top_p, host and back");
        Ok(self.speed("choose", shape, took, [logits.bytes(), 0]))
    }

    fn all_reduce(&self, rows: usize) -> Result<Speed> {
        let columns = self.pick(8192, 64);
        let mut x = self.gpu.upload(self.gpu.activations(rows, columns)?, &vec![0.0; rows * columns])?;
        let shape = format!("{rows} × {columns}, {} ranks", crate::Backend::group(self.gpu).world_size());
        let bytes = x.bytes();
        self.time("all_reduce", shape, [bytes, 0], || self.gpu.all_reduce(&mut x))
    }

    /// Runs once for what comes only the first time, then many times as a recording.
    fn time(
        &self,
        operation: &'static str,
        shape: String,
        amounts: [usize; 2],
        mut run: impl FnMut() -> Result<()>,
    ) -> Result<Speed> {
        run()?;
        self.gpu.finish()?;
        let (graph, ()) = self.gpu.driver().record(|| (0..RUNS).try_for_each(|_| run()))?;
        let mut took = Duration::MAX;
        for _ in 0..=REPEATS {
            let started = Instant::now();
            self.gpu.replay(&graph)?;
            self.gpu.finish()?;
            took = took.min(started.elapsed() / RUNS);
        }
        Ok(self.speed(operation, shape, took, amounts))
    }

    fn speed(&self, operation: &'static str, shape: String, took: Duration, [bytes, operations]: [usize; 2]) -> Speed {
        Speed { device: self.gpu.name(), operation, shape, took, bytes, operations }
    }
}
