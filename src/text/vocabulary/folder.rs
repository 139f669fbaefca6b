//! A folder whose vocabulary isn't in `tokenizer.json`: which file has it, and what the other files say to it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tokenizers::Tokenizer;

use super::{
    Entry, Kind, Prefix, SentencePieces, Spaces, added_tokens::AddedTokens, families::Family, model_file::ModelFile,
    ranks::Ranks,
};
use crate::text::{
    TextError,
    tokenizer::{read_json_if_present, special_token},
};

/// A tokenizer and what is put around its texts.
#[derive(Debug)]
pub(crate) struct Built {
    pub tokenizer: Tokenizer,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    /// The tokens before each text.
    pub before: Vec<u32>,
    /// The tokens after each text.
    pub after: Vec<u32>,
}

/// What the files beside a vocabulary say; null where one isn't there.
#[derive(Debug, Default)]
pub(super) struct Folder {
    /// tokenizer_config.json.
    pub config: Value,
    /// special_tokens_map.json.
    pub special_tokens: Value,
    /// added_tokens.json.
    pub added_tokens: Value,
    /// config.json.
    pub model: Value,
}

/// The names of vocabulary files, the first that is there counts; then `*.tiktoken`.
const NAMES: [&str; 4] = ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tiktoken.model"];

/// The largest file that is read. The largest known, of 256,000 tokens, has 4 MiB.
const FILE_BYTES_MAX: u64 = 128 << 20;

/// Classes of `transformers` that number the pieces of a file in their own way.
const RENUMBERING: [&str; 8] = ["XLMRoberta", "XGLM", "Camembert", "MBart", "MBart50", "Nllb", "Barthez", "Pegasus"];

/// Builds the tokenizer of a vocabulary file or of a folder with one.
pub(crate) fn build(source: &Path) -> Result<Built, TextError> {
    let file = if source.is_file() { source.to_path_buf() } else { find(source)? };
    let folder = Folder::of(file.parent().unwrap_or(Path::new(".")))?;
    let bytes = read(&file)?;
    let name = file.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let built = match Ranks::is_file(&bytes) {
        true => Ranks::read(&bytes).and_then(|ranks| folder.build_ranks(ranks, &name)),
        false => ModelFile::read(&bytes).and_then(|file| folder.build_pieces(file)),
    };
    built.map_err(|error| error.in_file(&file))
}

fn find(folder: &Path) -> Result<PathBuf, TextError> {
    let named = NAMES.iter().map(|name| folder.join(name)).find(|file| file.is_file());
    let other = || {
        let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        files.filter(|file| file.extension().is_some_and(|extension| extension == "tiktoken")).min()
    };
    named.or_else(other).ok_or_else(|| {
        let names = NAMES.join(", ");
        TextError::file(
            folder,
            format!(
                "no tokenizer: looked for tokenizer.json, {names} and *.tiktoken; \
                 give a folder or file that has one by --tokenizer"
            ),
        )
    })
}

fn read(file: &Path) -> Result<Vec<u8>, TextError> {
    let length = fs::metadata(file).map_err(|error| TextError::file(file, error))?.len();
    if length > FILE_BYTES_MAX {
        return Err(TextError::file(file, format!("has {length} bytes, at most {FILE_BYTES_MAX} are read")));
    }
    fs::read(file).map_err(|error| TextError::file(file, error))
}

impl Folder {
    fn of(path: &Path) -> Result<Self, TextError> {
        let read = |name: &str| read_json_if_present(&path.join(name));
        Ok(Self {
            config: read("tokenizer_config.json")?,
            special_tokens: read("special_tokens_map.json")?,
            added_tokens: read("added_tokens.json")?,
            model: read("config.json")?,
        })
    }

    /// The files that name special tokens. A configuration that lists all added tokens stands for itself: what lies
    /// beside it is left from older versions, and `transformers` ignores it too.
    pub fn settings(&self) -> impl Iterator<Item = &Value> {
        let older = (!self.lists_added_tokens()).then_some(&self.special_tokens);
        [&self.config].into_iter().chain(older)
    }

    pub fn lists_added_tokens(&self) -> bool {
        self.config["added_tokens_decoder"].is_object()
    }

    /// The class that reads the vocabulary in `transformers`, without `Tokenizer` and what follows; empty: unknown.
    pub fn class(&self) -> &str {
        let class = self.config["tokenizer_class"].as_str().unwrap_or_default();
        let is_general = ["", "PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend"].contains(&class);
        match self.model_type() {
            "llama" | "mistral" | "mixtral" if is_general => "Llama",
            "gemma" | "gemma2" | "gemma3" | "gemma3_text" if is_general => "Gemma",
            "t5" | "mt5" if is_general => "T5",
            _ if is_general => "",
            _ => class.split_once("Tokenizer").map_or(class, |(class, _)| class),
        }
    }

    pub fn model_type(&self) -> &str {
        self.model["model_type"].as_str().unwrap_or_default()
    }

    fn token(&self, name: &str) -> Option<&str> {
        self.settings().find_map(|file| special_token(file, name))
    }

    fn build_pieces(&self, file: ModelFile) -> Result<Built, TextError> {
        if RENUMBERING.contains(&self.class()) {
            let class = &self.config["tokenizer_class"];
            return Err(TextError::model(format!(
                "{class} gives its tokens other ids than this file: make a tokenizer.json"
            )));
        }
        let mut pieces = file.pieces;
        self.follow_class(&mut pieces);
        let added = AddedTokens::of_folder(self);
        place(&added, &mut pieces.entries)?;
        let mut tokenizer = pieces.tokenizer()?;
        added.add_to(&mut tokenizer)?;
        let id = |name: &str, own: Option<&str>| self.token(name).or(own).and_then(|text| tokenizer.token_to_id(text));
        // T5 begins its texts with nothing, whatever the file offers.
        let own_bos = file.bos.as_deref().filter(|_| self.class() != "T5");
        let (bos, eos) = (id("bos_token", own_bos), id("eos_token", file.eos.as_deref()));
        let (adds_bos, adds_eos) = self.adds_ends();
        let before = bos.filter(|_| adds_bos).into_iter().collect();
        let after = eos.filter(|_| adds_eos).into_iter().collect();
        Ok(Built { tokenizer, bos, eos, before, after })
    }

    /// Some classes of `transformers` follow their own rules instead of the file's. Where `LlamaTokenizer` says nothing
    /// about `legacy`, it is: so was every model that is old enough not to say it.
    fn follow_class(&self, pieces: &mut SentencePieces) {
        let is_legacy = self.config["legacy"] != false;
        let prefix = match self.config["add_prefix_space"] == false {
            true => Prefix::Never,
            false if is_legacy => Prefix::Each,
            false => Prefix::First,
        };
        match self.class() {
            "Llama" | "CodeLlama" => (pieces.spaces, pieces.prefix) = (Spaces::Kept, prefix),
            "Gemma" => {
                (pieces.spaces, pieces.prefix) = (Spaces::Kept, Prefix::Never);
                // The file has them as user-defined.
                let turns = |entry: &&mut Entry| ["<start_of_turn>", "<end_of_turn>"].contains(&entry.text.as_str());
                pieces.entries.iter_mut().filter(turns).for_each(|entry| entry.kind = Kind::Control);
            }
            "T5" => {
                (pieces.spaces, pieces.prefix) = (Spaces::Words, prefix);
                self.add_sentinels(&mut pieces.entries);
                return;
            }
            _ => return,
        }
        pieces.charsmap.clear();
        pieces.byte_fallback = true;
    }

    /// T5's `<extra_id_0>` and so on, the last one first.
    fn add_sentinels(&self, entries: &mut Vec<Entry>) {
        let count = self.config["extra_ids"].as_u64().unwrap_or(100).min(1 << 12);
        let is_there = entries.iter().any(|entry| entry.text == "<extra_id_0>");
        let sentinels = (0..count).rev().filter(|_| !is_there).map(|index| control(format!("<extra_id_{index}>")));
        entries.extend(sentinels);
    }

    /// Whether BOS and EOS are put around a text. Classes without a rule here do what the file says; where a folder
    /// has nothing but the vocabulary, it is of a model's first release, whose own code writes BOS.
    fn adds_ends(&self) -> (bool, bool) {
        let flag = |name: &str| self.config[name].as_bool();
        let bos = flag("add_bos_token").unwrap_or(match self.class() {
            "Llama" | "CodeLlama" | "Gemma" | "Cohere" => true,
            _ => self.config.is_null(),
        });
        (bos, flag("add_eos_token").unwrap_or(self.class() == "T5"))
    }

    fn build_ranks(&self, ranks: Ranks, file_name: &str) -> Result<Built, TextError> {
        let family = Family::of(self, file_name, ranks.count());
        let mut added = AddedTokens::of_folder(self);
        family.built_in(ranks.count()).iter().for_each(|(id, text)| added.add_built_in(*id, text));
        let tokenizer = ranks.tokenizer(family.rule()?, &added)?;
        let id = |name: &str, own: Option<&str>| self.token(name).or(own).and_then(|text| tokenizer.token_to_id(text));
        let (bos, eos) = (id("bos_token", family.bos), id("eos_token", family.eos));
        let adds = |name: &str, default: bool| self.config[name].as_bool().unwrap_or(default);
        let mut before: Vec<_> = bos.filter(|_| adds("add_bos_token", family.adds_bos)).into_iter().collect();
        before.extend(family.before.iter().filter_map(|text| tokenizer.token_to_id(text)));
        let after = eos.filter(|_| adds("add_eos_token", false)).into_iter().collect();
        Ok(Built { tokenizer, bos, eos, before, after })
    }
}

fn control(text: String) -> Entry {
    Entry { text, score: 0.0, kind: Kind::Control }
}

fn place(added: &AddedTokens, entries: &mut Vec<Entry>) -> Result<(), TextError> {
    let places = added.places(&entries.iter().map(|entry| entry.text.as_str()).collect::<Vec<_>>())?;
    for (id, text) in places {
        match entries.get_mut(id) {
            Some(entry) if entry.text == text => {}
            Some(entry) if entry.kind == Kind::Unknown => entry.text = text,
            // The model itself never makes it of a text.
            Some(entry) => *entry = Entry { kind: Kind::Unused, ..control(text) },
            None => entries.push(Entry { kind: Kind::Unused, ..control(text) }),
        }
    }
    Ok(())
}
