//! Tokenizers made from GGUF metadata against the golden ids of the same vocabularies.

use std::fs;

use serde_json::Value;

use super::{
    ChatOptions, TextModel, TextOverrides, Tokenizer,
    gguf_vocabulary::GgufVocabulary,
    golden::{BYTE_LEVEL, SENTENCE_PIECE, check_chats, check_texts, ids, load},
};
use crate::fixtures;

#[test]
fn a_tiny_gguf_has_the_golden_tokenizer_and_template() {
    let (golden, _) = load(BYTE_LEVEL);
    let model = TextModel::load(&fixtures::golden("gguf/llama_q8_0/model.gguf"), TextOverrides::default()).unwrap();
    check_texts(&model.tokenizer, &golden);
    check_chats(&model, &golden);
}

/// The golden SentencePiece vocabulary as a GGUF file would hold it: no merges, but scores that rank the pieces as the
/// merges did.
fn sentence_piece() -> GgufVocabulary {
    let text = fs::read_to_string(fixtures::golden("models/ernie45/tokenizer.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let mut tokens: Vec<_> = json["model"]["vocab"].as_object().unwrap().iter().collect();
    let added = json["added_tokens"].as_array().unwrap();
    let special = |id: &Value| added.iter().find(|token| token["id"] == *id).map(|token| token["special"] == true);
    tokens.sort_by_key(|(_, id)| id.as_u64());
    let type_of = |(text, id): &(&String, &Value)| match special(id) {
        Some(true) => 3,
        Some(false) => 4,
        None if text.starts_with("<0x") => 6,
        None => 1,
    };
    let token_types = tokens.iter().map(type_of).collect();
    let mut tokens: Vec<_> = tokens.into_iter().map(|(text, _)| text.clone()).collect();
    let mut scores = vec![0.0; tokens.len()];
    for (rank, merge) in json["model"]["merges"].as_array().unwrap().iter().enumerate() {
        let made = format!("{}{}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap());
        let id = tokens.iter().position(|text| *text == made).unwrap();
        scores[id] = if scores[id] == 0.0 { -(rank as f32) - 1.0 } else { scores[id] };
    }
    let mut vocabulary = GgufVocabulary { model: "llama".into(), token_types, scores, ..GgufVocabulary::default() };
    let beyond = tokens.len();
    for token in added.iter().filter(|token| token["id"].as_u64().unwrap() as usize >= beyond) {
        tokens.push(token["content"].as_str().unwrap().into());
        vocabulary.token_types.push(if token["special"] == true { 3 } else { 4 });
        vocabulary.scores.push(0.0);
    }
    GgufVocabulary { tokens, bos: Some(1), eos: Some(2), unknown: Some(0), ..vocabulary }
}

#[test]
fn sentence_piece_is_recovered_from_scores() {
    let (golden, _) = load(SENTENCE_PIECE);
    check_texts(&Tokenizer::from_gguf(&sentence_piece()).unwrap().into(), &golden);
}

#[test]
fn a_vocabulary_that_does_not_hold_together_is_refused() {
    let good = sentence_piece();
    let check = |vocabulary: GgufVocabulary, told: &str| {
        let error = Tokenizer::from_gguf(&vocabulary).unwrap_err();
        assert!(error.to_string().contains(told) && !error.is_client_fault(), "{error}");
    };
    check(GgufVocabulary::default(), "tokens is missing");
    check(GgufVocabulary { model: "unigram".into(), ..good.clone() }, "`unigram` is not known");
    check(GgufVocabulary { scores: vec![], ..good.clone() }, "scores is missing");
    check(GgufVocabulary { scores: vec![1.0], ..good.clone() }, "1 entries");
    check(GgufVocabulary { token_types: vec![1; 3], ..good.clone() }, "3 entries");
    check(GgufVocabulary { bos: Some(99_999), ..good.clone() }, "bos_token_id is 99999");
    let bytes = GgufVocabulary { model: "gpt2".into(), ..good };
    check(GgufVocabulary { merges: vec!["no-space".into()], ..bytes.clone() }, "not a pair");
    check(GgufVocabulary { merges: vec!["zzzz qqqq".into()], ..bytes.clone() }, "merges don't fit");
    check(GgufVocabulary { pre: Some("unheard-of".into()), ..bytes }, "`unheard-of` is not known");
}

#[test]
fn smollm2_has_the_golden_ids() {
    let golden: Value =
        serde_json::from_str(&fs::read_to_string(fixtures::golden("smollm2/golden.json")).unwrap()).unwrap();
    let model = TextModel::load(&fixtures::smollm2(), TextOverrides::default()).unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let messages = &case["messages"];
        assert_eq!(
            model.chat_text(messages, &ChatOptions::default()).unwrap(),
            case["prompt_text"],
            "{}",
            case["name"]
        );
        assert_eq!(model.chat_prompt(messages, &ChatOptions::default()).unwrap(), ids(&case["prompt_ids"]));
        let end = case["first_eos_step"].as_u64().map_or(usize::MAX, |step| step as usize);
        let answer: Vec<_> = ids(&case["greedy"]["ids"]).into_iter().take(end).collect();
        assert_eq!(model.tokenizer.decode(&answer, true), case["text"], "{}", case["name"]);
    }
    for case in [&golden["perplexity"], &golden["sampling"]] {
        let text = case["text"].as_str().or(case["prompt_text"].as_str()).unwrap();
        let expected = if case["token_ids"].is_null() { &case["prompt_ids"] } else { &case["token_ids"] };
        assert_eq!(model.completion_prompt(text).unwrap(), ids(expected));
    }
    assert_eq!((model.tokenizer.bos(), model.tokenizer.eos(), model.tokenizer.vocab_size()), (Some(1), Some(2), 49152));
}
