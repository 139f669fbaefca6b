//! Keys and values into their slots of the KV cache.

use crate::{
    Batch, Heads, KvShape,
    cpu::{
        Cpu, Elements, KEY_EXCESS, KvBF16, KvCache, KvF8E4M3, KvF16, KvF32, KvFormat, KvInt8, LARGEST_SHORT, Split,
        Tensor, greatest,
    },
};

/// What storing an element costs a thread, roughly: only sharing among threads depends on it.
const NANOSECONDS: f64 = 1.0;

impl Cpu {
    /// Stores the key and value heads of `qkv [tokens, heads.qkv_columns()]` in layer `layer` at the batch's slot mapping.
    pub(super) fn keep(&self, cache: &mut KvCache, layer: usize, qkv: &Tensor, heads: &Heads, batch: &Batch) {
        let shape = *cache.shape();
        assert_eq!(qkv.columns(), heads.qkv_columns(), "rows hold the query, key and value heads");
        assert_eq!(qkv.rows(), batch.slot_mapping.len(), "a slot per row");
        assert_eq!(
            (heads.kv, heads.dim, heads.values_from),
            (shape.kv_heads, shape.head_dim, shape.values_from),
            "the cache has these heads"
        );
        let tiles = |slot: u32, head| cache.tile(layer, slot as usize / shape.block_size, head);
        let tiles: Vec<_> = batch.slot_mapping.iter().map(|&slot| tiles(slot, 0)).collect();
        let rows = Rows { qkv, heads, slots: &batch.slot_mapping, tiles: &tiles };
        let [key_scales, value_scales] = &mut cache.scales;
        let scales = [Split::new(key_scales), Split::new(value_scales)];
        match (&mut cache.keys, &mut cache.values) {
            (Elements::F32(keys), Elements::F32(values)) => self.store::<KvF32>(rows, shape, [keys, values], scales),
            (Elements::F16(keys), Elements::F16(values)) => self.store::<KvF16>(rows, shape, [keys, values], scales),
            (Elements::BF16(keys), Elements::BF16(values)) => self.store::<KvBF16>(rows, shape, [keys, values], scales),
            (Elements::Int16(keys), Elements::Int16(values)) => self.store_shorts(rows, shape, [keys, values], scales),
            (Elements::Int8(keys), Elements::Int8(values)) => self.store::<KvInt8>(rows, shape, [keys, values], scales),
            (Elements::F8E4M3(keys), Elements::F8E4M3(values)) => {
                self.store::<KvF8E4M3>(rows, shape, [keys, values], scales);
            }
            _ => unreachable!("keys and values are made in one format"),
        }
    }
}

/// What is stored: the rows, and for each its slot and the tile of its first KV head.
struct Rows<'a> {
    qkv: &'a Tensor,
    heads: &'a Heads,
    slots: &'a [u32],
    tiles: &'a [usize],
}

impl Cpu {
    fn store<F: KvFormat>(
        &self,
        rows: Rows,
        shape: KvShape,
        [keys, values]: [&mut [F::Bits]; 2],
        [key_scales, value_scales]: [Split<f32>; 2],
    ) {
        let keys = Keep::<F> { shape, elements: Split::new(keys), scales: key_scales };
        let values = Keep::<F> { shape, elements: Split::new(values), scales: value_scales };
        self.each(rows, shape, |place, key, value| {
            keys.key(place, key);
            if let Some(value) = value {
                values.row(place, shape.value_tile(), value);
            }
        });
    }

    fn store_shorts(
        &self,
        rows: Rows,
        shape: KvShape,
        [keys, values]: [&mut [u8]; 2],
        [key_scales, value_scales]: [Split<f32>; 2],
    ) {
        let keys = KeepShorts { shape, bytes: Split::new(keys), scales: key_scales };
        let values = KeepShorts { shape, bytes: Split::new(values), scales: value_scales };
        self.each(rows, shape, |place, key, value| {
            keys.key(place, key);
            values.value(place, value.expect("rows of their own, as the cache was made"));
        });
    }

    /// Calls `keep` with every token's key and value of every head; each tile is one thread's.
    fn each(&self, rows: Rows, shape: KvShape, keep: impl Fn(Place, &[f32], Option<&[f32]>) + Sync) {
        let Rows { qkv, heads, slots, tiles } = rows;
        let nanoseconds = NANOSECONDS * (2 * qkv.rows() * heads.dim) as f64;
        self.team.share(heads.kv, nanoseconds, |head| {
            for (row, (&slot, &first_tile)) in slots.iter().zip(tiles).enumerate() {
                let place = Place { tile: first_tile + head, slot: slot as usize % shape.block_size };
                let columns = &qkv.row(row)[(heads.query + head) * heads.dim..];
                let value = shape.values_from.is_none().then(|| &columns[heads.kv * heads.dim..][..heads.dim]);
                // Each item has its own head, thus its own tiles.
                keep(place, &columns[..heads.dim], value);
            }
        });
    }
}

/// A token's place in one head's part of the cache.
#[derive(Clone, Copy)]
struct Place {
    tile: usize,
    slot: usize,
}

/// The cache's keys, or its values; every tile is written by one thread.
struct Keep<'a, F: KvFormat> {
    shape: KvShape,
    elements: Split<'a, F::Bits>,
    scales: Split<'a, f32>,
}

impl<F: KvFormat> Keep<'_, F> {
    fn key(&self, place: Place, key: &[f32]) {
        let tile = self.shape.key_tile();
        if self.shape.values_from.is_some() {
            return self.row(place, tile, key);
        }
        let factor = 1.0 / self.keep_scale(place, key);
        // SAFETY: a tile belongs to one item of the team's work, so to one thread at a time.
        let elements = unsafe { self.elements.part(place.tile * tile..(place.tile + 1) * tile) };
        for (to, &value) in elements[place.slot..].iter_mut().step_by(self.shape.padded_slots()).zip(key) {
            *to = F::round(value * factor);
        }
    }

    fn row(&self, place: Place, tile: usize, row: &[f32]) {
        let factor = 1.0 / self.keep_scale(place, row);
        let start = place.tile * tile + place.slot * self.shape.padded_dim();
        // SAFETY: a tile belongs to one item of the team's work, so to one thread at a time.
        let elements = unsafe { self.elements.part(start..start + row.len()) };
        for (to, &value) in elements.iter_mut().zip(row) {
            *to = F::round(value * factor);
        }
    }

    fn keep_scale(&self, place: Place, row: &[f32]) -> f32 {
        if F::GREATEST.is_none() {
            return 1.0;
        }
        let (scale, at) = (F::scale(row), place.tile * self.shape.padded_slots() + place.slot);
        // SAFETY: the tile's scales belong to the tile's thread.
        unsafe { self.scales.part(at..at + 1)[0] = scale };
        scale
    }
}

/// The same of 16-bit integers, which lie as [`Planes`](crate::cpu::Planes) says.
struct KeepShorts<'a> {
    shape: KvShape,
    bytes: Split<'a, u8>,
    scales: Split<'a, f32>,
}

impl KeepShorts<'_> {
    fn key(&self, place: Place, key: &[f32]) {
        let (planes, factor) = (self.shape.planes(), self.keep_scale(place, key));
        let [uppers, lowers] = self.planes(place);
        for (quad, values) in key.chunks(4).enumerate() {
            let at = planes.key(4 * quad, place.slot);
            for (index, value) in values.iter().enumerate() {
                let [upper, lower] = bytes(value * factor);
                (uppers[at + index], lowers[at + index]) = (upper ^ KEY_EXCESS, lower ^ KEY_EXCESS);
            }
        }
    }

    fn value(&self, place: Place, value: &[f32]) {
        let (planes, factor) = (self.shape.planes(), self.keep_scale(place, value));
        let [uppers, lowers] = self.planes(place);
        for (dim, value) in value.iter().enumerate() {
            let at = planes.value(place.slot, dim);
            [uppers[at], lowers[at]] = bytes(value * factor);
        }
    }

    /// A tile's planes.
    #[expect(clippy::mut_from_ref, reason = "each tile is lent to one thread")]
    fn planes(&self, place: Place) -> [&mut [u8]; 2] {
        let plane = self.shape.planes().bytes();
        let start = place.tile * 2 * plane;
        // SAFETY: a tile belongs to one item of the team's work, so to one thread at a time; planes are apart.
        unsafe { [self.bytes.part(start..start + plane), self.bytes.part(start + plane..start + 2 * plane)] }
    }

    /// What the row's elements are multiplied by to become integers.
    fn keep_scale(&self, place: Place, row: &[f32]) -> f32 {
        let greatest = greatest(row);
        // Neither a row of zeros nor one of infinities has a scale; nor has one that is all but zero.
        let scales = (f32::MIN_POSITIVE * LARGEST_SHORT..=f32::MAX).contains(&greatest);
        let at = place.tile * self.shape.padded_slots() + place.slot;
        // SAFETY: the tile's scales belong to the tile's thread.
        unsafe { self.scales.part(at..at + 1)[0] = if scales { greatest / LARGEST_SHORT } else { 0.0 } };
        if scales { LARGEST_SHORT / greatest } else { 0.0 }
    }
}

/// A number, at most [`LARGEST_SHORT`], rounded: its upper byte and its lower one, both with a sign.
#[inline(always)]
fn bytes(value: f32) -> [u8; 2] {
    // Beside so large a number nothing is left behind the point, and what is before it are the lowest bits.
    const LARGE: f32 = 12_582_912.0;
    let short = (value + LARGE).to_bits().wrapping_sub(LARGE.to_bits()).cast_signed();
    let upper = (short + 128) >> 8;
    [upper as u8, short as u8]
}
