//! GPT-OSS: windows on every other layer, a sink per head, experts with biases and a clamped gate.

use kernels::{
    glu::Activation,
    moe::{Routing, Scoring},
    rotary::Pairing,
};

use super::{
    Moe,
    family::{Family, Unsaid},
};

/// The family's line in the table.
pub(super) const FAMILY: Family = Family {
    architectures: &["GptOssForCausalLM"],
    model_type: "gpt_oss",
    gguf_names: &["gpt-oss"],
    pairing: Pairing::Half,
    gguf_pairing: Pairing::Half,
    unsaid: Unsaid {
        head_dim: Some(64),
        rms_norm_eps: 1e-5,
        rope_theta: 150_000.0,
        max_positions: 131_072,
        ..Unsaid::LLAMA
    },
    shape: |fields, config| {
        config.set_windows(fields, |layer| layer.is_multiple_of(2))?;
        config.qkv_bias = fields.flag_or("attention_bias", true)?;
        config.o_bias = config.qkv_bias;
        config.sinks = true;
        let limit = fields.number("swiglu_limit")?.unwrap_or(7.0) as f32;
        config.activation = Activation::Clamped { limit, alpha: 1.702 };
        let chosen = fields.count("num_experts_per_tok")?.or(fields.count("experts_per_token")?);
        config.moe = Some(Moe {
            layers: vec![true; config.windows.len()],
            experts: fields.size("num_local_experts")?,
            width: config.intermediate_size,
            shared_width: 0,
            routing: Routing {
                chosen: fields.required("num_experts_per_tok", chosen)?,
                scoring: Scoring::SoftmaxOfChosen,
                groups: None,
                normalise: None,
                scale: 1.0,
            },
            correction_bias: false,
            bias: true,
            interleaved: true,
        });
        Ok(())
    },
};
