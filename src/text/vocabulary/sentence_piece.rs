//! A SentencePiece vocabulary, made into a tokenizer.
//!
//! Its rules: <https://github.com/google/sentencepiece/blob/master/doc/normalization.md>. Spaces are written `▁`. Where
//! the classes of Hugging Face's `transformers` differ from SentencePiece itself, [`Spaces`] and [`Prefix`] say how.

use serde_json::{Value, json};
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer,
    models::{
        bpe::{BPE, Vocab},
        unigram::Unigram,
    },
    normalizers::{Precompiled, Sequence},
};

use super::merges_of_scores;
use crate::text::{TextError, tokenizer::from_json};

/// What a `tokenizer.model` or a GGUF file's metadata says.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct SentencePieces {
    /// By token id.
    pub entries: Vec<Entry>,
    pub algorithm: Algorithm,
    /// Characters that no piece has become the tokens of their bytes.
    pub byte_fallback: bool,
    /// Replacements of characters, compiled by SentencePiece (for instance NFKC); empty: none.
    pub charsmap: Vec<u8>,
    pub spaces: Spaces,
    pub prefix: Prefix,
}

/// One token.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub text: String,
    /// The higher, the likelier; in BPE, the earlier it is merged.
    pub score: f32,
    pub kind: Kind,
}

/// What a token is for. SentencePiece's numbers are also GGUF's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal,
    Unknown,
    /// Never made of a text by the model, only written by whoever writes a prompt.
    Control,
    /// Found whole wherever a text has it.
    UserDefined,
    Unused,
    /// `<0xNN>`, written where a character is unknown.
    Byte,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// Merge the pair whose result has the best score, again and again.
    #[default]
    Bpe,
    /// The pieces whose scores have the largest sum.
    Unigram,
}

/// What happens to the spaces of a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Spaces {
    #[default]
    Kept,
    /// `remove_extra_whitespaces`: none at the ends, and one in the place of several.
    Squeezed,
    /// As the fast classes of `transformers` read T5's files: a text is cut before each space, several count as one,
    /// and white space at the end goes. Unlike SentencePiece, a space at the beginning stays.
    Words,
}

/// Where a space is put before a text (`add_dummy_prefix`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Prefix {
    Never,
    /// Before each stretch of text between special tokens.
    #[default]
    Each,
    /// The same, but user-defined pieces begin no stretch: SentencePiece finds them in the middle of its text.
    Apart,
    /// Before the very first, if no space is there (`LlamaTokenizer` with `legacy` false).
    First,
}

/// The score of what a text never becomes. Its distance from real scores leaves those their precision.
pub(crate) const NEVER: f64 = -1e9;

impl Kind {
    /// By SentencePiece's number; None for others.
    pub fn numbered(number: i64) -> Option<Self> {
        let all = [Self::Normal, Self::Unknown, Self::Control, Self::UserDefined, Self::Unused, Self::Byte];
        all.get(usize::try_from(number).ok()?.checked_sub(1)?).copied()
    }

    fn is_text(self) -> bool {
        matches!(self, Self::Normal | Self::UserDefined)
    }
}

impl SentencePieces {
    /// The tokenizer. Control and unknown pieces are its special tokens, user-defined ones its other added tokens.
    pub fn tokenizer(&self) -> Result<Tokenizer, TextError> {
        self.check()?;
        let mut tokenizer = match self.algorithm {
            Algorithm::Bpe => Tokenizer::new(self.bpe()?),
            Algorithm::Unigram => Tokenizer::new(self.unigram()?),
        };
        let normalizer = Sequence::new(self.normalizers()?);
        tokenizer.with_normalizer(Some(normalizer)).map_err(TextError::model)?;
        if let Some(cutter) = self.pre_tokenizer() {
            tokenizer.with_pre_tokenizer(Some(from_json::<PreTokenizerWrapper>(cutter)?));
        }
        tokenizer.with_decoder(Some(from_json::<DecoderWrapper>(self.decoder())?));
        tokenizer.add_tokens(self.added_tokens()).map_err(TextError::model)?;
        Ok(tokenizer)
    }

    /// The id of the piece for unknown characters.
    pub fn unknown(&self) -> Option<usize> {
        self.entries.iter().position(|entry| entry.kind == Kind::Unknown)
    }

    fn check(&self) -> Result<(), TextError> {
        if self.entries.is_empty() {
            return Err(TextError::model("its vocabulary is empty"));
        }
        let broken = self.entries.iter().position(|entry| !entry.score.is_finite());
        if let Some(id) = broken {
            return Err(TextError::model(format!("the score of token {id} is not a number")));
        }
        check_charsmap(&self.charsmap).ok_or_else(|| TextError::model("precompiled_charsmap is broken"))
    }

    fn bpe(&self) -> Result<BPE, TextError> {
        let vocab: Vocab = self.entries.iter().map(|entry| entry.text.clone()).zip(0..).collect();
        let score = |id: u32| {
            let entry = &self.entries[id as usize];
            entry.kind.is_text().then_some(f64::from(entry.score))
        };
        let merges = merges_of_scores(&vocab, score);
        // User-defined pieces that are cut out of a text before BPE may have no merges that lead to them.
        let whole = self.cuts_user_defined();
        let mut bpe = BPE::builder().byte_fallback(self.byte_fallback).fuse_unk(true).ignore_merges(whole);
        if let Some(unknown) = self.unknown() {
            bpe = bpe.unk_token(self.entries[unknown].text.clone());
        }
        bpe.vocab_and_merges(vocab, merges).build().map_err(TextError::model)
    }

    fn unigram(&self) -> Result<Unigram, TextError> {
        if self.unknown().is_none() {
            return Err(TextError::model("no token is of the type for unknown characters, a unigram model needs one"));
        }
        if let Some(id) = self.entries.iter().position(|entry| entry.text.is_empty()) {
            return Err(TextError::model(format!("token {id} is empty")));
        }
        let score = |entry: &Entry| if entry.kind.is_text() { f64::from(entry.score) } else { NEVER };
        let vocab = self.entries.iter().map(|entry| (entry.text.clone(), score(entry))).collect();
        let mut unigram = Unigram::from(vocab, self.unknown(), self.byte_fallback).map_err(TextError::model)?;
        // The library measures the penalty of unknown characters from the lowest score of all.
        let normal = self.entries.iter().filter(|entry| entry.kind == Kind::Normal);
        unigram.min_score = normal.map(|entry| f64::from(entry.score)).fold(0.0, f64::min);
        Ok(unigram)
    }

    fn normalizers(&self) -> Result<Vec<NormalizerWrapper>, TextError> {
        let mut steps = Vec::new();
        if !self.charsmap.is_empty() {
            let charsmap = Precompiled::from(&self.charsmap).map_err(TextError::model)?;
            steps.push(NormalizerWrapper::Precompiled(charsmap));
        }
        let regex =
            |regex: &str, content: &str| json!({"type": "Replace", "pattern": {"Regex": regex}, "content": content});
        let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let prepend = json!({"type": "Prepend", "prepend": "▁"});
        let mut rules = Vec::new();
        match self.spaces {
            Spaces::Kept => {}
            // At the end, SentencePiece has written them as marks already, and takes a text's own marks for such.
            Spaces::Squeezed => rules.extend([regex(r"\A +|[ ▁]+\z", ""), regex(" {2,}", " ")]),
            Spaces::Words => {
                rules.push(json!({"type": "Strip", "strip_left": false, "strip_right": true}));
                rules.push(regex(" {2,}", "▁"));
            }
        }
        // In the two other cases, the cutter below does it.
        if self.spaces != Spaces::Words && self.prefix != Prefix::First {
            rules.extend((self.prefix != Prefix::Never).then_some(prepend));
            rules.push(spaces);
        }
        for rule in rules {
            steps.push(from_json(rule)?);
        }
        Ok(steps)
    }

    fn pre_tokenizer(&self) -> Option<Value> {
        if self.spaces == Spaces::Words || self.prefix == Prefix::First {
            return Some(self.metaspace(self.spaces == Spaces::Words));
        }
        self.cuts_user_defined().then(|| {
            let mut texts: Vec<_> =
                self.texts_of(Kind::UserDefined).map(|text| escaped(&text.replace(' ', "▁"))).collect();
            texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
            json!({"type": "Split", "pattern": {"Regex": texts.join("|")}, "behavior": "Isolated", "invert": false})
        })
    }

    /// The library's own step for spaces, which may also cut a text into words.
    fn metaspace(&self, split: bool) -> Value {
        let scheme = match self.prefix {
            Prefix::Never => "never",
            Prefix::First => "first",
            Prefix::Each | Prefix::Apart => "always",
        };
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split})
    }

    fn decoder(&self) -> Value {
        if self.spaces == Spaces::Words && !self.byte_fallback {
            return self.metaspace(true);
        }
        let mut steps = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if self.prefix != Prefix::Never {
            steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        json!({"type": "Sequence", "decoders": steps})
    }

    fn cuts_user_defined(&self) -> bool {
        self.prefix == Prefix::Apart && self.texts_of(Kind::UserDefined).next().is_some()
    }

    fn texts_of(&self, kind: Kind) -> impl Iterator<Item = &str> {
        let texts = self.entries.iter().filter(move |entry| entry.kind == kind).map(|entry| entry.text.as_str());
        texts.filter(|text| !text.is_empty())
    }

    fn added_tokens(&self) -> Vec<AddedToken> {
        let special = [Kind::Control, Kind::Unknown].into_iter().flat_map(|kind| self.texts_of(kind));
        let special = special.map(|text| AddedToken::from(text, true));
        let cut = self.cuts_user_defined();
        let plain = self.texts_of(Kind::UserDefined).filter(|_| !cut);
        special.chain(plain.map(|text| AddedToken::from(text, false).normalized(false))).collect()
    }
}

/// A charsmap is the length of a trie in bytes, the trie in units of four bytes, and the texts that it points to. The
/// library trusts those numbers, with its memory.
fn check_charsmap(charsmap: &[u8]) -> Option<()> {
    if charsmap.is_empty() {
        return Some(());
    }
    let (length, rest) = charsmap.split_first_chunk::<4>()?;
    let (units, texts) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let count = units.len() / 4;
    let stays_inside = |(at, unit): (usize, &[u8])| {
        let unit = u32::from_le_bytes(unit.try_into().unwrap_or_default()) as usize;
        let (is_leaf, offset) = (unit >> 31 == 1, (unit >> 10) << ((unit & (1 << 9)) >> 6));
        is_leaf || (at ^ offset) | 0xff < count
    };
    let is_whole = count > 0 && units.chunks_exact(4).enumerate().all(stays_inside);
    (is_whole && texts.last() == Some(&0)).then_some(())
}

/// A text as a regular expression that matches just it.
fn escaped(text: &str) -> String {
    let escape = |character: char| {
        let is_meta = r"\.+*?()|[]{}^$".contains(character);
        is_meta.then_some('\\').into_iter().chain([character])
    };
    text.chars().flat_map(escape).collect()
}
