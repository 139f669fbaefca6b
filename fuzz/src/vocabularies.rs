//! A vocabulary's file: tokenizer.json, SentencePiece's, or tiktoken's; and a text through it and back.

use std::fs;

use shardwire::text::Tokenizer;

/// With what vocabularies tend to stumble over: spaces in a row, special tokens, other scripts, emoji, no text at all.
const TEXTS: [&str; 3] = ["", "Hello  world\n\t<s>I'm 42</s> ", "Größe 東京 नमस्ते 👩‍👩‍👧 e\u{301} \u{0}"];

/// The input is the file. tokenizer.json is known by its first letter, the others the product itself tells apart.
pub fn read(input: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let name = if input.first() == Some(&b'{') { "tokenizer.json" } else { "tokenizer.model" };
    fs::write(folder.path().join(name), input).expect("room for a file");
    let Ok(tokenizer) = Tokenizer::from_folder(folder.path()) else { return };
    for text in TEXTS {
        if let Ok(ids) = tokenizer.encode(text, true) {
            tokenizer.decode(&ids, false);
        }
    }
}
