//! The vocabulary that a GGUF file carries in its metadata, made into a tokenizer.
//!
//! Keys and token types: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, "Tokenizer".

use serde_json::json;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer,
    models::bpe::{BPE, Vocab},
};
use workers::weights::{Metadata, MetadataValue};

use super::{
    TextError,
    pre_tokenizer::PreTokenizer,
    tokenizer::from_json,
    vocabulary::{Algorithm, Entry, Kind, Prefix, SentencePieces, Spaces},
};

/// `tokenizer.ggml.*`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufVocabulary {
    /// `model`: `gpt2` (byte-level BPE), `llama` (SentencePiece's BPE) or `t5` (its unigram model).
    pub model: String,
    /// `pre`: the name of the rule that cuts a text before BPE, for `gpt2` only.
    pub pre: Option<String>,
    /// `tokens`: the text of each id.
    pub tokens: Vec<String>,
    /// `token_type`, one per token; empty: all are normal.
    pub token_types: Vec<i32>,
    /// `scores`, one per token, for `llama` (the higher, the earlier it is merged) and `t5`.
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
    /// `add_space_prefix`, for `llama` and `t5`.
    pub add_space_prefix: Option<bool>,
    /// `remove_extra_whitespaces`, for `t5` only.
    pub remove_extra_whitespaces: Option<bool>,
    /// `precompiled_charsmap`, for `t5` only: SentencePiece's compiled normalization.
    pub charsmap: Vec<u8>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}

impl GgufVocabulary {
    /// Reads it from a GGUF file's metadata. An entry of the wrong type counts as missing.
    pub fn of_metadata(metadata: &Metadata) -> Self {
        let text = |key: &str| metadata.string(key).map(str::to_string);
        let id = |key: &str| metadata.unsigned(key).and_then(|id| u32::try_from(id).ok());
        let texts = |key: &str| strings(metadata.strings(key).unwrap_or_default());
        let scores = metadata.array("tokenizer.ggml.scores").unwrap_or_default();
        let charsmap = metadata.integers("tokenizer.ggml.precompiled_charsmap").unwrap_or_default();
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
            remove_extra_whitespaces: metadata.boolean("tokenizer.ggml.remove_extra_whitespaces"),
            // Some writers store bytes as signed.
            charsmap: charsmap.into_iter().map(|byte| byte as u8).collect(),
            chat_template: text("tokenizer.chat_template"),
        }
    }

    /// The tokenizer, without what is put around a text.
    pub(crate) fn build(&self) -> Result<Tokenizer, TextError> {
        self.check()?;
        match self.model.as_str() {
            "gpt2" => self.byte_level(),
            "llama" => self.sentence_piece(Algorithm::Bpe),
            "t5" => self.sentence_piece(Algorithm::Unigram),
            other => {
                Err(TextError::model(format!("tokenizer model `{other}` is not known; known are gpt2, llama and t5")))
            }
        }
    }

    /// Whether a BOS is put before a text: as the file says, else as llama.cpp does where it says nothing.
    pub fn adds_bos(&self) -> bool {
        let default = self.model == "llama" || PreTokenizer::named(self.pre.as_deref()).is_ok_and(|pre| pre.adds_bos);
        self.add_bos.unwrap_or(default)
    }

    /// Whether an EOS is put after a text: as the file says, else only for `t5`.
    pub fn adds_eos(&self) -> bool {
        self.add_eos.unwrap_or(self.model == "t5")
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
        self.add_tokens(&mut tokenizer)?;
        Ok(tokenizer)
    }

    /// As Hugging Face's fast tokenizers read it: each stretch between special tokens has its own space before it.
    fn sentence_piece(&self, algorithm: Algorithm) -> Result<Tokenizer, TextError> {
        if self.scores.is_empty() {
            let model = &self.model;
            return Err(TextError::model(format!(
                "tokenizer.ggml.scores is missing, tokenizer model {model} needs it"
            )));
        }
        let kinds = (0..self.tokens.len()).map(|id| self.kind(id));
        let entries = self.tokens.iter().zip(&self.scores).zip(kinds);
        let mut entries: Vec<_> =
            entries.map(|((text, &score), kind)| Entry { text: text.clone(), score, kind }).collect();
        if let Some(unknown) = self.unknown.and_then(|id| entries.get_mut(id as usize)) {
            unknown.kind = Kind::Unknown;
        }
        let squeezes = algorithm == Algorithm::Unigram && self.remove_extra_whitespaces == Some(true);
        let pieces = SentencePieces {
            byte_fallback: algorithm == Algorithm::Bpe || entries.iter().any(|entry| entry.kind == Kind::Byte),
            entries,
            algorithm,
            charsmap: if algorithm == Algorithm::Unigram { self.charsmap.clone() } else { Vec::new() },
            spaces: if squeezes { Spaces::Squeezed } else { Spaces::Kept },
            prefix: if self.add_space_prefix.unwrap_or(true) { Prefix::Each } else { Prefix::Never },
        };
        pieces.tokenizer()
    }

    fn kind(&self, id: usize) -> Kind {
        self.token_types.get(id).map_or(Kind::Normal, |&kind| Kind::numbered(kind.into()).unwrap_or(Kind::Unused))
    }

    fn ids(&self) -> Vocab {
        self.tokens.iter().cloned().zip(0..).collect()
    }

    /// Control tokens are special; user-defined ones are found whole in a text, too, but are part of it.
    fn add_tokens(&self, tokenizer: &mut Tokenizer) -> Result<(), TextError> {
        let kinds = (0..self.tokens.len()).map(|id| self.kind(id));
        let added = self.tokens.iter().zip(kinds).filter_map(|(text, kind)| match kind {
            Kind::Control | Kind::Unknown => Some(AddedToken::from(text, true)),
            Kind::UserDefined => Some(AddedToken::from(text, false).normalized(false)),
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
