//! `shardwire inspect`: what a model is, what each rank would hold of it, and whether it fits this machine. Nothing is
//! loaded.

mod print;

use std::process::ExitCode;

use serde_json::{Value, json};
use workers::{
    KvDType,
    layers::{Inventory, Shard},
    models::{self, ModelConfig, kv_shape},
    weights::Checkpoint,
};

use crate::{config::InspectFlags, hub, serve::memory::available_bytes};

/// Prints what it finds. Exit code 2 where the model can't be loaded, with the same line that `serve` would end with.
pub fn run(flags: &InspectFlags) -> ExitCode {
    match Findings::of(flags) {
        Ok(findings) if flags.json => println!("{:#}", findings.json()),
        Ok(findings) => print!("{}", findings.text()),
        Err(line) => {
            eprintln!("shardwire: {line}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// All that there is to tell.
struct Findings {
    path: String,
    file_bytes: u64,
    config: ModelConfig,
    /// The whole model on one rank.
    whole: Inventory,
    ranks: Vec<RankNeeds>,
    kv_dtype: KvDType,
    /// Tokens of the sequence whose keys and values are counted.
    sequence_tokens: u64,
    available_bytes: u64,
}

/// What one rank needs.
struct RankNeeds {
    weights: Inventory,
    kv_bytes_per_token: u64,
}

impl Findings {
    fn of(flags: &InspectFlags) -> Result<Self, String> {
        let line = |error: workers::weights::LoadError| error.to_string();
        let path = hub::model_path(flags.model.as_deref(), &flags.hub)?;
        let weights = flags.loading.weights();
        let checkpoint = Checkpoint::open_with(&path, weights).map_err(line)?;
        let config = checkpoint.config().clone();
        let check = |world_size| models::check(&checkpoint, world_size, weights).map_err(line);
        let (world_size, kv_dtype) = (flags.loading.world_size(), flags.loading.kv_dtype(false, &config, 1)?);
        let inventories = check(world_size)?;
        let whole = if world_size == 1 { inventories[0].clone() } else { check(1)?.remove(0) };
        let needs = |(rank, weights)| {
            let shape = kv_shape(&config, Shard { rank, world_size }, 1, 1, kv_dtype);
            RankNeeds { weights, kv_bytes_per_token: shape.block_bytes() as u64 }
        };
        let longest = config.max_positions as u64;
        Ok(Self {
            path: path.display().to_string(),
            file_bytes: checkpoint.file_bytes(),
            whole,
            ranks: inventories.into_iter().enumerate().map(needs).collect(),
            kv_dtype,
            sequence_tokens: flags.max_model_len.map_or(longest, |wanted| longest.min(wanted.into())),
            available_bytes: available_bytes(),
            config,
        })
    }

    /// Weights of all ranks.
    fn weight_bytes(&self) -> u64 {
        self.ranks.iter().map(|rank| rank.weights.bytes()).sum()
    }

    /// Keys and values of one token on all ranks.
    fn kv_bytes_per_token(&self) -> u64 {
        self.ranks.iter().map(|rank| rank.kv_bytes_per_token).sum()
    }

    /// What weights and one sequence need.
    fn needed_bytes(&self) -> u64 {
        self.weight_bytes() + self.kv_bytes_per_token() * self.sequence_tokens
    }

    /// Tokens whose keys and values fit beside the weights.
    fn tokens_that_fit(&self) -> u64 {
        let left = self.available_bytes.saturating_sub(self.weight_bytes());
        left.checked_div(self.kv_bytes_per_token()).unwrap_or(0)
    }

    fn json(&self) -> Value {
        let config = &self.config;
        let formats = |inventory: &Inventory| {
            let amounts = inventory.formats.iter();
            amounts
                .map(|(name, amount)| (name.to_string(), json!({"weights": amount.weights, "bytes": amount.bytes})))
                .collect::<serde_json::Map<_, _>>()
        };
        let ranks = self.ranks.iter().enumerate().map(|(rank, needs)| {
            json!({
                "rank": rank,
                "weight_bytes": needs.weights.bytes(),
                "weights": formats(&needs.weights),
                "kv_bytes_per_token": needs.kv_bytes_per_token,
            })
        });
        json!({
            "path": self.path,
            "file_bytes": self.file_bytes,
            "architecture": config.architecture,
            "weights": self.whole.weights(),
            "layers": config.layers,
            "hidden_size": config.hidden_size,
            "heads": config.heads,
            "kv_heads": config.kv_heads,
            "head_dim": config.head_dim,
            "vocab_size": config.vocab_size,
            "max_positions": config.max_positions,
            "experts": config.moe.as_ref().map(|moe| moe.experts),
            "experts_per_token": config.moe.as_ref().map(|moe| moe.routing.chosen),
            "formats": formats(&self.whole),
            "ranks": ranks.collect::<Vec<_>>(),
            "weight_bytes": self.weight_bytes(),
            "kv_cache_dtype": self.kv_dtype,
            "kv_bytes_per_token": self.kv_bytes_per_token(),
            "sequence_tokens": self.sequence_tokens,
            "needed_bytes": self.needed_bytes(),
            "available_bytes": self.available_bytes,
            "fits": self.needed_bytes() <= self.available_bytes,
            "tokens_that_fit": self.tokens_that_fit(),
        })
    }
}
