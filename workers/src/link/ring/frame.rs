//! A frame among the words of a ring: one word of header (length, guard), then the payload.

use std::sync::atomic::Ordering::Relaxed;

use super::atomics::Atomic;

/// Bytes that a payload of `length` bytes takes in the room.
pub(super) fn size(length: usize) -> u64 {
    8 + length.next_multiple_of(8) as u64
}

/// Ties a header to one place in one epoch's stream: yesterday's bytes at the same place do not pass for today's.
pub(super) fn guard(epoch: u64, position: u64) -> u32 {
    let mixed = (epoch.rotate_left(40) ^ position ^ 0x5348_4152_4457_4952).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as u32
}

/// Writes header and payload at `position`. The caller owns that stretch of the room.
pub(super) fn write(words: &[impl Atomic<u64>], position: u64, guard: u32, payload: &[u8]) {
    let header = u64::from(guard) << 32 | payload.len() as u64;
    place(words, position).store(header, Relaxed);
    let (whole, rest) = payload.as_chunks::<8>();
    for (word, bytes) in after(words, position).zip(whole) {
        word.store(u64::from_le_bytes(*bytes), Relaxed);
    }
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        place(words, position + 8 + 8 * whole.len() as u64).store(u64::from_le_bytes(last), Relaxed);
    }
}

/// The header's claims: (payload length, guard).
pub(super) fn header(words: &[impl Atomic<u64>], position: u64) -> (usize, u32) {
    let header = place(words, position).load(Relaxed);
    ((header as u32) as usize, (header >> 32) as u32)
}

/// Copies the payload out. `length` was checked to be within the room.
pub(super) fn read(words: &[impl Atomic<u64>], position: u64, length: usize, payload: &mut Vec<u8>) {
    payload.clear();
    payload.reserve(length.next_multiple_of(8));
    for word in after(words, position).take(length.div_ceil(8)) {
        payload.extend_from_slice(&word.load(Relaxed).to_le_bytes());
    }
    payload.truncate(length);
}

/// The word at a position (a multiple of 8).
fn place<W>(words: &[W], position: u64) -> &W {
    &words[(position / 8) as usize & (words.len() - 1)]
}

/// The words that follow the header at a position, once around the room.
fn after<W>(words: &[W], position: u64) -> impl Iterator<Item = &W> {
    let first = (position / 8 + 1) as usize & (words.len() - 1);
    let (beginning, end) = words.split_at(first);
    end.iter().chain(beginning)
}
