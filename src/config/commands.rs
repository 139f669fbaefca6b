//! Flags of the commands that speak to a server: `run-batch`, `chat`, `complete`; of `inspect`, `fetch`, `selftest` and
//! `collect-env`.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, ValueEnum};

use super::{Device, LoadingFlags};

/// Which server a command speaks to.
#[derive(Debug, Clone, Args)]
pub struct ServerFlags {
    /// A server that runs already, for instance http://127.0.0.1:8000; absent: one is started, and ended with the command.
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// The key to send, where the server at --url asks for one.
    #[arg(long, value_name = "KEY", env = "SHARDWIRE_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// What was given for a server of its own, as `serve` reads it.
    #[arg(skip)]
    pub serve_words: Vec<OsString>,
}

/// Flags of `shardwire inspect`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct InspectFlags {
    /// A folder as Hugging Face publishes it, a .gguf file, or a hub name; absent: the default model.
    #[arg(value_name = "DIR|FILE.gguf|HUB_ID")]
    pub model: Option<String>,
    /// Which of the hub's models, and where they are kept.
    #[command(flatten)]
    pub hub: HubFlags,
    /// How it would be loaded.
    #[command(flatten)]
    pub loading: LoadingFlags,
    /// Tokens of a sequence, for what its keys and values need; absent: the model's longest.
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub max_model_len: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `shardwire run-batch`.
#[derive(Debug, Args)]
pub struct RunBatchFlags {
    /// The requests: one JSON object per line, {"custom_id", "method", "url", "body"}.
    #[arg(short, long, value_name = "FILE.jsonl")]
    pub input_file: PathBuf,
    /// The answers, one per line, in the order in which they come. What the file holds already is not asked again.
    #[arg(short, long, value_name = "FILE.jsonl")]
    pub output_file: PathBuf,
    /// Requests sent at once.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub parallel: u16,
    /// How long one answer may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub request_timeout: u64,
    /// The server.
    #[command(flatten)]
    pub server: ServerFlags,
}

/// Flags of `shardwire chat` and `shardwire complete`.
#[derive(Debug, Args)]
pub struct ChatFlags {
    /// The server.
    #[command(flatten)]
    pub server: ServerFlags,
    /// With --url: the model's name in requests; else the model to serve.
    #[arg(long, alias = "model-name", value_name = "NAME|DIR|FILE.gguf")]
    pub model: Option<String>,
    /// What the model is told before the conversation (chat only).
    #[arg(long, alias = "system-prompt", value_name = "TEXT")]
    pub system: Option<String>,
    /// Ask only this, print the answer and leave.
    #[arg(short, long, value_name = "TEXT")]
    pub quick: Option<String>,
    /// No line of figures after an answer.
    #[arg(long)]
    pub quiet: bool,
    /// How answers are sampled.
    #[command(flatten)]
    pub sampling: SamplingFlags,
}

/// Sampling parameters, checked by the server.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingFlags {
    /// Longest answer.
    #[arg(long, value_name = "TOKENS")]
    pub max_tokens: Option<u64>,
    /// 0 always takes the likeliest token.
    #[arg(long, value_name = "X")]
    pub temperature: Option<f64>,
    /// Share of the likeliest tokens to choose from.
    #[arg(long, value_name = "SHARE")]
    pub top_p: Option<f64>,
    /// Number of the likeliest tokens to choose from.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub top_k: Option<i64>,
    /// Least probability, relative to the likeliest token's.
    #[arg(long, value_name = "SHARE")]
    pub min_p: Option<f64>,
    /// Above 1: tokens that occurred become less likely.
    #[arg(long, value_name = "X")]
    pub repetition_penalty: Option<f64>,
    /// The same seed gives the same answers.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// A text that ends an answer; repeatable.
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Whether a model that can think does so before it answers.
    #[arg(long, value_name = "true|false")]
    pub enable_thinking: Option<bool>,
}

/// Which of the hub's models, and where they are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct HubFlags {
    /// Branch, tag or commit of a model that is named by its hub name; absent: main (which FastDeploy calls master).
    #[arg(long, value_name = "REV", help_heading = "Model")]
    pub revision: Option<String>,
    /// Folder in which models of the hub are kept; absent: that of Hugging Face's own programs (HF_HUB_CACHE, HF_HOME).
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub download_dir: Option<PathBuf>,
}

/// Flags of `shardwire fetch`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct FetchFlags {
    /// The model's name on Hugging Face's hub, OWNER/NAME or OWNER/NAME:QUANT; absent: the default model.
    #[arg(value_name = "HUB_ID")]
    pub model: Option<String>,
    /// Which of the hub's models, and where they are kept.
    #[command(flatten)]
    pub hub: HubFlags,
}

/// Flags of `shardwire selftest`.
#[derive(Debug, Args)]
pub struct SelftestFlags {
    /// Which devices: the processor, every visible GPU, or both.
    #[arg(long, value_enum, default_value = "auto")]
    pub device: Device,
    /// Measure the GPUs as well: microseconds and bytes per second of what decoding is made of; `small` only tries the
    /// measuring.
    #[arg(long, value_name = "SIZES", num_args = 0..=1, default_missing_value = "real", require_equals = true)]
    pub speed: Option<SpeedSizes>,
    /// Print JSON, when all is checked.
    #[arg(long)]
    pub json: bool,
}

/// How large what is measured is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SpeedSizes {
    /// As in a large model: takes half a gigabyte of a GPU.
    Real,
    /// As small as can be.
    Small,
}

/// Flags of `shardwire collect-env`.
#[derive(Debug, Args)]
pub struct CollectEnvFlags {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
