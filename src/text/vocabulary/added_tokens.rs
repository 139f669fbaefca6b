//! The tokens that a folder's files add to a vocabulary, or call special.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer};

use super::folder::Folder;
use crate::text::TextError;

/// In the order in which those without an id get one.
#[derive(Debug, Default)]
pub(super) struct AddedTokens {
    list: Vec<(Option<u32>, AddedToken)>,
}

/// How far beyond the vocabulary an added token's id may be; the ids between become tokens without a use.
const GAP_MAX: usize = 1 << 16;

const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

impl AddedTokens {
    /// Of `added_tokens_decoder` in tokenizer_config.json (by id), else added_tokens.json (by text), and the special
    /// tokens that tokenizer_config.json and special_tokens_map.json name without an id.
    pub fn of_folder(folder: &Folder) -> Self {
        let mut tokens = Self::default();
        for (id, token) in folder.config["added_tokens_decoder"].as_object().into_iter().flatten() {
            tokens.list.extend(id.parse().ok().and_then(|id| Some((Some(id), added_token(token, false)?))));
        }
        tokens.list.sort_by_key(|(id, _)| *id);
        let older = folder.added_tokens.as_object().filter(|_| !folder.lists_added_tokens());
        for (text, id) in older.into_iter().flatten() {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            tokens.add(id, AddedToken::from(text.as_str(), false));
        }
        let named =
            NAMED.iter().flat_map(|name| folder.settings().map(|file| &file[*name]).find(|token| !token.is_null()));
        let listed = folder.settings().flat_map(|file| {
            [&file["additional_special_tokens"], &file["extra_special_tokens"]].into_iter().flat_map(values)
        });
        for token in named.chain(listed).filter_map(|token| added_token(token, true)) {
            tokens.add(None, token);
        }
        tokens
    }

    /// A token that a model's own class has, unless its id or its text is taken.
    pub fn add_built_in(&mut self, id: u32, text: &str) {
        if !self.list.iter().any(|(taken, _)| *taken == Some(id)) {
            self.add(Some(id), AddedToken::from(text, true));
        }
    }

    /// A token that may be known: then it is only special if either says so.
    fn add(&mut self, id: Option<u32>, token: AddedToken) {
        match self.list.iter_mut().find(|(_, known)| known.content == token.content) {
            Some((_, known)) => known.special |= token.special,
            None => self.list.push((id, token.normalized(false))),
        }
    }

    /// What they change in a vocabulary of these texts: the new texts of ids, in rising order from its end on. Each token
    /// takes the place that has its id, or a new one at the end; ids that nobody has become tokens without a use.
    pub fn places(&self, texts: &[&str]) -> Result<BTreeMap<usize, String>, TextError> {
        let known: HashMap<&str, usize> = texts.iter().copied().zip(0..).collect();
        let listed: BTreeMap<_, _> =
            self.list.iter().filter_map(|(id, token)| Some(((*id)? as usize, token.content.as_str()))).collect();
        // A text that is elsewhere stays there, unless that place gets another text.
        let is_free = |text: &str| known.get(text).is_none_or(|place| listed.contains_key(place));
        let placed = listed.iter().filter(|(_, text)| is_free(text)).map(|(&id, &text)| (id, text.to_string()));
        let mut places: BTreeMap<_, _> = placed.collect();
        let end = places.keys().next_back().map_or(texts.len(), |highest| texts.len().max(highest + 1));
        if end > texts.len() + GAP_MAX {
            let (highest, count) = (end - 1, texts.len());
            return Err(TextError::model(format!(
                "added token {highest} is far beyond a vocabulary of {count} tokens"
            )));
        }
        for id in texts.len()..end {
            places.entry(id).or_insert_with(|| format!("<|reserved_token_{id}|>"));
        }
        let unplaced =
            self.list.iter().filter(|(id, token)| id.is_none() && !known.contains_key(token.content.as_str()));
        places.extend(unplaced.map(|(_, token)| token.content.clone()).zip(end..).map(|(text, id)| (id, text)));
        Ok(places)
    }

    /// Lets the tokenizer cut them out of texts. Their texts must be in its vocabulary.
    pub fn add_to(&self, tokenizer: &mut Tokenizer) -> Result<(), TextError> {
        let tokens = self.list.iter().map(|(_, token)| token.clone());
        tokenizer.add_tokens(tokens).map(drop).map_err(TextError::model)
    }
}

/// A token as the files write it: a text, or an object. Whatever an object says, a token is looked for in the text as
/// it came, so that what stands before or after it doesn't matter.
fn added_token(token: &Value, special: bool) -> Option<AddedToken> {
    let text = token.as_str().or_else(|| token["content"].as_str()).filter(|text| !text.is_empty())?;
    let flag = |name: &str| token[name] == true;
    let token = AddedToken::from(text, special || flag("special")).normalized(false);
    Some(token.lstrip(flag("lstrip")).rstrip(flag("rstrip")).single_word(flag("single_word")))
}

/// The tokens of a list, or of an object that names them.
fn values(tokens: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match tokens {
        Value::Array(list) => Box::new(list.iter()),
        Value::Object(named) => Box::new(named.values()),
        _ => Box::new(std::iter::empty()),
    }
}
