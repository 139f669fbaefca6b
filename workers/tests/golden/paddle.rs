//! The golden folders of ERNIE written as they are published for Paddle: the prefix `ernie.`, matrices `[inputs, outputs]`,
//! queries, keys and values in one, ups and gates in one (gates first), bfloat16 shown as uint16.

use std::collections::BTreeMap;

use safetensors::Dtype;

use crate::folder::{Folder, Tensor};

/// Writes `models/{model}` as Paddle's folder.
pub fn folder_of(model: &str) -> tempfile::TempDir {
    let mut folder = Folder::of(model);
    folder.config["architectures"][0] = match model {
        "ernie45" => "Ernie4_5_ForCausalLM".into(),
        _ => "Ernie4_5_MoeForCausalLM".into(),
    };
    folder.tensors = written(&folder.tensors);
    let written = tempfile::tempdir().unwrap();
    folder.write(written.path());
    written
}

fn written(theirs: &BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let mut own = BTreeMap::new();
    for (name, tensor) in theirs {
        let name = name.replacen("model.", "ernie.", 1);
        let beside = |from: &str, to: &str| theirs[&name.replacen("ernie.", "model.", 1).replace(from, to)].clone();
        let (name, tensor) = if name.ends_with("q_proj.weight") {
            let all = [tensor.clone(), beside("q_proj", "k_proj"), beside("q_proj", "v_proj")];
            (name.replace("q_proj", "qkv_proj"), transposed(&joined(&all)))
        } else if name.ends_with("gate_proj.weight") {
            let both = [tensor.clone(), beside("gate_proj", "up_proj")];
            (name.replace("gate_proj", "up_gate_proj"), transposed(&joined(&both)))
        } else if ["k_proj.weight", "v_proj.weight", "up_proj.weight"].iter().any(|end| name.ends_with(end)) {
            continue;
        } else if tensor.shape.len() == 2 && name.ends_with(".weight") && !name.contains("embed_tokens") {
            (name, transposed(tensor))
        } else {
            (name, tensor.clone())
        };
        let dtype = if tensor.dtype == Dtype::BF16 { Dtype::U16 } else { tensor.dtype };
        own.insert(name, Tensor { dtype, ..tensor });
    }
    own
}

/// The rows of all, one after the other.
fn joined(tensors: &[Tensor]) -> Tensor {
    let rows = tensors.iter().map(|tensor| tensor.shape[0]).sum();
    let bytes = tensors.iter().flat_map(|tensor| tensor.bytes.clone()).collect();
    Tensor { shape: vec![rows, tensors[0].shape[1]], bytes, ..tensors[0].clone() }
}

fn transposed(tensor: &Tensor) -> Tensor {
    let [rows, columns] = tensor.shape[..] else { panic!("a matrix") };
    let size = tensor.bytes.len() / (rows * columns);
    let element = |row: usize, column: usize| &tensor.bytes[(row * columns + column) * size..][..size];
    let bytes = (0..columns).flat_map(|column| (0..rows).flat_map(move |row| element(row, column).to_vec())).collect();
    Tensor { shape: vec![columns, rows], bytes, ..tensor.clone() }
}
