//! Every flag: name, default, bound and help, in one place.
//!
//! FastDeploy's flags keep their names, so that its commands run unchanged; [`ignored`] lists those without a meaning here.

mod argv;
mod bench;
mod choices;
mod commands;
mod ignored;
mod loading;
mod own_server;
mod traces;
mod values;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use workers::link::sampling::LOGPROBS_MAX;

pub use self::bench::{
    AskingFlags, BenchCommand, BenchEndpoint, BenchFlags, BenchKernelsFlags, BenchLatencyFlags, BenchLinkFlags,
    BenchOverheadFlags, BenchRecoverFlags, BenchServeFlags, BenchThroughputFlags, Dataset, PromptFlags,
};
pub use self::choices::{Device, GuidedDecodingBackend, LogFormat, PoolingKind};
pub use self::commands::{
    ChatFlags, CollectEnvFlags, FetchFlags, HubFlags, InspectFlags, RunBatchFlags, SamplingFlags, SelftestFlags,
    ServerFlags, SpeedSizes,
};
pub use self::loading::{LoadingFlags, PlainName};
pub use self::traces::TraceFlags;
pub use self::values::Speculative;
use self::values::{activation_bits, byte_count, early_stop, fraction, parser_name, speculative};
use crate::api::cors;
use crate::engine::{request::EarlyStop, speculation};
use crate::text::{reasoning::reasoning_names, tool_calls::tool_format_names};

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "shardwire", version, about = "Serves large language models from one machine", max_term_width = 110)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a model over HTTP.
    Serve(Box<ServeFlags>),
    /// Watch the ranks of a running server.
    Top(TopFlags),
    /// Talk to a model on the terminal.
    Chat(Box<ChatFlags>),
    /// Let a model continue what is typed.
    Complete(Box<ChatFlags>),
    /// Answer a file of requests (OpenAI's batch format); goes on where an earlier run ended.
    RunBatch(Box<RunBatchFlags>),
    /// Measure a server's speed, or this machine's kernels and link.
    Bench(BenchFlags),
    /// Tell what a model is and what it needs, without loading it.
    Inspect(InspectFlags),
    /// Print what a bug report needs to know about this machine.
    CollectEnv(CollectEnvFlags),
    /// Check that this machine's devices compute as they should.
    Selftest(SelftestFlags),
    /// Fetch a model, unless it is there, and print its path.
    Fetch(FetchFlags),
    /// One rank's process; started by `serve`, told what to do on its standard input.
    #[command(hide = true)]
    Worker,
}

/// Flags of `shardwire top`.
#[derive(Debug, Args)]
pub struct TopFlags {
    /// The server to watch.
    #[arg(long, default_value = "http://127.0.0.1:8000")]
    pub url: String,
    /// How often to ask it.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(50..=3_600_000))]
    pub interval_ms: u64,
    /// Print one plain table and leave; the default where the output is no terminal.
    #[arg(long)]
    pub once: bool,
    /// The key to send, where the server asks for one.
    #[arg(long, value_name = "KEY", env = "SHARDWIRE_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
}

/// Flags of `shardwire serve`. Of a flag that is given twice the last counts, as in FastDeploy.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct ServeFlags {
    /// A folder as Hugging Face publishes it, a .gguf file, or a name on its hub (OWNER/NAME, OWNER/NAME:QUANT), fetched
    /// once; absent: a small default model.
    #[arg(long, value_name = "DIR|FILE.gguf|HUB_ID", help_heading = "Model")]
    pub model: Option<String>,
    /// How it is loaded.
    #[command(flatten)]
    pub loading: LoadingFlags,
    /// Which of the hub's models, and where they are kept.
    #[command(flatten)]
    pub hub: HubFlags,
    /// The model's name in the API; turns on the checking of names.
    #[arg(long, value_name = "NAME", help_heading = "Model")]
    pub served_model_name: Option<String>,
    /// What to take the tokenizer from instead of the model: a folder, a tokenizer.json, tokenizer.model, tiktoken or GGUF file.
    #[arg(long, value_name = "DIR|FILE", help_heading = "Model")]
    pub tokenizer: Option<PathBuf>,
    /// A Jinja chat template, or a file holding one, instead of the model's.
    #[arg(long, value_name = "FILE|TEXT", help_heading = "Model")]
    pub chat_template: Option<String>,
    /// Read special tokens that are spelled out in messages as ordinary text (an assistant's messages excepted).
    #[arg(long, help_heading = "Model")]
    pub no_special_tokens_in_content: bool,
    /// Longest sequence, prompt and completion, in tokens; absent: the model's own limit, lowered to what the KV cache holds.
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(2..=16_777_216), help_heading = "Model")]
    pub max_model_len: Option<u32>,
    /// Completion length where a request names none; absent: 16 for completions, the rest of the context for chats.
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Model")]
    pub default_max_tokens: Option<u32>,
    /// How the model marks its reasoning, so that answers tell it apart from content.
    #[arg(long, value_name = "NAME", value_parser = parser_name(reasoning_names), help_heading = "Model")]
    pub reasoning_parser: Option<String>,
    /// How the model writes tool calls, so that answers tell them apart from content.
    #[arg(long, value_name = "NAME", value_parser = parser_name(tool_format_names), help_heading = "Model")]
    pub tool_call_parser: Option<String>,
    /// Who keeps answers to a given form (JSON schemas, regular expressions, grammars). There is one, so that all names
    /// but `off` mean the same.
    #[arg(long, value_enum, default_value = "auto", help_heading = "Model")]
    pub guided_decoding_backend: GuidedDecodingBackend,
    /// JSON that is asked for has no white space between its tokens.
    #[arg(long, help_heading = "Model")]
    pub guided_decoding_disable_any_whitespace: bool,
    /// Let requests bring a chat template: a program, which can cost seconds and memory. For clients that are trusted.
    #[arg(long, help_heading = "Model")]
    pub trust_request_chat_template: bool,
    /// Allow requests to ask for log-probabilities.
    #[arg(long, help_heading = "Model")]
    pub enable_logprob: bool,
    /// Most alternatives that a request may ask log-probabilities of.
    #[arg(long, value_name = "N", default_value_t = LOGPROBS_MAX, value_parser = clap::value_parser!(u32).range(..=i64::from(LOGPROBS_MAX)), help_heading = "Model")]
    pub max_logprobs: u32,
    /// On the CPU: bits of an activation where it is multiplied with quantized weights. 8, as llama.cpp has it, is faster with
    /// many tokens at once, and less exact.
    #[arg(long, value_name = "8|16", default_value_t = 16, value_parser = activation_bits(), help_heading = "Model")]
    pub activation_bits: u8,
    /// End a text that repeats itself (--early-stop-config says when).
    #[arg(long, help_heading = "Model")]
    pub enable_early_stop: bool,
    /// A text repeats itself once `window_size` tokens in a row were each more likely than `threshold`.
    #[arg(long, value_name = "JSON", default_value = values::EARLY_STOP_DEFAULT, value_parser = early_stop, help_heading = "Model")]
    pub early_stop_config: EarlyStop,
    /// How embeddings are made, where a request doesn't say.
    #[arg(long, value_enum, default_value = "mean", help_heading = "Model")]
    pub pooling: PoolingKind,

    /// Address to listen at.
    #[arg(long, default_value = "0.0.0.0", help_heading = "HTTP")]
    pub host: String,
    /// Port to listen at; 0 chooses a free one and the ready line names it.
    #[arg(long, default_value_t = 8000, help_heading = "HTTP")]
    pub port: u16,
    /// A second port that answers /metrics too.
    #[arg(long, value_name = "PORT", help_heading = "HTTP")]
    pub metrics_port: Option<u16>,
    /// Speak TLS: a certificate and those above it, as PEM. Files that have changed are read again.
    #[arg(long, value_name = "FILE", requires = "ssl_keyfile", help_heading = "HTTP")]
    pub ssl_certfile: Option<PathBuf>,
    /// The certificate's private key, as PEM, without a password.
    #[arg(long, value_name = "FILE", requires = "ssl_certfile", help_heading = "HTTP")]
    pub ssl_keyfile: Option<PathBuf>,
    /// Threads that speak HTTP; absent: one per four cores, at least one.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "HTTP")]
    pub workers: Option<u16>,
    /// A key that clients must send as `Authorization: Bearer KEY`; repeatable. SHARDWIRE_API_KEY takes a comma list.
    #[arg(
        long,
        value_name = "KEY",
        env = "SHARDWIRE_API_KEY",
        hide_env_values = true,
        value_delimiter = ',',
        help_heading = "HTTP"
    )]
    pub api_key: Vec<String>,
    /// Most responses of /v1/responses that are kept for clients to come back to, for a day; 0: none.
    #[arg(long, value_name = "N", default_value_t = 1024, help_heading = "HTTP")]
    pub max_stored_responses: u32,
    /// Most requests that each key may send in a minute (without keys: all clients together); more are answered 429.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "HTTP")]
    pub rate_limit_requests: Option<u32>,
    /// Most tokens that each key may use in a minute, prompts and completions; counted when they have been used.
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..), help_heading = "HTTP")]
    pub rate_limit_tokens: Option<u32>,
    /// Origins whose pages may read answers in a browser: * or a list.
    #[arg(long, value_name = "LIST", default_value = "*", value_parser = cors::origins, help_heading = "HTTP")]
    allowed_origins: cors::Allowed,
    /// Methods that those pages may use.
    #[arg(long, value_name = "LIST", default_value = "*", value_parser = cors::methods, help_heading = "HTTP")]
    allowed_methods: cors::Allowed,
    /// Headers that those pages may send.
    #[arg(long, value_name = "LIST", default_value = "*", value_parser = cors::headers, help_heading = "HTTP")]
    allowed_headers: cors::Allowed,
    /// Let those pages send cookies and the like. Name the origins then: any page could use this server otherwise.
    #[arg(long, help_heading = "HTTP")]
    allow_credentials: bool,
    /// Most requests open at once; more are answered 429.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1_000_000), help_heading = "HTTP")]
    pub max_concurrency: u32,
    /// Longest time a request may wait for its turn before it is answered 408; -1 is for ever.
    #[arg(long, value_name = "SECONDS", default_value_t = -1, allow_hyphen_values = true, value_parser = clap::value_parser!(i64).range(-1..=31_536_000), help_heading = "HTTP")]
    pub max_waiting_time: i64,
    /// The same bound by FastDeploy's other name for it; the shorter of the two counts. -1 is for ever.
    #[arg(long, value_name = "SECONDS", default_value_t = 900, allow_hyphen_values = true, value_parser = clap::value_parser!(i64).range(-1..=31_536_000), help_heading = "HTTP")]
    pub scheduler_ttl: i64,
    /// Most sequences that may wait while --max-num-seqs others are computed; more are answered 429. -1 leaves it to
    /// --max-concurrency.
    #[arg(long, value_name = "N", default_value_t = -1, allow_hyphen_values = true, value_parser = clap::value_parser!(i64).range(-1..=1_000_000), help_heading = "HTTP")]
    pub scheduler_max_size: i64,
    /// Largest request body (K, M, G suffixes); larger ones are answered 413.
    #[arg(long, value_name = "BYTES", default_value = "32M", value_parser = byte_count, help_heading = "HTTP")]
    pub max_body_size: u64,
    /// Have no page for people at /.
    #[arg(long, help_heading = "HTTP")]
    pub disable_page: bool,
    /// At SIGTERM or SIGINT: how long running requests may go on before they are ended.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(..=86_400), help_heading = "HTTP")]
    pub timeout_graceful_shutdown: u64,

    /// Where the model runs; auto takes what is there.
    #[arg(long, value_enum, default_value = "auto", help_heading = "Ranks")]
    pub device: Device,
    /// On GPUs, start every kernel by itself: steps are not recorded as CUDA graphs.
    #[arg(long, help_heading = "Ranks")]
    pub enforce_eager: bool,
    /// On GPUs, leave small all-reduces to NCCL as well, rather than do them in memory that all GPUs have mapped.
    #[arg(long, help_heading = "Ranks")]
    pub disable_custom_all_reduce: bool,
    /// On GPUs, begin a step only when the tokens of the one before are known to the server.
    #[arg(long, help_heading = "Ranks")]
    pub disable_overlap_schedule: bool,
    /// CPU threads of a rank; absent: cores ÷ ranks.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024), help_heading = "Ranks")]
    pub threads_per_rank: Option<u32>,
    /// Restarts of the group of ranks within 10 minutes before giving up (exit code 3).
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(..=1000), help_heading = "Ranks")]
    pub max_restarts: u32,
    /// Work outstanding and no step finished for this long: the group is restarted.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400), help_heading = "Ranks")]
    pub stall_timeout: u64,
    /// Folder of the logs: workerlog.N per rank, server.log.
    #[arg(long, value_name = "DIR", env = "FD_LOG_DIR", default_value = "log", help_heading = "Ranks")]
    pub log_dir: PathBuf,
    /// How lines of logs are written: for people, or one JSON object each.
    #[arg(long, value_enum, env = workers::LOG_FORMAT, default_value = "text", help_heading = "Ranks")]
    pub log_format: LogFormat,

    /// Whether requests are traced.
    #[command(flatten)]
    pub traces: TraceFlags,

    /// Most sequences computed at once.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096), help_heading = "Scheduling and memory")]
    pub max_num_seqs: u32,
    /// Most tokens computed in a step; longer prompts are computed in chunks of this.
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1_048_576), help_heading = "Scheduling and memory")]
    pub max_num_batched_tokens: u32,
    /// Most tokens of prompts in a step while other sequences wait for their next token; 0: as many as a step has. Absent:
    /// 32 on the CPU, 0 on GPUs.
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(..=1_048_576), help_heading = "Scheduling and memory")]
    pub long_prefill_token_threshold: Option<u32>,
    /// Tokens in a KV block.
    #[arg(long, value_name = "TOKENS", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024), help_heading = "Scheduling and memory")]
    pub block_size: u32,
    /// Memory for the KV cache of all ranks together (K, M, G suffixes); absent: what the sequences can need, at most a
    /// quarter of the available memory.
    #[arg(long, value_name = "BYTES", value_parser = byte_count, help_heading = "Scheduling and memory")]
    pub kv_cache_memory: Option<u64>,
    /// Number of KV blocks, instead of deriving it from memory.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16_777_216), help_heading = "Scheduling and memory")]
    pub num_gpu_blocks_override: Option<u32>,
    /// Share of a GPU's memory to use (on the CPU: --kv-cache-memory).
    #[arg(long, value_name = "SHARE", default_value_t = 0.9, value_parser = fraction, help_heading = "Scheduling and memory")]
    pub gpu_memory_utilization: f64,
    /// Draft next tokens where the same words stood before, e.g. '{"method": "ngram", "num_speculative_tokens": 5}': no
    /// answer changes, those that repeat their prompt or themselves come sooner.
    #[arg(long, value_name = "JSON", value_parser = speculative, help_heading = "Scheduling and memory")]
    pub speculative_config: Option<Speculative>,
    /// Share the KV blocks of equal prompt beginnings (the default).
    #[arg(long, overrides_with = "no_enable_prefix_caching", help_heading = "Scheduling and memory")]
    enable_prefix_caching: bool,
    /// Compute every prompt from its first token.
    #[arg(long, action = ArgAction::SetTrue, help_heading = "Scheduling and memory")]
    no_enable_prefix_caching: bool,

    /// With --device null: how long a step takes.
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0, hide = true)]
    pub null_step_us: u64,

    /// The process with which this server ends, where a command of ours started it.
    #[arg(long, value_name = "PID", hide = true)]
    pub end_with_parent: Option<u32>,

    /// What was said on the command line without a meaning here: one sentence each, to be logged.
    #[arg(skip)]
    pub warnings: Vec<String>,
}

impl ServeFlags {
    /// Whether equal prompt beginnings share their KV blocks.
    pub fn prefix_caching(&self) -> bool {
        !self.no_enable_prefix_caching
    }

    /// Whether tokens are drafted, and how.
    pub fn speculation(&self) -> Option<speculation::Settings> {
        match self.speculative_config {
            Some(Speculative::Ngram(settings)) => Some(settings),
            Some(Speculative::Mtp) | None => None,
        }
    }

    /// Most tokens of prompts in a step while other sequences wait for their next token.
    pub fn prompt_tokens_beside(&self, on_gpus: bool) -> usize {
        /// A CPU takes as long for each token of a step: 32 are about six steps of one token alone.
        const ON_THE_CPU: u32 = 32;
        let all = if on_gpus { 0 } else { ON_THE_CPU };
        match self.long_prefill_token_threshold.unwrap_or(all) {
            0 => self.max_num_batched_tokens as usize,
            tokens => tokens as usize,
        }
    }

    /// How long a request may wait for its turn; none: for ever.
    pub fn waiting_time_max(&self) -> Option<Duration> {
        let limits = [self.max_waiting_time, self.scheduler_ttl];
        limits.into_iter().filter_map(|seconds| u64::try_from(seconds).ok()).min().map(Duration::from_secs)
    }

    /// What pages of other origins may do.
    pub fn cors(&self) -> cors::CorsPolicy {
        cors::CorsPolicy {
            origins: self.allowed_origins.clone(),
            methods: self.allowed_methods.clone(),
            headers: self.allowed_headers.clone(),
            credentials: self.allow_credentials,
        }
    }
}

impl CommandLine {
    /// Reads the arguments as clap does (its errors, exit code 2), with FastDeploy's spellings and flags accepted too.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let matches = Self::definition().try_get_matches_from(arguments.into_iter().map(argv::modern_spelling))?;
        let mut line = Self::from_arg_matches(&matches)?;
        let Some((_, given)) = matches.subcommand() else { return Ok(line) };
        match &mut line.command {
            Command::Serve(flags) => flags.warnings = ignored::warnings(given),
            Command::Chat(flags) | Command::Complete(flags) => {
                flags.server.serve_words = own_server::words_for_serve(given);
            }
            Command::RunBatch(flags) => flags.server.serve_words = own_server::words_for_serve(given),
            Command::Bench(flags) => {
                if let (Some(server), Some((_, given))) = (flags.command.server_mut(), given.subcommand()) {
                    server.serve_words = own_server::words_for_serve(given);
                }
            }
            _ => {}
        }
        Ok(line)
    }

    /// What clap knows: the definitions above, FastDeploy's further flags, and `serve`'s flags where a command starts
    /// a server of its own.
    fn definition() -> clap::Command {
        let serving = |command: clap::Command| command.args(ignored::arguments());
        let own_server =
            |command: clap::Command, name: &&str| command.mut_subcommand(name, own_server::with_flags_of_serve);
        let benches = |bench| BenchCommand::WITH_SERVER.iter().fold(bench, own_server);
        let command = Self::command().mut_subcommand("serve", serving).mut_subcommand("bench", benches);
        ["chat", "complete", "run-batch"].iter().fold(command, own_server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(arguments: &str) -> Result<ServeFlags, clap::Error> {
        let words = ["shardwire", "serve"].into_iter().chain(arguments.split_whitespace()).map(OsString::from);
        match CommandLine::read(words)?.command {
            Command::Serve(flags) => Ok(*flags),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn clap_accepts_the_definition() {
        CommandLine::definition().debug_assert();
    }

    #[test]
    fn flags_for_an_own_server_are_handed_on_as_they_were_given() {
        let words = |line: &str| -> Result<Vec<OsString>, clap::Error> {
            let words = ["shardwire"].into_iter().chain(line.split_whitespace()).map(OsString::from);
            Ok(match CommandLine::read(words)?.command {
                Command::Chat(flags) => flags.server.serve_words,
                Command::RunBatch(flags) => flags.server.serve_words,
                Command::Bench(mut flags) => flags.command.server_mut().expect("a server").serve_words.clone(),
                other => panic!("{other:?}"),
            })
        };
        let batch = "run-batch -i in.jsonl -o out.jsonl";
        assert!(words(batch).unwrap().is_empty());
        let given = words(&format!("{batch} -tp 2 --enable_logprob --model m --api-key k --swap-space 4")).unwrap();
        let expected = ["--model=m", "--tensor-parallel-size=2", "--enable-logprob", "--swap-space=4"];
        assert_eq!(given, expected.map(OsString::from));
        assert_eq!(words("chat --model m --seed 1").unwrap(), ["--model=m"].map(OsString::from));
        // A load's concurrency is not the bound that a server sets.
        let bench = words("bench serve --model m --max-concurrency 1,4 -tp 2 --input-len 8 --seed 1").unwrap();
        assert_eq!(bench, ["--model=m", "--tensor-parallel-size=2"].map(OsString::from));
        assert_eq!(words("bench latency --max-concurrency 9").unwrap(), ["--max-concurrency=9"].map(OsString::from));
        // A model's name makes sense with another's server, all else does not.
        assert!(words("bench throughput --url http://h --model m").is_ok());
        assert!(words("chat --url http://h --model m").is_ok());
        for line in ["chat --url http://h --max-num-seqs 2", "run-batch -i a -o b --url http://h --model m"] {
            let error = words(line).unwrap_err();
            assert!(error.to_string().contains("--url") && error.exit_code() == 2, "{line}: {error}");
        }
    }

    #[test]
    fn a_whole_command_is_understood() {
        let flags = serve("--model m --port 8188 --tensor-parallel-size 8 --max-model-len 32768").unwrap();
        assert_eq!((flags.port, flags.loading.tensor_parallel_size, flags.max_model_len), (8188, 8, Some(32768)));
        assert!(flags.warnings.is_empty() && flags.prefix_caching());
    }

    #[test]
    fn a_model_of_the_hub_is_named_with_its_revision_and_folder() {
        let flags = serve("--model o/n:Q8_0 --revision v1 --download_dir /models").unwrap();
        let expected = HubFlags { revision: Some("v1".into()), download_dir: Some("/models".into()) };
        assert_eq!((flags.model.as_deref(), &flags.hub), (Some("o/n:Q8_0"), &expected));
        assert!(flags.warnings.is_empty());
        let words = "shardwire fetch o/n --revision v0 --revision v1 --download-dir /models";
        match CommandLine::read(words.split(' ').map(OsString::from)).unwrap().command {
            Command::Fetch(flags) => assert_eq!((flags.model.as_deref(), flags.hub), (Some("o/n"), expected)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn other_spellings_mean_the_same() {
        for line in
            ["-tp 4", "-tp=4", "--tensor_parallel_size 4", "--tensor_parallel_size=4", "--tensor-parallel-size=4"]
        {
            assert_eq!(serve(line).unwrap().loading.tensor_parallel_size, 4, "{line}");
        }
        assert!(!serve("--no-enable-prefix-caching").unwrap().prefix_caching());
        assert!(serve("--no-enable-prefix-caching --enable-prefix-caching").unwrap().prefix_caching());
        assert_eq!(serve("--reasoning-parser ernie_x1").unwrap().reasoning_parser.as_deref(), Some("ernie-x1"));
        assert_eq!(serve("--kv-cache-memory 2G").unwrap().kv_cache_memory, Some(2 << 30));
        for name in ["fp8", "fp8_e4m3", "float8_e4m3fn"] {
            let flags = serve(&format!("--kv-cache-dtype {name}")).unwrap();
            assert_eq!(flags.loading.kv_cache_dtype, loading::KvCacheType::Fp8, "{name}");
        }
        assert_eq!(serve("--port 1 --port 2").unwrap().port, 2);
        assert_eq!(serve("--api-key a --api-key b,c").unwrap().api_key, ["a", "b", "c"]);
    }

    #[test]
    fn the_shorter_of_two_waits_counts() {
        for (line, seconds) in [
            ("", Some(900)),
            ("--max-waiting-time 30", Some(30)),
            ("--scheduler-ttl 20 --max-waiting-time 30", Some(20)),
            ("--max-waiting-time 1000", Some(900)),
            ("--scheduler-ttl -1 --max-waiting-time 1000", Some(1000)),
            ("--scheduler_ttl -1", None),
        ] {
            assert_eq!(serve(line).unwrap().waiting_time_max(), seconds.map(Duration::from_secs), "{line}");
        }
    }

    #[test]
    fn flags_without_meaning_are_warned_of_once_each() {
        let flags = serve("--engine-worker-queue-port 9000 --enable-chunked-prefill --swap_space 4").unwrap();
        assert_eq!(flags.warnings.len(), 3, "{:?}", flags.warnings);
        assert!(flags.warnings.iter().any(|warning| warning.contains("--swap-space")));
    }

    #[test]
    fn what_is_out_of_bounds_names_its_flag() {
        for (line, flag) in [
            ("--port 70000", "--port"),
            ("--tensor-parallel-size 0", "--tensor-parallel-size"),
            ("--max-num-seqs 0", "--max-num-seqs"),
            ("--max-waiting-time -2", "--max-waiting-time"),
            ("--gpu-memory-utilization 1.5", "--gpu-memory-utilization"),
            ("--kv-cache-memory lots", "--kv-cache-memory"),
            ("--reasoning-parser nobody", "qwen3"),
            ("--no-such-flag", "--no-such-flag"),
        ] {
            let error = serve(line).unwrap_err();
            assert!(error.to_string().contains(flag) && error.exit_code() == 2, "{line}: {error}");
        }
    }
}
