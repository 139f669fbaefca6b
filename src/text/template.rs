//! Chat templates: a conversation written as the one text that the model was taught to continue.
//!
//! Rendered as `transformers` does it (`apply_chat_template`): Jinja with `trim_blocks` and `lstrip_blocks`, loop
//! controls, Python's string methods, and a few functions of its own. A template is code of the model's makers; what
//! it may cost is bounded all the same.

use std::{collections::BTreeMap, io};

use minijinja::{
    Environment, Error, ErrorKind,
    syntax::SyntaxConfig,
    value::{Kwargs, Serde, Value},
};
use serde_json::{Map, Value as Json, json};
use time::OffsetDateTime;

use super::{
    TextError,
    messages::ContentStyle,
    python_values::{JsonLayout, to_json, to_text},
    strftime::strftime,
    tokenizer::TEXT_BYTES_MAX,
};

/// What a rendering may use up: about one per instruction and per 64 bytes of intermediate text.
const FUEL: u64 = 20_000_000;
const DEFAULT: &str = "chat_template";
const TOOL_USE: &str = "chat_template for tools";

/// A compiled template and the special tokens that it names.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: BTreeMap<String, String>,
    content_style: ContentStyle,
}

/// What a request says about how its conversation is written.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatOptions {
    /// End with the beginning of an answer. Default true.
    pub add_generation_prompt: bool,
    /// Leave the last message open, so that the model continues it; needs `add_generation_prompt` to be false.
    pub continue_final_message: bool,
    /// OpenAI's `tools`, a list.
    pub tools: Option<Json>,
    /// Texts to answer from, a list.
    pub documents: Option<Json>,
    /// Further variables, such as `enable_thinking`.
    pub kwargs: Map<String, Json>,
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self {
            add_generation_prompt: true,
            continue_final_message: false,
            tools: None,
            documents: None,
            kwargs: Map::new(),
        }
    }
}

/// The texts of a template, not compiled yet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TemplateTexts {
    /// The template.
    pub default: String,
    /// Another one for requests with tools.
    pub tool_use: Option<String>,
    /// `bos_token`, `eos_token` and so on, by those names.
    pub special_tokens: BTreeMap<String, String>,
}

impl ChatTemplate {
    /// Compiles; an error is the template's fault and names its line.
    pub fn compile(texts: TemplateTexts) -> Result<Self, TextError> {
        let mut environment = environment()?;
        let mut add = |name, text: &str| {
            environment.add_template_owned(name, without_generation_tags(text)).map_err(TextError::model)
        };
        add(DEFAULT, &texts.default)?;
        if let Some(text) = &texts.tool_use {
            add(TOOL_USE, text)?;
        }
        let mut template =
            Self { environment, special_tokens: texts.special_tokens, content_style: ContentStyle::Text };
        template.content_style = template.probe_content_style();
        Ok(template)
    }

    /// Whether the template reads `content` as a list of parts, too.
    pub fn content_style(&self) -> ContentStyle {
        self.content_style
    }

    /// The text of a conversation. `messages` go to the template as they are.
    pub fn render(&self, messages: &Json, options: &ChatOptions) -> Result<String, TextError> {
        if options.continue_final_message && options.add_generation_prompt {
            let message = "`continue_final_message` and `add_generation_prompt` exclude each other".into();
            return Err(TextError::Messages { message });
        }
        let text = self.run(messages, options)?;
        if options.continue_final_message { cut_after_final_message(text, messages) } else { Ok(text) }
    }

    fn run(&self, messages: &Json, options: &ChatOptions) -> Result<String, TextError> {
        let has_tools = options.tools.as_ref().and_then(Json::as_array).is_some_and(|tools| !tools.is_empty());
        let template = match self.environment.get_template(TOOL_USE) {
            Ok(template) if has_tools => template,
            _ => self.environment.get_template(DEFAULT).map_err(TextError::model)?,
        };
        let mut out = Bounded { text: Vec::new() };
        let variables = Value::from(Serde(self.variables(messages, options)));
        match template.render_captured_to(variables, &mut out) {
            Ok(_) => String::from_utf8(out.text).map_err(TextError::model),
            Err(error) => Err(client_error(&error)),
        }
    }

    fn variables(&self, messages: &Json, options: &ChatOptions) -> Map<String, Json> {
        let mut variables: Map<String, Json> =
            self.special_tokens.iter().map(|(name, token)| (name.clone(), json!(token))).collect();
        variables.extend(options.kwargs.clone());
        variables.insert("messages".into(), messages.clone());
        variables.insert("tools".into(), json!(options.tools));
        variables.insert("documents".into(), json!(options.documents));
        variables.insert("add_generation_prompt".into(), json!(options.add_generation_prompt));
        variables
    }

    /// A template reads parts if it writes the same for one text part as for the text itself.
    fn probe_content_style(&self) -> ContentStyle {
        let render = |content: Json| {
            let messages = json!([{"role": "user", "content": content}]);
            self.render(&messages, &ChatOptions::default()).ok().filter(|text| text.contains("probe"))
        };
        let parts = render(json!([{"type": "text", "text": "probe"}]));
        if parts.is_some() && parts == render(json!("probe")) { ContentStyle::Parts } else { ContentStyle::Text }
    }
}

fn environment() -> Result<Environment<'static>, TextError> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(TextError::model)?);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_debug(false);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(|out, _, value| match value.as_str() {
        Some(text) => out.write_str(text).map_err(Error::from),
        None => out.write_str(&to_text(value)).map_err(Error::from),
    });
    environment.add_filter("tojson", tojson);
    environment.add_filter("string", |value: &Value| to_text(value));
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", |format: &str| strftime(OffsetDateTime::now_utc(), format));
    Ok(environment)
}

/// `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
fn tojson(value: &Value, ensure_ascii: Option<bool>, indent: Option<usize>, options: Kwargs) -> Result<String, Error> {
    const INDENT_MAX: usize = 64;
    let indent = indent.or(options.get("indent")?).map(|indent| indent.min(INDENT_MAX));
    let mut layout = JsonLayout::with_indent(indent);
    layout.ascii_only = ensure_ascii.or(options.get("ensure_ascii")?).unwrap_or(false);
    layout.sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    if let Some(separators) = options.get::<Option<Vec<String>>>("separators")? {
        let [item, key] = <[String; 2]>::try_from(separators)
            .map_err(|_| Error::new(ErrorKind::InvalidOperation, "tojson: separators must be a pair"))?;
        layout.separators = (item, key);
    }
    options.assert_all_used()?;
    to_json(value, &layout).map_err(|reason| Error::new(ErrorKind::BadSerialization, reason))
}

/// The template's own refusal, told apart from an error of the template.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "the template raised an exception").with_source(Raised(message)))
}

fn client_error(error: &Error) -> TextError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(Raised(message)) = error.downcast_ref() {
            return TextError::Refused { message: message.clone() };
        }
        cause = error.source();
    }
    match error.kind() {
        ErrorKind::OutOfFuel => TextError::TooLarge { limit: "the chat template takes too many steps for it".into() },
        ErrorKind::WriteFailure => TextError::TooLarge { limit: format!("more than {TEXT_BYTES_MAX} bytes") },
        _ => TextError::NotRendered { message: error.to_string() },
    }
}

/// Takes no more than can be tokenized.
struct Bounded {
    text: Vec<u8>,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.text.len() + bytes.len() > TEXT_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Cuts off what the template wrote after the last message's text, so that the model goes on with it. White space
/// around the text stays where the template left it.
fn cut_after_final_message(mut text: String, messages: &Json) -> Result<String, TextError> {
    let content = messages.as_array().and_then(|messages| messages.last()).map_or("", final_text);
    let trimmed = content.trim();
    let Some(at) = text.rfind(trimmed).filter(|_| !trimmed.is_empty()) else {
        let message = "`continue_final_message` needs a last message whose text the chat template writes out".into();
        return Err(TextError::Messages { message });
    };
    let whole = content.trim_start();
    let length = if text[at..].starts_with(whole) { whole.len() } else { trimmed.len() };
    text.truncate(at + length);
    Ok(text)
}

fn final_text(message: &Json) -> &str {
    match &message["content"] {
        Json::String(text) => text,
        Json::Array(parts) => parts.iter().rev().find_map(|part| part["text"].as_str()).unwrap_or(""),
        _ => "",
    }
}

/// `{% generation %} … {% endgeneration %}` marks the model's own words for training; here it only groups. It becomes
/// a condition that is always true, which trims white space alike.
fn without_generation_tags(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(open) = rest.find("{%") {
        let Some(length) = rest[open..].find("%}") else { break };
        let tag = &rest[open + 2..open + length];
        out.push_str(&rest[..open + 2]);
        out.push_str(&match tag.trim_matches(['-', '+']).trim() {
            "generation" => tag.replace("generation", "if true"),
            "endgeneration" => tag.replace("endgeneration", "endif"),
            _ => tag.into(),
        });
        rest = &rest[open + length..];
    }
    out + rest
}
