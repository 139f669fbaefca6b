//! How models write calls of tools, by the names of `--tool-call-parser`.
//!
//! A format is a row of [`TOOL_FORMATS`]: the marks that begin a call, those that only stand around, and how what is
//! between is read. A new model usually is a new row; a new way of writing is a file of this room.

mod headed;
mod json_calls;
mod json_text;
mod marked;
mod python_literal;
mod pythonic;
mod tools;

use std::{fmt, sync::Arc};

use self::{headed::HeadedReader, json_calls::JsonReader, marked::MarkedReader, pythonic::PythonicReader};
use super::message::parts::Parts;

pub use self::{headed::Header, marked::ElementMarks, tools::Tools};

/// A model's way to call tools.
#[derive(Debug, PartialEq, Eq)]
pub struct ToolFormat {
    /// Its names, written with `-`.
    pub names: &'static [&'static str],
    /// Marks behind which calls are read.
    pub open: &'static [&'static str],
    /// Marks around calls that say nothing more.
    pub around: &'static [&'static str],
    /// Characters that begin a call without any mark, where the answer begins with one.
    pub bare: &'static [char],
    /// How calls are written behind the marks.
    pub kind: CallKind,
}

/// How calls are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallKind {
    /// `{"name": …, "arguments": {…}}`, several in a row or in a list; `parameters` means the same.
    Json,
    /// The same, in a list that the mark has opened.
    JsonList,
    /// A name, then its arguments as JSON: `name{…}`.
    Headed(Header),
    /// Arguments between marks, each for itself.
    Elements(ElementMarks),
    /// Python's calls: `[name(argument=1), other()]`.
    Pythonic,
    /// gpt-oss's channels, which [`super::message`] reads itself.
    Harmony,
}

const JSON: ToolFormat = ToolFormat { names: &[], open: &[], around: &[], bare: &[], kind: CallKind::Json };

/// What a forced call is written as, whatever the model's own format: a list of objects.
pub static FORCED_CALLS: ToolFormat = ToolFormat { names: &["json"], bare: &['[', '{'], ..JSON };

/// All formats but the forced one.
pub static TOOL_FORMATS: &[ToolFormat] = &[
    ToolFormat {
        names: &["hermes", "ernie-x1", "ernie45", "ernie-45-vl", "ernie-45-vl-thinking", "qwen", "qwen25", "qwen3"],
        open: &["<tool_call>"],
        around: &["</tool_call>"],
        ..JSON
    },
    ToolFormat {
        names: &["llama3-json", "llama4-json", "llama3"],
        open: &["<|python_tag|>"],
        bare: &['{', '['],
        ..JSON
    },
    ToolFormat {
        names: &["granite"],
        open: &["<|tool_call|>", "<tool_call>"],
        around: &["</tool_call>"],
        bare: &['['],
        ..JSON
    },
    ToolFormat { names: &["granite-20b-fc"], open: &["<function_call>"], ..JSON },
    ToolFormat {
        names: &["internlm"],
        open: &["<|action_start|><|plugin|>", "<|action_start|> <|plugin|>"],
        around: &["<|action_end|>"],
        ..JSON
    },
    ToolFormat { names: &["jamba", "hunyuan-a13b"], open: &["<tool_calls>"], around: &["</tool_calls>"], ..JSON },
    ToolFormat { names: &["phi4-mini-json"], open: &["functools["], kind: CallKind::JsonList, ..JSON },
    ToolFormat { names: &["longcat"], open: &["<longcat_tool_call>"], around: &["</longcat_tool_call>"], ..JSON },
    ToolFormat {
        names: &["mistral"],
        open: &["[TOOL_CALLS]"],
        around: &["[ARGS]", "[CALL_ID]", "[/TOOL_CALLS]"],
        kind: CallKind::Headed(Header { name_begins_after: None, name_ends_at: &["["] }),
        ..JSON
    },
    ToolFormat {
        names: &["deepseek-v3"],
        open: &["<｜tool▁call▁begin｜>"],
        around: &[
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁calls▁end｜>",
            "<｜tool▁call▁end｜>",
            "\n```<｜tool▁call▁end｜>",
            "```<｜tool▁call▁end｜>",
            "<｜tool▁sep｜>",
        ],
        kind: CallKind::Headed(Header { name_begins_after: Some("<｜tool▁sep｜>"), name_ends_at: &["\n", "```"] }),
        ..JSON
    },
    ToolFormat {
        names: &["deepseek-v31"],
        open: &["<｜tool▁call▁begin｜>"],
        around: &["<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"],
        kind: CallKind::Headed(Header { name_begins_after: None, name_ends_at: &["<｜tool▁sep｜>"] }),
        ..JSON
    },
    ToolFormat {
        names: &["kimi-k2"],
        open: &["<|tool_call_begin|>"],
        around: &[
            "<|tool_calls_section_begin|>",
            "<|tool_calls_section_end|>",
            "<|tool_call_end|>",
            "<|tool_call_argument_begin|>",
        ],
        kind: CallKind::Headed(Header {
            name_begins_after: Some("functions."),
            name_ends_at: &[":", "<|tool_call_argument_begin|>"],
        }),
        ..JSON
    },
    ToolFormat {
        names: &["qwen3-coder", "qwen3-xml", "nemotron-v3"],
        open: &["<function="],
        around: &["<tool_call>", "</tool_call>", "</function>", "</parameter>"],
        kind: CallKind::Elements(ElementMarks {
            name_end: ">",
            key_open: "<parameter=",
            key_end: ">",
            value_open: None,
            value_end: "</parameter>",
            call_end: "</function>",
        }),
        ..JSON
    },
    ToolFormat {
        names: &["seed-oss"],
        open: &["<function="],
        around: &["<seed:tool_call>", "</seed:tool_call>", "</function>", "</parameter>"],
        kind: CallKind::Elements(ElementMarks {
            name_end: ">",
            key_open: "<parameter=",
            key_end: ">",
            value_open: None,
            value_end: "</parameter>",
            call_end: "</function>",
        }),
        ..JSON
    },
    ToolFormat {
        names: &["minimax-m2"],
        open: &["<invoke name=\""],
        around: &["<minimax:tool_call>", "</minimax:tool_call>", "</invoke>", "</parameter>"],
        kind: CallKind::Elements(ElementMarks {
            name_end: "\">",
            key_open: "<parameter name=\"",
            key_end: "\">",
            value_open: None,
            value_end: "</parameter>",
            call_end: "</invoke>",
        }),
        ..JSON
    },
    ToolFormat {
        names: &["deepseek-v32"],
        open: &["<｜DSML｜invoke name=\""],
        around: &["<｜DSML｜function_calls>", "</｜DSML｜function_calls>", "</｜DSML｜invoke>", "</｜DSML｜parameter>"],
        kind: CallKind::Elements(ElementMarks {
            name_end: "\">",
            key_open: "<｜DSML｜parameter name=\"",
            key_end: "\">",
            value_open: None,
            value_end: "</｜DSML｜parameter>",
            call_end: "</｜DSML｜invoke>",
        }),
        ..JSON
    },
    ToolFormat {
        names: &["step3"],
        open: &["<steptml:invoke name=\""],
        around: &[
            "<｜tool_calls_begin｜>",
            "<｜tool_calls_end｜>",
            "<｜tool_call_begin｜>function<｜tool_sep｜>",
            "<｜tool_call_end｜>",
            "</steptml:invoke>",
            "</steptml:parameter>",
        ],
        kind: CallKind::Elements(ElementMarks {
            name_end: "\">",
            key_open: "<steptml:parameter name=\"",
            key_end: "\">",
            value_open: None,
            value_end: "</steptml:parameter>",
            call_end: "</steptml:invoke>",
        }),
        ..JSON
    },
    ToolFormat {
        names: &["glm45", "glm47"],
        open: &["<tool_call>"],
        around: &["</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"],
        kind: CallKind::Elements(ElementMarks {
            name_end: "\n",
            key_open: "<arg_key>",
            key_end: "</arg_key>",
            value_open: Some("<arg_value>"),
            value_end: "</arg_value>",
            call_end: "</tool_call>",
        }),
        ..JSON
    },
    ToolFormat {
        names: &["pythonic", "llama4-pythonic"],
        open: &["<|python_start|>"],
        around: &["<|python_end|>"],
        bare: &['['],
        kind: CallKind::Pythonic,
    },
    ToolFormat {
        names: &["olmo3"],
        open: &["<function_calls>"],
        around: &["</function_calls>"],
        bare: &[],
        kind: CallKind::Pythonic,
    },
    ToolFormat { names: &["gpt-oss", "openai", "harmony"], kind: CallKind::Harmony, ..JSON },
];

impl ToolFormat {
    /// The format of this name, written with `-` or `_`.
    pub fn named(name: &str) -> Option<&'static Self> {
        let name = name.to_ascii_lowercase().replace('_', "-");
        TOOL_FORMATS.iter().find(|format| format.names.contains(&name.as_str()))
    }

    /// A reader for what follows an opening mark, or (`bare`) for an answer that begins like a call.
    pub(crate) fn reader(&self, tools: &Arc<Tools>, bare: bool) -> Box<dyn CallReader> {
        // Without a mark it may be an ordinary answer, so only the request's own tools count as calls.
        let only = (bare && !std::ptr::eq(self, &FORCED_CALLS)).then(|| tools.clone());
        match self.kind {
            CallKind::Json | CallKind::Harmony => Box::new(JsonReader::new(only)),
            CallKind::JsonList => Box::new(JsonReader::in_list()),
            CallKind::Headed(header) => Box::new(HeadedReader::new(header)),
            CallKind::Elements(marks) => Box::new(MarkedReader::new(marks, tools.clone())),
            CallKind::Pythonic => Box::new(PythonicReader::new(only)),
        }
    }
}

/// All names that [`ToolFormat::named`] knows.
pub fn tool_format_names() -> Vec<&'static str> {
    TOOL_FORMATS.iter().flat_map(|format| format.names).copied().collect()
}

/// Reads calls out of a text that comes in pieces. What it makes of a text doesn't depend on how it was cut.
pub(crate) trait CallReader: fmt::Debug + Send {
    /// Reads on. Returns at the end of each call, so that the caller can stop there.
    fn read(&mut self, text: &str, parts: &mut Parts) -> Read;

    /// No more text comes: closes what can be closed, and returns the text that became no call.
    fn finish(&mut self, parts: &mut Parts) -> String;
}

/// What became of a text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// So many bytes were read; more of the calls may follow.
    More(usize),
    /// So many bytes were read, and there the calls end.
    Done(usize),
    /// So many bytes were read, and there is no call: this text is the answer's.
    NoCall(usize, String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_both_spellings_and_only_once() {
        assert_eq!(ToolFormat::named("Qwen3_Coder"), ToolFormat::named("qwen3-coder"));
        assert!(ToolFormat::named("nobody").is_none());
        let mut names = tool_format_names();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }
}
