//! How much memory the KV cache gets, and how long a sequence may be then.

use std::fs;

/// What the KV cache is planned from.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// Bytes of one block on the rank that needs most.
    pub block_bytes: u64,
    /// Tokens in a block.
    pub block_size: u64,
    /// Ranks, each with a cache of its own.
    pub ranks: u64,
    /// Sequences at once.
    pub sequences: u64,
    /// The model's own limit, tokens.
    pub model_len: u64,
    /// The user's limit, tokens.
    pub wanted_len: Option<u64>,
    /// The user's memory for all ranks, bytes.
    pub wanted_bytes: Option<u64>,
    /// The user's number of blocks.
    pub wanted_blocks: Option<u64>,
    /// The most that all ranks' caches may take where the user says nothing, bytes.
    pub allowed_bytes: u64,
}

/// What each rank is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Bytes of each rank's cache.
    pub bytes_per_rank: u64,
    /// Blocks that fit.
    pub blocks: u64,
    /// Longest sequence, tokens.
    pub max_model_len: u64,
}

impl Wish {
    /// The user's word where there is one; else what the sequences can need at full length, at most what is allowed. The context is lowered to the model's and, unless the user named it, to what the cache holds.
    pub fn decide(self) -> Result<Decision, String> {
        let longest = self.wanted_len.unwrap_or(self.model_len).min(self.model_len);
        let blocks = self.blocks(longest);
        let held = blocks * self.block_size;
        if held < 2 {
            return Err(format!(
                "the KV cache would hold no block of {} tokens ({} bytes on each of {} ranks); raise --kv-cache-memory",
                self.block_size, self.block_bytes, self.ranks
            ));
        }
        let max_model_len = if self.wanted_len.is_some() { longest } else { longest.min(held) };
        Ok(Decision { bytes_per_rank: blocks * self.block_bytes, blocks, max_model_len })
    }

    fn blocks(&self, longest: u64) -> u64 {
        if let Some(blocks) = self.wanted_blocks {
            return blocks;
        }
        let block_of_all = (self.block_bytes * self.ranks).max(1);
        match self.wanted_bytes {
            Some(bytes) => bytes / block_of_all,
            None => (self.allowed_bytes / block_of_all).min(longest.div_ceil(self.block_size) * self.sequences),
        }
    }
}

/// What the caches of `ranks` ranks may take on GPUs of `memory_bytes` each, of which `share` may be used, beside
/// `weight_bytes` of weights: an estimate, for each rank measures what is left when it has loaded.
pub fn allowed_on_gpus(memory_bytes: u64, share: f64, weight_bytes: u64, ranks: u64) -> u64 {
    /// A part of the memory is for activations, and for the driver itself.
    const RESERVE: f64 = 0.04;
    let usable = (memory_bytes as f64 * (share - RESERVE).max(0.0)) as u64;
    usable.saturating_sub(weight_bytes) * ranks
}

/// Memory that could be taken without hurting anybody, bytes: the system's, or what the control group leaves.
pub fn available_bytes() -> u64 {
    let system = fs::read_to_string("/proc/meminfo").ok().and_then(|text| mem_available(&text));
    let group = || {
        let number = |name| fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse::<u64>().ok();
        Some(number("memory.max")?.saturating_sub(number("memory.current")?))
    };
    // Where nothing can be read, a gigabyte is a modest guess.
    system.into_iter().chain(group()).min().unwrap_or(1 << 30)
}

fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WISH: Wish = Wish {
        block_bytes: 1000,
        block_size: 64,
        ranks: 2,
        sequences: 4,
        model_len: 6400,
        wanted_len: None,
        wanted_bytes: None,
        wanted_blocks: None,
        allowed_bytes: 1 << 38,
    };

    fn check(wish: Wish, expected: (u64, u64)) {
        let decision = wish.decide().unwrap();
        assert_eq!((decision.blocks, decision.max_model_len), expected, "{wish:?}");
        assert_eq!(decision.bytes_per_rank, decision.blocks * wish.block_bytes);
    }

    #[test]
    fn plenty_of_memory_gives_what_the_sequences_can_need() {
        check(WISH, (400, 6400));
        check(Wish { wanted_len: Some(640), ..WISH }, (40, 640));
        check(Wish { wanted_len: Some(1 << 20), ..WISH }, (400, 6400));
    }

    #[test]
    fn little_memory_shortens_the_context_unless_it_was_named() {
        check(Wish { allowed_bytes: 2 * 1000 * 10, ..WISH }, (10, 640));
        check(Wish { wanted_bytes: Some(2 * 1000 * 10), ..WISH }, (10, 640));
        check(Wish { wanted_blocks: Some(3), ..WISH }, (3, 192));
        check(Wish { wanted_blocks: Some(3), wanted_len: Some(1000), ..WISH }, (3, 1000));
    }

    #[test]
    fn no_block_at_all_is_refused() {
        let error = Wish { wanted_bytes: Some(1999), ..WISH }.decide().unwrap_err();
        assert!(error.contains("--kv-cache-memory"), "{error}");
    }

    #[test]
    fn meminfo_is_read() {
        assert_eq!(mem_available("MemTotal: 5 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        assert!(available_bytes() > 0);
    }
}
