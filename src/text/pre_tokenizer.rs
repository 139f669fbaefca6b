//! The rules that cut a text into words before byte-level BPE, by the names that GGUF files use
//! (`tokenizer.ggml.pre`). A file names the rule; the rule itself is only known from the tokenizer that it was made from.
//! A tiktoken file doesn't even name it: what its model is tells. (`cl100k` is the only name that no GGUF file has.)

use serde_json::{Value, json};

use super::TextError;

/// One named rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PreTokenizer {
    names: &'static [&'static str],
    cuts: &'static [Cut],
    /// Composed characters come first (Unicode NFC).
    pub composes: bool,
    /// A word that is a token is that token, whatever the merges say.
    pub whole_words_first: bool,
    /// A BOS stands before a text unless the file says otherwise.
    pub adds_bos: bool,
}

/// One step of cutting.
#[derive(Debug, PartialEq, Eq)]
enum Cut {
    /// Each digit is a word.
    Digits,
    /// Each match is a word.
    Pattern(&'static str),
    /// GPT-2's own expression.
    Gpt2,
}

/// Llama 3's expression; Qwen 2's is the same with single digits.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Of rules that cut in several steps; cased letters first, as DeepSeek's first models list them one by one.
const DEEPSEEK_LETTERS: &str = r"\s?[\p{Lu}\p{Ll}\p{Lt}]+";
const DEEPSEEK_SIGNS: &str = r"\s?[!-/:-~！-／：-～‘-‟　-。]+";
const DEEPSEEK_CJK: &str = "[一-龥ࠀ-一가-\u{d7ff}]+";
const DEEPSEEK3_WORDS: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

/// Letters and marks together.
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// GPT-4o's, with Chinese apart from other letters.
const KIMI: &str = r"\p{Han}+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// GPT-4's: white space at the very end is one word.
const CL100K: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+\z|\s*[\r\n]|\s+(?!\S)|\s";
const BAILING: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const SEED_CODER: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";

const PLAIN: PreTokenizer =
    PreTokenizer { names: &[], cuts: &[Cut::Gpt2], composes: false, whole_words_first: false, adds_bos: false };

static KNOWN: &[PreTokenizer] = &[
    PreTokenizer {
        names: &[
            "default",
            "gpt-2",
            "gpt2",
            "phi-2",
            "roberta-bpe",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
            "gigachat",
            "a.x-4.0",
            "mellum",
        ],
        ..PLAIN
    },
    PreTokenizer {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        cuts: &[Cut::Digits, Cut::Gpt2],
        ..PLAIN
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        cuts: &[Cut::Pattern(LLAMA3)],
        whole_words_first: true,
        adds_bos: true,
        ..PLAIN
    },
    PreTokenizer { names: &["chatglm-bpe", "glm4", "dbrx", "smaug-bpe"], cuts: &[Cut::Pattern(LLAMA3)], ..PLAIN },
    PreTokenizer {
        names: &["qwen2", "stablelm2", "deepseek-r1-qwen", "hunyuan", "megrez", "kormo", "f2llmv2"],
        cuts: &[Cut::Pattern(QWEN2)],
        composes: true,
        ..PLAIN
    },
    PreTokenizer { names: &["qwen35"], cuts: &[Cut::Pattern(QWEN35)], composes: true, ..PLAIN },
    PreTokenizer { names: &["grok-2", "solar-open"], cuts: &[Cut::Pattern(QWEN2)], ..PLAIN },
    PreTokenizer {
        names: &["deepseek-llm"],
        cuts: &[
            Cut::Pattern("[\\r\\n]"),
            Cut::Pattern(DEEPSEEK_LETTERS),
            Cut::Pattern(DEEPSEEK_SIGNS),
            Cut::Pattern(r"\s+$"),
            Cut::Pattern(DEEPSEEK_CJK),
            Cut::Digits,
        ],
        ..PLAIN
    },
    PreTokenizer {
        names: &["deepseek-coder"],
        cuts: &[
            Cut::Pattern("[\\r\\n]"),
            Cut::Pattern(r"\s?\p{L}+"),
            Cut::Pattern(r"\s?\p{P}+"),
            Cut::Pattern(DEEPSEEK_CJK),
            Cut::Digits,
        ],
        ..PLAIN
    },
    PreTokenizer {
        names: &["deepseek-v3", "deepseek-r1", "hunyuan-dense", "joyai-llm", "hy_v4"],
        cuts: &[Cut::Pattern(r"\p{N}{1,3}"), Cut::Pattern("[一-龥぀-ゟ゠-ヿ]+"), Cut::Pattern(DEEPSEEK3_WORDS)],
        ..PLAIN
    },
    PreTokenizer {
        names: &["gpt-4o", "gpt-oss", "llama4", "kanana2", "talkie", "minimax-m2"],
        cuts: &[Cut::Pattern(GPT4O)],
        ..PLAIN
    },
    PreTokenizer { names: &["kimi-k2"], cuts: &[Cut::Pattern(KIMI)], ..PLAIN },
    PreTokenizer { names: &["cl100k"], cuts: &[Cut::Pattern(CL100K)], ..PLAIN },
    PreTokenizer { names: &["bailingmoe", "bailingmoe2", "llada-moe"], cuts: &[Cut::Pattern(BAILING)], ..PLAIN },
    PreTokenizer { names: &["seed-coder"], cuts: &[Cut::Pattern(SEED_CODER)], ..PLAIN },
    PreTokenizer {
        names: &["tekken"],
        cuts: &[Cut::Pattern(TEKKEN)],
        whole_words_first: true,
        adds_bos: true,
        ..PLAIN
    },
];

impl PreTokenizer {
    /// The rule of this name; without a name, GPT-2's.
    pub fn named(name: Option<&str>) -> Result<&'static Self, TextError> {
        let name = name.unwrap_or("default");
        KNOWN.iter().find(|known| known.names.contains(&name)).ok_or_else(|| {
            let known: Vec<_> = KNOWN.iter().flat_map(|known| known.names).copied().collect();
            TextError::model(format!("tokenizer.ggml.pre `{name}` is not known; known are {}", known.join(", ")))
        })
    }

    /// The rule as tokenizer.json writes it. Bytes become letters of GPT-2's byte alphabet in the last step.
    pub fn recipe(&self) -> Value {
        let mut steps: Vec<Value> = self.cuts.iter().filter_map(Cut::recipe).collect();
        let own_regex = self.cuts.contains(&Cut::Gpt2);
        steps.push(
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": own_regex}),
        );
        json!({"type": "Sequence", "pretokenizers": steps})
    }
}

impl Cut {
    fn recipe(&self) -> Option<Value> {
        match self {
            Cut::Digits => Some(json!({"type": "Digits", "individual_digits": true})),
            Cut::Pattern(regex) => {
                Some(json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false}))
            }
            Cut::Gpt2 => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _, PreTokenizerWrapper};

    use super::*;

    fn check(name: Option<&str>, text: &str, words: &[&str]) {
        let recipe = PreTokenizer::named(name).unwrap().recipe();
        let cutter: PreTokenizerWrapper = serde_json::from_value(recipe).unwrap();
        let mut cut = PreTokenizedString::from(text);
        cutter.pre_tokenize(&mut cut).unwrap();
        let splits = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let found: Vec<_> = splits.iter().map(|(_, (start, end), _)| &text[*start..*end]).collect();
        assert_eq!(found, words, "{name:?}");
    }

    #[test]
    fn each_rule_cuts_as_its_model_does() {
        let text = "It's 1234 x2 \n é";
        check(None, text, &["It", "'s", " 1234", " x", "2", " \n", " é"]);
        check(Some("smollm"), text, &["It", "'s", " ", "1", "2", "3", "4", " x", "2", " \n", " é"]);
        check(Some("llama-bpe"), text, &["It", "'s", " ", "123", "4", " x", "2", " \n", " é"]);
        check(Some("qwen2"), text, &["It", "'s", " ", "1", "2", "3", "4", " x", "2", " \n", " é"]);
        check(Some("deepseek-v3"), "ab123456中文c", &["ab", "123", "456", "中文", "c"]);
        check(
            Some("deepseek-llm"),
            "It's 12中文!? x  \n",
            &["It", "'", "s", " ", "1", "2", "中文", "!?", " x", "  ", "\n"],
        );
        check(Some("deepseek-coder"), "a 12中文!\n", &["a", " ", "1", "2", "中文", "!", "\n"]);
        check(Some("qwen35"), "e\u{301}a 1", &["e\u{301}a", " ", "1"]);
        check(Some("kimi-k2"), "Hi中文 wir's中", &["Hi", "中文", " wir's", "中"]);
        check(Some("cl100k"), "a 1234 \n ", &["a", " ", "123", "4", " \n "]);
        check(Some("gpt-4o"), "HelloWorld's 12", &["Hello", "World's", " ", "12"]);
    }

    #[test]
    fn an_unknown_rule_is_an_error_that_lists_the_known_ones() {
        let error = PreTokenizer::named(Some("new-bpe")).unwrap_err().to_string();
        assert!(error.contains("`new-bpe`") && error.contains("llama-bpe"), "{error}");
    }
}
