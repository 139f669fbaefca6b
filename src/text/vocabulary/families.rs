//! What a tiktoken file doesn't say and its model's own code does: how texts are cut into words, and the special tokens.

use std::borrow::Cow;

use super::folder::Folder;
use crate::text::{TextError, pre_tokenizer::PreTokenizer};

/// One model's ways.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Family {
    /// By the name that GGUF files use.
    rule: &'static str,
    special_tokens: SpecialTokens,
    pub bos: Option<&'static str>,
    pub eos: Option<&'static str>,
    /// Whether BOS stands before a text.
    pub adds_bos: bool,
    /// Other tokens before a text.
    pub before: &'static [&'static str],
}

/// Special tokens that the class has without a file.
#[derive(Debug, PartialEq, Eq)]
enum SpecialTokens {
    None,
    /// With their ids.
    At(&'static [(u32, &'static str)]),
    /// From the end of the ranks on.
    After(&'static [&'static str]),
    /// Llama 3's 256, of which these have a use; the others are reserved.
    Llama3(&'static [(u32, &'static str)]),
    /// `<|im_end|>` and so on, then `<|extra_0|>` to `<|extra_204|>`.
    Qwen,
    /// As many reserved ones; the folder names those in use.
    Reserved(u32),
}

const CL100K: Family = Family {
    rule: "cl100k",
    special_tokens: SpecialTokens::None,
    bos: None,
    eos: Some("<|endoftext|>"),
    adds_bos: false,
    before: &[],
};
const LLAMA3: Family = Family {
    rule: "llama-bpe",
    special_tokens: SpecialTokens::Llama3(LLAMA3_SPECIAL),
    bos: Some("<|begin_of_text|>"),
    eos: Some("<|end_of_text|>"),
    adds_bos: true,
    before: &[],
};
const LLAMA4: Family = Family { rule: "gpt-4o", special_tokens: SpecialTokens::None, ..LLAMA3 };
const HARMONY: Family =
    Family { rule: "gpt-4o", special_tokens: SpecialTokens::At(HARMONY_SPECIAL), eos: Some("<|return|>"), ..CL100K };
const CL100K_SPECIAL: &[(u32, &str)] = &[
    (100_257, "<|endoftext|>"),
    (100_258, "<|fim_prefix|>"),
    (100_259, "<|fim_middle|>"),
    (100_260, "<|fim_suffix|>"),
    (100_276, "<|endofprompt|>"),
];
const O200K_SPECIAL: &[(u32, &str)] = &[(199_999, "<|endoftext|>"), (200_018, "<|endofprompt|>")];
const HARMONY_SPECIAL: &[(u32, &str)] = &[
    (199_998, "<|startoftext|>"),
    (199_999, "<|endoftext|>"),
    (200_002, "<|return|>"),
    (200_003, "<|constrain|>"),
    (200_005, "<|channel|>"),
    (200_006, "<|start|>"),
    (200_007, "<|end|>"),
    (200_008, "<|message|>"),
    (200_012, "<|call|>"),
    (200_018, "<|endofprompt|>"),
];
const GLM4_SPECIAL: &[&str] = &[
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
];
const LLAMA3_SPECIAL: &[(u32, &str)] = &[
    (0, "<|begin_of_text|>"),
    (1, "<|end_of_text|>"),
    (6, "<|start_header_id|>"),
    (7, "<|end_header_id|>"),
    (9, "<|eot_id|>"),
];
const LLAMA31_SPECIAL: &[(u32, &str)] = &[
    (0, "<|begin_of_text|>"),
    (1, "<|end_of_text|>"),
    (4, "<|finetune_right_pad_id|>"),
    (6, "<|start_header_id|>"),
    (7, "<|end_header_id|>"),
    (8, "<|eom_id|>"),
    (9, "<|eot_id|>"),
    (10, "<|python_tag|>"),
];

impl Family {
    /// Whose a file of this name with so many tokens is, beside these files. Where nothing tells, cl100k's rule.
    pub fn of(folder: &Folder, file_name: &str, count: usize) -> Self {
        let (class, model) = (folder.class(), folder.model_type());
        match (class, model) {
            ("QWen", _) | (_, "qwen") => Self { rule: "qwen2", special_tokens: SpecialTokens::Qwen, ..CL100K },
            ("ChatGLM4", _) | (_, "glm" | "glm4" | "chatglm") => {
                let special_tokens = SpecialTokens::After(GLM4_SPECIAL);
                Self { rule: "glm4", special_tokens, before: &["[gMASK]", "<sop>"], ..CL100K }
            }
            ("TikToken", _) | (_, "kimi_k2" | "kimi_vl" | "kimi_linear") => {
                let special_tokens = SpecialTokens::Reserved(256);
                Self { rule: "kimi-k2", special_tokens, bos: Some("[BOS]"), eos: Some("[EOS]"), ..CL100K }
            }
            (_, "gpt_oss") => HARMONY,
            // Llama 3.1 and later scale their rope.
            (_, "llama" | "mllama") if folder.model["rope_scaling"].is_object() => {
                Self { special_tokens: SpecialTokens::Llama3(LLAMA31_SPECIAL), ..LLAMA3 }
            }
            (_, "llama") => LLAMA3,
            (_, "llama4" | "llama4_text") => LLAMA4,
            (_, "") if count == 128_000 => LLAMA3,
            (_, "") if count == 200_000 => LLAMA4,
            _ if file_name.starts_with("o200k_harmony") => HARMONY,
            _ if file_name.starts_with("o200k") => {
                Self { rule: "gpt-4o", special_tokens: SpecialTokens::At(O200K_SPECIAL), ..CL100K }
            }
            _ if file_name.starts_with("cl100k") => {
                Self { special_tokens: SpecialTokens::At(CL100K_SPECIAL), ..CL100K }
            }
            _ => {
                tracing::warn!("{file_name}: nothing says whose tokens these are, words are cut as GPT-4 does");
                CL100K
            }
        }
    }

    pub fn rule(&self) -> Result<&'static PreTokenizer, TextError> {
        PreTokenizer::named(Some(self.rule))
    }

    /// The special tokens that the class has itself, after so many ranks.
    pub fn built_in(&self, ranks: usize) -> Vec<(u32, Cow<'static, str>)> {
        let first = ranks as u32;
        // A file of another length, whatever its name, has other tokens in these places.
        let is_near = |id: u32| (first..first + 64).contains(&id);
        let known = |list: &[(u32, &'static str)]| -> Vec<_> {
            list.iter().filter(|(id, _)| is_near(*id)).map(|&(id, text)| (id, text.into())).collect()
        };
        let after = |list: &[&'static str]| (first..).zip(list.iter().map(|&text| text.into())).collect();
        let reserved = |ids: std::ops::Range<u32>| ids.map(|id| (id, format!("<|reserved_token_{id}|>").into()));
        match self.special_tokens {
            SpecialTokens::None => Vec::new(),
            SpecialTokens::At(list) => known(list),
            SpecialTokens::After(list) => after(list),
            SpecialTokens::Reserved(count) => reserved(first..first + count).collect(),
            SpecialTokens::Llama3(list) => {
                let used = |place: u32| list.iter().find(|(at, _)| *at == place).map(|(_, text)| (*text).into());
                let mut unused = (0..).map(|index| format!("<|reserved_special_token_{index}|>").into());
                (0..256)
                    .map(|place| (first + place, used(place).or_else(|| unused.next()).unwrap_or_default()))
                    .collect()
            }
            SpecialTokens::Qwen => {
                let mut list: Vec<_> = after(&["<|endoftext|>", "<|im_start|>", "<|im_end|>"]);
                list.extend((first + 3..).zip((0..205).map(|index| format!("<|extra_{index}|>").into())));
                list
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The rule of a folder's file, and special tokens that it has by itself.
    fn check(config: Value, model: Value, (name, count): (&str, usize), rule: &str, special: &[(u32, &str)]) {
        let folder = Folder { config, model, ..Folder::default() };
        let family = Family::of(&folder, name, count);
        assert_eq!(family.rule, rule, "{folder:?} {name}");
        assert!(family.rule().is_ok());
        let built_in = family.built_in(count);
        for (id, text) in special {
            assert!(built_in.iter().any(|(at, own)| at == id && own == text), "{id} {text}: {built_in:?}");
        }
        assert!(!special.is_empty() || built_in.is_empty());
    }

    #[test]
    fn a_file_is_known_by_its_class_its_model_its_length_or_its_name() {
        let nothing = || Value::Null;
        let class = |class: &str| json!({"tokenizer_class": class});
        let model = |model: &str| json!({"model_type": model});
        let qwen = &[
            (151_643, "<|endoftext|>"),
            (151_645, "<|im_end|>"),
            (151_646, "<|extra_0|>"),
            (151_850, "<|extra_204|>"),
        ];
        check(class("QWenTokenizer"), nothing(), ("qwen.tiktoken", 151_643), "qwen2", qwen);
        let glm = &[(151_331, "[gMASK]"), (151_336, "<|user|>")];
        check(class("ChatGLM4Tokenizer"), nothing(), ("tokenizer.model", 151_329), "glm4", glm);
        let kimi = &[(163_584, "<|reserved_token_163584|>"), (163_839, "<|reserved_token_163839|>")];
        check(class("TikTokenTokenizer"), model("kimi_k2"), ("tiktoken.model", 163_584), "kimi-k2", kimi);
        let llama3 =
            &[(128_000, "<|begin_of_text|>"), (128_009, "<|eot_id|>"), (128_255, "<|reserved_special_token_250|>")];
        check(nothing(), nothing(), ("tokenizer.model", 128_000), "llama-bpe", llama3);
        let scaled = json!({"model_type": "llama", "rope_scaling": {"rope_type": "llama3"}});
        let llama31 = &[(128_008, "<|eom_id|>"), (128_011, "<|reserved_special_token_3|>")];
        check(nothing(), scaled, ("tokenizer.model", 128_000), "llama-bpe", llama31);
        check(nothing(), nothing(), ("tokenizer.model", 200_000), "gpt-4o", &[]);
        let harmony = &[(199_998, "<|startoftext|>"), (200_006, "<|start|>"), (200_012, "<|call|>")];
        check(nothing(), model("gpt_oss"), ("any.tiktoken", 199_998), "gpt-4o", harmony);
        check(nothing(), nothing(), ("o200k_base.tiktoken", 199_998), "gpt-4o", &[(199_999, "<|endoftext|>")]);
        check(nothing(), nothing(), ("cl100k_base.tiktoken", 100_256), "cl100k", &[(100_276, "<|endofprompt|>")]);
        check(nothing(), nothing(), ("other.tiktoken", 1000), "cl100k", &[]);
    }
}
