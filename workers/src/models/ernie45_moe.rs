//! ERNIE-4.5, the mixtures of experts: a softmax router whose bias only chooses, and shared experts as one wide MLP.

use kernels::moe::{Routing, Scoring};

use super::{Moe, ernie45, family::Family};

/// The family's line in the table.
pub(super) const FAMILY: Family = Family {
    architectures: &["Ernie4_5_MoeForCausalLM"],
    model_type: "ernie4_5_moe",
    gguf_names: &["ernie4_5-moe"],
    shape: |fields, config| {
        ernie45::shape(fields, config)?;
        let (start, interval) =
            (fields.count_or("moe_layer_start_index", 0)?, fields.count_or("moe_layer_interval", 1)?.max(1));
        // -1 stands for the last layer.
        let end = fields.number("moe_layer_end_index")?.filter(|end| *end >= 0.0).map(|end| end as usize);
        let end = end.unwrap_or(usize::MAX);
        let width = fields.size("moe_intermediate_size")?;
        let is_moe = |layer: usize| (layer + 1).is_multiple_of(interval) && (start..=end).contains(&layer);
        config.moe = Some(Moe {
            layers: (0..config.windows.len()).map(is_moe).collect(),
            experts: fields.size("moe_num_experts")?,
            width,
            shared_width: width.saturating_mul(fields.count_or("moe_num_shared_experts", 0)?),
            routing: Routing {
                chosen: fields.size("moe_k")?,
                scoring: Scoring::Softmax,
                groups: None,
                normalise: Some(fields.number("moe_norm_min")?.unwrap_or(1e-12) as f32),
                scale: 1.0,
            },
            correction_bias: fields.flag_or("moe_use_aux_free", true)?,
            bias: false,
            interleaved: false,
        });
        Ok(())
    },
    ..ernie45::FAMILY
};
