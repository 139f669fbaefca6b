//! A Hugging Face folder: settings, weights, and the index where there are several files of them.

use std::fs;

/// The input is config.json, model.safetensors.index.json (empty: there is none) and one file of weights, a zero between
/// them.
pub fn read(input: &[u8]) {
    let mut parts = input.splitn(3, |&byte| byte == 0);
    let [config, index, weights] = [(); 3].map(|()| parts.next().unwrap_or_default());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("room for a file");
    write("config.json", config);
    match index {
        [] => write("model.safetensors", weights),
        index => {
            write("model.safetensors.index.json", index);
            write("model-00001-of-00001.safetensors", weights);
        }
    }
    crate::models::load(folder.path());
}
