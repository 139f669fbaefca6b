//! A model's tokens as the grammar library wants them: each token's bytes, in a tree.

use std::sync::Arc;

use llguidance::{ParserFactory, TokenParser, api::TopLevelGrammar, toktrie::InferenceCapabilities};
use toktrie::{ApproximateTokEnv, INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie};

use crate::text::Tokenizer;

/// The tree holds no deeper tokens. Longer ones (long rows of spaces in some vocabularies) are never chosen under a grammar.
const TOKEN_BYTES_MAX: usize = 1000;
/// The tree's nodes are counted in 22 bits.
const BYTES_MAX: usize = 1 << 22;
/// Bounds a grammar's memory: a state has 1 to 2 kB.
const LEXER_STATES_MAX: usize = 50_000;
/// Bounds the work of compiling: symbols in productions.
const GRAMMAR_SIZE_MAX: usize = 200_000;

/// Tokens by their bytes, and who makes parsers for them. Costs some 100 ms and some MB for 150,000 tokens.
pub struct Vocabulary {
    factory: ParserFactory,
    /// Tokens with a meaning: bit `t % 32` of word `t / 32`.
    known: Vec<u32>,
    /// Tokens that end a text, ascending.
    eos: Vec<u32>,
}

impl Vocabulary {
    /// The tokens below `size`, the model's own count: what the tokenizer doesn't know (padding) is never allowed.
    pub fn new(tokenizer: &Tokenizer, size: usize, eos_ids: &[u32]) -> Result<Self, String> {
        let mut eos: Vec<_> = eos_ids.iter().copied().filter(|&id| (id as usize) < size).collect();
        eos.sort_unstable();
        eos.dedup();
        let words: Vec<_> = (0..size as u32).map(|id| word(tokenizer, id, &eos)).collect();
        if words.iter().map(Vec::len).sum::<usize>() > BYTES_MAX {
            return Err(format!("the vocabulary has more than {BYTES_MAX} bytes"));
        }
        let mut known = vec![0; size.div_ceil(32)];
        for id in words.iter().enumerate().filter(|(_, word)| !word.is_empty()).map(|(id, _)| id) {
            known[id / 32] |= 1 << (id % 32);
        }
        Ok(Self { factory: factory(&words, &eos)?, known, eos })
    }

    /// A parser at the beginning of its text. The error is the library's, of many lines.
    pub fn parser(&self, grammar: TopLevelGrammar) -> Result<TokenParser, String> {
        self.factory.create_parser(grammar).map_err(|error| error.to_string())
    }

    /// Tokens that end a text, ascending.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// The words of a bit set without what has no meaning; none where nothing is left.
    pub fn known_of(&self, bits: &[u32]) -> Option<Vec<u32>> {
        let words: Vec<_> = self.known.iter().zip(bits).map(|(known, bits)| known & bits).collect();
        words.iter().any(|&word| word != 0).then_some(words)
    }

    /// All tokens with a meaning, ascending.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        let is_known = |id: &u32| self.known[*id as usize / 32] >> (id % 32) & 1 == 1;
        (0..self.known.len() as u32 * 32).filter(is_known)
    }

    /// The same as bits.
    pub fn known(&self) -> &[u32] {
        &self.known
    }

    /// Tokens that spell these bytes exactly, each as long as can be; fewer bytes where the vocabulary lacks some.
    pub fn spell(&self, text: &str) -> Vec<u32> {
        self.factory.tok_env().tok_trie().greedy_tokenize(text.as_bytes())
    }
}

/// The bytes of a token in the tree. Special tokens stand behind a mark, so that no text is ever spelled with them.
/// Empty: it isn't there.
fn word(tokenizer: &Tokenizer, id: u32, eos: &[u32]) -> Vec<u8> {
    let Some(bytes) = tokenizer.token_bytes(id).filter(|bytes| bytes.len() <= TOKEN_BYTES_MAX) else {
        return Vec::new();
    };
    if tokenizer.is_special(id) || eos.binary_search(&id).is_ok() {
        return [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat();
    }
    // The mark is a byte that never occurs in UTF-8; a token that begins with it can't be part of a text.
    if bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) { Vec::new() } else { bytes.to_vec() }
}

fn factory(words: &[Vec<u8>], eos: &[u32]) -> Result<ParserFactory, String> {
    let first = eos.first().copied().unwrap_or(INVALID_TOKEN);
    let mut trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, first), words);
    if !eos.is_empty() {
        trie = trie.with_eos_tokens(eos);
    }
    // Forced text is left to the model's own choice of tokens: its tokenizer would have to be asked in the middle of a text.
    let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let slices = slices();
    let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices).map_err(|e| e.to_string())?;
    factory.quiet();
    let limits = factory.limits_mut();
    limits.verbose_errors = false;
    limits.max_lexer_states = LEXER_STATES_MAX;
    limits.max_grammar_size = GRAMMAR_SIZE_MAX;
    Ok(factory)
}

/// Groups of tokens that are mostly allowed or forbidden together, looked at once for each group: what stands in JSON
/// strings, and space.
fn slices() -> Vec<String> {
    let inside = r#"[^"\\\x00-\x1F\x7F]"#;
    let groups = ["{1,10}", "{1,30}", "+"].map(|times| format!("{inside}{times}"));
    std::iter::once(r"[\x20\x0A\x0D\x09]+".to_owned()).chain(groups).collect()
}
