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
    Harmony,
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
        match () {
            () if class == "QWen" || model == "qwen" => {
                Self { rule: "qwen2", special_tokens: SpecialTokens::Qwen, ..CL100K }
            }
            () if class == "ChatGLM4" || matches!(model, "glm" | "glm4" | "chatglm") => {
                let special_tokens = SpecialTokens::After(GLM4_SPECIAL);
                Self { rule: "glm4", special_tokens, before: &["[gMASK]", "<sop>"], ..CL100K }
            }
            () if class == "TikToken" || model.starts_with("kimi") => {
                let special_tokens = SpecialTokens::Reserved(256);
                Self { rule: "kimi-k2", special_tokens, bos: Some("[BOS]"), eos: Some("[EOS]"), ..CL100K }
            }
            () if model == "gpt_oss" || file_name.starts_with("o200k_harmony") => {
                Self { rule: "gpt-4o", special_tokens: SpecialTokens::Harmony, eos: Some("<|return|>"), ..CL100K }
            }
            () if file_name.starts_with("o200k") => {
                Self { rule: "gpt-4o", special_tokens: SpecialTokens::At(O200K_SPECIAL), ..CL100K }
            }
            () if model.starts_with("llama4") || (model.is_empty() && count == 200_000) => {
                Self { rule: "gpt-4o", special_tokens: SpecialTokens::None, ..LLAMA3 }
            }
            // Llama 3.1 and later scale their rope.
            () if matches!(model, "llama" | "mllama") && folder.model["rope_scaling"].is_object() => {
                Self { special_tokens: SpecialTokens::Llama3(LLAMA31_SPECIAL), ..LLAMA3 }
            }
            () if model == "llama" || (model.is_empty() && count == 128_000) => LLAMA3,
            () if file_name.starts_with("cl100k") => {
                Self { special_tokens: SpecialTokens::At(CL100K_SPECIAL), ..CL100K }
            }
            () => CL100K,
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
            SpecialTokens::Harmony => known(HARMONY_SPECIAL),
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
