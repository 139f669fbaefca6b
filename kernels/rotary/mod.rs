//! Rotary position embedding (Su et al. 2021) on the query and key heads of fused rows.

mod cpu;
#[allow(unsafe_code, reason = "launches kernels")]
mod cuda;

pub use cpu::Angles;
pub use cuda::Angles as DeviceAngles;

use crate::samples::{Samples, Tested, assert_close};
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

/// See the module.
pub trait Rotary: Memory {
    /// Turns the query and key heads of `qkv [tokens, heads.qkv_columns()]` in place by their tokens' positions, all of them
    /// below [`Turns::positions`]. Elements of a head from `d` on pass unchanged. An angle is the product of position and
    /// frequency in f32, as in the models' training: at position 100,000 its rounding is visible, and part of the model.
    fn rotary(&self, qkv: &mut Self::Tensor, heads: &Heads, angles: &Self::Angles, batch: &Self::Batch) -> Result<()>;
}

/// What turning one head at one position means, plainly.
fn reference(head: &[f32], turns: &Turns, position: u32) -> Vec<f32> {
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

/// Compares a device's rotations with the reference: both pairings, whole and partial heads, near and far positions.
pub(crate) fn check<B: Tested>(device: &B) {
    for pairing in [Pairing::Half, Pairing::Interleaved] {
        for (tokens, dim, rotary_dim) in [(0, 16, 16), (1, 16, 16), (3, 20, 12), (7, 64, 64), (90, 128, 64)] {
            check_heads(device, pairing, tokens, [dim, rotary_dim]);
        }
    }
}

fn check_heads<B: Tested>(device: &B, pairing: Pairing, tokens: usize, [dim, rotary_dim]: [usize; 2]) {
    const POSITIONS: usize = 100_000;
    let heads = Heads { query: 3, kv: 1, dim, group: 3, first_in_group: 0, values_from: None };
    let mut samples = Samples::new(tokens as u64);
    let frequencies = samples.floats(rotary_dim / 2).into_iter().map(f32::abs).collect();
    let turns = Turns { frequencies, magnitude: 1.25, pairing, positions: POSITIONS };
    let angles = device.angles(turns.clone()).expect("memory");
    // Near positions first: what was computed for them must not be all that far ones are turned by.
    for positions_max in [40, POSITIONS, 40] {
        let x = device.stored(samples.floats(tokens * heads.qkv_columns()));
        let mut positions: Vec<u32> = (0..tokens).map(|_| samples.below(positions_max) as u32).collect();
        positions.iter_mut().take(1).for_each(|position| *position = positions_max as u32 - 1);
        let expected = x.chunks_exact(dim).enumerate().flat_map(|(index, head)| match index % 5 {
            4 => head.to_vec(),
            _ => reference(head, &turns, positions[index / 5]),
        });
        let mut qkv = device.tensor(tokens, heads.qkv_columns(), &x).expect("memory");
        let batch = crate::Batch { positions: positions.clone(), ..crate::Batch::default() };
        let batch = device.batch(batch).expect("memory");
        device.rotary(&mut qkv, &heads, &angles, &batch).expect("a rotation");
        let what = format!("{tokens} tokens, heads of {dim}, {pairing:?}, positions below {positions_max}");
        let (turned, expected) = (device.to_host(&qkv).expect("a copy"), expected.collect::<Vec<_>>());
        assert_close(&turned, &expected, device.tolerance(1e-6), &what);
    }
}
