//! Everything that is decided before anything is started: a server that can't work ends here, with one line.

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use workers::{
    KvDType,
    fault::{Fault, Place},
    gpus::{self, Gpu},
    layers::{Inventory, Shard},
    link::step::Pooling,
    models::{self, ModelConfig, kv_shape},
    weights::Checkpoint,
    worker::{CudaChoice, DeviceChoice, WorkerConfig},
};

use super::memory::{Decision, Wish, allowed_on_gpus, available_bytes};
use crate::{
    api::{ServedModel, Settings, now},
    config::{Device, GuidedDecodingBackend, PlainName, PoolingKind, ServeFlags, Speculative},
    default_model,
    engine::EngineConfig,
    guides::{self, Guides, Whitespace},
    hub,
    supervisor::{ModelSizes, SupervisorConfig},
    text::{ReasoningFormat, TextModel, TextOverrides, ToolFormat},
    traces,
};

/// What is told to each part.
pub struct Plan {
    /// To the API.
    pub model: ServedModel,
    /// To the API, too.
    pub settings: Settings,
    /// To the engine.
    pub engine: EngineConfig,
    /// To the supervisor.
    pub supervisor: SupervisorConfig,
    /// To who traces, if anybody.
    pub traces: Option<traces::Settings>,
    /// To the metrics.
    pub labels: Vec<(String, String)>,
    /// To people.
    pub warnings: Vec<String>,
    /// To people, who need not worry.
    pub notes: Vec<String>,
}

impl Plan {
    /// Decides; or refuses, in one line.
    pub fn of(flags: &ServeFlags) -> Result<Self, String> {
        let mut warnings = Vec::new();
        let mut notes = Vec::new();
        let traces = traces::Settings::read(&flags.traces, |name| env::var(name).ok())?;
        let gpus = find_gpus(flags, &mut notes)?;
        let weights = flags.loading.weights();
        let path = hub::model_path(flags.model.as_deref(), &flags.hub)?;
        let checkpoint = Checkpoint::open_with(&path, weights).map_err(one_line)?;
        let kv_dtype = flags.loading.kv_dtype(gpus.is_some(), checkpoint.config(), flags.block_size as usize)?;
        let inventory = models::check(&checkpoint, flags.loading.world_size(), weights).map_err(one_line)?;
        warn_of_nothing_to_quantize(flags, &inventory, &mut warnings);
        warn_of_uneven_heads(checkpoint.config().heads, flags.loading.world_size(), &mut warnings);
        if flags.speculative_config == Some(Speculative::Mtp) {
            warnings.push("--speculative-config: there is no `mtp` here, so nothing is drafted; `ngram` can be".into());
        }
        if checkpoint.encoding().quantizes_activations() {
            warnings
                .push("the model asks for quantized activations: they stay as they are, which is more exact".into());
        }
        let overrides = TextOverrides {
            tokenizer: flags.tokenizer.as_deref(),
            chat_template: flags.chat_template.as_deref(),
            no_special_tokens_in_content: flags.no_special_tokens_in_content,
        };
        if flags.activation_bits == 8 && (gpus.is_some() || flags.loading.dtype == PlainName::F32) {
            warnings.push(
                "--activation-bits 8 changes nothing: activations are rounded so on the CPU, and not with --dtype f32"
                    .into(),
            );
        }
        let text = TextModel::load(&path, overrides).map_err(one_line)?;
        warn_of_strange_tokens(&text, &checkpoint, &mut warnings);
        let allowed_bytes = allowed_bytes(flags, gpus.as_deref(), &inventory);
        let hardware = Hardware::of(flags, kv_dtype, gpus, &mut notes)?;
        let decision = decide_memory(flags, &checkpoint, kv_dtype, allowed_bytes, &mut warnings)?;
        Ok(Self {
            model: served_model(flags, &path, &checkpoint, text, decision),
            settings: settings(flags),
            engine: EngineConfig { fault: Fault::ordered(Place::Engine)?, ..engine(flags, decision, &hardware.device) },
            supervisor: SupervisorConfig {
                fault: Fault::ordered(Place::Supervisor)?,
                ..supervisor(flags, path, checkpoint.config(), decision, hardware)
            },
            traces,
            labels: labels(flags, decision),
            warnings,
            notes,
        })
    }

    /// For the ready line.
    pub fn describe(&self) -> String {
        let (name, ranks) = (&self.model.name, self.supervisor.worker.world_size);
        let plural = if ranks == 1 { "rank" } else { "ranks" };
        format!("model {name}, {ranks} {plural}, context {} tokens", self.model.max_model_len)
    }
}

/// The ranks' GPUs; none where the ranks are to compute on the CPU.
fn find_gpus(flags: &ServeFlags, notes: &mut Vec<String>) -> Result<Option<Vec<Gpu>>, String> {
    let found = || gpus::find(flags.loading.world_size());
    match flags.device {
        Device::Cpu | Device::Null => Ok(None),
        Device::Cuda => found().map(Some).map_err(|error| format!("--device cuda: {error}")),
        Device::Auto => match found() {
            Ok(gpus) => Ok(Some(gpus)),
            Err(why) => {
                notes.push(format!("computing on the CPU: {}", one_line(why)));
                Ok(None)
            }
        },
    }
}

/// What workers compute on.
struct Hardware {
    kv_dtype: KvDType,
    device: DeviceChoice,
    /// See [`SupervisorConfig::gpus`].
    bus_ids: Vec<String>,
    /// See [`SupervisorConfig::library_path`].
    library_path: Vec<PathBuf>,
}

impl Hardware {
    fn of(
        flags: &ServeFlags,
        kv_dtype: KvDType,
        gpus: Option<Vec<Gpu>>,
        notes: &mut Vec<String>,
    ) -> Result<Self, String> {
        let Some(gpus) = gpus else {
            let device = match flags.device {
                Device::Null => DeviceChoice::Null(Duration::from_micros(flags.null_step_us)),
                Device::Auto | Device::Cpu | Device::Cuda => DeviceChoice::Cpu,
            };
            return Ok(Self { kv_dtype, device, bus_ids: Vec::new(), library_path: Vec::new() });
        };
        let cache = default_model::cache_folder().map_err(one_line)?;
        let links = cache.join("libraries");
        let library_path = gpus::search_path(&links)
            .map_err(|error| format!("{}: links to libraries can't be made there: {error}", links.display()))?;
        let f32 = flags.loading.dtype == PlainName::F32;
        let own_products = std::env::var_os("SHARDWIRE_OWN_PRODUCTS").is_some_and(|value| value == "1");
        if !f32
            && !own_products
            && let Err(why) = gpus::check_products()
        {
            notes.push(format!("own kernels compute all matrix products: {why}"));
        }
        let device = DeviceChoice::Cuda(CudaChoice {
            f32,
            eager: flags.enforce_eager,
            nccl_only: flags.disable_custom_all_reduce,
            own_products,
            memory_share: flags.gpu_memory_utilization,
            kernel_cache: Some(cache.join("kernels")),
            kernels: std::env::var_os("SHARDWIRE_KERNELS").map(PathBuf::from),
        });
        let bus_ids = gpus.into_iter().map(|gpu| gpu.bus_id).collect();
        Ok(Self { kv_dtype, device, bus_ids, library_path })
    }
}

/// The most that the KV caches of all ranks may take, bytes.
fn allowed_bytes(flags: &ServeFlags, gpus: Option<&[Gpu]>, weights: &[Inventory]) -> u64 {
    let Some(gpus) = gpus else { return available_bytes() / 4 };
    let least_memory = gpus.iter().map(|gpu| gpu.memory_bytes).min().unwrap_or(0);
    let most_weights = weights.iter().map(Inventory::bytes).max().unwrap_or(0);
    allowed_on_gpus(least_memory, flags.gpu_memory_utilization, most_weights, gpus.len() as u64)
}

/// Weights that the file has quantized stay as they are.
fn warn_of_nothing_to_quantize(flags: &ServeFlags, weights: &[Inventory], warnings: &mut Vec<String>) {
    if flags.loading.quantization.is_some() && weights.iter().all(|rank| rank.converted == 0) {
        warnings.push("--quantization changes nothing: the model's weights are quantized already".into());
    }
}

/// Ranks with fewer heads wait for those with more at every layer.
fn warn_of_uneven_heads(heads: usize, ranks: usize, warnings: &mut Vec<String>) {
    if heads.is_multiple_of(ranks) {
        return;
    }
    let even = (1..=heads).filter(|ranks| heads.is_multiple_of(*ranks));
    let even = even.map(|ranks| ranks.to_string()).collect::<Vec<_>>().join(", ");
    let (most, least) = (heads.div_ceil(ranks), heads / ranks);
    warnings.push(format!(
        "{heads} query heads do not divide by {ranks} ranks: some have {most}, others {least}, and every step waits for \
         the former; {even} ranks share them evenly"
    ));
}

/// Usual is the contrary: a model's vocabulary that is padded to a round number.
fn warn_of_strange_tokens(text: &TextModel, checkpoint: &Checkpoint, warnings: &mut Vec<String>) {
    let (known, written) = (checkpoint.config().vocab_size, text.tokenizer.vocab_size());
    if written > known {
        warnings.push(format!(
            "the tokenizer has {written} tokens, the model knows {known}: prompts with others will be refused; \
             do the two belong together?"
        ));
    }
}

fn decide_memory(
    flags: &ServeFlags,
    checkpoint: &Checkpoint,
    kv_dtype: KvDType,
    allowed_bytes: u64,
    warnings: &mut Vec<String>,
) -> Result<Decision, String> {
    let config = checkpoint.config();
    let world_size = flags.loading.world_size();
    let bytes_on = |rank| {
        let shard = Shard { rank, world_size };
        kv_shape(config, shard, flags.block_size as usize, 1, kv_dtype).block_bytes() as u64
    };
    let model_len = config.max_positions as u64;
    let wish = Wish {
        block_bytes: (0..world_size).map(bytes_on).max().unwrap_or(1),
        block_size: flags.block_size.into(),
        ranks: world_size as u64,
        sequences: flags.max_num_seqs.into(),
        model_len,
        wanted_len: flags.max_model_len.map(u64::from),
        wanted_bytes: flags.kv_cache_memory,
        wanted_blocks: flags.num_gpu_blocks_override.map(u64::from),
        allowed_bytes,
    };
    let decision = wish.decide()?;
    if wish.wanted_len.is_some_and(|wanted| wanted > model_len) {
        warnings.push(format!("--max-model-len is lowered to the model's own limit of {model_len} tokens"));
    }
    let held = decision.blocks * wish.block_size;
    if held < decision.max_model_len {
        let longest = decision.max_model_len;
        warnings.push(format!(
            "the KV cache holds {held} tokens, a sequence may have {longest}: the longest will be refused"
        ));
    }
    Ok(decision)
}

fn served_model(
    flags: &ServeFlags,
    path: &Path,
    checkpoint: &Checkpoint,
    text: TextModel,
    decision: Decision,
) -> ServedModel {
    let advice = checkpoint.generation_config();
    let mut eos_ids = advice.eos_ids.clone();
    if eos_ids.is_empty() {
        eos_ids.extend(text.tokenizer.eos());
    }
    let asked =
        || flags.model.clone().unwrap_or_else(|| default_model::FILE_NAME.trim_end_matches(".Q4_1.gguf").into());
    ServedModel {
        name: flags.served_model_name.clone().unwrap_or_else(asked),
        root: path.display().to_string(),
        checks_name: flags.served_model_name.is_some(),
        created: now(),
        max_model_len: decision.max_model_len as usize,
        vocabulary: checkpoint.config().vocab_size,
        hidden_size: checkpoint.config().hidden_size,
        sampling_defaults: ServedModel::sampling_defaults(advice),
        default_max_tokens: flags.default_max_tokens,
        trusts_templates: flags.trust_request_chat_template,
        logprobs_enabled: flags.enable_logprob,
        logprobs_max: flags.max_logprobs,
        reasoning: flags.reasoning_parser.as_deref().and_then(ReasoningFormat::named),
        tool_format: flags.tool_call_parser.as_deref().and_then(ToolFormat::named),
        guides: guides(flags, checkpoint, &text, &eos_ids),
        eos_ids,
        text,
    }
}

fn guides(flags: &ServeFlags, checkpoint: &Checkpoint, text: &TextModel, eos_ids: &[u32]) -> Guides {
    let is_on = flags.guided_decoding_backend != GuidedDecodingBackend::Off;
    let whitespace = if flags.guided_decoding_disable_any_whitespace { Whitespace::Compact } else { Whitespace::Any };
    let settings = guides::Settings { is_on, whitespace };
    Guides::new(text.tokenizer.clone(), checkpoint.config().vocab_size, eos_ids, settings)
}

fn settings(flags: &ServeFlags) -> Settings {
    Settings {
        body_bytes_max: usize::try_from(flags.max_body_size).unwrap_or(usize::MAX),
        pooling: match flags.pooling {
            PoolingKind::Mean => Pooling::Mean,
            PoolingKind::Last => Pooling::Last,
        },
        max_waiting: flags.waiting_time_max(),
        early_stop: flags.enable_early_stop.then_some(flags.early_stop_config),
        serves_page: !flags.disable_page,
    }
}

fn engine(flags: &ServeFlags, decision: Decision, device: &DeviceChoice) -> EngineConfig {
    let speculation = flags.speculation();
    let runs_ahead = matches!(device, DeviceChoice::Cuda(_)) && !flags.disable_overlap_schedule;
    EngineConfig {
        block_size: flags.block_size as usize,
        batch_tokens_max: flags.max_num_batched_tokens as usize,
        prompt_tokens_beside: flags.prompt_tokens_beside(matches!(device, DeviceChoice::Cuda(_))),
        sequences_max: flags.max_num_seqs as usize,
        model_len_max: decision.max_model_len as usize,
        // One request may bring many sequences; requests themselves are bounded at the door.
        waiting_max: usize::try_from(flags.scheduler_max_size)
            .unwrap_or_else(|_| (flags.max_concurrency as usize).max(1024) * 2),
        prefix_caching: flags.prefix_caching(),
        cache_outlives_ranks: matches!(device, DeviceChoice::Cpu),
        steps_at_once: if runs_ahead && speculation.is_none() { 2 } else { 1 },
        speculation,
        fault: None,
    }
}

fn supervisor(
    flags: &ServeFlags,
    path: PathBuf,
    model: &ModelConfig,
    decision: Decision,
    Hardware { kv_dtype, device, bus_ids, library_path }: Hardware,
) -> SupervisorConfig {
    SupervisorConfig {
        worker: WorkerConfig {
            kv_memory: None,
            rank: 0,
            world_size: flags.loading.world_size(),
            weights: flags.loading.weights(),
            epoch: 0,
            link: String::new(),
            model: path,
            device,
            max_model_len: decision.max_model_len as usize,
            batch_tokens_max: flags.max_num_batched_tokens as usize,
            sequences_max: flags.max_num_seqs as usize,
            draft_max: flags.speculation().map_or(0, |settings| settings.draft_max),
            block_size: flags.block_size as usize,
            kv_cache_bytes: decision.bytes_per_rank,
            kv_blocks: flags.num_gpu_blocks_override.map(|blocks| blocks as usize),
            activation_bytes: flags.activation_bits == 8,
            kv_dtype,
            threads: 1,
            cores: Vec::new(),
            spin: false,
        },
        model: ModelSizes { vocab_size: model.vocab_size, hidden_size: model.hidden_size },
        gpus: bus_ids,
        threads_per_rank: flags.threads_per_rank.map(|threads| threads as usize),
        log_dir: flags.log_dir.clone(),
        log_format: flags.log_format,
        library_path,
        stall_timeout: Duration::from_secs(flags.stall_timeout),
        restarts_max: flags.max_restarts as usize,
        fault: None,
    }
}

fn labels(flags: &ServeFlags, decision: Decision) -> Vec<(String, String)> {
    let label = |name: &str, value: String| (name.to_owned(), value);
    vec![
        label("block_size", flags.block_size.to_string()),
        label("num_gpu_blocks", decision.blocks.to_string()),
        label("max_model_len", decision.max_model_len.to_string()),
        label("max_num_seqs", flags.max_num_seqs.to_string()),
        label("max_num_batched_tokens", flags.max_num_batched_tokens.to_string()),
        label("enable_prefix_caching", flags.prefix_caching().to_string()),
        label("tensor_parallel_size", flags.loading.tensor_parallel_size.to_string()),
    ]
}

/// An error as the one line that people see.
fn one_line(error: impl ToString) -> String {
    error.to_string().lines().map(str::trim).collect::<Vec<_>>().join(" ")
}
