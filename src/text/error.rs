//! What can go wrong between text and tokens, and whose fault it is.

use std::path::{Path, PathBuf};

/// A text that can't become tokens, or a model whose text files can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// The template itself said no (`raise_exception`); the client's fault.
    #[error("the chat template refuses these messages: {message}")]
    Refused {
        /// The template's own words.
        message: String,
    },
    /// The template stumbled over what it was given, for instance a number where it adds strings; the client's fault.
    #[error("the chat template can't be rendered with these messages: {message}")]
    NotRendered {
        /// What the template engine says.
        message: String,
    },
    /// Rendering took too many steps or wrote too much; the client's fault.
    #[error("the rendered conversation is too large: {limit}")]
    TooLarge {
        /// The limit that was met.
        limit: String,
    },
    /// A template that came with the request can't be compiled; the client's fault.
    #[error("the request's chat template can't be read: {message}")]
    Template {
        /// What is wrong, with the line.
        message: String,
    },
    /// `messages` isn't what OpenAI's protocol describes; the client's fault.
    #[error("{message}")]
    Messages {
        /// What is wrong, with the message's index.
        message: String,
    },
    /// A chat for a model without a template; to the client a bad request, to the operator a missing flag.
    #[error(
        "this model has no chat template: start the server with --chat-template FILE, or use /v1/completions instead"
    )]
    NoTemplate,
    /// The tokenizer can't handle this text; the client's fault.
    #[error("the text can't be tokenized: {message}")]
    NotTokenized {
        /// What the tokenizer says.
        message: String,
    },
    /// The vocabulary or a template of the model is broken; found at start-up.
    #[error("{reason}")]
    Model {
        /// What is wrong.
        reason: String,
    },
    /// The same, once it is known in which file.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file at fault.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl TextError {
    /// Whether the request is at fault (400) rather than the model's files (which end the start-up).
    pub fn is_client_fault(&self) -> bool {
        !matches!(self, Self::Model { .. } | Self::File { .. })
    }

    /// The same error, naming the file if it is the model's fault and no file is named yet.
    pub fn in_file(self, path: &Path) -> Self {
        match self {
            Self::Model { reason } => Self::File { path: path.into(), reason },
            other => other,
        }
    }

    pub(crate) fn model(reason: impl ToString) -> Self {
        Self::Model { reason: reason.to_string() }
    }

    /// An error of the weights' room, whose message names the file already.
    pub(crate) fn unreadable(path: &Path, error: impl ToString) -> Self {
        let message = error.to_string();
        let reason = message.strip_prefix(&format!("{}: ", path.display())).unwrap_or(&message);
        Self::file(path, reason)
    }

    pub(crate) fn file(path: &Path, reason: impl ToString) -> Self {
        Self::File { path: path.into(), reason: reason.to_string() }
    }
}
