//! What becomes of a step's fused rows before attention: query and key heads are normalised, where the family does that,
//! and turned by rotary position embedding (Su et al. 2021); keys and values go to their slots of the KV cache.

#[allow(unsafe_code, reason = "threads write disjoint tiles")]
mod cpu;
#[allow(unsafe_code, reason = "launches kernels")]
mod cuda;

pub use cpu::Angles;
pub use cuda::Angles as DeviceAngles;

use crate::{
    Batch, KvDType, KvShape,
    attention::{Scoring, reference_of_rows, stored},
    rms_norm,
    samples::{Samples, Tested, assert_close},
};
use crate::{Heads, Result, memory::Memory};

/// Which two elements of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// `(i, i + d/2)`: Llama, Qwen ("neox", "rotate half").
    Half,
    /// `(2i, 2i + 1)`: ERNIE-4.5, and Llama as GGUF files store it.
    Interleaved,
}

/// By which angles a model turns its heads.
#[derive(Debug, Clone, PartialEq)]
pub struct Turns {
    /// The angle per position of each pair, `[d/2]`, where `d ≤ head_dim` is the rotary dimension.
    pub frequencies: Vec<f32>,
    /// What cosines and sines are multiplied by.
    pub magnitude: f32,
    /// Which elements are pairs.
    pub pairing: Pairing,
    /// Positions that there can be.
    pub positions: usize,
}

/// Root-mean-square norms of every query and every key head, over the head's own elements (Qwen3).
pub struct HeadNorms<'a, T> {
    /// `[1, head_dim]`
    pub query: &'a T,
    /// `[1, head_dim]`
    pub key: &'a T,
    /// What is added to the mean square.
    pub eps: f32,
}

/// See the module.
pub trait Rotary: Memory {
    /// Normalises the query and key heads of `qkv [tokens, heads.qkv_columns()]` by `norms`, if there are any; turns them by
    /// their tokens' positions, all of them below [`Turns::positions`]; and stores the key and value heads in layer `layer`
    /// of the cache at the batch's slot mapping. Elements of a head from `d` on are not turned. An angle is the product of
    /// position and frequency in f32, as in the models' training: at position 100,000 its rounding is visible, and part of
    /// the model.
    ///
    /// The query heads of `qkv` are then what attention wants; the others are left in any state.
    fn rotary_store(
        &self,
        qkv: &mut Self::Tensor,
        heads: &Heads,
        norms: Option<HeadNorms<Self::Tensor>>,
        angles: &Self::Angles,
        cache: (&mut Self::KvCache, usize),
        batch: &Self::Batch,
    ) -> Result<()>;
}

/// What turning one head at one position means, plainly.
pub(crate) fn reference(head: &[f32], turns: &Turns, position: u32) -> Vec<f32> {
    let mut turned = head.to_vec();
    let pairs = turns.frequencies.len();
    for (i, frequency) in turns.frequencies.iter().enumerate() {
        let (a, b) = match turns.pairing {
            Pairing::Half => (i, i + pairs),
            Pairing::Interleaved => (2 * i, 2 * i + 1),
        };
        let (sine, cosine) = f64::from(position as f32 * frequency).sin_cos();
        let magnitude = f64::from(turns.magnitude);
        let (x, y) = (f64::from(head[a]), f64::from(head[b]));
        turned[a] = ((x * cosine - y * sine) * magnitude) as f32;
        turned[b] = ((x * sine + y * cosine) * magnitude) as f32;
    }
    turned
}

/// A case of the conformance check: one sequence of so many tokens.
#[derive(Debug, Clone, Copy)]
struct Case {
    tokens: usize,
    heads: Heads,
    rotary_dim: usize,
    pairing: Pairing,
    is_normed: bool,
    dtype: KvDType,
}

impl Case {
    fn new(tokens: usize, dim: usize, rotary_dim: usize) -> Self {
        let heads = Heads { query: 4, kv: 2, dim, group: 2, first_in_group: 0, values_from: None };
        Self { tokens, heads, rotary_dim, pairing: Pairing::Half, is_normed: false, dtype: KvDType::F32 }
    }

    fn normed(self) -> Self {
        Self { is_normed: true, ..self }
    }

    fn dtype(self, dtype: KvDType) -> Self {
        Self { dtype, ..self }
    }

    fn values_from(mut self, first: usize) -> Self {
        self.heads = Heads { kv: 1, group: 4, values_from: Some(first), ..self.heads };
        self
    }
}

/// Compares a device's rows and, by the attention that it computes over them, the keys and values that it keeps with the
/// reference: both pairings, whole and partial heads, near and far positions, with norms and without.
pub(crate) fn check<B: Tested>(device: &B) {
    for pairing in [Pairing::Half, Pairing::Interleaved] {
        for case in [
            Case::new(0, 16, 16),
            Case::new(1, 16, 16),
            Case::new(3, 20, 12).normed(),
            Case::new(7, 64, 64).dtype(KvDType::F16),
            Case::new(90, 128, 64),
            Case::new(40, 128, 128).normed(),
            Case::new(5, 22, 10).normed(),
            Case::new(9, 18, 18).dtype(KvDType::BF16),
            Case::new(6, 64, 32).normed().dtype(KvDType::Int8),
            Case::new(2, 30, 30).dtype(KvDType::Int8),
            Case::new(3, 64, 64).dtype(KvDType::F8E4M3),
            Case::new(2, 18, 6).normed().dtype(KvDType::F8E4M3),
            Case::new(11, 72, 8).values_from(8),
            Case::new(4, 40, 16).values_from(16).dtype(KvDType::Int8),
        ] {
            check_case(device, Case { pairing, ..case });
        }
    }
}

fn check_case<B: Tested>(device: &B, case: Case) {
    const BLOCK_SIZE: usize = 8;
    const LAYER: usize = 1;
    const EPS: f32 = 1e-6;
    const SCALE: f32 = 0.3;
    let Case { tokens, heads, rotary_dim, pairing, is_normed, dtype } = case;
    let mut samples = Samples::new((tokens + rotary_dim) as u64);
    // The CPU's table of those takes its time.
    let positions_end = if rotary_dim <= 16 { 100_000 } else { 3_000 };
    let frequencies = samples.floats(rotary_dim / 2).into_iter().map(f32::abs).collect();
    let turns = Turns { frequencies, magnitude: 1.25, pairing, positions: positions_end };
    let angles = device.angles(turns.clone()).expect("memory");
    let weights = [samples.floats(heads.dim), samples.floats(heads.dim)];
    let [query_norm, key_norm] = weights.each_ref().map(|weight| device.vector(weight).expect("memory"));
    let blocks = tokens.div_ceil(BLOCK_SIZE);
    let Heads { kv: kv_heads, dim: head_dim, values_from, .. } = heads;
    let shape = KvShape { layers: 2, blocks, block_size: BLOCK_SIZE, kv_heads, head_dim, values_from, dtype };
    let mut cache = device.kv_cache(shape).expect("memory");
    // Near positions first: what was computed for them must not be all that far ones are turned by.
    for positions_max in [40, positions_end, 40] {
        let x = device.stored(samples.floats(tokens * heads.qkv_columns()));
        let mut positions: Vec<u32> = (0..tokens).map(|_| samples.below(positions_max) as u32).collect();
        positions.iter_mut().take(1).for_each(|position| *position = positions_max as u32 - 1);
        let of_head = |(index, head): (usize, &[f32])| {
            let (token, index) = (index / (heads.qkv_columns() / head_dim), index % (heads.qkv_columns() / head_dim));
            let normed = |head: &[f32], weight: &[f32]| match is_normed {
                true => rms_norm::reference(head, weight, EPS),
                false => head.to_vec(),
            };
            match index {
                _ if index < heads.query => reference(&normed(head, &weights[0]), &turns, positions[token]),
                _ if index < heads.query + kv_heads => reference(&normed(head, &weights[1]), &turns, positions[token]),
                _ => head.to_vec(),
            }
        };
        let expected: Vec<f32> = x.chunks_exact(head_dim).enumerate().flat_map(of_head).collect();
        let mut qkv = device.tensor(tokens, heads.qkv_columns(), &x).expect("memory");
        // The last block first, so that a slot is not its token's index.
        let table: Vec<u32> = (0..blocks as u32).rev().collect();
        let slot = |token: usize| table[token / BLOCK_SIZE] * BLOCK_SIZE as u32 + (token % BLOCK_SIZE) as u32;
        let slot_mapping: Vec<u32> = (0..tokens).map(slot).collect();
        let batch = Batch { positions, slot_mapping, ..Batch::default() };
        let batch = device.batch(batch).expect("memory");
        let norms = is_normed.then_some(HeadNorms { query: &query_norm, key: &key_norm, eps: EPS });
        device.rotary_store(&mut qkv, &heads, norms, &angles, (&mut cache, LAYER), &batch).expect("a rotation");
        let what = format!("{}: {case:?}, positions below {positions_max}", device.name());
        let queries = |rows: &[f32]| -> Vec<f32> {
            rows.chunks_exact(heads.qkv_columns()).flat_map(|row| row[..heads.query * head_dim].to_vec()).collect()
        };
        let turned = device.to_host(&qkv).expect("a copy");
        assert_close(&queries(&turned), &queries(&expected), device.tolerance(2e-6), &what);
        if tokens == 0 {
            continue;
        }
        // To attention, tokens are at the first positions of one sequence.
        let seen = Batch {
            tokens: vec![0; tokens],
            positions: (0..tokens as u32).collect(),
            slot_mapping: (0..tokens).map(slot).collect(),
            query_starts: vec![0, tokens as u32],
            context_lengths: vec![tokens as u32],
            block_tables: vec![table.clone()],
        };
        let seen = device.batch(seen).expect("memory");
        let scoring = Scoring { scale: SCALE, window: None, sinks: None };
        let attended = device.attention(&qkv, &cache, LAYER, &heads, &scoring, &seen).expect("attention");
        let kept: Vec<f32> = expected.chunks_exact(head_dim).flat_map(|row| stored(dtype, row)).collect();
        let expected = reference_of_rows(&heads, SCALE, &expected, &kept);
        let attended = device.to_host(&attended).expect("a copy");
        assert_close(&attended, &expected, device.tolerance(1e-5), &format!("{what}: attention"));
    }
}
