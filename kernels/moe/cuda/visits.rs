//! Which tokens go to which experts, found on the GPU, and the sum of what the visits made: the host only knows how many
//! there are at most.

use crate::{
    Result,
    cuda::{Buffer, Cuda, Element, Grid, Pointer, Source, Tensor},
    moe::Experts,
};

const SOURCE: Source = Source { name: "visits", text: include_str!("../visits/cuda.cu") };

/// The lists of `visits/cuda.cu`.
pub(super) struct Visits {
    /// `i32 [count + 1]`
    pub(super) starts: Pointer,
    /// `{i32 expert, i32 visit} [tiles_max]`
    pub(super) tiles: Pointer,
    /// `i32 [visits_max]`
    pub(super) visitors: Pointer,
    /// `{i32 visit, i32 expert} [tokens, slots]`
    pub(super) places: Pointer,
    /// Most visits of a token.
    pub(super) slots: usize,
    /// Most visits of all tokens.
    pub(super) visits_max: usize,
    /// Most tiles.
    pub(super) tiles_max: usize,
    _words: Buffer,
}

/// Experts that the kernels have room for.
pub(super) const EXPERTS_MAX: usize = 512;

/// Tokens that one block takes alone …
const TOKENS_OF_ONE: usize = 256;

/// … and those that each of many takes.
const TOKENS_OF_MANY: usize = 64;

impl Visits {
    /// Those that `routes` (f32) name, with tiles of `tile` visits.
    pub(super) fn find(device: &Cuda, routes: &Tensor, experts: &Experts<Cuda>, tile: usize) -> Result<Self> {
        let (tokens, count) = (routes.rows(), experts.count);
        assert_eq!(routes.element(), Element::F32, "routes are f32");
        assert!(experts.first + count <= routes.columns(), "a route for each expert");
        assert!(count <= EXPERTS_MAX, "as many experts as routes have room for");
        let slots = experts.chosen.min(count);
        let visits_max = tokens * slots;
        let chunks = if tokens <= TOKENS_OF_ONE { 0 } else { tokens.div_ceil(TOKENS_OF_MANY) };
        let tiles_max = tiles_max(visits_max, count, tile);
        // Pairs first, so that all lie where they can be read.
        let lengths = [2 * tiles_max, 2 * visits_max, count + 1, visits_max, chunks * count];
        let words = device.scratch(lengths.iter().sum::<usize>() * size_of::<u32>())?;
        let mut next = words.pointer();
        let [tiles, places, starts, visitors, counts] = lengths.map(|length| {
            let list = next;
            next = next.offset(length * size_of::<u32>());
            list
        });
        let visits = Self { starts, tiles, visitors, places, slots, visits_max, tiles_max, _words: words };
        let routing = (routes, experts.first, count);
        match chunks {
            0 => visits.find_at_once(device, routing, tile)?,
            chunks => visits.find_in_chunks(device, routing, tile, (counts, chunks))?,
        }
        Ok(visits)
    }

    fn find_at_once(&self, device: &Cuda, (routes, first, count): (&Tensor, usize, usize), tile: usize) -> Result<()> {
        let arguments = &mut [
            self.starts.into(),
            self.tiles.into(),
            self.visitors.into(),
            self.places.into(),
            routes.into(),
            routes.rows().into(),
            routes.columns().into(),
            first.into(),
            count.into(),
            self.slots.into(),
            tile.into(),
            self.tiles_max.into(),
        ];
        let grid = Grid { blocks: [1, 1, 1], threads: 1024, shared_bytes: 0 };
        // SAFETY: the lists have room for as many visits and tiles as the sizes say, and the kernel cuts what is more.
        unsafe { device.launch(&SOURCE, "find_visits", grid, arguments) }
    }

    fn find_in_chunks(
        &self,
        device: &Cuda,
        (routes, first, count): (&Tensor, usize, usize),
        tile: usize,
        (counts, chunks): (Pointer, usize),
    ) -> Result<()> {
        let grid = |blocks: usize| Grid { blocks: [blocks as u32, 1, 1], threads: 512, shared_bytes: 0 };
        let shape = [routes.rows(), routes.columns(), first, count, self.slots, TOKENS_OF_MANY].map(Into::into);
        let [tokens, all, first, count, slots, chunk] = shape;
        let arguments = &mut [counts.into(), routes.into(), tokens, all, first, count, slots, chunk];
        // SAFETY: there are counts for all chunks of the tokens.
        unsafe { device.launch(&SOURCE, "count_visits", grid(chunks), arguments) }?;
        let bounds = [tile.into(), self.tiles_max.into()];
        let [tile, tiles_max] = bounds;
        let arguments =
            &mut [self.starts.into(), self.tiles.into(), counts.into(), chunks.into(), count, tile, tiles_max];
        // SAFETY: the lists have room for as many visits and tiles as `slots` allows, and the counts don't exceed it.
        unsafe { device.launch(&SOURCE, "place_visits", grid(1), arguments) }?;
        let arguments = &mut [
            self.visitors.into(),
            self.places.into(),
            self.starts.into(),
            counts.into(),
            routes.into(),
            tokens,
            all,
            first,
            count,
            slots,
            chunk,
        ];
        // SAFETY: the same.
        unsafe { device.launch(&SOURCE, "list_visits", grid(chunks), arguments) }
    }

    /// Writes into `sum` what the visits made, added to what is there where `is_added`.
    pub(super) fn add(
        &self,
        device: &Cuda,
        (sum, is_added): (&Tensor, bool),
        made: &Tensor,
        (routes, first): (&Tensor, usize),
    ) -> Result<()> {
        const THREADS: usize = 128;
        let hidden_size = made.columns();
        let onto = is_added.then(|| sum.pointer());
        let (entry, length) =
            if hidden_size.is_multiple_of(8) { ("add_visits_by_8", 8) } else { ("add_visits_by_1", 1) };
        let pieces = (hidden_size / length).div_ceil(THREADS);
        let grid = Grid { blocks: [sum.rows() as u32, pieces as u32, 1], threads: THREADS as u32, shared_bytes: 0 };
        let arguments = &mut [
            sum.into(),
            onto.into(),
            made.into(),
            self.places.into(),
            routes.into(),
            routes.columns().into(),
            first.into(),
            self.slots.into(),
            hidden_size.into(),
        ];
        // SAFETY: each place names a visit, which has a row in `made`, and an expert, which has a column in `routes`.
        unsafe { device.launch(&SOURCE, entry, grid, arguments) }
    }
}

/// How many tiles `visits` make at most: each visited expert may have one that is not full.
fn tiles_max(visits: usize, experts: usize, tile: usize) -> usize {
    (visits + visits.min(experts) * (tile - 1)) / tile
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_bounded() {
        for (visits, experts, tile, expected) in [
            (0, 8, 16, 0),
            (1, 8, 16, 1),
            // One visit each, and a visit more than a full tile.
            (8, 8, 16, 8),
            (17, 1, 16, 2),
            (16 + 7, 8, 16, 8),
            (1000, 8, 16, 70),
        ] {
            assert_eq!(tiles_max(visits, experts, tile), expected, "{visits} visits, {experts} experts");
        }
    }
}
