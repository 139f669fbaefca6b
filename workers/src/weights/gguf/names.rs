//! Tensor names: Hugging Face's, which the models use, and GGUF's for the same tensors.

/// Names within `model.layers.N.` and within `blk.N.`.
const LAYER: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// Names outside the layers.
const WHOLE: [(&str, &str); 3] =
    [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];

/// GGUF's name for the tensor that Hugging Face calls `name`; `None` if there is none.
pub(super) fn own_name(name: &str) -> Option<String> {
    let (stem, kind) = name.rsplit_once('.')?;
    let found = |table: &[(&str, &'static str)], stem: &str| {
        table.iter().find(|(theirs, _)| *theirs == stem).map(|(_, own)| *own)
    };
    match stem.strip_prefix("model.layers.") {
        None => Some(format!("{}.{kind}", found(&WHOLE, stem)?)),
        Some(rest) => {
            let (layer, stem) = rest.split_once('.')?;
            Some(format!("blk.{layer}.{}.{kind}", found(&LAYER, stem)?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::own_name;

    #[test]
    fn names_translate() {
        let check = |name, own: Option<&str>| assert_eq!(own_name(name).as_deref(), own, "{name}");
        check("model.layers.12.self_attn.q_proj.weight", Some("blk.12.attn_q.weight"));
        check("model.layers.0.mlp.down_proj.bias", Some("blk.0.ffn_down.bias"));
        check("model.embed_tokens.weight", Some("token_embd.weight"));
        check("lm_head.weight", Some("output.weight"));
        check("model.layers.0.mlp.router.weight", None);
        check("nonsense", None);
    }
}
