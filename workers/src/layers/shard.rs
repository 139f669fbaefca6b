//! Which part of a model a rank owns.

use std::ops::Range;

use kernels::Heads;

use crate::models::ModelConfig;

/// The fewest elements that are worth keeping together where the storage format leaves the choice.
const UNIT: usize = 32;

/// One rank's place among all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// This rank, `0..world_size`.
    pub rank: usize,
    /// How many ranks share the model, at least 1.
    pub world_size: usize,
}

impl Shard {
    /// The whole model on one rank.
    pub const WHOLE: Shard = Shard { rank: 0, world_size: 1 };

    /// This rank's part of `0..total`, cut only at multiples of `unit`. Parts differ by one unit at most, the first
    /// ranks having the longer ones; the last unit of all may be a short one.
    pub fn split(&self, total: usize, unit: usize) -> Range<usize> {
        let units = total.div_ceil(unit);
        let (each, extra) = (units / self.world_size, units % self.world_size);
        let start = |rank: usize| ((rank * each + rank.min(extra)) * unit).min(total);
        start(self.rank)..start(self.rank + 1)
    }

    /// This rank's part of an MLP's width. `block` elements are stored together: they are kept together too, unless that
    /// left a rank with nothing.
    pub(crate) fn width(&self, total: usize, block: usize) -> Range<usize> {
        let enough = |unit: &usize| total.div_ceil(*unit) >= self.world_size;
        self.split(total, [block.max(UNIT), block, 1].into_iter().find(enough).unwrap_or(1))
    }

    /// This rank's part of the vocabulary. The logits' shards must be equal to be gathered, so each rank has
    /// `vocabulary / world_size` rows, rounded up, and the last ones fill up with padding.
    pub(crate) fn tokens(&self, vocabulary: usize) -> Tokens {
        let rows = vocabulary.div_ceil(self.world_size);
        let start = |rank: usize| (rank * rows).min(vocabulary);
        let own = start(self.rank)..start(self.rank + 1);
        Tokens { padding: rows - own.len(), own }
    }

    /// This rank's query heads, and the KV heads that they read.
    pub(crate) fn heads(&self, config: &ModelConfig) -> OwnHeads {
        let group = config.heads / config.kv_heads;
        let query = self.split(config.heads, 1);
        let kv = query.start / group..query.end.div_ceil(group);
        OwnHeads { query, kv, dim: config.head_dim, group }
    }
}

/// A rank's rows of a table over the vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tokens {
    /// The tokens.
    pub own: Range<usize>,
    /// Rows of zeros behind them.
    pub padding: usize,
}

/// A rank's heads, by their numbers in the whole model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnHeads {
    /// Query heads.
    pub query: Range<usize>,
    /// KV heads; a neighbour holds the first or last one too where their border cuts a group.
    pub kv: Range<usize>,
    /// Elements of a head.
    pub dim: usize,
    /// Query heads per KV head.
    pub group: usize,
}

impl OwnHeads {
    /// As attention sees them.
    pub(crate) fn heads(&self) -> Heads {
        Heads {
            query: self.query.len(),
            kv: self.kv.len(),
            dim: self.dim,
            group: self.group,
            first_in_group: self.query.start % self.group,
            values_from: None,
        }
    }

    /// The elements of some heads, by their numbers in the whole model.
    pub(crate) fn elements(&self, heads: &Range<usize>) -> Range<usize> {
        heads.start * self.dim..heads.end * self.dim
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranks(world_size: usize) -> impl Iterator<Item = Shard> {
        (0..world_size).map(move |rank| Shard { rank, world_size })
    }

    #[test]
    fn splits_as_documented() {
        let check = |total, unit, world_size, expected: &[Range<usize>]| {
            let parts: Vec<_> = ranks(world_size).map(|shard| shard.split(total, unit)).collect();
            assert_eq!(parts, expected, "{total} in units of {unit} over {world_size}");
        };
        check(9, 1, 2, &[0..5, 5..9]);
        check(192, 32, 4, &[0..64, 64..128, 128..160, 160..192]);
        check(50, 32, 2, &[0..32, 32..50]);
    }

    #[test]
    fn nine_heads_over_two_ranks_share_the_middle_kv_head() {
        let own = |query: Range<usize>, kv: Range<usize>| OwnHeads { query, kv, dim: 64, group: 3 };
        let (first, second) = (own(0..5, 0..2), own(5..9, 1..3));
        assert_eq!(first.heads().first_in_group, 0);
        assert_eq!(second.heads().first_in_group, 2);
        // The last query head of the second rank reads the last of its two KV heads.
        assert_eq!((0..4).map(|head| second.heads().kv_of(head)).collect::<Vec<_>>(), [0, 1, 1, 1]);
        assert_eq!(second.elements(&second.kv), 64..192);
    }

    proptest! {
        /// Whatever the sizes: nothing is lost, nothing is owned twice, and nobody has much more than another.
        #[test]
        fn parts_are_contiguous_and_balanced(total in 1usize..5000, unit in 1usize..300, world_size in 1usize..17) {
            let mut end = 0;
            let mut lengths = Vec::new();
            for part in ranks(world_size).map(|shard| shard.split(total, unit)) {
                prop_assert_eq!(part.start, end);
                prop_assert!(part.start.is_multiple_of(unit) || part.is_empty());
                end = part.end;
                lengths.push(part.len().div_ceil(unit));
            }
            prop_assert_eq!(end, total);
            prop_assert!(lengths.iter().max().unwrap() - lengths.iter().min().unwrap() <= 1);
        }

        /// An MLP at least as wide as there are ranks leaves none without work.
        #[test]
        fn every_rank_has_some_width(total in 1usize..5000, block in prop::sample::select(vec![1usize, 32, 256]), world_size in 1usize..17) {
            prop_assume!(total >= world_size);
            for shard in ranks(world_size) {
                prop_assert!(!shard.width(total, block).is_empty());
            }
        }

        #[test]
        fn shards_of_the_vocabulary_are_equal(vocabulary in 1usize..5000, world_size in 1usize..17) {
            let mut end = 0;
            let tokens: Vec<_> = ranks(world_size).map(|shard| shard.tokens(vocabulary)).collect();
            for Tokens { own, padding } in &tokens {
                prop_assert_eq!(own.start, end);
                prop_assert_eq!(own.len() + padding, tokens[0].own.len());
                end = own.end;
            }
            prop_assert_eq!(end, vocabulary);
        }
    }
}
