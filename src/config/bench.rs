//! Flags of `bench`. Where vLLM's and SGLang's tools have the same thing, it has their name.

mod machine;

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Args, Subcommand, ValueEnum};
use serde_json::{Map, Value};

pub use self::machine::{BenchKernelsFlags, BenchLinkFlags};
use super::{
    ServerFlags,
    values::{json_object, positive, share_below_one, svg_file},
};

/// Flags of `shardwire bench`.
#[derive(Debug, Args)]
pub struct BenchFlags {
    /// What to measure.
    #[command(subcommand)]
    pub command: BenchCommand,
}

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Put a load on a server, any that speaks OpenAI's protocol, and measure how it answers.
    Serve(Box<BenchServeFlags>),
    /// Send many requests at once and measure tokens per second.
    Throughput(Box<BenchThroughputFlags>),
    /// Ask for one batch at a time and measure how long its answers take.
    Latency(Box<BenchLatencyFlags>),
    /// Kill ranks of a server under load, and measure what becomes of its answers.
    Recover(Box<BenchRecoverFlags>),
    /// Stream from a server that computes nothing, and measure what a token costs it.
    Overhead(Box<BenchOverheadFlags>),
    /// Measure the CPU's operations, each beside what this machine could do at best.
    Kernels(BenchKernelsFlags),
    /// Measure how fast two processes talk through the link's rings.
    Link(BenchLinkFlags),
    /// The second of them; started by `bench link`, told what to do on its standard input.
    #[command(hide = true)]
    LinkEcho,
    /// What `bench overhead` compares with; started by it.
    #[command(hide = true)]
    EventLoop,
}

impl BenchCommand {
    /// Those that start a server where none is named.
    pub const WITH_SERVER: &[&str] = &["serve", "throughput", "latency", "recover", "overhead"];

    /// The server of those.
    pub fn server_mut(&mut self) -> Option<&mut ServerFlags> {
        match self {
            Self::Serve(flags) => Some(&mut flags.asking.server),
            Self::Throughput(flags) => Some(&mut flags.asking.server),
            Self::Latency(flags) => Some(&mut flags.asking.server),
            Self::Recover(flags) => Some(&mut flags.asking.server),
            Self::Overhead(flags) => Some(&mut flags.asking.server),
            Self::Kernels(_) | Self::Link(_) | Self::LinkEcho | Self::EventLoop => None,
        }
    }
}

/// Flags of `shardwire bench serve`.
#[derive(Debug, Args)]
pub struct BenchServeFlags {
    /// Who is asked, and how.
    #[command(flatten)]
    pub asking: AskingFlags,
    /// What is asked.
    #[command(flatten)]
    pub prompts: PromptFlags,
    /// Requests of a round; absent: four for each that is open at once, at least 8.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub num_prompts: Option<u32>,
    /// Requests open at once; several numbers, as in 1,4,16, are measured one after the other. Absent: 1,4,16, and no bound
    /// where there is a --request-rate.
    #[arg(
        // `serve` has a flag of the same name and another meaning.
        id = "concurrency_levels",
        long = "max-concurrency",
        value_name = "N,…",
        value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=65_536)
    )]
    pub max_concurrency: Vec<u32>,
    /// Requests that arrive per second, at random moments (a Poisson process). `inf`: the next is sent when one is answered.
    #[arg(long, value_name = "PER_SECOND", default_value = "inf", value_parser = positive)]
    pub request_rate: f64,
    /// How evenly they arrive: 1 as a Poisson process, less in bursts, more like clockwork.
    #[arg(long, value_name = "X", default_value = "1", value_parser = positive)]
    pub burstiness: f64,
    /// Requests that are sent before, and not measured.
    #[arg(long, alias = "num-warmups", value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(..=65_536))]
    pub warmup: u32,
    /// How often each level is measured; of every figure the median over the rounds is told.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// A picture of the figures: over the levels, or of a single level its distributions.
    #[arg(long, value_name = "FILE.svg", value_parser = svg_file)]
    pub plot: Option<PathBuf>,
}

/// Flags of `shardwire bench throughput`.
#[derive(Debug, Args)]
pub struct BenchThroughputFlags {
    /// Who is asked, and how.
    #[command(flatten)]
    pub asking: AskingFlags,
    /// What is asked.
    #[command(flatten)]
    pub prompts: PromptFlags,
    /// Requests, all sent at once.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub num_prompts: u32,
    /// Requests that are sent before, and not measured.
    #[arg(long, alias = "num-warmups", value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(..=65_536))]
    pub warmup: u32,
    /// How often it is measured; of every figure the median over the rounds is told.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
}

/// Flags of `shardwire bench latency`.
#[derive(Debug, Args)]
pub struct BenchLatencyFlags {
    /// Who is asked, and how.
    #[command(flatten)]
    pub asking: AskingFlags,
    /// Requests of a batch, sent at once.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub batch_size: u32,
    /// Batches that are measured, one after the other.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub num_iters: u32,
    /// Batches that are sent before, and not measured.
    #[arg(long, alias = "num-iters-warmup", value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(..=100_000))]
    pub warmup: u32,
}

/// Flags of `shardwire bench recover`.
#[derive(Debug, Args)]
pub struct BenchRecoverFlags {
    /// Who is asked, and how.
    #[command(flatten)]
    pub asking: AskingFlags,
    /// Answers that grow at once, each asked for again and again.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub streams: u32,
    /// Ranks that are killed, one after the other.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=999))]
    pub kills: u32,
    /// For how long all ranks are ready before the next one is killed. Below 3 s, the server pauses before it restarts them.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub every: Duration,
}

/// Flags of `shardwire bench overhead`.
#[derive(Debug, Args)]
pub struct BenchOverheadFlags {
    /// How it is asked.
    #[command(flatten)]
    pub asking: AskingFlags,
    /// Answers that are streamed at once.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub streams: u32,
    /// How often it is measured, in turns with the bare loop; of every figure the median over the rounds is told.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
}

/// Who is asked, how, and where the results go.
#[derive(Debug, Clone, Args)]
pub struct AskingFlags {
    /// The server.
    #[command(flatten)]
    pub server: ServerFlags,
    /// With --url: the model's name in requests (absent: the server's first); else the model to serve.
    #[arg(long, value_name = "NAME|DIR|FILE.gguf|HUB_ID")]
    pub model: Option<String>,
    /// Which endpoint: completions are asked with token ids, so that their prompts have the exact length; chats with text of
    /// about that length.
    #[arg(long, value_enum, default_value = "completions")]
    pub endpoint: BenchEndpoint,
    /// Tokens of a prompt.
    #[arg(long, alias = "random-input-len", value_name = "TOKENS", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub input_len: u32,
    /// Tokens of an answer; absent: 128, and with --dataset-path as long as the answer in the file.
    #[arg(long, alias = "random-output-len", value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub output_len: Option<u32>,
    /// The same seed asks the same again.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Whether answers go on until they have the wanted length; `false` leaves the field out, for servers that refuse it.
    #[arg(
        long,
        value_name = "true|false",
        default_value_t = true,
        num_args = 0..=1,
        default_missing_value = "true",
        action = ArgAction::Set
    )]
    pub ignore_eos: bool,
    /// Further fields of each request; they win over the command's own.
    #[arg(long, value_name = "JSON", value_parser = json_object)]
    pub extra_body: Option<Map<String, Value>>,
    /// How long one answer may take.
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = seconds)]
    pub request_timeout: Duration,
    /// All figures, and the times of every request.
    #[arg(long, value_name = "FILE.json")]
    pub json: Option<PathBuf>,
}

/// Tokens of an answer where nothing says it.
const OUTPUT_LEN_DEFAULT: u32 = 128;

impl AskingFlags {
    /// Tokens of an answer, in the mean.
    pub fn output_len(&self) -> u32 {
        self.output_len.unwrap_or(OUTPUT_LEN_DEFAULT)
    }
}

/// What is asked.
#[derive(Debug, Clone, Args)]
pub struct PromptFlags {
    /// How long prompts and answers are.
    #[arg(long, alias = "dataset-name", value_enum, default_value = "fixed")]
    pub dataset: Dataset,
    /// Conversations as ShareGPT has them; the first question of each is asked. They replace --dataset and --input-len.
    #[arg(long, value_name = "FILE.json")]
    pub dataset_path: Option<PathBuf>,
    /// With `fixed`: lengths vary evenly by this share, 0.2 for 80 to 120 percent.
    #[arg(long, alias = "random-range-ratio", value_name = "SHARE", default_value = "0", value_parser = share_below_one)]
    pub range_ratio: f64,
    /// So many tokens at the beginning are the same in all prompts, for a prefix cache to find.
    #[arg(long, alias = "random-prefix-len", value_name = "TOKENS", default_value_t = 0)]
    pub shared_prefix_len: u32,
}

impl PromptFlags {
    /// All of one length, that have nothing in common.
    pub const FIXED: Self =
        Self { dataset: Dataset::Fixed, dataset_path: None, range_ratio: 0.0, shared_prefix_len: 0 };
}

/// How long prompts and answers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dataset {
    /// As --input-len and --output-len say.
    #[value(alias = "random")]
    Fixed,
    /// Very unequal, with those means, as people's conversations are (log-normal).
    SharegptLike,
}

/// Which endpoint is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchEndpoint {
    /// /v1/chat/completions.
    Chat,
    /// /v1/completions.
    Completions,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..=604_800) => Ok(Duration::from_secs(seconds)),
        _ => Err("must be a whole number from 1 to 604800".into()),
    }
}
