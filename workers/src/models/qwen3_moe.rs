//! Qwen3's mixtures of experts: Qwen3's attention, a softmax router, no shared experts.

use kernels::moe::{Routing, Scoring};

use super::{Moe, family::Family, qwen3};

/// The family's line in the table.
pub(super) const FAMILY: Family = Family {
    architectures: &["Qwen3MoeForCausalLM"],
    model_type: "qwen3_moe",
    gguf_names: &["qwen3moe"],
    shape: |fields, config| {
        qwen3::shape(fields, config)?;
        let step = fields.count_or("decoder_sparse_step", 1)?.max(1);
        let experts = fields.count("num_experts")?.or(fields.count("num_local_experts")?);
        let dense = fields.counts("mlp_only_layers")?;
        let is_moe = |layer: usize| !dense.contains(&layer) && (layer + 1).is_multiple_of(step);
        config.moe = Some(Moe {
            layers: (0..config.windows.len()).map(is_moe).collect(),
            // transformers 5 has renamed it.
            experts: fields.required("num_experts", experts)?,
            width: fields.size("moe_intermediate_size")?,
            shared_width: 0,
            routing: Routing {
                chosen: fields.count_or("num_experts_per_tok", 8)?,
                scoring: Scoring::Softmax,
                groups: None,
                normalise: fields.flag_or("norm_topk_prob", false)?.then_some(0.0),
                scale: 1.0,
            },
            correction_bias: false,
            bias: false,
            interleaved: false,
        });
        Ok(())
    },
    ..qwen3::FAMILY
};
