//! Golden folders as settings and tensors, to be written in another form.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use safetensors::{
    Dtype, SafeTensors,
    tensor::{TensorView, serialize_to_file},
};
use serde_json::Value;

use crate::fixtures::golden;

/// A folder's config.json and its tensors by name.
pub struct Folder {
    pub path: PathBuf,
    pub config: Value,
    pub tensors: BTreeMap<String, Tensor>,
}

/// Elements and lengths of one tensor.
#[derive(Clone)]
pub struct Tensor {
    pub dtype: Dtype,
    /// Slowest first.
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Folder {
    /// Reads `models/{model}`.
    pub fn of(model: &str) -> Self {
        let path = golden(&format!("models/{model}"));
        let config = serde_json::from_slice(&std::fs::read(path.join("config.json")).unwrap()).unwrap();
        let mut tensors = BTreeMap::new();
        for file in std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()) {
            if file.extension().is_some_and(|extension| extension == "safetensors") {
                let bytes = std::fs::read(file).unwrap();
                for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
                    let (shape, bytes) = (view.shape().to_vec(), view.data().to_vec());
                    tensors.insert(name, Tensor { dtype: view.dtype(), shape, bytes });
                }
            }
        }
        Self { path, config, tensors }
    }

    /// Writes it, weights in one file.
    pub fn write(&self, to: &Path) {
        std::fs::write(to.join("config.json"), self.config.to_string()).unwrap();
        let views = self.tensors.iter().map(|(name, Tensor { dtype, shape, bytes })| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        serialize_to_file(views, None, &to.join("model.safetensors")).unwrap();
    }
}

impl Tensor {
    /// The elements as numbers.
    pub fn values(&self) -> Vec<f32> {
        match self.dtype {
            Dtype::F32 => self.bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            Dtype::BF16 => self.halves(|bits| half::bf16::from_bits(bits).to_f32()),
            Dtype::F16 => self.halves(|bits| half::f16::from_bits(bits).to_f32()),
            other => panic!("the golden folders have no {other:?}"),
        }
    }

    fn halves(&self, value: impl Fn(u16) -> f32) -> Vec<f32> {
        self.bytes.as_chunks::<2>().0.iter().map(|bytes| value(u16::from_le_bytes(*bytes))).collect()
    }
}
