//! Flags' values that are one of a few names.

use clap::ValueEnum;

/// How lines of logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object each, for programs that collect them.
    Json,
}

impl LogFormat {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Who keeps answers to a given form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GuidedDecodingBackend {
    /// The one there is.
    #[value(aliases = ["xgrammar", "guidance", "llguidance", "outlines", "lm-format-enforcer"])]
    Auto,
    /// Nobody: such requests are refused.
    Off,
}

/// Where the model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// The best there is.
    Auto,
    /// The processor.
    Cpu,
    /// NVIDIA GPUs, one per rank.
    Cuda,
    /// None: prompts are answered by themselves, at once (for `bench overhead`).
    #[value(hide = true)]
    Null,
}

/// How the hidden states of a text become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PoolingKind {
    /// The mean over all tokens.
    Mean,
    /// The last token's.
    Last,
}
