//! Everything that can be known of a model before a rank is started: that every tensor is there, has its shape, and
//! splits over the ranks, and that none is left over.

use std::{borrow::Cow, ops::Range};

use kernels::{Batch, KvShape, Matrix, Result, memory::Memory, rotary::Turns};

use super::{LoadOptions, ModelConfig, WeightOptions, decoder::Decoder};
use crate::{
    layers::{Inventory, Purpose, Shard, Source},
    weights::{Checkpoint, LoadError, belongs_to},
};

/// Refuses a checkpoint that `world_size` ranks could not load; else, what each of them will have. No weight matrix is
/// read.
pub fn check(
    checkpoint: &Checkpoint,
    world_size: usize,
    options: WeightOptions,
) -> std::result::Result<Vec<Inventory>, LoadError> {
    split(checkpoint, world_size, options)?;
    let load = |rank| {
        let options = LoadOptions { max_model_len: 1, threads: 1, weights: options };
        let source = Source::new(&Nowhere, checkpoint, Shard { rank, world_size }, options, Purpose::Check);
        Decoder::load(&source, options, &mut |_| {})?;
        refuse_left_over(checkpoint, &source)?;
        Ok(source.inventory())
    };
    (0..world_size).map(load).collect()
}

/// Each rank needs a query head, some of the MLP's width, and some of the experts' width or an expert.
pub(super) fn split(
    checkpoint: &Checkpoint,
    world_size: usize,
    options: WeightOptions,
) -> std::result::Result<(), LoadError> {
    let ModelConfig { heads, intermediate_size, moe, .. } = checkpoint.config();
    let refuse = |most: usize, fault: String| {
        let fault = format!("{fault}; 1 to {most} ranks work");
        Err(LoadError::Split { path: checkpoint.path().into(), world_size, fault })
    };
    let experts = moe.as_ref().map(|moe| match options.whole_experts {
        true => (moe.experts, format!("{} experts", moe.experts)),
        false => (moe.width, format!("experts of width {}", moe.width)),
    });
    let (most_by_experts, experts) =
        experts.map_or((usize::MAX, String::new()), |(most, experts)| (most, format!(" and {experts}")));
    let most = (*heads).min(*intermediate_size).min(most_by_experts);
    if !(1..=most).contains(&world_size) {
        return refuse(most, format!("it has {heads} attention heads, an MLP of width {intermediate_size}{experts}"));
    }
    Ok(())
}

/// A tensor that nobody asked for means that the model is not what its settings say: a bias they do not mention, say.
fn refuse_left_over<M: Memory>(checkpoint: &Checkpoint, source: &Source<M>) -> std::result::Result<(), LoadError> {
    let taken = source.taken();
    let is_taken = |name: &str| taken.contains(name) || belongs_to(name).any(|matrix| taken.contains(&matrix));
    let left_over = |name: &&str| !is_taken(name) && !is_redundant(name) && !is_redundant_here(checkpoint, name);
    match checkpoint.names().find(left_over) {
        None => Ok(()),
        Some(name) => {
            let fault = format!("is not part of {} with these settings", checkpoint.config().architecture);
            Err(LoadError::tensor(checkpoint.path(), name, fault))
        }
    }
}

/// What is multiplied with keys, values, queries and probabilities where they are stored in FP8.
const KV_SCALES: [&str; 5] = [".k_scale", ".v_scale", ".q_scale", ".prob_scale", ".kv_scale"];

/// Tensors that files carry though the model is whole without them: a tied head's copy, precomputed rotary frequencies,
/// the layers that predict tokens further ahead, scales of a quantized KV cache.
fn is_redundant(name: &str) -> bool {
    matches!(name, "lm_head.weight" | "rope_freqs.weight")
        || name.ends_with("rotary_emb.inv_freq")
        || name.contains("mtp_")
        || name.contains("self_attn.") && KV_SCALES.iter().any(|scale| name.ends_with(scale))
}

/// What only the checkpoint tells: the layers of DeepSeek and GLM that predict tokens further ahead follow the model's own
/// and have a matrix of their own kind; and the first tools for GPTQ wrote a bias of zeros for every matrix.
fn is_redundant_here(checkpoint: &Checkpoint, name: &str) -> bool {
    let further = |layer: &usize| *layer >= checkpoint.config().layers;
    let predicts = |layer| {
        let mut names = checkpoint.names();
        names.any(|name| name.ends_with("eh_proj.weight") && layer_of(name) == Some(layer))
    };
    let predicts_further = layer_of(name).filter(further).is_some_and(predicts);
    predicts_further || name.ends_with(".bias") && checkpoint.encoding().is_stored() && checkpoint.is_zero(name)
}

fn layer_of(name: &str) -> Option<usize> {
    let rest = name.strip_prefix("model.layers.").or(name.strip_prefix("blk."))?;
    rest.split('.').next()?.parse().ok()
}

/// A device that keeps nothing: loading onto it is checking.
struct Nowhere;

impl Memory for Nowhere {
    type Tensor = ();
    type Weight = ();
    type Batch = ();
    type KvCache = ();
    type Angles = ();

    fn name(&self) -> String {
        "nowhere".into()
    }

    fn tensor(&self, _rows: usize, _columns: usize, _values: &[f32]) -> Result<()> {
        Ok(())
    }

    fn vector(&self, _values: &[f32]) -> Result<()> {
        Ok(())
    }

    fn to_host(&self, _tensor: &()) -> Result<Vec<f32>> {
        Ok(Vec::new())
    }

    fn rows_to_host<'a>(&self, _tensor: &'a (), _rows: Range<usize>) -> Result<Cow<'a, [f32]>> {
        Ok(Cow::Borrowed(&[]))
    }

    fn weight(&self, _parts: Vec<Matrix>) -> Result<()> {
        Ok(())
    }

    fn batch(&self, _batch: Batch) -> Result<()> {
        Ok(())
    }

    fn angles(&self, _turns: Turns) -> Result<()> {
        Ok(())
    }

    fn room(&self, _share: f64) -> Result<Option<u64>> {
        Ok(None)
    }

    fn kv_cache(&self, _shape: KvShape) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::golden;

    /// The golden folder `model` with one text replaced in one of its files; the same length keeps safetensors whole.
    fn fault(model: &str, file: &str, from: &str, to: &str) -> String {
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(golden(model)).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        let mut bytes = std::fs::read(copy.path().join(file)).unwrap();
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).expect(from);
        bytes.splice(at..at + from.len(), to.bytes());
        std::fs::write(copy.path().join(file), bytes).unwrap();
        let checkpoint = Checkpoint::open(copy.path()).expect("the files hold together");
        check(&checkpoint, 1, WeightOptions::default()).expect_err("the model does not").to_string()
    }

    #[test]
    fn golden_models_pass_at_every_size_up_to_their_heads() {
        let check_model = |name: &str, heads: usize| {
            let checkpoint = Checkpoint::open(&golden(name)).unwrap();
            for world_size in 1..=heads {
                check(&checkpoint, world_size, WeightOptions::default())
                    .unwrap_or_else(|fault| panic!("{world_size} ranks: {fault}"));
            }
            for world_size in [0, heads + 1, 1_000_000_000] {
                let line =
                    check(&checkpoint, world_size, WeightOptions::default()).expect_err("too many ranks").to_string();
                assert!(line.contains(&format!("1 to {heads} ranks work")), "{line}");
            }
        };
        check_model("models/llama_basic", 8);
        check_model("models/llama3_rope", 8);
        check_model("models/ernie45", 8);
        check_model("models/qwen3", 4);
        check_model("gguf/llama_q8_0/model.gguf", 8);
        check_model("gguf/llama_mixed/model.gguf", 8);
    }

    #[test]
    fn tensors_beside_quantized_matrices_belong_to_them() {
        let check_fault = |model: &str, from: &str, to: &str, expected: &str| {
            let line = fault(&format!("quantized/{model}"), "model.safetensors", from, to);
            assert!(line.contains(expected), "{line}");
        };
        let missing = "tensor model.layers.1.mlp.up_proj.scales: is missing";
        check_fault("gptq", "layers.1.mlp.up_proj.scales", "layers.1.mlp.up_proj.scalez", missing);
        let whole = "tensor model.layers.1.mlp.up_proj.weight: is missing";
        check_fault("gptq", "layers.1.mlp.up_proj.qweight", "layers.1.mlp.up_proj.qwaight", whole);
        let left_over = "layers.1.mlp.up_porj.g_idx: is not part of LlamaForCausalLM with these settings";
        check_fault("gptq", "layers.1.mlp.up_proj.g_idx", "layers.1.mlp.up_porj.g_idx", left_over);
        let left_over = "model.layers.3.enorm.weight: is not part of DeepseekV3ForCausalLM with these settings";
        check_fault("fp8_experts", "model.layers.2.enorm", "model.layers.3.enorm", left_over);
    }

    #[test]
    fn tensors_at_fault_are_named() {
        let check_fault = |file: &str, from: &str, to: &str, expected: &str| {
            let line = fault("models/ernie45", file, from, to);
            assert!(line.contains(expected), "{line}");
        };
        let weights = "model.safetensors";
        let missing = "tensor model.layers.1.mlp.up_proj.weight: is missing";
        check_fault(weights, "layers.1.mlp.up_proj", "layers.1.mlp.up_porj", missing);
        let shape = "mlp.down_proj.weight: has shape 64 × 128, the model's settings ask for 64 × 160";
        check_fault("config.json", "\"intermediate_size\": 128", "\"intermediate_size\": 160", shape);
        let bias = "tensor model.layers.0.self_attn.q_proj.bias: is missing";
        check_fault("config.json", "\"use_bias\": false", "\"use_bias\": true", bias);
        let left_over = "is not part of Ernie4_5ForCausalLM with these settings";
        check_fault("config.json", "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2", left_over);
        check_fault(
            "config.json",
            "\"use_cache\"",
            "\"tie_word_embeddings\": false, \"use_cache\"",
            "lm_head.weight: is missing",
        );
    }
}
