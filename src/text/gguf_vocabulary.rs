//! The vocabulary that a GGUF file carries in its metadata, made into a tokenizer.
//!
//! Keys and token types: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, "Tokenizer".

use std::collections::HashMap;

use serde_json::{Value, json};
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer,
    models::bpe::{BPE, Merges, Vocab},
};
use workers::weights::{Metadata, MetadataValue};

use super::{TextError, pre_tokenizer::PreTokenizer, tokenizer::from_json};

/// `tokenizer.ggml.*`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufVocabulary {
    /// `model`: `gpt2` (byte-level BPE) or `llama` (SentencePiece BPE).
    pub model: String,
    /// `pre`: the name of the rule that cuts a text before BPE, for `gpt2` only.
    pub pre: Option<String>,
    /// `tokens`: the text of each id.
    pub tokens: Vec<String>,
    /// `token_type`, one per token; empty: all are normal.
    pub token_types: Vec<i32>,
    /// `scores`, one per token, for `llama` only: the higher, the earlier it is merged.
    pub scores: Vec<f32>,
    /// `merges`: pairs written with one space between, the first merged first; for `gpt2` only.
    pub merges: Vec<String>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `unknown_token_id`.
    pub unknown: Option<u32>,
    /// `padding_token_id`.
    pub padding: Option<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`, for `llama` only.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

impl GgufVocabulary {
    /// Reads it from a GGUF file's metadata. An entry of the wrong type counts as missing.
    pub fn of_metadata(metadata: &Metadata) -> Self {
        let text = |key: &str| metadata.string(key).map(str::to_string);
        let id = |key: &str| metadata.unsigned(key).and_then(|id| u32::try_from(id).ok());
        let texts = |key: &str| strings(metadata.strings(key).unwrap_or_default());
        let scores = metadata.array("tokenizer.ggml.scores").unwrap_or_default();
        let types = metadata.integers("tokenizer.ggml.token_type").unwrap_or_default();
        Self {
            model: text("tokenizer.ggml.model").unwrap_or_default(),
            pre: text("tokenizer.ggml.pre"),
            tokens: texts("tokenizer.ggml.tokens"),
            token_types: types.into_iter().map(|kind| i32::try_from(kind).unwrap_or_default()).collect(),
            scores: scores.iter().map(score).collect(),
            merges: texts("tokenizer.ggml.merges"),
            bos: id("tokenizer.ggml.bos_token_id"),
            eos: id("tokenizer.ggml.eos_token_id"),
            unknown: id("tokenizer.ggml.unknown_token_id"),
            padding: id("tokenizer.ggml.padding_token_id"),
            add_bos: metadata.boolean("tokenizer.ggml.add_bos_token"),
            add_eos: metadata.boolean("tokenizer.ggml.add_eos_token"),
            add_space_prefix: metadata.boolean("tokenizer.ggml.add_space_prefix"),
            chat_template: text("tokenizer.chat_template"),
        }
    }

    /// The tokenizer, without what is put around a text.
    pub(crate) fn build(&self) -> Result<Tokenizer, TextError> {
        self.check()?;
        let mut tokenizer = match self.model.as_str() {
            "gpt2" => self.byte_level()?,
            "llama" => self.sentence_piece()?,
            other => {
                return Err(TextError::model(format!(
                    "tokenizer model `{other}` is not known; known are gpt2 and llama"
                )));
            }
        };
        self.add_tokens(&mut tokenizer)?;
        Ok(tokenizer)
    }

    /// Whether a BOS is put before a text: as the file says, else as llama.cpp does where it says nothing.
    pub fn adds_bos(&self) -> bool {
        let default = self.model == "llama" || PreTokenizer::named(self.pre.as_deref()).is_ok_and(|pre| pre.adds_bos);
        self.add_bos.unwrap_or(default)
    }

    /// The text of the token with this id.
    pub fn token(&self, id: Option<u32>) -> Option<&str> {
        self.tokens.get(id? as usize).map(String::as_str)
    }

    fn check(&self) -> Result<(), TextError> {
        let tokens = self.tokens.len();
        if tokens == 0 {
            return Err(TextError::model("tokenizer.ggml.tokens is missing or empty"));
        }
        for (key, entries) in [("token_type", self.token_types.len()), ("scores", self.scores.len())] {
            if entries != 0 && entries != tokens {
                return Err(TextError::model(format!(
                    "tokenizer.ggml.{key} has {entries} entries for {tokens} tokens"
                )));
            }
        }
        for (key, id) in [("bos", self.bos), ("eos", self.eos), ("unknown", self.unknown)] {
            if let Some(id) = id
                && id as usize >= tokens
            {
                return Err(TextError::model(format!("tokenizer.ggml.{key}_token_id is {id}, of {tokens} tokens")));
            }
        }
        Ok(())
    }

    fn byte_level(&self) -> Result<Tokenizer, TextError> {
        let pre = PreTokenizer::named(self.pre.as_deref())?;
        let merges = self.merges.iter().map(|merge| split_merge(merge)).collect::<Result<_, _>>()?;
        let bpe = BPE::builder().vocab_and_merges(self.ids(), merges).ignore_merges(pre.whole_words_first);
        let mut tokenizer = Tokenizer::new(bpe.build().map_err(bad_merges)?);
        if pre.composes {
            let normalizer = from_json::<NormalizerWrapper>(json!({"type": "NFC"}))?;
            tokenizer.with_normalizer(Some(normalizer)).map_err(TextError::model)?;
        }
        tokenizer.with_pre_tokenizer(Some(from_json::<PreTokenizerWrapper>(pre.recipe())?));
        let decoder = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        tokenizer.with_decoder(Some(from_json::<DecoderWrapper>(decoder)?));
        Ok(tokenizer)
    }

    /// SentencePiece's BPE as Hugging Face writes it: spaces become `▁`, unknown characters their bytes.
    fn sentence_piece(&self) -> Result<Tokenizer, TextError> {
        if self.scores.is_empty() {
            return Err(TextError::model("tokenizer.ggml.scores is missing, tokenizer model llama needs it"));
        }
        let mut bpe =
            BPE::builder().vocab_and_merges(self.ids(), self.merges_of_scores()).byte_fallback(true).fuse_unk(true);
        if let Some(unknown) = self.token(self.unknown) {
            bpe = bpe.unk_token(unknown.into());
        }
        let mut tokenizer = Tokenizer::new(bpe.build().map_err(bad_merges)?);
        let prefix = self.add_space_prefix.unwrap_or(true);
        let normalizer = from_json::<NormalizerWrapper>(sentence_piece_normalizer(prefix))?;
        tokenizer.with_normalizer(Some(normalizer)).map_err(TextError::model)?;
        tokenizer.with_decoder(Some(from_json::<DecoderWrapper>(sentence_piece_decoder(prefix))?));
        Ok(tokenizer)
    }

    fn ids(&self) -> Vocab {
        self.tokens.iter().cloned().zip(0..).collect()
    }

    /// SentencePiece keeps no list of merges: it merges the pair whose result has the highest score. The same order
    /// comes from listing every way to put a piece together from two others, best score first.
    fn merges_of_scores(&self) -> Merges {
        let is_piece = |id: usize| self.token_types.get(id).is_none_or(|&kind| kind == NORMAL || kind == USER_DEFINED);
        let pieces: HashMap<&str, usize> = self
            .tokens
            .iter()
            .enumerate()
            .filter(|(id, _)| is_piece(*id))
            .map(|(id, text)| (text.as_str(), id))
            .collect();
        let mut merges = Vec::new();
        for (&text, &id) in &pieces {
            for (at, _) in text.char_indices().skip(1) {
                let (left, right) = text.split_at(at);
                if let (Some(&left_id), Some(&right_id)) = (pieces.get(left), pieces.get(right)) {
                    merges.push((self.scores[id], id, left_id, right_id));
                }
            }
        }
        merges.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2, a.3).cmp(&(b.1, b.2, b.3))));
        merges.into_iter().map(|(_, _, left, right)| (self.tokens[left].clone(), self.tokens[right].clone())).collect()
    }

    /// Control tokens are special; user-defined ones are found whole in a text, too, but are part of it.
    fn add_tokens(&self, tokenizer: &mut Tokenizer) -> Result<(), TextError> {
        let added = self.tokens.iter().zip(&self.token_types).filter_map(|(text, &kind)| match kind {
            CONTROL | UNKNOWN => Some(AddedToken::from(text, true)),
            USER_DEFINED => Some(AddedToken::from(text, false).normalized(false)),
            _ => None,
        });
        let (special, plain): (Vec<_>, Vec<_>) =
            added.filter(|token| !token.content.is_empty()).partition(|token| token.special);
        tokenizer.add_special_tokens(special).map_err(TextError::model)?;
        tokenizer.add_tokens(plain).map_err(TextError::model)?;
        Ok(())
    }
}

fn strings(texts: Vec<&str>) -> Vec<String> {
    texts.into_iter().map(str::to_string).collect()
}

fn score(value: &MetadataValue) -> f32 {
    if let MetadataValue::Float(score) = *value { score as f32 } else { f32::MIN }
}

fn split_merge(merge: &str) -> Result<(String, String), TextError> {
    match merge.split_once(' ') {
        Some((left, right)) => Ok((left.into(), right.into())),
        None => Err(TextError::model(format!("tokenizer.ggml.merges: `{merge}` is not a pair"))),
    }
}

fn bad_merges(error: impl std::fmt::Display) -> TextError {
    TextError::model(format!("tokenizer.ggml.merges don't fit tokenizer.ggml.tokens: {error}"))
}

fn sentence_piece_normalizer(prefix: bool) -> Value {
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let prepend = json!({"type": "Prepend", "prepend": "▁"});
    let steps = if prefix { vec![prepend, spaces] } else { vec![spaces] };
    json!({"type": "Sequence", "normalizers": steps})
}

fn sentence_piece_decoder(prefix: bool) -> Value {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}
