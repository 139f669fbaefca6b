//! How fast a GPU does what decoding is made of, for whoever has one (`shardwire selftest --speed`).
//!
//! Nearly all of decoding is reading weights and keys once, so that each operation's bytes per second are told beside
//! those of a copy within the same memory. Runs are recorded as one graph, so that starting them costs nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    Backend, Batch, DType, Heads, KvDType, KvShape, Matrix, Result,
    all_reduce::AllReduce,
    attention::{Attention, Scoring},
    choose::{Ask, Choose, Draw},
    cuda::{Cuda, CudaConfig, Tensor, Weight},
    glu::Activation,
    group::Group,
    matmul::MatMul,
    memory::Memory,
    moe::{self, Experts, Moe, Routing},
    rms_norm::RmsNorm,
    samples::Samples,
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
    let has_warpgroups = gpu.has_warpgroups();
    let bench = Bench { gpu: &gpu, sizes };
    tell(bench.copy()?);
    for dtype in [DType::BF16, DType::F8_E4M3, DType::WInt8, DType::WInt4, DType::Q4_K, DType::MXFP4] {
        for rows in [1, 16, 32] {
            tell(bench.product("matmul", dtype, rows)?);
        }
    }
    let many = bench.pick(4096, 64);
    for dtype in [DType::BF16, DType::F8_E4M3, DType::WInt4] {
        for rows in [bench.pick(128, 40), bench.pick(512, 48), many] {
            tell(bench.product("matmul", dtype, rows)?);
        }
    }
    bench.some_rows("matmul", tell)?;
    for dtype in [DType::BF16, DType::WInt4] {
        for rows in [1, bench.pick(32, 2), bench.pick(128, 4), bench.pick(4096, 8)] {
            tell(bench.experts(dtype, rows)?);
        }
    }
    for dtype in [KvDType::BF16, KvDType::Int8] {
        tell(bench.decode_attention(dtype)?);
    }
    for queries in [bench.pick(512, 8), bench.pick(4096, 16)] {
        tell(bench.prefill_attention(queries)?);
    }
    tell(bench.norm()?);
    tell(bench.choice()?);
    if gpu.cublaslt().is_some() {
        drop(gpu);
        let gpu = Cuda::open(CudaConfig { own_products: true, ..config.clone() }, Group::solo())?;
        let bench = Bench { gpu: &gpu, sizes };
        for (dtype, rows) in [(DType::BF16, 32), (DType::BF16, 128), (DType::WInt4, 512), (DType::BF16, many)] {
            tell(bench.product("matmul by own kernels", dtype, rows.min(many))?);
        }
    }
    if has_warpgroups {
        let gpu = Cuda::open(CudaConfig { common_products: true, ..config.clone() }, Group::solo())?;
        Bench { gpu: &gpu, sizes }.some_rows("matmul by common kernels", tell)?;
    }
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

/// Of the attention that is measured.
const HEADS: Heads = Heads { query: 32, kv: 8, dim: 128, group: 4, first_in_group: 0, values_from: None };
const HEADS_TOLD: &str = "32 heads on 8 of 128";

/// A layer by its outputs: as many as the gates and ups of a large model, as the attention of a small one, or as that of a
/// large one on one of eight ranks.
#[derive(Clone, Copy)]
enum Layer {
    Wide,
    Square,
    Narrow,
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

    /// Batches between those that read weights once and those that the library multiplies.
    fn some_rows(&self, operation: &'static str, tell: &mut dyn FnMut(Speed)) -> Result<()> {
        for layer in [Layer::Wide, Layer::Square, Layer::Narrow] {
            let [inputs, outputs] = self.sizes_of(layer);
            for dtype in [DType::WInt4, DType::WInt8, DType::F8_E4M3, DType::Q4_K] {
                let weight = self.weight(dtype, outputs, inputs)?;
                for rows in [17, 32, 64, 128, 255] {
                    let rows = self.pick(rows, rows.min(40));
                    tell(self.product_of(operation, dtype, &weight, rows)?);
                }
            }
        }
        Ok(())
    }

    fn product(&self, operation: &'static str, dtype: DType, rows: usize) -> Result<Speed> {
        let [inputs, outputs] = self.sizes_of(Layer::Wide);
        self.product_of(operation, dtype, &self.weight(dtype, outputs, inputs)?, rows)
    }

    /// Inputs, and outputs.
    fn sizes_of(&self, layer: Layer) -> [usize; 2] {
        match layer {
            Layer::Wide => [self.pick(8192, 256), self.pick(28_672, 64)],
            Layer::Square => [self.pick(4096, 256), self.pick(4096, 64)],
            Layer::Narrow => [self.pick(8192, 256), self.pick(1280, 64)],
        }
    }

    fn product_of(&self, operation: &'static str, dtype: DType, weight: &Weight, rows: usize) -> Result<Speed> {
        let (inputs, outputs) = (weight.inputs, weight.outputs);
        let x = self.random(rows, inputs)?;
        let moved = dtype.bytes_of(inputs) * outputs + x.bytes() + rows * outputs * self.gpu.act().bytes();
        let shape = format!("{rows} × {inputs} → {outputs}, {dtype:?}");
        self.time(operation, shape, [moved, 2 * rows * inputs * outputs], || {
            self.gpu.matmul(&x, weight, None).map(drop)
        })
    }

    /// A mixture whose tokens choose evenly, as those of trained routers do.
    fn experts(&self, dtype: DType, rows: usize) -> Result<Speed> {
        let (hidden, width) = (self.pick(4096, 256), self.pick(1536, 128));
        let (count, chosen) = (self.pick(64, 8), self.pick(8, 2));
        let experts = Experts {
            first: 0,
            count,
            chosen,
            gate_up: self.weight(dtype, count * 2 * width, hidden)?,
            gate_up_bias: None,
            down: self.weight(dtype, count * hidden, width)?,
            down_bias: None,
            activation: Activation::Silu,
        };
        let logits: Vec<f32> = Samples::new(rows as u64).floats(rows * count);
        let logits = self.gpu.upload(self.gpu.floats(rows, count)?, &logits)?;
        let scoring = moe::Scoring::Softmax;
        let routing = Routing { chosen, scoring, groups: None, normalise: Some(0.0), scale: 1.0 };
        let routes = self.gpu.route(&logits, None, &routing)?;
        let x = self.random(rows, hidden)?;
        // As many as even choices reach.
        let read = count as f64 * (1.0 - (1.0 - chosen as f64 / count as f64).powi(rows as i32));
        let of_expert = dtype.bytes_of(hidden) * 2 * width + dtype.bytes_of(width) * hidden;
        let moved = (read * of_expert as f64) as usize + 2 * x.bytes();
        let shape = format!("{rows} × {hidden}, {chosen} of {count} experts of {width}, {dtype:?}");
        let operations = 2 * rows * chosen * 3 * hidden * width;
        self.time("experts", shape, [moved, operations], || self.gpu.experts(&x, &routes, &experts, None).map(drop))
    }

    /// Decoding: a query of each sequence.
    fn decode_attention(&self, dtype: KvDType) -> Result<Speed> {
        let (sequences, context) = (self.pick(32, 2), self.pick(4096, 128));
        let shape = format!("{sequences} sequences of {context}, {HEADS_TOLD}, {dtype:?}");
        self.attention(shape, dtype, sequences, context, 1)
    }

    /// A prompt from its beginning.
    fn prefill_attention(&self, queries: usize) -> Result<Speed> {
        self.attention(format!("a prompt of {queries}, {HEADS_TOLD}"), KvDType::BF16, 1, queries, queries)
    }

    /// The last `queries` tokens of each sequence ask.
    fn attention(
        &self,
        shape: String,
        dtype: KvDType,
        sequences: usize,
        context: usize,
        queries: usize,
    ) -> Result<Speed> {
        const BLOCK_SIZE: usize = 64;
        let heads = HEADS;
        let own = context.div_ceil(BLOCK_SIZE);
        let blocks = sequences * own;
        let shape_of_cache = KvShape {
            layers: 1,
            blocks,
            block_size: BLOCK_SIZE,
            kv_heads: heads.kv,
            head_dim: heads.dim,
            values_from: None,
            dtype,
        };
        let cache = self.gpu.kv_cache(shape_of_cache)?;
        let slots = |sequence: usize| (sequence * own * BLOCK_SIZE) as u32;
        let asking = (context - queries) as u32..context as u32;
        let batch = Batch {
            tokens: vec![0; sequences * queries],
            positions: (0..sequences).flat_map(|_| asking.clone()).collect(),
            slot_mapping: (0..sequences).flat_map(|at| asking.clone().map(move |token| slots(at) + token)).collect(),
            query_starts: (0..=sequences).map(|at| (at * queries) as u32).collect(),
            context_lengths: vec![context as u32; sequences],
            block_tables: (0..blocks as u32).collect::<Vec<_>>().chunks(own).map(<[u32]>::to_vec).collect(),
        };
        let batch = self.gpu.batch(batch)?;
        let qkv = self.random(sequences * queries, heads.qkv_columns())?;
        let scoring = Scoring { scale: 0.09, window: None, sinks: None };
        let scored = sequences * queries * (2 * context - queries + 1) / 2;
        let operations = 4 * heads.query * heads.dim * scored;
        let moved = blocks * cache.shape.block_bytes() + 2 * sequences * queries * heads.query * heads.dim * 2;
        let run = || self.gpu.attention(&qkv, &cache, 0, &heads, &scoring, &batch).map(drop);
        self.time("attention", shape, [moved, operations], run)
    }

    /// Bytes of any value: nothing but the time is looked at, and GPUs multiply zeros faster.
    fn weight(&self, dtype: DType, outputs: usize, inputs: usize) -> Result<Weight> {
        let mut bytes = vec![0u8; dtype.bytes_of(inputs) * outputs];
        let mut samples = Samples::new(1);
        bytes.chunks_mut(8).for_each(|bytes| bytes.copy_from_slice(&samples.bits().to_le_bytes()[..bytes.len()]));
        let stored = Matrix::new(Arc::new(bytes), 0, dtype, outputs, inputs).expect("as many bytes");
        self.gpu.weight(vec![stored])
    }

    fn random(&self, rows: usize, columns: usize) -> Result<Tensor> {
        self.gpu.upload(self.gpu.activations(rows, columns)?, &Samples::new(2).floats(rows * columns))
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
        let mut samples = Samples::new(3);
        let logits: Vec<f32> = (0..rows * tokens).map(|_| 3.0 * samples.bell()).collect();
        let logits = self.gpu.upload(self.gpu.floats(rows, tokens)?, &logits)?;
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
        let shape = format!("{rows} × {columns}, {} ranks", self.gpu.group().world_size());
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
