//! A golden Llama written as MiniCPM: the same function, since what MiniCPM multiplies by is divided out of the weights.

use serde_json::json;

use crate::folder::{Folder, Tensor};

const SCALE_EMB: f32 = 12.0;
const SCALE_DEPTH: f32 = 1.4;
const DIM_MODEL_BASE: f32 = 32.0;

/// Writes `models/{llama}`, whose weights are f32 and whose head is its own.
pub fn folder_of(llama: &str) -> tempfile::TempDir {
    let mut folder = Folder::of(llama);
    let number = |key: &str| folder.config[key].as_f64().unwrap() as f32;
    let branch_scale = SCALE_DEPTH / number("num_hidden_layers").sqrt();
    let logit_scale = DIM_MODEL_BASE / number("hidden_size");
    folder.config["architectures"] = json!(["MiniCPMForCausalLM"]);
    folder.config["scale_emb"] = json!(SCALE_EMB);
    folder.config["scale_depth"] = json!(SCALE_DEPTH);
    folder.config["dim_model_base"] = json!(DIM_MODEL_BASE);
    for (name, tensor) in &mut folder.tensors {
        match &**name {
            "model.embed_tokens.weight" => divide(tensor, SCALE_EMB),
            "lm_head.weight" => divide(tensor, logit_scale),
            name if name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight") => {
                divide(tensor, branch_scale);
            }
            _ => {}
        }
    }
    let written = tempfile::tempdir().unwrap();
    folder.write(written.path());
    written
}

fn divide(tensor: &mut Tensor, divisor: f32) {
    tensor.bytes = tensor.values().into_iter().flat_map(|value| (value / divisor).to_le_bytes()).collect();
}
