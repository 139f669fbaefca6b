//! The model whose template, vocabulary and settings stand behind requests: one of the golden set.

use std::path::PathBuf;

/// Its folder.
pub fn model() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/golden/models/llama3_rope").into()
}
