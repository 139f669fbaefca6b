//! Who holds which KV block, and which blocks are remembered by the tokens in them.
//!
//! ```text
//!            take                      release, not remembered
//!   free ───────────► held ──────────────────────────────────► free
//!    ▲                 ▲ │ remember (full and computed)
//!    │ evict           │ ▼ release
//!    └── evictable ◄───┴── cached: found again by `longest_prefix`
//! ```
//! A block is free, held (by one sequence, or by several that share a prefix), or evictable: held by nobody but still
//! cached. Evictable blocks are given out again only when no free one is left, the least recently released first.

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest, Sha256};

/// A block of KV cache, `0..total`.
pub type BlockId = u32;

/// Names the tokens of a full block and all tokens before it. 128 bits of SHA-256: two different prefixes that meet would
/// serve one client another's context, so a hash that can be forged is no choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PrefixHash([u8; 16]);

impl PrefixHash {
    /// The empty prefix.
    pub const EMPTY: Self = Self([0; 16]);

    /// The empty prefix among those who know the same secret: nobody else's prefixes begin with it.
    pub fn salted(salt: &str) -> Self {
        // Longer prefixes are hashes of a hash and tokens. No hash is known that is all ones, so no salt, however chosen,
        // can be one of them.
        Self::of(Sha256::new().chain_update([0xff; 16]).chain_update(salt))
    }

    /// The prefix that is longer by one block of tokens.
    pub fn extend(self, tokens: &[u32]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(self.0);
        for token in tokens {
            hasher.update(token.to_le_bytes());
        }
        Self::of(hasher)
    }

    fn of(hasher: Sha256) -> Self {
        let mut hash = [0; 16];
        hash.copy_from_slice(&hasher.finalize()[..16]);
        Self(hash)
    }
}

/// All blocks of the KV cache. Knows ids, never memory.
#[derive(Debug)]
pub struct BlockPool {
    block_size: usize,
    prefix_caching: bool,
    blocks: Vec<Block>,
    /// Neither held nor cached; the last one goes first.
    free: Vec<BlockId>,
    /// Cached but not held, by the time of release.
    evictable: BTreeMap<u64, BlockId>,
    cached: HashMap<PrefixHash, BlockId>,
    releases: u64,
}

#[derive(Debug, Clone, Default)]
struct Block {
    holders: u32,
    /// What it is cached as.
    prefix: Option<PrefixHash>,
    /// Its key in `evictable`, meaningful only while it is there.
    released: u64,
}

impl BlockPool {
    /// A pool of `total` free blocks with room for `block_size` tokens each.
    pub fn new(total: usize, block_size: usize, prefix_caching: bool) -> Self {
        assert!(block_size > 0, "a block holds at least one token");
        let total = BlockId::try_from(total).expect("block ids are 32 bits");
        Self {
            block_size,
            prefix_caching,
            blocks: vec![Block::default(); total as usize],
            free: (0..total).rev().collect(),
            evictable: BTreeMap::new(),
            cached: HashMap::new(),
            releases: 0,
        }
    }

    /// Tokens in a block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// How many blocks there are.
    pub fn total(&self) -> usize {
        self.blocks.len()
    }

    /// Tokens that fit the whole pool.
    pub fn tokens_max(&self) -> usize {
        self.total() * self.block_size
    }

    /// Blocks that `take` can give: free and evictable ones.
    pub fn available(&self) -> usize {
        self.free.len() + self.evictable.len()
    }

    /// Blocks held by at least one sequence.
    pub fn held(&self) -> usize {
        self.total() - self.available()
    }

    /// Blocks that a prefix can be found in, held or not.
    pub fn cached(&self) -> usize {
        self.cached.len()
    }

    /// Whether full blocks are remembered at all.
    pub fn prefix_caching(&self) -> bool {
        self.prefix_caching
    }

    /// Blocks needed for so many tokens.
    pub fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_size)
    }

    /// The cached blocks of the longest prefix, in order: `hashes[i]` names the prefix of `i + 1` blocks. They are not held
    /// yet: `hold` them before anything else is taken.
    pub fn longest_prefix(&self, hashes: &[PrefixHash]) -> Vec<BlockId> {
        hashes.iter().map_while(|hash| self.cached.get(hash).copied()).collect()
    }

    /// How many of these blocks nobody holds, so that holding them leaves fewer available.
    pub fn unheld(&self, blocks: &[BlockId]) -> usize {
        blocks.iter().filter(|&&id| self.blocks[id as usize].holders == 0).count()
    }

    /// One more holder for each of these cached blocks.
    pub fn hold(&mut self, blocks: &[BlockId]) {
        for &id in blocks {
            let block = &mut self.blocks[id as usize];
            debug_assert!(block.prefix.is_some(), "only cached blocks are shared");
            if block.holders == 0 {
                self.evictable.remove(&block.released);
            }
            block.holders += 1;
        }
    }

    /// A block with one holder and nothing in it, if one is available; a cached one is evicted only where none is free.
    pub fn take(&mut self) -> Option<BlockId> {
        let id = self.free.pop().or_else(|| self.evict())?;
        self.blocks[id as usize].holders = 1;
        Some(id)
    }

    fn evict(&mut self) -> Option<BlockId> {
        let (_, id) = self.evictable.pop_first()?;
        if let Some(prefix) = self.blocks[id as usize].prefix.take() {
            self.cached.remove(&prefix);
        }
        Some(id)
    }

    /// One holder fewer for each block of a sequence's table. The deepest block counts as released first: it is of no use
    /// once one before it is gone.
    pub fn release(&mut self, table: &[BlockId]) {
        for &id in table.iter().rev() {
            let block = &mut self.blocks[id as usize];
            assert!(block.holders > 0, "block {id} was released twice");
            block.holders -= 1;
            if block.holders > 0 {
                continue;
            }
            if block.prefix.is_some() {
                self.releases += 1;
                block.released = self.releases;
                self.evictable.insert(self.releases, id);
            } else {
                self.free.push(id);
            }
        }
    }

    /// Makes a held block, full of computed tokens, findable. A prefix that another block is cached as stays with that one.
    pub fn remember(&mut self, id: BlockId, prefix: PrefixHash) {
        let block = &mut self.blocks[id as usize];
        debug_assert!(block.holders > 0 && block.prefix.is_none_or(|known| known == prefix));
        if self.prefix_caching && !self.cached.contains_key(&prefix) {
            self.cached.insert(prefix, id);
            block.prefix = Some(prefix);
        }
    }

    /// Panics unless every block is in exactly one state and its holders are those of the tables given.
    #[cfg(test)]
    pub fn assert_consistent<'a>(&self, tables: impl Iterator<Item = &'a [BlockId]>) {
        let mut holders = vec![0; self.total()];
        tables.flatten().for_each(|&id| holders[id as usize] += 1);
        let (mut free, mut evictable) = (self.free.clone(), self.evictable.values().copied().collect::<Vec<_>>());
        free.sort_unstable();
        evictable.sort_unstable();
        for (id, block) in (0..).zip(&self.blocks) {
            assert_eq!(block.holders, holders[id as usize], "holders of block {id}");
            let unheld = block.holders == 0;
            assert_eq!(free.iter().filter(|&&f| f == id).count() == 1, unheld && block.prefix.is_none(), "block {id}");
            assert_eq!(evictable.binary_search(&id).is_ok(), unheld && block.prefix.is_some(), "block {id}");
            if let Some(prefix) = block.prefix {
                assert_eq!(self.cached.get(&prefix), Some(&id));
            }
        }
        assert_eq!(free.len() + evictable.len() + holders.iter().filter(|&&h| h > 0).count(), self.total());
        assert_eq!(self.cached.len(), self.blocks.iter().filter(|block| block.prefix.is_some()).count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(tokens: &[u32]) -> Vec<PrefixHash> {
        let mut prefix = PrefixHash::EMPTY;
        let longer = |block: &[u32]| {
            prefix = prefix.extend(block);
            prefix
        };
        tokens.chunks_exact(2).map(longer).collect()
    }

    /// Takes blocks for all tokens and remembers them, two tokens a block.
    fn fill(pool: &mut BlockPool, tokens: &[u32]) -> Vec<BlockId> {
        let table: Vec<_> = tokens.chunks_exact(2).map(|_| pool.take().expect("a block is left")).collect();
        table.iter().zip(chain(tokens)).for_each(|(&id, prefix)| pool.remember(id, prefix));
        table
    }

    #[test]
    fn a_prefix_is_found_while_held_and_after() {
        let mut pool = BlockPool::new(4, 2, true);
        let table = fill(&mut pool, &[1, 2, 3, 4]);
        assert_eq!(pool.longest_prefix(&chain(&[1, 2, 3, 4, 5, 6])), table);
        assert_eq!(pool.longest_prefix(&chain(&[1, 2, 9, 9])), table[..1]);
        assert_eq!(pool.longest_prefix(&chain(&[3, 4])), [] as [u32; 0], "the same tokens after another prefix");
        pool.hold(&table);
        pool.release(&table);
        assert_eq!(pool.available(), 2);
        pool.release(&table);
        assert_eq!((pool.available(), pool.cached()), (4, 2));
        assert_eq!(pool.unheld(&table), 2);
        pool.hold(&table[..1]);
        pool.assert_consistent([&table[..1]].into_iter());
    }

    #[test]
    fn the_deepest_block_of_the_chain_released_longest_ago_goes_first() {
        let mut pool = BlockPool::new(4, 2, true);
        let (old, new) = (fill(&mut pool, &[1, 1, 2, 2]), fill(&mut pool, &[5, 5, 6, 6]));
        assert_eq!(pool.take(), None);
        pool.release(&old);
        pool.release(&new);
        let taken: Vec<_> = (0..4).map_while(|_| pool.take()).collect();
        assert_eq!(taken, [old[1], old[0], new[1], new[0]]);
        assert_eq!(pool.cached(), 0);
        pool.assert_consistent([taken.as_slice()].into_iter());
    }

    #[test]
    fn free_blocks_go_before_cached_ones() {
        let mut pool = BlockPool::new(2, 2, true);
        let cached = fill(&mut pool, &[1, 1]);
        pool.release(&cached);
        assert_ne!(pool.take(), Some(cached[0]));
        assert_eq!(pool.longest_prefix(&chain(&[1, 1])), cached);
    }

    #[test]
    fn of_two_blocks_with_the_same_tokens_the_first_is_cached() {
        let mut pool = BlockPool::new(2, 2, true);
        let (first, second) = (fill(&mut pool, &[1, 1]), fill(&mut pool, &[1, 1]));
        assert_eq!(pool.longest_prefix(&chain(&[1, 1])), first);
        pool.release(&second);
        assert_eq!((pool.free.clone(), pool.cached()), (second, 1));
    }

    #[test]
    fn without_prefix_caching_nothing_is_remembered() {
        let mut pool = BlockPool::new(2, 2, false);
        let table = fill(&mut pool, &[1, 1]);
        pool.release(&table);
        assert_eq!((pool.cached(), pool.available()), (0, 2));
    }

    #[test]
    #[should_panic(expected = "released twice")]
    fn a_block_is_not_released_twice() {
        let mut pool = BlockPool::new(1, 2, true);
        let table = fill(&mut pool, &[1, 1]);
        pool.release(&table);
        pool.release(&table);
    }
}
