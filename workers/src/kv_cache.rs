//! The memory behind block ids: how many blocks fit.

use kernels::KvShape;

/// The most blocks that a cache may have: slots are numbered by u32.
const SLOTS_MAX: u64 = 1 << 32;

/// How many blocks of `shape` (its own number of blocks is not looked at) fit into `bytes`.
pub fn blocks_in(shape: &KvShape, bytes: u64) -> usize {
    let blocks = bytes / shape.block_bytes().max(1) as u64;
    usize::try_from(blocks.min(SLOTS_MAX / shape.block_size.max(1) as u64)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use kernels::KvDType;

    use super::*;

    #[test]
    fn whole_blocks_only() {
        // SmolLM2: 30 layers × keys and values × 64 slots × 3 heads × 64 elements × 4 bytes.
        let shape = KvShape {
            layers: 30,
            blocks: 0,
            block_size: 64,
            kv_heads: 3,
            head_dim: 64,
            values_from: None,
            dtype: KvDType::F32,
        };
        let block_bytes = 30 * 2 * 64 * 3 * 64 * 4;
        let check = |bytes, blocks| assert_eq!(blocks_in(&shape, bytes), blocks, "{bytes} bytes");
        check(0, 0);
        check(block_bytes - 1, 0);
        check(block_bytes, 1);
        check(100 * block_bytes + 5, 100);
        check(u64::MAX, 1 << 26);
    }
}
