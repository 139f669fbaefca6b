//! Keys and values into their slots of the KV cache.

use crate::{
    Batch, Heads, KvShape,
    cpu::{
        Cpu, Elements, KEY_EXCESS, KvBF16, KvCache, KvF8E4M3, KvF16, KvF32, KvFormat, KvInt8, LARGEST_SHORT, Split,
        Tensor,
        shorts::{greatest_size, in_planes},
        simd::{Kernel, Simd, Wide},
    },
};

/// What storing an element costs a thread, roughly: only sharing among threads depends on it.
const NANOSECONDS: f64 = 1.0;

/// The same of 16-bit integers.
const NANOSECONDS_OF_SHORTS: f64 = 0.3;

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
        let nanoseconds = NANOSECONDS_OF_SHORTS * (2 * rows.slots.len() * rows.heads.dim) as f64;
        let isa = self.isa;
        self.team.share(rows.heads.kv, nanoseconds, |head| {
            isa.run(Shorts { rows: &rows, head, keys: &keys, values: &values });
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

/// All tokens' keys and values of one head.
struct Shorts<'a> {
    rows: &'a Rows<'a>,
    head: usize,
    keys: &'a KeepShorts<'a>,
    values: &'a KeepShorts<'a>,
}

impl Kernel for Shorts<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Rows { qkv, heads, slots, tiles } = self.rows;
        let size = self.keys.shape.block_size;
        let place = |row: usize| Place { tile: tiles[row] + self.head, slot: slots[row] as usize % size };
        let of_row = |row: usize, first_head: usize| &qkv.row(row)[(first_head + self.head) * heads.dim..][..heads.dim];
        for row in 0..slots.len() {
            self.keys.key(simd, place(row), of_row(row, heads.query));
        }
        let value = |row: usize| of_row(row, heads.query + heads.kv);
        let mut row = 0;
        while row < slots.len() {
            let first = place(row);
            let is_four = first.slot.is_multiple_of(FOUR)
                && row + FOUR <= slots.len()
                && (1..FOUR).all(|next| {
                    let place = place(row + next);
                    (place.tile, place.slot) == (first.tile, first.slot + next)
                });
            if is_four {
                self.values.four(simd, first, std::array::from_fn(|next| value(row + next)));
                row += FOUR;
            } else {
                self.values.value(simd, first, value(row));
                row += 1;
            }
        }
    }
}

/// Slots of values whose bytes are neighbours.
const FOUR: usize = 4;
/// Elements that are rounded together.
const SIDE: usize = 16;

/// A head by sixteen elements, the last of which zeros may follow.
#[inline(always)]
fn sixteens(head: &[f32]) -> impl Iterator<Item = [f32; SIDE]> {
    (0..head.len()).step_by(SIDE).map(|dim| {
        head[dim..].first_chunk().copied().unwrap_or_else(|| {
            let mut last = [0.0; SIDE];
            last[..head.len() - dim].copy_from_slice(&head[dim..]);
            last
        })
    })
}

impl KeepShorts<'_> {
    #[inline(always)]
    fn key<S: Simd>(&self, simd: S, place: Place, key: &[f32]) {
        let (wide, layout, factor) = (simd.wide(), self.shape.planes(), self.keep_scale(simd, place, key));
        let excess = wide.splat_int(KEY_EXCESS.into());
        let mut planes = self.planes(place);
        for (dim, values) in (0..).step_by(SIDE).zip(sixteens(key)) {
            for (plane, integers) in planes.iter_mut().zip(in_planes(wide, &values, factor)) {
                let bytes = wide.low_bytes(wide.add_int(integers, excess));
                for (quad, four) in bytes.as_chunks::<4>().0.iter().enumerate() {
                    plane[layout.key(dim + 4 * quad, place.slot)..][..4].copy_from_slice(four);
                }
            }
        }
    }

    #[inline(always)]
    fn value<S: Simd>(&self, simd: S, place: Place, value: &[f32]) {
        let (wide, layout, factor) = (simd.wide(), self.shape.planes(), self.keep_scale(simd, place, value));
        let mut planes = self.planes(place);
        for (dim, values) in (0..).step_by(SIDE).zip(sixteens(value)) {
            for (plane, integers) in planes.iter_mut().zip(in_planes(wide, &values, factor)) {
                let to = plane[layout.value(place.slot, dim)..].iter_mut().step_by(FOUR);
                to.zip(wide.low_bytes(integers)).for_each(|(to, byte)| *to = byte);
            }
        }
    }

    /// Those of four neighbouring slots, from a multiple of four on.
    #[inline(always)]
    fn four<S: Simd>(&self, simd: S, first: Place, values: [&[f32]; FOUR]) {
        let (wide, layout) = (simd.wide(), self.shape.planes());
        let mut factors = [0.0; FOUR];
        for (next, value) in values.iter().enumerate() {
            factors[next] = self.keep_scale(simd, Place { slot: first.slot + next, ..first }, value);
        }
        let lowest = wide.splat_int(0xff);
        let mut planes = self.planes(first);
        let mut heads = values.map(sixteens);
        for dim in (0..values[0].len()).step_by(SIDE) {
            let mut integers = [[wide.splat_int(0); 2]; FOUR];
            for next in 0..FOUR {
                let values = heads[next].next().expect("heads of one length");
                integers[next] = in_planes(wide, &values, factors[next]);
            }
            let [a, b, c, d] = integers;
            let at = layout.value(first.slot, dim);
            for (plane, to) in planes.iter_mut().enumerate() {
                let first = wide.or(wide.and(a[plane], lowest), wide.shift_left::<8>(wide.and(b[plane], lowest)));
                let second = wide.or(wide.and(c[plane], lowest), wide.shift_left::<8>(wide.and(d[plane], lowest)));
                let bytes = to[at..].first_chunk_mut().expect("sixteen fours");
                wide.store_words(wide.or(first, wide.shift_left::<16>(second)), bytes);
            }
        }
    }

    /// A tile's planes.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "each tile is lent to one thread")]
    fn planes(&self, place: Place) -> [&mut [u8]; 2] {
        let plane = self.shape.planes().bytes();
        let start = place.tile * 2 * plane;
        // SAFETY: a tile belongs to one item of the team's work, so to one thread at a time; planes are apart.
        unsafe { [self.bytes.part(start..start + plane), self.bytes.part(start + plane..start + 2 * plane)] }
    }

    /// What the head's elements are multiplied by to become integers.
    #[inline(always)]
    fn keep_scale<S: Simd>(&self, simd: S, place: Place, head: &[f32]) -> f32 {
        let greatest = greatest_size(simd, sixteens(head));
        // Neither a row of zeros nor one of infinities has a scale; nor has one that is all but zero.
        let scales = (f32::MIN_POSITIVE * LARGEST_SHORT..=f32::MAX).contains(&greatest);
        let at = place.tile * self.shape.padded_slots() + place.slot;
        // SAFETY: the tile's scales belong to the tile's thread.
        unsafe { self.scales.part(at..at + 1)[0] = if scales { greatest / LARGEST_SHORT } else { 0.0 } };
        if scales { LARGEST_SHORT / greatest } else { 0.0 }
    }
}
