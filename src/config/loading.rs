//! How a model is loaded: flags that `serve` and `inspect` share.

use clap::{Args, ValueEnum};
use workers::{
    KvDType,
    layers::Shard,
    models::{ModelConfig, PlainType, Quantization, WeightOptions, kv_shape},
};

/// How a model is loaded.
#[derive(Debug, Clone, Args)]
pub struct LoadingFlags {
    /// How many worker processes share the model (also written -tp).
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64), help_heading = "Ranks")]
    pub tensor_parallel_size: u32,
    /// Hand a mixture's experts out whole, some to each rank, rather than split each of them by its width.
    #[arg(long, help_heading = "Ranks")]
    pub enable_expert_parallel: bool,
    /// Quantize weights at load, unless the file has them quantized: wint8, wint4 (of a mixture the experts, the rest to
    /// wint8) or block_wise_fp8.
    #[arg(long, value_enum, value_name = "NAME", help_heading = "Model")]
    pub quantization: Option<QuantizationName>,
    /// What weights that aren't quantized are kept as. GPUs compute in bf16, or, far slower, in f32 if that is named here.
    /// The CPU computes in f32 in any case, but for what is multiplied with quantized weights, activations rounded to 16
    /// bits, unless f32 is named here.
    #[arg(long, value_enum, default_value = "auto", help_heading = "Model")]
    pub dtype: PlainName,
    /// Where weights come from: dummy makes random ones of the shape that config.json describes, for tests of scale.
    #[arg(long, value_enum, default_value = "default", help_heading = "Model")]
    pub load_choices: LoadChoice,
    /// Storage format of keys and values: bf16 on GPUs, f16 on the CPU (int16 where it has AMX), unless --dtype is f32.
    #[arg(long, value_enum, default_value = "auto", help_heading = "Scheduling and memory")]
    pub kv_cache_dtype: KvCacheType,
}

/// A way to quantize at load, by FastDeploy's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QuantizationName {
    /// 8-bit integers, a scale per 128 inputs.
    Wint8,
    /// 4-bit integers, a scale and a zero point per 128 inputs.
    Wint4,
    /// 8-bit floats, a scale per 128 × 128 weights.
    #[value(name = "block_wise_fp8", alias = "block-wise-fp8")]
    BlockWiseFp8,
}

/// What weights that aren't quantized are kept as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PlainName {
    /// As they are stored.
    Auto,
    /// IEEE binary32.
    #[value(alias = "float32")]
    F32,
    /// bfloat16.
    #[value(alias = "bfloat16")]
    Bf16,
    /// IEEE binary16.
    #[value(alias = "float16", alias = "half")]
    F16,
}

/// Where weights come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LoadChoice {
    /// The model's files, whatever their form.
    #[value(alias = "default_v1", alias = "default-v1", alias = "auto")]
    Default,
    /// Nowhere: they are random.
    Dummy,
}

/// Storage format of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KvCacheType {
    /// 16 bits, as the device has them best: IEEE floats on the CPU, bfloat16 on GPUs.
    Auto,
    /// IEEE binary32.
    #[value(alias = "float32")]
    F32,
    /// IEEE binary16.
    #[value(alias = "float16")]
    F16,
    /// bfloat16.
    #[value(alias = "bfloat16")]
    Bf16,
    /// 16-bit integers with a scale per head and token, on the CPU: more exact than floats of 16 bits.
    Int16,
    /// 8-bit integers with a scale per head and token.
    Int8,
    /// 8-bit floats (e4m3) without scales.
    #[value(aliases = ["fp8_e4m3", "float8_e4m3fn", "f8_e4m3"])]
    Fp8,
}

impl LoadingFlags {
    /// Ranks.
    pub fn world_size(&self) -> usize {
        self.tensor_parallel_size as usize
    }

    /// How ranks take weights.
    pub fn weights(&self) -> WeightOptions {
        WeightOptions {
            random: self.load_choices == LoadChoice::Dummy,
            whole_experts: self.enable_expert_parallel,
            quantization: self.quantization.map(|name| match name {
                QuantizationName::Wint8 => Quantization::WInt8,
                QuantizationName::Wint4 => Quantization::WInt4,
                QuantizationName::BlockWiseFp8 => Quantization::BlockWiseFp8,
            }),
            plain: match self.dtype {
                PlainName::Auto => None,
                PlainName::F32 => Some(PlainType::F32),
                PlainName::Bf16 => Some(PlainType::BF16),
                PlainName::F16 => Some(PlainType::F16),
            },
        }
    }

    /// Storage format of a model's KV cache in blocks of `block_size` tokens; or why it can't be had.
    pub fn kv_dtype(&self, on_gpus: bool, config: &ModelConfig, block_size: usize) -> Result<KvDType, String> {
        let shape = kv_shape(config, Shard { rank: 0, world_size: 1 }, block_size, 1, KvDType::Int16);
        Ok(match self.kv_cache_dtype {
            KvCacheType::Auto if self.dtype == PlainName::F32 => KvDType::F32,
            KvCacheType::Auto if on_gpus => KvDType::BF16,
            KvCacheType::Auto => shape.fastest_on_cpu(),
            KvCacheType::F16 => KvDType::F16,
            KvCacheType::F32 => KvDType::F32,
            KvCacheType::Bf16 => KvDType::BF16,
            KvCacheType::Int16 if on_gpus => {
                return Err("--kv-cache-dtype int16 is the CPU's, not GPUs'; try bf16".into());
            }
            KvCacheType::Int16 if !shape.takes_int16() => {
                return Err("--kv-cache-dtype int16 takes heads of at most 256 elements, none of them latent, and a \
                            --block-size of at most 512; try f16"
                    .into());
            }
            KvCacheType::Int16 => KvDType::Int16,
            KvCacheType::Int8 => KvDType::Int8,
            KvCacheType::Fp8 => KvDType::F8E4M3,
        })
    }
}
