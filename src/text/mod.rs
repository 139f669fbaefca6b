//! Strings and tokens: chat templates, tokenizers, incremental detokenizing, stop strings.
//!
//! On the way in, [`TextModel`] turns messages or plain text into token ids ([`template`], [`tokenizer`]). On the way
//! out, each sequence has a [`Detokenizer`], behind it its [`StopStrings`], and behind those its [`MessageParser`].
//!
//! Everything here is synchronous and may take long for a long prompt: callers run it on a bounded set of blocking
//! threads, never on the HTTP executor.

pub mod detokenizer;
pub mod error;
pub mod gguf_vocabulary;
pub mod message;
pub mod messages;
mod pieces;
mod pre_tokenizer;
mod python_values;
pub mod reasoning;
mod request_template;
mod seal;
pub mod stop_strings;
mod strftime;
pub mod template;
mod template_source;
pub mod tokenizer;
pub mod tool_calls;
mod vocabulary;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod golden_gguf;

use std::{path::Path, sync::Arc};

use serde_json::Value;
use workers::weights::Checkpoint;

use self::{request_template::RequestTemplates, seal::Seal};

pub use detokenizer::Detokenizer;
pub use error::TextError;
pub use message::{CallFormat, MessageFormat, MessageParser, Part};
pub use reasoning::ReasoningFormat;
pub use stop_strings::{Released, StopStrings};
pub use template::{ChatOptions, ChatTemplate};
pub use tokenizer::Tokenizer;
pub use tool_calls::{FORCED_CALLS, ToolFormat, Tools};

/// All that text needs of a model: its vocabulary and how it wants a conversation to be written.
#[derive(Debug)]
pub struct TextModel {
    /// Shared with every [`Detokenizer`].
    pub tokenizer: Arc<Tokenizer>,
    /// None where the model has none and none was given: chat requests are then refused, completions work.
    pub template: Option<ChatTemplate>,
    /// Whether special tokens that are spelled out in what users, tools and the system say count as such.
    pub special_tokens_in_content: bool,
    request_templates: RequestTemplates,
}

/// What the command line puts in place of the checkpoint's own files.
#[derive(Debug, Clone, Copy, Default)]
pub struct TextOverrides<'a> {
    /// `--tokenizer`: a folder, one of its vocabulary files (tokenizer.json, tokenizer.model, a tiktoken file) or a GGUF
    /// file to read the tokenizer from.
    pub tokenizer: Option<&'a Path>,
    /// `--chat-template`: a Jinja text, or the path of a file that holds one.
    pub chat_template: Option<&'a str>,
    /// `--no-special-tokens-in-content`.
    pub no_special_tokens_in_content: bool,
}

impl TextModel {
    /// Reads tokenizer and template of `checkpoint`, a Hugging Face folder or a `.gguf` file.
    pub fn load(checkpoint: &Path, overrides: TextOverrides<'_>) -> Result<Self, TextError> {
        let source = overrides.tokenizer.unwrap_or(checkpoint);
        let (tokenizer, found) = if is_gguf(source) { read_gguf(source)? } else { read_folder(source)? };
        let template = match overrides.chat_template {
            Some(given) => Some(found.compile_override(given)?),
            None => found.compile()?,
        };
        let special_tokens_in_content = !overrides.no_special_tokens_in_content;
        let (tokenizer, request_templates) = (Arc::new(tokenizer), RequestTemplates::default());
        Ok(Self { tokenizer, template, special_tokens_in_content, request_templates })
    }

    /// The tokens of a conversation: rendered by the template, then tokenized without adding special tokens (the
    /// template writes its own).
    pub fn chat_prompt(&self, messages: &Value, options: &ChatOptions) -> Result<Vec<u32>, TextError> {
        if self.special_tokens_in_content {
            let text = self.chat_text(messages, options)?;
            return self.tokenizer.encode(&text, false);
        }
        let seal = Seal::new(&self.tokenizer, messages)?;
        let text = self.chat_text(&seal.close(messages), options)?;
        seal.encode(&text)
    }

    /// The text of a conversation as the model reads it.
    pub fn chat_text(&self, messages: &Value, options: &ChatOptions) -> Result<String, TextError> {
        if let Some(text) = &options.template {
            let special_tokens = self.template.as_ref().map(|template| template.special_tokens().clone());
            let special_tokens = special_tokens.unwrap_or_default();
            return self.request_templates.render(text, special_tokens, messages, options);
        }
        self.template.as_ref().ok_or(TextError::NoTemplate)?.render_conversation(messages, options)
    }

    /// The tokens of a plain prompt, with the special tokens (usually a BOS) that the model puts around a text.
    pub fn completion_prompt(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.tokenizer.encode(text, true)
    }
}

fn is_gguf(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

fn read_folder(source: &Path) -> Result<(Tokenizer, template_source::TemplateSource), TextError> {
    let is_file = source.is_file();
    let folder = if is_file { source.parent().unwrap_or(Path::new(".")) } else { source };
    let tokenizer = if is_file { Tokenizer::from_file(source)? } else { Tokenizer::from_folder(source)? };
    Ok((tokenizer, template_source::TemplateSource::of_folder(folder)?))
}

fn read_gguf(file: &Path) -> Result<(Tokenizer, template_source::TemplateSource), TextError> {
    let checkpoint = Checkpoint::open(file).map_err(|error| TextError::unreadable(file, error))?;
    let metadata = checkpoint.gguf_metadata().ok_or_else(|| TextError::file(file, "not a GGUF file"))?;
    let vocabulary = gguf_vocabulary::GgufVocabulary::of_metadata(metadata);
    let tokenizer = Tokenizer::from_gguf(&vocabulary).map_err(|error| error.in_file(file))?;
    Ok((tokenizer, template_source::TemplateSource::of_gguf(file, vocabulary)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn overrides_stand_in_for_what_a_model_lacks() {
        let own = crate::fixtures::golden("models/llama3_rope");
        let bare = tempfile::tempdir().unwrap();
        let load = |overrides| TextModel::load(bare.path(), overrides);
        let error = load(TextOverrides::default()).unwrap_err();
        assert!(error.to_string().contains("looked for tokenizer.json") && !error.is_client_fault(), "{error}");

        std::fs::copy(own.join("tokenizer.json"), bare.path().join("tokenizer.json")).unwrap();
        let messages = json!([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]);
        let model = load(TextOverrides::default()).unwrap();
        let error = model.chat_prompt(&messages, &ChatOptions::default()).unwrap_err();
        assert_eq!(error, TextError::NoTemplate);
        assert_eq!(model.completion_prompt("Hi").unwrap(), [39, 72]);

        let given = TextOverrides { chat_template: Some("{{ messages[0].content + '' }}"), ..TextOverrides::default() };
        assert_eq!(load(given).unwrap().chat_prompt(&messages, &ChatOptions::default()).unwrap(), [39, 72]);
        let own_template = |text: &str| ChatOptions { template: Some(text.into()), ..ChatOptions::default() };
        assert_eq!(model.chat_prompt(&messages, &own_template("{{ messages[0].content }}")), Ok(vec![39, 72]));
        let error = model.chat_prompt(&messages, &own_template("{% if %}")).unwrap_err();
        assert!(matches!(error, TextError::Template { .. }) && error.is_client_fault(), "{error}");
        let elsewhere = TextOverrides { tokenizer: Some(&own), ..TextOverrides::default() };
        assert!(load(elsewhere).unwrap().template.is_some());
    }

    #[test]
    fn a_file_that_is_no_gguf_is_named() {
        let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
        let error = TextModel::load(file.path(), TextOverrides::default()).unwrap_err().to_string();
        assert_eq!(error.matches(file.path().to_str().unwrap()).count(), 1, "{error}");
    }
}
