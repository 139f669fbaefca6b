//! What each token adds to a text, prepared once so that a generated token costs no look-up by name.

use serde_json::Value;
use tokenizers::Tokenizer;

use super::TextError;

/// One token's part in a text.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Its bytes; possibly only a part of a character.
    pub bytes: Box<[u8]>,
    /// Left out where special tokens are skipped.
    pub special: bool,
    /// Written `<0xNN>`: one byte of a character that the vocabulary doesn't have.
    pub byte_fallback: bool,
    /// What the piece is at the beginning of a text, where that differs.
    pub first: Option<Box<str>>,
}

/// How pieces become text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joining {
    /// Bytes in a row, read as UTF-8 (GPT-2 and most after it).
    Bytes,
    /// Text in a row, except that runs of byte tokens are read as UTF-8, each run for itself; then at most
    /// `strip_left` spaces are taken from the beginning (SentencePiece).
    ByteFallback { strip_left: usize },
    /// Text in a row, except that the first token, whatever it is, loses its marks for spaces (T5).
    Words { strips_first: bool },
    /// A decoder that isn't known here: only the tokenizer itself can join tokens.
    Opaque,
}

/// All pieces of a vocabulary, by token id.
#[derive(Debug)]
pub(crate) struct Pieces {
    list: Vec<Option<Piece>>,
    pub joining: Joining,
}

impl Pieces {
    pub fn of(tokenizer: &Tokenizer) -> Result<Self, TextError> {
        let decoder = serde_json::to_value(tokenizer.get_decoder()).map_err(TextError::model)?;
        let recipe = Recipe::read(&decoder);
        let vocabulary = tokenizer.get_vocab(true);
        let ids = vocabulary.values().copied().max().map_or(0, |highest| highest as usize + 1);
        // The vocabulary may skip ids, but a list a hundred times its size comes from a broken file.
        if ids > 100 * vocabulary.len() + 1024 {
            return Err(TextError::model(format!("token id {} in a vocabulary of {}", ids - 1, vocabulary.len())));
        }
        let specials = tokenizer.get_added_tokens_decoder();
        let piece = |id: u32| {
            let text = tokenizer.id_to_token(id)?;
            Some(recipe.piece(&text, specials.get(&id).is_some_and(|token| token.special)))
        };
        Ok(Self { list: (0..ids as u32).map(piece).collect(), joining: recipe.joining })
    }

    pub fn get(&self, id: u32) -> Option<&Piece> {
        self.list.get(id as usize)?.as_ref()
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }
}

/// What the decoder of tokenizer.json does with a token.
struct Recipe {
    joining: Joining,
    /// Replacements of the token's text, in order.
    replacements: Vec<(String, String)>,
}

impl Recipe {
    fn read(decoder: &Value) -> Self {
        let steps = match decoder["decoders"].as_array() {
            Some(steps) => steps.as_slice(),
            None => std::slice::from_ref(decoder),
        };
        Self::of_steps(steps).unwrap_or(Self { joining: Joining::Opaque, replacements: Vec::new() })
    }

    /// None where a step isn't known or stands in an unusual place.
    fn of_steps(steps: &[Value]) -> Option<Self> {
        if let [step] = steps
            && step["type"] == "ByteLevel"
        {
            return Some(Self { joining: Joining::Bytes, replacements: Vec::new() });
        }
        if let [step] = steps
            && step["type"] == "Metaspace"
        {
            let joining = Joining::Words { strips_first: step["prepend_scheme"] != "never" };
            return Some(Self { joining, replacements: vec![(step["replacement"].as_str()?.into(), " ".into())] });
        }
        let before = steps.iter().take_while(|step| step["type"] == "Replace");
        let replacements = before.map(replacement).collect::<Option<Vec<_>>>()?;
        let rest = &steps[replacements.len()..];
        let kinds: Vec<_> = rest.iter().map(|step| step["type"].as_str().unwrap_or_default()).collect();
        let strip_left = match kinds.as_slice() {
            ["ByteFallback"] | ["ByteFallback", "Fuse"] => 0,
            ["ByteFallback", "Fuse", "Strip"] if rest[2]["content"] == " " && rest[2]["stop"] == 0 => {
                rest[2]["start"].as_u64()? as usize
            }
            _ => return None,
        };
        Some(Self { joining: Joining::ByteFallback { strip_left }, replacements })
    }

    fn piece(&self, text: &str, special: bool) -> Piece {
        if self.joining == Joining::Bytes {
            return Piece { bytes: bytes_of_level(text).into(), special, byte_fallback: false, first: None };
        }
        let first = self.first(text).filter(|first| first != text).map(String::into_boxed_str);
        let text = self.replacements.iter().fold(text.to_string(), |text, (from, to)| text.replace(from, to));
        match byte_of_fallback(&text) {
            Some(byte) if self.has_bytes() => Piece { bytes: [byte].into(), special, byte_fallback: true, first },
            _ => Piece { bytes: text.into_bytes().into(), special, byte_fallback: false, first },
        }
    }

    fn has_bytes(&self) -> bool {
        !matches!(self.joining, Joining::Words { .. })
    }

    fn first(&self, text: &str) -> Option<String> {
        let strips = self.joining == Joining::Words { strips_first: true };
        strips
            .then(|| self.replacements.iter().fold(text.to_string(), |text, (mark, _)| text.replace(mark.as_str(), "")))
    }
}

fn replacement(step: &Value) -> Option<(String, String)> {
    Some((step["pattern"]["String"].as_str()?.into(), step["content"].as_str()?.into()))
}

/// The byte of a token written `<0xNN>`.
fn byte_of_fallback(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// The bytes of a token in GPT-2's byte alphabet; a token with other characters (an added one) stands for itself.
fn bytes_of_level(text: &str) -> Vec<u8> {
    text.chars().map(byte_of_level).collect::<Option<Vec<u8>>>().unwrap_or_else(|| text.as_bytes().to_vec())
}

/// GPT-2 writes the printable bytes of Latin-1 as themselves, and the 68 others as U+0100, U+0101 and so on.
fn byte_of_level(letter: char) -> Option<u8> {
    match u32::from(letter) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// The inverse: the letter of a byte.
pub(crate) fn letter_of_byte(byte: u8) -> char {
    let beyond = match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => return char::from(byte),
        0..=0x20 => u32::from(byte),
        0x7f..=0xa0 => u32::from(byte) - 0x7f + 0x21,
        0xad => 0x43,
    };
    char::from_u32(0x100 + beyond).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    use super::*;

    #[test]
    fn the_byte_alphabet_is_the_tokenizer_librarys() {
        let alphabet = ByteLevel::alphabet();
        let mut bytes: Vec<_> = alphabet.iter().map(|&letter| byte_of_level(letter).unwrap()).collect();
        bytes.sort();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        let others = (0..0x1000).filter_map(char::from_u32).filter(|letter| !alphabet.contains(letter));
        assert_eq!(others.filter_map(byte_of_level).count(), 0);
        assert!((0..=255).all(|byte| byte_of_level(letter_of_byte(byte)) == Some(byte)));
        assert_eq!(bytes_of_level("ĠhiĊ"), b" hi\n");
        assert_eq!(bytes_of_level("<｜User｜>"), "<｜User｜>".as_bytes());
    }

    #[test]
    fn known_decoders_are_recognised() {
        let replace = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
        let strip = |stop: u32| json!({"type": "Strip", "content": " ", "start": 1, "stop": stop});
        let (fallback, fuse) = (json!({"type": "ByteFallback"}), json!({"type": "Fuse"}));
        let sequence = |steps: &[&Value]| json!({"type": "Sequence", "decoders": steps});
        for (decoder, expected) in [
            (json!({"type": "ByteLevel"}), Joining::Bytes),
            (sequence(&[&replace, &fallback, &fuse]), Joining::ByteFallback { strip_left: 0 }),
            (sequence(&[&replace, &fallback, &fuse, &strip(0)]), Joining::ByteFallback { strip_left: 1 }),
            (sequence(&[&replace, &fallback, &fuse, &strip(1)]), Joining::Opaque),
            (json!({"type": "Metaspace", "replacement": "▁"}), Joining::Words { strips_first: true }),
            (
                json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"}),
                Joining::Words { strips_first: false },
            ),
            (json!({"type": "WordPiece"}), Joining::Opaque),
            (Value::Null, Joining::Opaque),
        ] {
            assert_eq!(Recipe::read(&decoder).joining, expected, "{decoder}");
        }
    }
}
