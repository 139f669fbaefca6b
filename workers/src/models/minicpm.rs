//! MiniCPM and MiniCPM4: Llama with scaled embeddings, branches and logits (Hu et al. 2024). MiniCPM4's sparse attention
//! for long contexts is computed densely.

use kernels::rotary::Pairing;

use super::family::{Family, Unsaid};

/// The family's line in the table.
pub(super) const FAMILY: Family = Family {
    architectures: &["MiniCPMForCausalLM"],
    model_type: "minicpm",
    gguf_names: &[],
    pairing: Pairing::Half,
    gguf_pairing: Pairing::Half,
    unsaid: Unsaid { tied: true, ..Unsaid::LLAMA },
    shape: |fields, config| {
        let scale = |key| fields.number(key).map(|scale| scale.unwrap_or(1.0) as f32);
        config.qkv_bias = fields.flag_or("attention_bias", false)?;
        config.o_bias = config.qkv_bias;
        config.embedding_scale = scale("scale_emb")?;
        config.branch_scale = scale("scale_depth")? / (config.layers as f32).sqrt();
        config.logit_scale = scale("dim_model_base")? / config.hidden_size as f32;
        Ok(())
    },
};
