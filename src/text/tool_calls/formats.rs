//! The table of formats: one row for each way in which models call tools.

use super::{CallKind, ElementMarks, Header, ToolFormat};

/// What most formats have in common.
const JSON: ToolFormat = ToolFormat { names: &[], open: &[], around: &[], bare: &[], kind: CallKind::Json };

/// `<function=name><parameter=key>value</parameter></function>`.
const FUNCTION_MARKS: ElementMarks = ElementMarks {
    name_end: ">",
    key_open: "<parameter=",
    key_end: ">",
    value_open: None,
    value_end: "</parameter>",
    call_end: "</function>",
};

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
        kind: CallKind::Elements(FUNCTION_MARKS),
        ..JSON
    },
    ToolFormat {
        names: &["seed-oss"],
        open: &["<function="],
        around: &["<seed:tool_call>", "</seed:tool_call>", "</function>", "</parameter>"],
        kind: CallKind::Elements(FUNCTION_MARKS),
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
