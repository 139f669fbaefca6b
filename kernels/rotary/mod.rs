//! Rotary position embedding (Su et al. 2021) on the query and key heads of fused rows.

mod cpu;

#[cfg(test)]
use crate::samples::{Samples, assert_close};
use crate::{Heads, Result, memory::Memory};

/// Which two elements of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// `(i, i + d/2)`: Llama, Qwen ("neox", "rotate half").
    Half,
    /// `(2i, 2i + 1)`: ERNIE-4.5, and Llama as GGUF files store it.
    Interleaved,
}

/// See the module.
pub trait Rotary: Memory {
    /// Turns the query and key heads of `qkv [tokens, heads.qkv_columns()]` in place by their tokens' positions.
    /// `table [positions, 2 × d/2]` holds per position the cosines, then the sines, of a head's `d/2` angles, where
    /// `d ≤ head_dim` is the rotary dimension; elements from `d` on pass unchanged.
    fn rotary(
        &self,
        qkv: &mut Self::Tensor,
        heads: &Heads,
        table: &Self::Tensor,
        pairing: Pairing,
        batch: &Self::Batch,
    ) -> Result<()>;
}

/// What turning one head means, plainly.
#[cfg(test)]
fn reference(head: &[f32], cosines: &[f32], sines: &[f32], pairing: Pairing) -> Vec<f32> {
    let mut turned = head.to_vec();
    for i in 0..cosines.len() {
        let (a, b) = match pairing {
            Pairing::Half => (i, i + cosines.len()),
            Pairing::Interleaved => (2 * i, 2 * i + 1),
        };
        turned[a] = head[a] * cosines[i] - head[b] * sines[i];
        turned[b] = head[a] * sines[i] + head[b] * cosines[i];
    }
    turned
}

/// Compares a device's rotations with the reference: both pairings, whole and partial heads.
#[cfg(test)]
pub(crate) fn check<B: crate::Backend>(device: &B) {
    for pairing in [Pairing::Half, Pairing::Interleaved] {
        for (tokens, dim, rotary_dim) in [(0, 16, 16), (1, 16, 16), (3, 20, 12), (7, 64, 64), (90, 128, 64)] {
            check_heads(device, pairing, tokens, [dim, rotary_dim]);
        }
    }
}

#[cfg(test)]
fn check_heads<B: crate::Backend>(device: &B, pairing: Pairing, tokens: usize, [dim, rotary_dim]: [usize; 2]) {
    const POSITIONS: usize = 40;
    let heads = Heads { query: 3, kv: 1, dim, group: 3, first_in_group: 0, values_from: None };
    let mut samples = Samples::new(tokens as u64);
    let table = samples.floats(POSITIONS * rotary_dim);
    let x = samples.floats(tokens * heads.qkv_columns());
    let positions: Vec<u32> = (0..tokens).map(|_| samples.below(POSITIONS) as u32).collect();
    let expected = x.chunks_exact(dim).enumerate().flat_map(|(index, head)| {
        let position = positions[index / 5] as usize;
        let (cosines, sines) = table[position * rotary_dim..][..rotary_dim].split_at(rotary_dim / 2);
        if index % 5 < 4 { reference(head, cosines, sines, pairing) } else { head.to_vec() }
    });
    let mut qkv = device.tensor(tokens, heads.qkv_columns(), &x).expect("memory");
    let device_table = device.tensor(POSITIONS, rotary_dim, &table).expect("memory");
    let batch = crate::Batch { positions: positions.clone(), ..crate::Batch::default() };
    let batch = device.batch(batch).expect("memory");
    device.rotary(&mut qkv, &heads, &device_table, pairing, &batch).expect("a rotation");
    let what = format!("{tokens} tokens, heads of {dim}, {pairing:?}");
    assert_close(&device.to_host(&qkv).expect("a copy"), &expected.collect::<Vec<_>>(), 1e-6, &what);
}
