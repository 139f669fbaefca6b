//! Where a model keeps its chat template, and what the command line puts in its place.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    ChatTemplate, TextError,
    gguf_vocabulary::GgufVocabulary,
    template::TemplateTexts,
    tokenizer::{read_json_if_present, special_token},
};

/// What a checkpoint says about its template.
#[derive(Debug, Clone, PartialEq)]
pub struct TemplateSource {
    /// The file to blame for a broken template.
    path: PathBuf,
    texts: Option<TemplateTexts>,
    special_tokens: BTreeMap<String, String>,
}

const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"];

impl TemplateSource {
    /// Of a Hugging Face folder: chat_template.jinja, else chat_template.json, else tokenizer_config.json.
    pub fn of_folder(folder: &Path) -> Result<Self, TextError> {
        let config_file = folder.join("tokenizer_config.json");
        let config = read_json_if_present(&config_file)?;
        let map = read_json_if_present(&folder.join("special_tokens_map.json"))?;
        let token = |name: &str| special_token(&config, name).or_else(|| special_token(&map, name));
        let special_tokens =
            SPECIAL_TOKENS.iter().filter_map(|name| Some((name.to_string(), token(name)?.to_string())));
        let mut source = Self { path: config_file, texts: None, special_tokens: special_tokens.collect() };

        let (jinja, json) = (folder.join("chat_template.jinja"), folder.join("chat_template.json"));
        if jinja.is_file() {
            let text = fs::read_to_string(&jinja).map_err(|error| TextError::file(&jinja, error))?;
            source.texts = Some(TemplateTexts { default: text, ..TemplateTexts::default() });
            source.path = jinja;
        } else if json.is_file() {
            source.texts = texts_of_json(&read_json_if_present(&json)?["chat_template"]);
            source.path = json;
        } else {
            source.texts = texts_of_json(&config["chat_template"]);
        }
        Ok(source)
    }

    /// Of a GGUF file's metadata.
    pub fn of_gguf(file: &Path, vocabulary: GgufVocabulary) -> Self {
        let ids = [vocabulary.bos, vocabulary.eos, vocabulary.unknown, vocabulary.padding];
        let token = |(name, id): (&&str, Option<u32>)| Some((name.to_string(), vocabulary.token(id)?.to_string()));
        let special_tokens = SPECIAL_TOKENS.iter().zip(ids).filter_map(token).collect();
        let texts = vocabulary.chat_template.map(|default| TemplateTexts { default, ..TemplateTexts::default() });
        Self { path: file.into(), texts, special_tokens }
    }

    /// The checkpoint's own template, if it has one.
    pub fn compile(self) -> Result<Option<ChatTemplate>, TextError> {
        let Some(texts) = self.texts else { return Ok(None) };
        let template = ChatTemplate::compile(TemplateTexts { special_tokens: self.special_tokens, ..texts });
        template.map(Some).map_err(|error| broken(error, &self.path))
    }

    /// `--chat-template`: the path of a file, or the template itself.
    pub fn compile_override(self, given: &str) -> Result<ChatTemplate, TextError> {
        let path = Path::new(given);
        let default = if path.is_file() {
            fs::read_to_string(path).map_err(|error| TextError::file(path, error))?
        } else if given.contains(['{', '\n']) {
            given.into()
        } else {
            return Err(TextError::file(path, "--chat-template: no such file, and not a Jinja text either"));
        };
        let blamed = if path.is_file() { path } else { Path::new("--chat-template") };
        ChatTemplate::compile(TemplateTexts { default, tool_use: None, special_tokens: self.special_tokens })
            .map_err(|error| broken(error, blamed))
    }
}

fn broken(error: TextError, path: &Path) -> TextError {
    match error {
        TextError::Model { reason } => TextError::file(path, format!("broken chat template: {reason}")),
        other => other,
    }
}

/// A text, or a list of named ones (`default`, `tool_use`); a list without a default offers its first.
fn texts_of_json(template: &Value) -> Option<TemplateTexts> {
    if let Some(text) = template.as_str() {
        return Some(TemplateTexts { default: text.into(), ..TemplateTexts::default() });
    }
    let list = template.as_array()?;
    let named = |name: &str| list.iter().find(|entry| entry["name"] == name);
    let text = |entry: &Value| entry["template"].as_str().map(str::to_string);
    let default = named("default").or(list.first()).and_then(text)?;
    Some(TemplateTexts { default, tool_use: named("tool_use").and_then(text), special_tokens: BTreeMap::new() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::text::ChatOptions;

    /// What the template of a folder with these files writes.
    fn written(files: &[(&str, &str)]) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| fs::write(folder.path().join(name), text).unwrap());
        let template = TemplateSource::of_folder(folder.path()).unwrap().compile().unwrap()?;
        Some(template.render(&json!([]), &ChatOptions::default()).unwrap())
    }

    #[test]
    fn a_template_is_found_where_models_keep_it() {
        let config = (
            "tokenizer_config.json",
            r#"{"chat_template": "config {{ eos_token }}", "eos_token": {"content": "</s>"}}"#,
        );
        let map = ("special_tokens_map.json", r#"{"bos_token": "<s>"}"#);
        let named =
            r#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "named"}]}"#;
        assert_eq!(written(&[]), None);
        assert_eq!(written(&[config]).unwrap(), "config </s>");
        assert_eq!(
            written(&[config, map, ("chat_template.jinja", "{{ bos_token }}{{ eos_token }}")]).unwrap(),
            "<s></s>"
        );
        assert_eq!(written(&[config, ("chat_template.json", r#"{"chat_template": "json"}"#)]).unwrap(), "json");
        assert_eq!(written(&[("tokenizer_config.json", named)]).unwrap(), "named");
    }

    #[test]
    fn an_override_is_a_file_or_a_text() {
        let folder = tempfile::tempdir().unwrap();
        let source = TemplateSource::of_folder(folder.path()).unwrap();
        let file = folder.path().join("own.jinja");
        fs::write(&file, "from a file").unwrap();
        let written = |given: &str| {
            source
                .clone()
                .compile_override(given)
                .map(|template| template.render(&json!([]), &ChatOptions::default()).unwrap())
        };
        assert_eq!(written(file.to_str().unwrap()).unwrap(), "from a file");
        assert_eq!(written("{{ 1 + 1 }}").unwrap(), "2");
        assert!(written("no/such/file.jinja").unwrap_err().to_string().contains("no/such/file.jinja: --chat-template"));
        assert!(written("{% if %}").unwrap_err().to_string().contains("broken chat template"));
    }

    #[test]
    fn broken_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokenizer_config.json");
        fs::write(&file, r#"{"chat_template": "{% for %}"}"#).unwrap();
        let error = TemplateSource::of_folder(folder.path()).unwrap().compile().unwrap_err();
        assert!(error.to_string().starts_with(file.to_str().unwrap()) && !error.is_client_fault(), "{error}");
        fs::write(&file, "{").unwrap();
        let error = TemplateSource::of_folder(folder.path()).unwrap_err();
        assert!(error.to_string().starts_with(file.to_str().unwrap()), "{error}");
    }
}
