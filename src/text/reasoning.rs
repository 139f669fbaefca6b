//! How models mark what they think aloud, by the names of `--reasoning-parser`.

/// The marks around a model's reasoning.
#[derive(Debug, PartialEq, Eq)]
pub struct ReasoningFormat {
    /// Its names, written with `-`; the first is the usual one.
    pub names: &'static [&'static str],
    /// What begins reasoning; the first is what chat templates write.
    pub open: &'static [&'static str],
    /// What ends it; the first is what is forced when a budget is spent.
    pub close: &'static [&'static str],
    /// What stands around the answer and isn't part of it.
    pub around_answer: &'static [&'static str],
    /// Whether the model thinks from its first token on, though the prompt doesn't say so.
    pub from_start: bool,
}

const THINK: ReasoningFormat =
    ReasoningFormat { names: &[], open: &["<think>"], close: &["</think>"], around_answer: &[], from_start: false };

/// All formats. `gpt-oss` is harmony: its channels are read by [`super::message`]'s harmony reader, and its marks here
/// say only when thinking ends.
pub static REASONING_FORMATS: &[ReasoningFormat] = &[
    ReasoningFormat {
        names: &["ernie-x1", "ernie45", "ernie-45"],
        around_answer: &["<response>", "</response>"],
        from_start: true,
        ..THINK
    },
    ReasoningFormat { names: &["ernie-45-vl"], from_start: true, ..THINK },
    ReasoningFormat {
        names: &["ernie-45-vl-thinking"],
        around_answer: &["<response>", "</response>"],
        from_start: true,
        ..THINK
    },
    ReasoningFormat {
        names: &["qwen3", "glm45", "deepseek-v3", "deepseek-v31", "kimi-k2", "olmo3", "holo2", "nemotron-v3"],
        ..THINK
    },
    ReasoningFormat { names: &["deepseek-r1", "step3", "minimax-m2"], from_start: true, ..THINK },
    ReasoningFormat { names: &["mistral", "magistral"], open: &["[THINK]"], close: &["[/THINK]"], ..THINK },
    ReasoningFormat { names: &["seed-oss"], open: &["<seed:think>"], close: &["</seed:think>"], ..THINK },
    ReasoningFormat { names: &["hunyuan-a13b"], around_answer: &["<answer>", "</answer>"], ..THINK },
    ReasoningFormat {
        names: &["granite"],
        open: &["Here is my thought process:", "Here's my thought process:"],
        close: &["Here is my response:", "Here's my response:"],
        ..THINK
    },
    ReasoningFormat {
        names: &["gpt-oss", "openai-gptoss", "harmony"],
        open: &["<|channel|>analysis<|message|>"],
        close: &["<|end|><|start|>assistant<|channel|>final<|message|>"],
        ..THINK
    },
];

impl ReasoningFormat {
    /// The format of this name, written with `-` or `_`.
    pub fn named(name: &str) -> Option<&'static Self> {
        let name = name.to_ascii_lowercase().replace('_', "-");
        REASONING_FORMATS.iter().find(|format| format.names.contains(&name.as_str()))
    }

    /// What most models write.
    pub fn usual() -> &'static Self {
        &THINK
    }

    /// Whether the prompt ends with reasoning that is over: the model is to answer at once.
    pub fn has_thought(&self, prompt_end: &str) -> bool {
        self.close.iter().any(|mark| prompt_end.trim_end().ends_with(mark))
    }

    /// Whether this is gpt-oss's, where every part of a message has a channel.
    pub fn is_harmony(&self) -> bool {
        self.names[0] == "gpt-oss"
    }

    /// What makes the model stop thinking when it is forced upon it.
    pub fn end(&self) -> &'static str {
        self.close[0]
    }

    /// Whether the model is already thinking when it begins to write. `prompt_end` is the text of the prompt's last
    /// tokens; where it shows neither mark at its end, it is the format's own custom, unless thinking was switched off.
    pub fn starts_thinking(&self, prompt_end: &str, enabled: bool) -> bool {
        let prompt_end = prompt_end.trim_end();
        let ends_with = |marks: &[&str]| marks.iter().any(|mark| prompt_end.ends_with(mark));
        match () {
            () if ends_with(self.open) => true,
            () if ends_with(self.close) => false,
            () => self.from_start && enabled,
        }
    }
}

/// All names that [`ReasoningFormat::named`] knows.
pub fn reasoning_names() -> Vec<&'static str> {
    REASONING_FORMATS.iter().flat_map(|format| format.names).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_both_spellings_and_only_once() {
        assert_eq!(ReasoningFormat::named("Ernie_X1"), ReasoningFormat::named("ernie-x1"));
        assert!(ReasoningFormat::named("deepseek_r1").is_some_and(|format| format.from_start));
        assert!(ReasoningFormat::named("nobody").is_none());
        let mut names = reasoning_names();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }

    #[test]
    fn the_end_of_the_prompt_tells_whether_thinking_has_begun() {
        for (name, prompt_end, enabled, expected) in [
            ("qwen3", "<|im_start|>assistant\n", true, false),
            ("qwen3", "assistant\n<think>\n", true, true),
            ("qwen3", "<think>\n\n</think>\n\n", false, false),
            ("deepseek-r1", "<|Assistant|>", true, true),
            ("deepseek-r1", "<|Assistant|>", false, false),
            ("ernie-x1", "Assistant: <think></think>", true, false),
        ] {
            let format = ReasoningFormat::named(name).unwrap();
            assert_eq!(format.starts_thinking(prompt_end, enabled), expected, "{name} after {prompt_end:?}");
        }
    }
}
