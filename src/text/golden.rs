//! Both golden tokenizers against what Hugging Face's own library made of the same texts.

use std::{fs, sync::Arc};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{ChatOptions, Detokenizer, TextModel, TextOverrides, Tokenizer};
use crate::fixtures;

/// A golden file and the model folder whose tokenizer and template it describes.
pub(super) const BYTE_LEVEL: (&str, &str) = ("tok_bytelevel", "models/llama3_rope");
pub(super) const SENTENCE_PIECE: (&str, &str) = ("tok_spm", "models/ernie45");

pub(super) fn load((golden, model): (&str, &str)) -> (Value, TextModel) {
    let text = fs::read_to_string(fixtures::golden(golden).join("golden_tokenizer.json")).unwrap();
    (serde_json::from_str(&text).unwrap(), TextModel::load(&fixtures::golden(model), TextOverrides::default()).unwrap())
}

pub(super) fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

pub(super) fn streamed(tokenizer: &Arc<Tokenizer>, ids: &[u32], skip_special_tokens: bool) -> String {
    let mut detokenizer = Detokenizer::new(tokenizer.clone(), skip_special_tokens);
    let text: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
    text + &detokenizer.finish()
}

pub(super) fn check_texts(tokenizer: &Arc<Tokenizer>, golden: &Value) {
    for case in golden["texts"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let found = tokenizer.encode(text, false).unwrap();
        assert_eq!(found, ids(&case["ids"]), "{text:?}");
        assert_eq!(tokenizer.encode(text, true).unwrap(), ids(&case["ids_with_special"]), "{text:?}");
        let tokens: Vec<_> = found.iter().map(|&id| tokenizer.token_text(id).unwrap()).collect();
        assert_eq!(json!(tokens), case["tokens"], "{text:?}");
        for (key, skip) in [("decode", false), ("decode_skip_special", true)] {
            assert_eq!(streamed(tokenizer, &found, skip), case[key], "{text:?}");
        }
    }
}

#[test]
fn texts_become_the_golden_ids_and_back() {
    for which in [BYTE_LEVEL, SENTENCE_PIECE] {
        let (golden, model) = load(which);
        check_texts(&model.tokenizer, &golden);
        assert_eq!(model.tokenizer.vocab_size() as u64, golden["vocab_size_with_added"].as_u64().unwrap());
        assert_eq!(json!(model.tokenizer.eos()), golden["special_ids"]["eos_token"]);
        assert_eq!(model.tokenizer.bos().map(u64::from), golden["special_ids"]["bos_token"].as_u64());
    }
}

/// What is handed out is only ever added to, is part of the final text, and lags behind the decoded prefix only by
/// what isn't final.
pub(super) fn check_stream(tokenizer: &Arc<Tokenizer>, ids: &[u32], prefixes: &[&str]) {
    let last = *prefixes.last().unwrap();
    let mut detokenizer = Detokenizer::new(tokenizer.clone(), false);
    let mut shown = String::new();
    for (index, (&id, prefix)) in ids.iter().zip(prefixes).enumerate() {
        shown.push_str(&detokenizer.push(id));
        assert!(last.starts_with(&shown), "{shown:?} is not the beginning of {last:?}");
        let cut = streamed(tokenizer, &ids[..=index], false);
        assert!(cut.starts_with(&shown) && cut.matches('\u{fffd}').count() <= 1, "{cut:?}");
        match prefix.contains('\u{fffd}') {
            true => assert!(cut.ends_with('\u{fffd}') && last.starts_with(&cut[..cut.len() - 3]), "{cut:?}"),
            false => assert_eq!(cut, *prefix),
        }
    }
    assert_eq!(shown + &detokenizer.finish(), last);
}

#[test]
fn streams_hand_out_only_what_the_whole_text_keeps() {
    for which in [BYTE_LEVEL, SENTENCE_PIECE] {
        let (golden, model) = load(which);
        for stream in golden["streams"].as_array().unwrap() {
            let prefixes: Vec<_> =
                stream["prefix_decodes"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
            check_stream(&model.tokenizer, &ids(&stream["ids"]), &prefixes);
        }
    }
}

fn options(kwargs: &Value) -> ChatOptions {
    let mut kwargs = kwargs.as_object().unwrap().clone();
    let mut flag = |name: &str| kwargs.remove(name).is_some_and(|value| value == true);
    ChatOptions {
        add_generation_prompt: flag("add_generation_prompt"),
        continue_final_message: flag("continue_final_message"),
        tools: kwargs.remove("tools"),
        documents: None,
        kwargs,
        template: None,
    }
}

pub(super) fn check_chats(model: &TextModel, golden: &Value) {
    for chat in golden["chats"].as_array().unwrap() {
        let (name, messages, options) = (&chat["name"], &chat["messages"], options(&chat["kwargs"]));
        let rendered = model.template.as_ref().unwrap().render(messages, &options);
        if !chat["error"].is_null() {
            let error = rendered.expect_err(&format!("{name}"));
            assert!(error.is_client_fault(), "{name}: {error}");
            continue;
        }
        assert_eq!(rendered.unwrap(), chat["rendered"], "{name}");
        assert_eq!(model.chat_prompt(messages, &options).unwrap(), ids(&chat["ids"]), "{name}");
    }
}

#[test]
fn chats_become_the_golden_texts_and_ids() {
    for which in [BYTE_LEVEL, SENTENCE_PIECE] {
        let (golden, model) = load(which);
        check_chats(&model, &golden);
    }
}

/// The text that Hugging Face's library decodes, with a cut character at the end shown once.
fn reference(tokenizer: &Tokenizer, ids: &[u32], skip_special_tokens: bool) -> String {
    tokenizer.inner().decode(ids, skip_special_tokens).unwrap()
}

pub(super) fn check_random(tokenizer: &Arc<Tokenizer>, ids: &[u32], skip: bool) {
    let text = streamed(tokenizer, ids, skip);
    assert_eq!(text, tokenizer.decode(ids, skip));
    // A token that ends any run of bytes makes the end of the text whole, so that the reference needs no exception.
    let mut ended = ids.to_vec();
    ended.push(tokenizer.token_id("a").unwrap());
    assert_eq!(streamed(tokenizer, &ended, skip), reference(tokenizer, &ended, skip));
    let expected = reference(tokenizer, ids, skip);
    let whole = expected.trim_end_matches('\u{fffd}');
    assert!(text == expected || text.starts_with(whole), "{text:?} for {expected:?}");
}

proptest! {
    #[test]
    fn any_tokens_stream_to_their_decoding(draws in prop::collection::vec((0u32..1100, 0u32..10), 0..60), skip: bool) {
        for which in [BYTE_LEVEL, SENTENCE_PIECE] {
            let tokenizer = tokenizer(which);
            // Bytes of one character are rare among random tokens, so every other draw is a byte token.
            let id = |(id, kind): (u32, u32)| if kind < 5 { id } else { byte_token(which, id) };
            check_random(&tokenizer, &draws.iter().copied().map(id).collect::<Vec<_>>(), skip);
        }
    }
}

fn tokenizer(which: (&str, &str)) -> Arc<Tokenizer> {
    use std::sync::OnceLock;
    static LOADED: [OnceLock<Arc<Tokenizer>>; 2] = [const { OnceLock::new() }; 2];
    LOADED[usize::from(which == SENTENCE_PIECE)].get_or_init(|| load(which).1.tokenizer).clone()
}

/// A token of one byte, mostly of a long character.
fn byte_token(which: (&str, &str), draw: u32) -> u32 {
    let byte = [0xf0, 0x9f, 0x98, 0x80, 0xe4, 0xbd, 0xa0, 0xc3, 0xa9, 0x20][draw as usize % 10];
    // Byte tokens stand at the beginning of both vocabularies: after three special ones, or in the alphabet's order.
    let first = if which == SENTENCE_PIECE { 3 } else { 0 };
    let is = |id: &u32| tokenizer(which).token_bytes(*id) == Some(&[byte]);
    (first..first + 256).find(is).unwrap()
}
