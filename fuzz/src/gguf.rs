//! A GGUF file: its settings, tensors, vocabulary and chat template.

use std::fs;

use shardwire::text::{TextModel, TextOverrides};

/// The input is the file.
pub fn read(input: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("model.gguf");
    fs::write(&file, input).expect("room for a file");
    crate::models::load(&file);
    let _ = TextModel::load(&file, TextOverrides::default());
}
