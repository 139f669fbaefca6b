//! Vocabularies of every kind of file against what SentencePiece, tiktoken and `transformers` make of the same texts.

use std::{fs, sync::Arc};

use proptest::prelude::*;
use serde_json::Value;

use super::{Algorithm, Prefix, Spaces, model_file::ModelFile};
use crate::{
    fixtures,
    text::{
        Detokenizer, Tokenizer,
        gguf_vocabulary::GgufVocabulary,
        golden::{check_random, check_stream, ids, streamed},
    },
};

/// Each with its cases in a JSON file of the same name.
const VOCABULARIES: [&str; 5] = ["bpe.model", "bare.model", "unigram.model", "nfkc.model", "ranks.tiktoken"];

fn cases(vocabulary: &str) -> Vec<Value> {
    let file = fixtures::tokenizers(vocabulary).with_extension("json");
    let mut golden: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    golden["cases"].as_array_mut().unwrap().drain(..).collect()
}

/// The tokenizer of a folder with this vocabulary under the case's name, and the case's files.
fn load(vocabulary: &str, case: &Value) -> Arc<Tokenizer> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(case["file"].as_str().unwrap());
    fs::copy(fixtures::tokenizers(vocabulary), &file).unwrap();
    for (name, json) in case["files"].as_object().unwrap() {
        fs::write(folder.path().join(name), json.to_string()).unwrap();
    }
    let is_known = ["model", "tiktoken"].iter().any(|known| file.extension().is_some_and(|kind| kind == *known));
    let tokenizer = if is_known { Tokenizer::from_folder(folder.path()) } else { Tokenizer::from_file(&file) };
    tokenizer.unwrap().into()
}

fn check_case(tokenizer: &Arc<Tokenizer>, name: &str, case: &Value) {
    for text in case["texts"].as_array().unwrap() {
        let written = text["text"].as_str().unwrap();
        let found = tokenizer.encode(written, false).unwrap();
        assert_eq!(found, ids(&text["ids"]), "{name}: {written:?}");
        assert_eq!(tokenizer.encode(written, true).unwrap(), ids(&text["ids_with_special"]), "{name}: {written:?}");
        for (key, skip) in [("decode", false), ("decode_skip_special", true)] {
            if let Some(expected) = text[key].as_str() {
                assert_eq!(streamed(tokenizer, &found, skip), expected, "{name}: {written:?}");
            }
        }
    }
    for stream in case["streams"].as_array().unwrap() {
        let prefixes: Option<Vec<_>> = stream["prefix_decodes"].as_array().unwrap().iter().map(Value::as_str).collect();
        if let Some(prefixes) = prefixes {
            check_stream(tokenizer, &ids(&stream["ids"]), &prefixes);
        }
    }
}

#[test]
fn every_kind_of_file_has_the_golden_ids_and_texts() {
    for vocabulary in VOCABULARIES {
        for case in cases(vocabulary) {
            let name = format!("{vocabulary}, {}", case["name"]);
            let tokenizer = load(vocabulary, &case);
            check_case(&tokenizer, &name, &case);
            for (end, found) in [("bos", tokenizer.bos()), ("eos", tokenizer.eos())] {
                assert_eq!(found.map(u64::from), case[end].as_u64(), "{name}: {end}");
            }
        }
    }
}

/// What somebody types is text (`--no-special-tokens-in-content`), also where the model's own pieces spell a token.
#[test]
fn typed_tokens_can_be_plain_text() {
    const TYPED: &str = "go <|mark|> on</s> 12";
    for vocabulary in VOCABULARIES {
        for case in cases(vocabulary) {
            let tokenizer = load(vocabulary, &case);
            let found = tokenizer.encode_plain(TYPED).unwrap();
            let added: Vec<_> = tokenizer.added_tokens().map(|(id, _)| id).collect();
            let unknown = tokenizer.token_id("<unk>").filter(|_| vocabulary == "nfkc.model");
            let is_plain = |id: &u32| !added.contains(id) || Some(*id) == unknown;
            assert!(found.iter().all(is_plain), "{vocabulary}, {}: {found:?}", case["name"]);
            if unknown.is_none() {
                assert_eq!(tokenizer.decode(&found, false), TYPED, "{vocabulary}, {}", case["name"]);
            }
        }
    }
}

/// A SentencePiece file as a GGUF file would hold it.
fn as_gguf(vocabulary: &str) -> GgufVocabulary {
    let file = ModelFile::read(&fs::read(fixtures::tokenizers(vocabulary)).unwrap()).unwrap();
    let pieces = file.pieces;
    let id = |text: &Option<String>| {
        let place = pieces.entries.iter().position(|entry| Some(&entry.text) == text.as_ref());
        place.map(|id| id as u32)
    };
    GgufVocabulary {
        model: if pieces.algorithm == Algorithm::Bpe { "llama" } else { "t5" }.into(),
        tokens: pieces.entries.iter().map(|entry| entry.text.clone()).collect(),
        token_types: pieces.entries.iter().map(|entry| entry.kind as i32 + 1).collect(),
        scores: pieces.entries.iter().map(|entry| entry.score).collect(),
        bos: id(&file.bos),
        eos: id(&file.eos),
        unknown: pieces.unknown().map(|id| id as u32),
        add_bos: Some(pieces.algorithm == Algorithm::Bpe),
        add_eos: Some(false),
        add_space_prefix: Some(pieces.prefix != Prefix::Never),
        remove_extra_whitespaces: Some(pieces.spaces == Spaces::Squeezed),
        charsmap: pieces.charsmap.clone(),
        ..GgufVocabulary::default()
    }
}

/// Texts with tokens that only the folder adds, or with user-defined ones after which SentencePiece writes no space, are
/// another matter.
#[test]
fn gguf_files_say_the_same_as_the_files_they_are_made_of() {
    for (vocabulary, name) in
        [("bpe.model", "llama"), ("bare.model", "gemma"), ("unigram.model", "own"), ("nfkc.model", "own")]
    {
        let tokenizer = Arc::new(Tokenizer::from_gguf(&as_gguf(vocabulary)).unwrap());
        let mut case = cases(vocabulary).into_iter().find(|case| case["name"] == name).unwrap();
        let only_here =
            |text: &Value| ["<|extra|>", "<|mark|>"].iter().any(|token| text["text"].as_str().unwrap().contains(token));
        case["texts"].as_array_mut().unwrap().retain(|text| !only_here(text));
        case["streams"] = Value::Array(Vec::new());
        check_case(&tokenizer, &format!("{vocabulary} as GGUF"), &case);
    }
}

fn loaded() -> &'static [(usize, Arc<Tokenizer>)] {
    use std::sync::OnceLock;
    static LOADED: OnceLock<Vec<(usize, Arc<Tokenizer>)>> = OnceLock::new();
    LOADED.get_or_init(|| {
        let first = |vocabulary: &&str| load(vocabulary, &cases(vocabulary)[0]);
        VOCABULARIES.iter().map(first).map(|tokenizer| (tokenizer.vocab_size(), tokenizer)).collect()
    })
}

proptest! {
    #[test]
    fn any_tokens_stream_to_their_decoding(draws in prop::collection::vec((any::<u32>(), 0u32..10), 0..60), skip: bool) {
        for (size, tokenizer) in loaded() {
            // Every other draw is one of the first tokens, among which are those of single bytes.
            let id = |&(draw, kind): &(u32, u32)| if kind < 5 { draw % *size as u32 } else { draw % 260 };
            check_random(tokenizer, &draws.iter().map(id).collect::<Vec<_>>(), skip);
        }
    }

    /// What is broken is an error, not a panic: some bytes of a file changed, or its end missing.
    #[test]
    fn broken_files_are_one_error(at in any::<prop::sample::Index>(), byte: u8, cut: bool) {
        for vocabulary in VOCABULARIES.iter().filter(|vocabulary| **vocabulary != "nfkc.model") {
            let mut bytes = fs::read(fixtures::tokenizers(vocabulary)).unwrap();
            let place = at.index(bytes.len());
            if cut { bytes.truncate(place) } else { bytes[place] = byte }
            check_broken(&bytes);
        }
    }
}

/// Whatever the file is, it becomes an error of one line or a tokenizer that answers.
fn check_broken(bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokenizer.model");
    fs::write(&file, bytes).unwrap();
    match Tokenizer::from_folder(folder.path()) {
        Err(error) => {
            let message = error.to_string();
            assert!(message.starts_with(file.to_str().unwrap()) && message.lines().count() == 1, "{message}");
        }
        Ok(tokenizer) => drop(tokenizer.encode("The river, 12 中 \u{fb01}", true)),
    }
}

#[test]
fn a_broken_charsmap_is_an_error_or_does_no_harm() {
    let bytes = fs::read(fixtures::tokenizers("nfkc.model")).unwrap();
    let trie = bytes.len() - 240_000;
    for place in (0..64).map(|step| trie + step * 2_999) {
        let mut bytes = bytes.clone();
        bytes[place..place + 4].fill(0x7f);
        check_broken(&bytes);
    }
}

fn check_refused(vocabulary: &str, config: &str, told: &str) {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(fixtures::tokenizers(vocabulary), folder.path().join("tokenizer.model")).unwrap();
    fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
    let error = Tokenizer::from_folder(folder.path()).unwrap_err().to_string();
    assert!(
        error.starts_with(folder.path().join("tokenizer.model").to_str().unwrap()) && error.contains(told),
        "{error}"
    );
}

#[test]
fn folders_that_cannot_be_right_are_refused() {
    check_refused("unigram.model", r#"{"tokenizer_class": "XLMRobertaTokenizer"}"#, "other ids than this file");
    let far = r#"{"added_tokens_decoder": {"4000000000": {"content": "<x>", "special": true}}}"#;
    check_refused("bpe.model", far, "added token 4000000000 is far beyond");
    check_refused("ranks.tiktoken", far, "added token 4000000000 is far beyond");
}

/// Tokens that a folder names take the places that it says, and places without a name are filled.
#[test]
fn added_tokens_have_the_ids_that_the_folder_says() {
    let tokens = serde_json::json!({
        "5": {"content": "<five>", "special": true},
        "710": {"content": "<far>", "special": false},
    });
    let config = serde_json::json!({"added_tokens_decoder": tokens, "pad_token": "<pad>", "unk_token": "<unk>"});
    for vocabulary in ["bpe.model", "unigram.model", "ranks.tiktoken"] {
        let folder = tempfile::tempdir().unwrap();
        fs::copy(fixtures::tokenizers(vocabulary), folder.path().join("tokenizer.model")).unwrap();
        fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        let tokenizer = Tokenizer::from_file(&folder.path().join("tokenizer.model")).unwrap();
        assert_eq!(tokenizer.token_id("<five>"), Some(5), "{vocabulary}");
        assert_eq!(tokenizer.token_id("<far>"), Some(710), "{vocabulary}");
        assert!(tokenizer.token_id("<pad>") >= Some(711) && tokenizer.is_special(tokenizer.token_id("<pad>").unwrap()));
        let found = tokenizer.encode("<five><far><pad>", false).unwrap();
        assert!(
            found.starts_with(&[5]) && found.contains(&710) && tokenizer.is_special(5) && !tokenizer.is_special(710)
        );
        let mut detokenizer = Detokenizer::new(&tokenizer, true);
        assert_eq!(detokenizer.push(5) + &detokenizer.push(710), "<far>", "{vocabulary}");
    }
}
