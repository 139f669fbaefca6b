//! tiktoken's files: byte-level BPE, one token a line, its bytes in base64 and its rank
//! (<https://github.com/openai/tiktoken>).

use std::collections::HashSet;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;
use tokenizers::{
    DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer,
    models::bpe::{BPE, Vocab},
};

use super::{added_tokens::AddedTokens, merges_of_scores};
use crate::text::{TextError, pieces::letter_of_byte, pre_tokenizer::PreTokenizer, tokenizer::from_json};

/// The tokens of such a file by rank, which is also their id; in GPT-2's byte alphabet.
#[derive(Debug, PartialEq)]
pub(super) struct Ranks {
    texts: Vec<String>,
}

impl Ranks {
    /// Whether the first line is one of such a file. A SentencePiece model begins with a line feed.
    pub fn is_file(bytes: &[u8]) -> bool {
        let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
        std::str::from_utf8(line).is_ok_and(|line| read_line(line).is_some())
    }

    /// Every rank from 0 must be there, and every single byte, so that any text has tokens.
    pub fn read(bytes: &[u8]) -> Result<Self, TextError> {
        let text = std::str::from_utf8(bytes).map_err(|_| TextError::model("not a tiktoken file: it isn't text"))?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let mut ranked = Vec::new();
        for (index, line) in lines {
            let token = read_line(line);
            ranked.push(token.ok_or_else(|| {
                TextError::model(format!("line {} is not a token in base64 and its rank", index + 1))
            })?);
        }
        ranked.sort_by_key(|(rank, _)| *rank);
        if let Some((expected, (rank, _))) = ranked.iter().enumerate().find(|(expected, (rank, _))| expected != rank) {
            let what = if *rank < expected { "is there twice" } else { "is missing" };
            return Err(TextError::model(format!("rank {} {what}", expected.min(*rank))));
        }
        let texts: Vec<_> = ranked.into_iter().map(|(_, text)| text).collect();
        let bytes: HashSet<&str> = texts.iter().map(String::as_str).filter(|text| text.chars().count() == 1).collect();
        match (0..=u8::MAX).find(|&byte| !bytes.contains(letter_of_byte(byte).to_string().as_str())) {
            Some(byte) => Err(TextError::model(format!("no token is the single byte 0x{byte:02x}"))),
            None => Ok(Self { texts }),
        }
    }

    /// How many there are: the first id of a special token.
    pub fn count(&self) -> usize {
        self.texts.len()
    }

    /// The tokenizer that cuts texts into words by `rule`, with these added tokens.
    pub fn tokenizer(self, rule: &PreTokenizer, added: &AddedTokens) -> Result<Tokenizer, TextError> {
        let ranks = self.texts.len();
        let places = added.places(&self.texts.iter().map(String::as_str).collect::<Vec<_>>())?;
        let mut texts = self.texts;
        texts.resize_with(places.keys().next_back().map_or(ranks, |last| ranks.max(last + 1)), String::new);
        places.into_iter().for_each(|(id, text)| texts[id] = text);
        let vocab: Vocab = texts.into_iter().zip(0..).collect();
        let merges = merges_of_scores(&vocab, |id| ((id as usize) < ranks).then(|| -f64::from(id)));
        // tiktoken looks for a word as a whole before it merges.
        let bpe = BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(true);
        let mut tokenizer = Tokenizer::new(bpe.build().map_err(TextError::model)?);
        if rule.composes {
            let normalizer = from_json::<NormalizerWrapper>(json!({"type": "NFC"}))?;
            tokenizer.with_normalizer(Some(normalizer)).map_err(TextError::model)?;
        }
        tokenizer.with_pre_tokenizer(Some(from_json::<PreTokenizerWrapper>(rule.recipe())?));
        let decoder = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        tokenizer.with_decoder(Some(from_json::<DecoderWrapper>(decoder)?));
        added.add_to(&mut tokenizer)?;
        Ok(tokenizer)
    }
}

/// The rank of a line, and its token in the byte alphabet.
fn read_line(line: &str) -> Option<(usize, String)> {
    let (token, rank) = line.trim_end().split_once(' ')?;
    let bytes = BASE64_STANDARD.decode(token).ok().filter(|bytes| !bytes.is_empty())?;
    Some((rank.parse().ok()?, bytes.into_iter().map(letter_of_byte).collect()))
}
