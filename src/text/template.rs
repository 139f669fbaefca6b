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
    messages::{self, ContentStyle},
    python_values::{JsonLayout, to_json, to_text},
    strftime::strftime,
    tokenizer::TEXT_BYTES_MAX,
};
use crate::apart::{Unfinished, deep};

/// What a rendering may use up: about one per instruction and per 64 bytes of intermediate text.
const FUEL: u64 = 20_000_000;
/// The same for a template that a request brings.
const REQUEST_FUEL: u64 = 2_000_000;
/// Longest template that a request may bring, bytes.
const REQUEST_TEMPLATE_BYTES_MAX: usize = 64 << 10;
/// Longest template of a model, bytes. The longest known has 30 KiB.
const TEMPLATE_BYTES_MAX: usize = 256 << 10;
/// Stack of compiling: a text nests as deep as it is long.
const STACK_PER_BYTE: usize = 8 << 10;
/// Stack of rendering: values nest as deep as a loop makes them, and are written and dropped by recursion.
pub(super) const STACK_BYTES: usize = 512 << 20;
/// The name of threads that have such a stack.
pub(super) const THREAD: &str = "chat-template";
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
    /// A template of the request's own, in the place of the model's.
    pub template: Option<String>,
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self {
            add_generation_prompt: true,
            continue_final_message: false,
            tools: None,
            documents: None,
            kwargs: Map::new(),
            template: None,
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
        let bytes = texts.default.len().max(texts.tool_use.as_ref().map_or(0, String::len));
        if bytes > TEMPLATE_BYTES_MAX {
            let most = TEMPLATE_BYTES_MAX;
            return Err(TextError::model(format!("the chat template has {bytes} bytes, at most {most} are read")));
        }
        let compile = || Self::compile_in(environment()?, texts);
        let compiled = deep(THREAD, STACK_BYTES.max(bytes * STACK_PER_BYTE), compile);
        compiled.unwrap_or_else(|unfinished| Err(TextError::model(gave_up(unfinished))))
    }

    fn compile_in(mut environment: Environment<'static>, texts: TemplateTexts) -> Result<Self, TextError> {
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

    /// Compiles a request's own template, given the special tokens of the model's. What is wrong with it is the client's
    /// fault. It may not use the filters that make long texts of short ones at one step.
    pub fn of_request(text: &str, special_tokens: BTreeMap<String, String>) -> Result<Self, TextError> {
        let fault = |message: String| TextError::Template { message };
        if text.len() > REQUEST_TEMPLATE_BYTES_MAX {
            return Err(fault(format!("it has {} bytes, at most {REQUEST_TEMPLATE_BYTES_MAX} are read", text.len())));
        }
        let texts = TemplateTexts { default: text.to_owned(), tool_use: None, special_tokens };
        let mut environment = environment()?;
        environment.set_fuel(Some(REQUEST_FUEL));
        for filter in ["format", "indent"] {
            environment.remove_filter(filter);
        }
        Self::compile_in(environment, texts).map_err(|error| fault(error.to_string()))
    }

    /// Whether the template reads `content` as a list of parts, too.
    pub fn content_style(&self) -> ContentStyle {
        self.content_style
    }

    pub(super) fn special_tokens(&self) -> &BTreeMap<String, String> {
        &self.special_tokens
    }

    /// The text of a conversation whose messages are laid out as this template reads them.
    pub fn render_conversation(&self, messages: &Json, options: &ChatOptions) -> Result<String, TextError> {
        let messages = messages::for_template(messages, self.content_style())?;
        match (self.render(&messages, options), messages::with_empty_contents(&messages)) {
            (Err(TextError::NotRendered { .. } | TextError::Refused { .. }), Some(filled)) => {
                self.render(&filled, options)
            }
            (rendered, _) => rendered,
        }
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
        let rendered = deep(THREAD, STACK_BYTES, || {
            template.render_captured_to(variables, &mut out).map(drop).map_err(|error| client_error(&error))
        });
        rendered.unwrap_or_else(|unfinished| Err(TextError::NotRendered { message: gave_up(unfinished) }))?;
        String::from_utf8(out.text).map_err(TextError::model)
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

fn gave_up(unfinished: Unfinished) -> String {
    match unfinished {
        Unfinished::NoThread(error) => format!("there is no thread for it: {error}"),
        _ => "the template engine gave up on it".into(),
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
        let inside = open + 2;
        let Some(length) = rest[inside..].find("%}") else { break };
        let tag = &rest[inside..inside + length];
        out.push_str(&rest[..inside]);
        out.push_str(&match tag.trim_matches(['-', '+']).trim() {
            "generation" => tag.replace("generation", "if true"),
            "endgeneration" => tag.replace("endgeneration", "endif"),
            _ => tag.into(),
        });
        rest = &rest[inside + length..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(text: &str) -> ChatTemplate {
        let special_tokens = [("bos_token", "<s>"), ("eos_token", "</s>")];
        let special_tokens = special_tokens.map(|(name, token)| (name.to_string(), token.to_string())).into();
        ChatTemplate::compile(TemplateTexts { default: text.into(), tool_use: None, special_tokens }).unwrap()
    }

    fn render(text: &str) -> Result<String, TextError> {
        let options = ChatOptions { tools: Some(json!([{"b": "<é>", "a": 1.0}])), ..ChatOptions::default() };
        compile(text).render(&json!([{"role": "user", "content": "hi"}]), &options)
    }

    #[test]
    fn templates_render_as_in_python() {
        for (template, expected) in [
            ("{{ bos_token }}{{ messages[0].content.upper() }}{{ eos_token }}\n", "<s>HI</s>"),
            ("{% for m in messages %}\n  {% if true %}\n{{ m['role'] }}\n  {% endif %}\n{% endfor %}\nx", "user\nx"),
            ("{{ none }} {{ true }} {{ missing }}|{{ 1.0 }} {{ ['a', none] }}", "None True |1.0 ['a', None]"),
            ("{{ tools[0] | tojson }}", r#"{"b": "<é>", "a": 1.0}"#),
            ("{{ tools | tojson(indent=1) }}", "[\n {\n  \"b\": \"<é>\",\n  \"a\": 1.0\n }\n]"),
            ("{{ tools[0] | tojson(separators=[',', ':'], sort_keys=true) }}", r#"{"a":1.0,"b":"<é>"}"#),
            ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
            (
                "{%- set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
                "1",
            ),
            ("{{ 'a,b'.split(',')[-1] }}{{ ' x '.strip() }}{{ 'ab'.startswith('a') }}", "bxTrue"),
            ("{% generation %}a{% endgeneration %}{%- generation -%} b {%- endgeneration -%} c", "abc"),
            ("{{ strftime_now('%Y')[:2] }}{{ documents is none }}{{ undefined_thing is defined }}", "20TrueFalse"),
            ("{{ (true | string) + messages[0]['content'] }}", "Truehi"),
        ] {
            assert_eq!(render(template).unwrap(), expected, "{template}");
        }
    }

    #[test]
    fn refusals_and_errors_are_the_clients_fault() {
        assert_eq!(
            render("{% macro m() %}{{ raise_exception('no ' + messages[0].role) }}{% endmacro %}{{ m() }}"),
            Err(TextError::Refused { message: "no user".into() })
        );
        for template in
            ["{{ 'a' + [] }}", "{{ none.x.y }}", "{{ missing.x }}", "{{ missing | tojson }}", "{{ nothing() }}"]
        {
            let error = render(template).unwrap_err();
            assert!(matches!(error, TextError::NotRendered { .. }) && error.is_client_fault(), "{template}: {error}");
        }
    }

    #[test]
    fn endless_and_huge_renderings_end() {
        let loops = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
        let output = "{% set x = 'x' * 1000000 %}{% for a in range(999) %}{{ x }}{% endfor %}";
        let recursion = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
        for template in [loops, output, "{{ 'x' * 9999999999 }}"] {
            let error = render(template).unwrap_err();
            assert!(matches!(error, TextError::TooLarge { .. }), "{template}: {error}");
        }
        assert!(render(recursion).is_err());
    }

    #[test]
    fn deep_templates_deep_values_and_panics_of_the_engine_are_survived() {
        let compile = |text: String| ChatTemplate::compile(TemplateTexts { default: text, ..TemplateTexts::default() });
        let _ = compile(format!("{{{{ {}1 }}}}", "-".repeat(TEMPLATE_BYTES_MAX - 10)));
        let error = compile(" ".repeat(TEMPLATE_BYTES_MAX + 1)).unwrap_err().to_string();
        assert!(error.contains("the chat template has 262145 bytes"), "{error}");
        let nested = "{% set ns = namespace(x=[]) %}{% for i in range(90000) %}{% set ns.x = [ns.x] %}{% endfor %}";
        let _ = render(&format!("{nested}{{{{ ns.x }}}}"));
        let error = render("{{ [1, 2][::-9223372036854775808] }}").unwrap_err();
        assert!(matches!(error, TextError::NotRendered { .. }), "{error}");
    }

    #[test]
    fn a_broken_template_is_the_models_fault() {
        for template in
            ["{% if %}", "{%}", "{%}x%}", "{{ 'a' ", "{% for x in y %}", "{{ x | no_such_filter }}{% endif %}"]
        {
            let error = ChatTemplate::compile(TemplateTexts { default: template.into(), ..TemplateTexts::default() });
            assert!(error.is_err_and(|error| !error.is_client_fault()), "{template}");
        }
    }

    #[test]
    fn content_style_is_found_out() {
        let style = |text: &str| compile(text).content_style();
        assert_eq!(style("{% for m in messages %}{{ m.content }}{% endfor %}"), ContentStyle::Text);
        assert_eq!(style("{{ messages[0].content + 'x' }}"), ContentStyle::Text);
        assert_eq!(
            style(
                "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}{% endfor %}"
            ),
            ContentStyle::Parts
        );
    }

    #[test]
    fn tools_choose_their_own_template() {
        let texts = TemplateTexts { default: "plain".into(), tool_use: Some("tools".into()), ..Default::default() };
        let template = ChatTemplate::compile(texts).unwrap();
        let render = |tools| template.render(&json!([]), &ChatOptions { tools, ..ChatOptions::default() }).unwrap();
        assert_eq!(render(None), "plain");
        assert_eq!(render(Some(json!([]))), "plain");
        assert_eq!(render(Some(json!([{}]))), "tools");
    }

    #[test]
    fn a_final_message_is_left_open() {
        let template = compile("{% for m in messages %}[{{ m.content | trim }}]{% endfor %}");
        let continued = |content: Json, add_generation_prompt| {
            let options = ChatOptions { continue_final_message: true, add_generation_prompt, ..ChatOptions::default() };
            template.render(&json!([{"content": "x"}, {"content": content}]), &options)
        };
        assert_eq!(continued(json!("so "), false).unwrap(), "[x][so");
        assert!(continued(json!("so"), true).is_err());
        assert!(continued(json!(""), false).is_err());
        assert!(continued(json!(null), false).is_err());
    }
}
