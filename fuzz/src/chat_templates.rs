//! Chat templates: a model's own, and one that a request brings.

use std::sync::LazyLock;

use serde_json::{Value, json};
use shardwire::text::{ChatOptions, ChatTemplate, TextModel, TextOverrides, template::TemplateTexts};

static MODEL: LazyLock<TextModel> =
    LazyLock::new(|| TextModel::load(&crate::fixtures::model(), TextOverrides::default()).expect("a golden model"));

/// The input is the template; after a zero, `messages` may follow.
pub fn read(input: &[u8]) {
    let mut parts = input.splitn(2, |&byte| byte == 0);
    let template = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let messages = parts.next().and_then(|messages| serde_json::from_slice(messages).ok()).unwrap_or_else(messages);
    let mut options = ChatOptions { tools: Some(tools()), ..ChatOptions::default() };
    let texts = TemplateTexts { default: template.to_string(), ..TemplateTexts::default() };
    if let Ok(own) = ChatTemplate::compile(texts) {
        let _ = own.render_conversation(&messages, &options);
    }
    options.template = Some(template.into());
    let _ = MODEL.chat_text(&messages, &options);
}

fn messages() -> Value {
    json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Weather?"}])
}

fn tools() -> Value {
    json!([{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}])
}
