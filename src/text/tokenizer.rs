//! Text to token ids and back.

use std::{
    collections::HashSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::OnceLock,
};

use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokenizers::{ModelWrapper, PostProcessorWrapper};

use super::{Detokenizer, TextError, gguf_vocabulary::GgufVocabulary, pieces::Pieces, vocabulary};

/// The longest text that is tokenized, in bytes. A text this long has a million tokens or more, beyond any context;
/// the bound keeps one request from holding a tokenizer thread for minutes.
pub const TEXT_BYTES_MAX: usize = 8 << 20;

/// A model's vocabulary: a Hugging Face tokenizer and what each token adds to a text.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    pieces: Pieces,
    /// Special tokens and their texts.
    specials: Vec<(u32, String)>,
    /// The same tokenizer without added tokens, made when it is needed first.
    plain: OnceLock<Result<tokenizers::Tokenizer, String>>,
    bos: Option<u32>,
    eos: Option<u32>,
}

impl Tokenizer {
    /// Reads the tokenizer of a Hugging Face folder: its `tokenizer.json`, else what there is of SentencePiece's
    /// `tokenizer.model` or tiktoken's files, with the settings of the JSON files beside it.
    pub fn from_folder(folder: &Path) -> Result<Self, TextError> {
        let file = folder.join("tokenizer.json");
        if file.is_file() { Self::from_json_file(&file) } else { Self::from_vocabulary(folder) }
    }

    /// The same of a file in such a folder: a JSON file means the folder's tokenizer, any other is itself the vocabulary.
    pub fn from_file(file: &Path) -> Result<Self, TextError> {
        match file.extension().is_some_and(|extension| extension == "json") {
            true => Self::from_folder(file.parent().unwrap_or(Path::new("."))),
            false => Self::from_vocabulary(file),
        }
    }

    fn from_vocabulary(source: &Path) -> Result<Self, TextError> {
        let mut built = vocabulary::build(source)?;
        let ends = Ends { before: built.before, after: built.after };
        ends.apply(&mut built.tokenizer).map_err(|error| error.in_file(source))?;
        Self::new(built.tokenizer, built.bos, built.eos).map_err(|error| error.in_file(source))
    }

    fn from_json_file(file: &Path) -> Result<Self, TextError> {
        let folder = file.parent().unwrap_or(Path::new("."));
        let bytes = fs::read(file).map_err(|error| TextError::file(file, error))?;
        let mut inner = read_json(&bytes).map_err(|reason| TextError::file(file, reason))?;
        let config = read_json_if_present(&folder.join("tokenizer_config.json"))?;
        let token = |name: &str| special_token(&config, name).and_then(|text| inner.token_to_id(text));
        let (bos, eos) = (token("bos_token"), token("eos_token"));
        let ends = Ends {
            before: bos.filter(|_| config["add_bos_token"] != false).into_iter().collect(),
            after: eos.filter(|_| config["add_eos_token"] == true).into_iter().collect(),
        };
        if writes_own_ends(&config) {
            ends.apply(&mut inner).map_err(|error| error.in_file(file))?;
        }
        Self::new(inner, bos, eos).map_err(|error| error.in_file(file))
    }

    /// Makes the tokenizer that a GGUF file describes in its metadata.
    pub fn from_gguf(vocabulary: &GgufVocabulary) -> Result<Self, TextError> {
        let mut inner = vocabulary.build()?;
        let ends = Ends {
            before: vocabulary.bos.filter(|_| vocabulary.adds_bos()).into_iter().collect(),
            after: vocabulary.eos.filter(|_| vocabulary.adds_eos()).into_iter().collect(),
        };
        ends.apply(&mut inner)?;
        Self::new(inner, vocabulary.bos, vocabulary.eos)
    }

    fn new(mut inner: tokenizers::Tokenizer, bos: Option<u32>, eos: Option<u32>) -> Result<Self, TextError> {
        // Some files ask to cut or fill up texts as was useful in training; a server does neither.
        inner.with_truncation(None).map_err(TextError::model)?.with_padding(None);
        let pieces = Pieces::of(&inner)?;
        if pieces.len() == 0 {
            return Err(TextError::model("its vocabulary is empty"));
        }
        let mut specials: Vec<_> = inner.get_added_tokens_decoder().into_iter().collect();
        specials.sort_unstable_by_key(|(id, _)| *id);
        let specials = specials.into_iter().filter(|(_, token)| token.special);
        let specials = specials.map(|(id, token)| (id, token.content)).collect();
        Ok(Self { inner, pieces, specials, plain: OnceLock::new(), bos, eos })
    }

    /// The tokens of `text`, at most [`TEXT_BYTES_MAX`] bytes. Special tokens spelled out in the text are parsed as
    /// such; `add_special_tokens` also puts around the text what the model expects there (usually a BOS before it).
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(TextError::TooLarge {
                limit: format!("{} bytes of text, at most {TEXT_BYTES_MAX}", text.len()),
            });
        }
        // The regular expressions behind some tokenizers panic where they give up on a pathological text.
        let encoding = catch_unwind(AssertUnwindSafe(|| self.inner.encode_fast(text, add_special_tokens)));
        let encoding = encoding.map_err(|_| not_tokenized("the tokenizer gave up on it"))?;
        Ok(encoding.map_err(not_tokenized)?.get_ids().to_vec())
    }

    /// The text of `ids`: what a [`Detokenizer`] makes of them. Ids outside the vocabulary add nothing.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> String {
        let mut detokenizer = Detokenizer::new(self, skip_special_tokens);
        let mut text: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
        text.push_str(&detokenizer.finish());
        text
    }

    /// The special tokens, by id, and their texts.
    pub fn special_tokens(&self) -> &[(u32, String)] {
        &self.specials
    }

    /// All added tokens (those that are cut out of a text before it is tokenized), by id, and their texts.
    pub(crate) fn added_tokens(&self) -> impl Iterator<Item = (u32, String)> {
        self.inner.get_added_tokens_decoder().into_iter().map(|(id, token)| (id, token.content))
    }

    /// The tokens of a text in which no added token counts, however it is spelled.
    pub(crate) fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let plain = self.plain.get_or_init(|| without_added_tokens(&self.inner)).as_ref();
        let plain = plain.map_err(not_tokenized)?;
        let encode = |text: &str| {
            let encoding = catch_unwind(AssertUnwindSafe(|| plain.encode_fast(text, false)));
            let encoding = encoding.map_err(|_| not_tokenized("the tokenizer gave up on it"))?;
            Ok(encoding.map_err(not_tokenized)?.get_ids().to_vec())
        };
        let ids: Vec<u32> = encode(text)?;
        let added = self.inner.get_added_tokens_decoder();
        if !ids.iter().any(|id| added.contains_key(id)) {
            return Ok(ids);
        }
        // The model's own vocabulary has such a token too; no single character is one.
        let characters = text.chars().map(|character| encode(character.encode_utf8(&mut [0; 4])));
        characters.collect::<Result<Vec<_>, _>>().map(|lists| lists.concat())
    }

    /// One more than the highest token id. The model's own vocabulary may be larger, padded to a round number.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// The id of the token that is written exactly so in the vocabulary.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.inner.token_to_id(text)
    }

    /// A token as the vocabulary writes it (`Ġhello`, `▁hello`, `<0x0A>`).
    pub fn token_text(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The bytes that a token stands for, without its neighbours; none for ids outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.pieces.get(id).map(|piece| piece.bytes.as_ref())
    }

    /// Whether a token is one of those that `skip_special_tokens` leaves out.
    pub fn is_special(&self, id: u32) -> bool {
        self.pieces.get(id).is_some_and(|piece| piece.special)
    }

    /// The token at the beginning of a text, where the model names one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text, where the model names one.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    pub(crate) fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    pub(crate) fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }
}

/// The tokens put before and after a text.
struct Ends {
    before: Vec<u32>,
    after: Vec<u32>,
}

impl Ends {
    fn apply(&self, tokenizer: &mut tokenizers::Tokenizer) -> Result<(), TextError> {
        let mut tokens = serde_json::Map::new();
        let mut special = |id: u32| {
            let text =
                tokenizer.id_to_token(id).ok_or_else(|| TextError::model(format!("no token has the id {id}")))?;
            tokens.insert(text.clone(), json!({"id": text, "ids": [id], "tokens": [text]}));
            Ok(json!({"SpecialToken": {"id": text, "type_id": 0}}))
        };
        let mut single = self.before.iter().copied().map(&mut special).collect::<Result<Vec<_>, _>>()?;
        single.push(json!({"Sequence": {"id": "A", "type_id": 0}}));
        single.extend(self.after.iter().copied().map(&mut special).collect::<Result<Vec<_>, _>>()?);
        let processor =
            json!({"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": tokens});
        tokenizer.with_post_processor(Some(from_json::<PostProcessorWrapper>(processor)?));
        Ok(())
    }
}

/// These classes of `transformers` ignore the post-processor of tokenizer.json and write BOS and EOS by their
/// `add_bos_token` and `add_eos_token`.
fn writes_own_ends(config: &Value) -> bool {
    let class = config["tokenizer_class"].as_str().unwrap_or_default();
    ["LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer", "CohereTokenizer"]
        .iter()
        .any(|own| class.starts_with(own))
}

/// A special token of tokenizer_config.json or special_tokens_map.json, which write it as a text or as an object.
pub(crate) fn special_token<'a>(config: &'a Value, name: &str) -> Option<&'a str> {
    let token = &config[name];
    token.as_str().or_else(|| token["content"].as_str())
}

/// The tokenizer library panics at what it does not expect in some places: a file cut short is told before it gets there.
fn read_json(bytes: &[u8]) -> Result<tokenizers::Tokenizer, String> {
    serde_json::from_slice::<IgnoredAny>(bytes).map_err(|error| format!("not JSON: {error}"))?;
    let read = catch_unwind(|| tokenizers::Tokenizer::from_bytes(bytes));
    let read = read.map_err(|_| "not a tokenizer: the tokenizer library gave up on it")?;
    read.map_err(|error| format!("not a tokenizer: {error}"))
}

/// The JSON of a file; null where there is no such file.
pub(crate) fn read_json_if_present(file: &Path) -> Result<Value, TextError> {
    if !file.is_file() {
        return Ok(Value::Null);
    }
    let text = fs::read_to_string(file).map_err(|error| TextError::file(file, error))?;
    serde_json::from_str(&text).map_err(|error| TextError::file(file, format!("not JSON: {error}")))
}

pub(crate) fn from_json<T: serde::de::DeserializeOwned>(json: Value) -> Result<T, TextError> {
    serde_json::from_value(json).map_err(TextError::model)
}

fn without_added_tokens(tokenizer: &tokenizers::Tokenizer) -> Result<tokenizers::Tokenizer, String> {
    let mut json = serde_json::to_value(tokenizer).map_err(|error| error.to_string())?;
    json["added_tokens"] = json!([]);
    let added = tokenizer.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
    unmake(&mut json["model"], &added);
    // It may name tokens that aren't there any more, and is not needed.
    json["post_processor"] = Value::Null;
    let mut plain: tokenizers::Tokenizer = serde_json::from_value(json).map_err(|error| error.to_string())?;
    // The JSON has the scores, but not the lowest that counts.
    if let (ModelWrapper::Unigram(from), ModelWrapper::Unigram(to)) = (tokenizer.get_model(), plain.get_model()) {
        let mut model = to.clone();
        model.min_score = from.min_score;
        plain.with_model(model);
    }
    Ok(plain)
}

/// Takes the ways to make these tokens out of a text from a model that has them in its own vocabulary, too.
fn unmake(model: &mut Value, tokens: &HashSet<String>) {
    if let Some(merges) = model["merges"].as_array_mut() {
        let made = |merge: &Value| merge.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<String>();
        merges.retain(|merge| !tokens.contains(&made(merge)));
    }
    for piece in model["vocab"].as_array_mut().into_iter().flatten() {
        if piece[0].as_str().is_some_and(|text| tokens.contains(text)) {
            piece[1] = json!(vocabulary::NEVER);
        }
    }
}

fn not_tokenized(message: impl ToString) -> TextError {
    TextError::NotTokenized { message: message.to_string() }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn fixture(model: &str) -> PathBuf {
        crate::fixtures::golden("models").join(model)
    }

    /// A folder with the tokenizer of a golden model, its files changed by `change`.
    fn folder_with(model: &str, change: impl Fn(&mut Value, &mut Value)) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let read = |name| read_json_if_present(&fixture(model).join(name)).unwrap();
        let (mut tokenizer, mut config) = (read("tokenizer.json"), read("tokenizer_config.json"));
        change(&mut tokenizer, &mut config);
        for (name, json) in [("tokenizer.json", tokenizer), ("tokenizer_config.json", config)] {
            fs::write(folder.path().join(name), json.to_string()).unwrap();
        }
        folder
    }

    #[test]
    fn odd_and_long_texts_are_tokenized_and_come_back() {
        const LENGTH: usize = 1 << 16;
        for model in ["llama3_rope", "ernie45"] {
            let tokenizer = Tokenizer::from_folder(&fixture(model)).unwrap();
            for unit in ["a", " ", "\n", " \n", "0", "\0", "é", "你", "👩‍👩‍👧", "ab ", "'", "<|im_", "e\u{301}", "\u{301}"]
            {
                let text = unit.repeat(LENGTH / unit.len());
                let ids = tokenizer.encode(&text, true).unwrap();
                // The byte-level tokenizer composes characters first, so that only its texts of those change.
                if unit != "e\u{301}" {
                    assert_eq!(tokenizer.decode(&ids, true).trim_start_matches("<s>"), text, "{model} {unit:?}");
                }
            }
            assert!(tokenizer.encode("", false).unwrap().is_empty());
        }
    }

    #[test]
    fn special_tokens_that_are_needed_stay_in_the_text() {
        let tokenizer = Tokenizer::from_folder(&fixture("llama3_rope")).unwrap();
        let mut detokenizer = Detokenizer::new(&tokenizer, true).keeping(|special| special == "<|im_start|>");
        let text: String = [1016, 39, 1017, 72].map(|token| detokenizer.push(token)).concat();
        assert_eq!(text + &detokenizer.finish(), "<|im_start|>Hi");
    }

    #[test]
    fn a_text_beyond_the_bound_is_refused() {
        let tokenizer = Tokenizer::from_folder(&fixture("llama3_rope")).unwrap();
        let error = tokenizer.encode(&"a".repeat(TEXT_BYTES_MAX + 1), false).unwrap_err();
        assert!(error.is_client_fault(), "{error}");
    }

    #[test]
    fn ids_outside_the_vocabulary_add_nothing() {
        let tokenizer = Tokenizer::from_folder(&fixture("llama3_rope")).unwrap();
        assert_eq!(tokenizer.decode(&[39, u32::MAX, 1024, 72], false), "Hi");
        assert_eq!((tokenizer.token_text(1024), tokenizer.token_bytes(u32::MAX)), (None, None));
        assert!(tokenizer.is_special(1017) && !tokenizer.is_special(1018) && !tokenizer.is_special(5000));
    }

    /// `LlamaTokenizerFast` writes BOS and EOS by its settings, whatever tokenizer.json says.
    #[test]
    fn some_classes_write_their_own_ends() {
        for (settings, expected) in [
            (json!({}), vec![1]),
            (json!({"add_bos_token": false}), vec![]),
            (json!({"tokenizer_class": "LlamaTokenizerFast"}), vec![1]),
            (json!({"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": false}), vec![]),
            (json!({"tokenizer_class": "LlamaTokenizerFast", "add_eos_token": true}), vec![1, 2]),
        ] {
            let folder = folder_with("ernie45", |_, config| {
                let settings = settings.as_object().unwrap().clone();
                config.as_object_mut().unwrap().extend(settings);
            });
            let found = Tokenizer::from_folder(folder.path()).unwrap().encode("", true).unwrap();
            // A class that isn't one of those goes by tokenizer.json, which writes BOS here.
            let expected = if settings.get("tokenizer_class").is_none() { vec![1] } else { expected };
            assert_eq!(found, expected, "{settings}");
        }
    }

    #[test]
    fn an_unknown_decoder_streams_as_it_decodes() {
        let folder = folder_with("ernie45", |tokenizer, _| {
            tokenizer["decoder"] = json!({"type": "WordPiece", "prefix": "##", "cleanup": false});
        });
        let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
        let text = "two  words, 你好 and one more line\nand the next ".repeat(20);
        let ids = tokenizer.encode(&text, true).unwrap();
        assert_eq!(tokenizer.decode(&ids, false), tokenizer.inner().decode(&ids, false).unwrap());
    }

    #[test]
    fn broken_files_are_named() {
        let check = |folder: &Path, told: &str| {
            let error = Tokenizer::from_folder(folder).unwrap_err();
            let named = error.to_string().starts_with(folder.to_str().unwrap());
            assert!(named && error.to_string().contains(told) && !error.is_client_fault(), "{error}");
        };
        let folder = tempfile::tempdir().unwrap();
        check(folder.path(), "looked for tokenizer.json, tokenizer.model, ");
        check(folder.path(), "*.tiktoken; give a folder or file that has one by --tokenizer");
        for bytes in
            ["", "\n", "\n\u{7f}", "\u{12}\u{0}", "word", "AA== x", "AA== 0\nAQ==\n", "AA== 0\nAQ== 0\n", "AA== 0\n"]
        {
            fs::write(folder.path().join("tokenizer.model"), bytes).unwrap();
            check(folder.path(), "tokenizer.model: ");
        }
        for text in [
            "",
            "{}",
            "[1",
            r#"{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 4000000000}, "merges": []}}"#,
            r#"{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}"#,
            r#"{"version": "1.0", "decoder": 5, "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#,
            r#"{"version": "1.0", "decoder": {"type": "#,
        ] {
            fs::write(folder.path().join("tokenizer.json"), text).unwrap();
            check(folder.path(), "tokenizer.json: ");
        }
    }
}
