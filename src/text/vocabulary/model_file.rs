//! SentencePiece's `tokenizer.model`, a `ModelProto`:
//! <https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto>.

use super::{
    Algorithm, Entry, Kind, Prefix, SentencePieces, Spaces,
    protobuf::{Field, Fields},
};
use crate::text::TextError;

/// What the file says, of which classes of `transformers` follow only a part.
#[derive(Debug, PartialEq)]
pub(super) struct ModelFile {
    /// With the file's own rules for spaces and prefix.
    pub pieces: SentencePieces,
    /// The piece before a text, if the file has one.
    pub bos: Option<String>,
    /// The piece after a text, if the file has one.
    pub eos: Option<String>,
}

/// The fields of `TrainerSpec` and `NormalizerSpec` that matter, with the schema's defaults.
struct Specs {
    model_type: i64,
    byte_fallback: bool,
    space_as_suffix: bool,
    bos: String,
    eos: String,
    charsmap: Vec<u8>,
    dummy_prefix: bool,
    squeezes_spaces: bool,
    escapes_spaces: bool,
}

impl Default for Specs {
    fn default() -> Self {
        Self {
            model_type: 1,
            byte_fallback: false,
            space_as_suffix: false,
            bos: "<s>".into(),
            eos: "</s>".into(),
            charsmap: Vec::new(),
            dummy_prefix: true,
            squeezes_spaces: true,
            escapes_spaces: true,
        }
    }
}

impl ModelFile {
    pub fn read(bytes: &[u8]) -> Result<Self, TextError> {
        let (mut entries, mut specs) = (Vec::new(), Specs::default());
        for field in Fields::of(bytes) {
            read_field(field, &mut entries, &mut specs)
                .map_err(|reason| TextError::model(format!("not a SentencePiece model: {reason}")))?;
        }
        if entries.is_empty() {
            return Err(TextError::model("not a SentencePiece model: it has no pieces"));
        }
        let algorithm = specs.algorithm().map_err(TextError::model)?;
        let control = |text: String| {
            entries.iter().any(|entry: &Entry| entry.kind == Kind::Control && entry.text == text).then_some(text)
        };
        let (bos, eos) = (control(specs.bos), control(specs.eos));
        let pieces = SentencePieces {
            entries,
            algorithm,
            byte_fallback: specs.byte_fallback,
            charsmap: specs.charsmap,
            spaces: if specs.squeezes_spaces { Spaces::Squeezed } else { Spaces::Kept },
            prefix: if specs.dummy_prefix { Prefix::Apart } else { Prefix::Never },
        };
        Ok(Self { pieces, bos, eos })
    }
}

fn read_field(field: Result<Field<'_>, String>, entries: &mut Vec<Entry>, specs: &mut Specs) -> Result<(), String> {
    let Field { number, value } = field?;
    match number {
        1 => {
            let entry = entry(value.bytes()?).map_err(|reason| format!("piece {} {reason}", entries.len()))?;
            entries.push(entry);
        }
        2 => each(value.bytes()?, |field| specs.read_trainer(field))
            .map_err(|reason| format!("trainer_spec {reason}"))?,
        3 => each(value.bytes()?, |field| specs.read_normalizer(field))
            .map_err(|reason| format!("normalizer_spec {reason}"))?,
        // What it was trained on and tested with.
        _ => {}
    }
    Ok(())
}

fn entry(message: &[u8]) -> Result<Entry, String> {
    let mut entry = Entry { text: String::new(), score: 0.0, kind: Kind::Normal };
    each(message, |Field { number, value }| {
        match number {
            1 => entry.text = value.text()?.into(),
            2 => entry.score = value.float()?,
            3 => {
                let number = value.int()?;
                entry.kind = Kind::numbered(number).ok_or_else(|| format!("has the unknown type {number}"))?;
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(entry)
}

fn each(message: &[u8], mut read: impl FnMut(Field<'_>) -> Result<(), String>) -> Result<(), String> {
    Fields::of(message).try_for_each(|field| read(field?))
}

impl Specs {
    fn read_trainer(&mut self, Field { number, value }: Field<'_>) -> Result<(), String> {
        match number {
            3 => self.model_type = value.int()?,
            24 => self.space_as_suffix = value.flag()?,
            35 => self.byte_fallback = value.flag()?,
            46 => self.bos = value.text()?.into(),
            47 => self.eos = value.text()?.into(),
            _ => {}
        }
        Ok(())
    }

    fn read_normalizer(&mut self, Field { number, value }: Field<'_>) -> Result<(), String> {
        match number {
            2 => self.charsmap = value.bytes()?.into(),
            3 => self.dummy_prefix = value.flag()?,
            4 => self.squeezes_spaces = value.flag()?,
            5 => self.escapes_spaces = value.flag()?,
            _ => {}
        }
        Ok(())
    }

    fn algorithm(&self) -> Result<Algorithm, String> {
        let refused = |what: &str| Err(format!("this SentencePiece model {what}, which is not supported"));
        if self.space_as_suffix {
            return refused("puts spaces after words (treat_whitespace_as_suffix)");
        }
        if !self.escapes_spaces {
            return refused("leaves spaces as they are (escape_whitespaces is false)");
        }
        match self.model_type {
            1 => Ok(Algorithm::Unigram),
            2 => Ok(Algorithm::Bpe),
            other => refused(&format!("is of type {other} (1 is unigram, 2 is BPE)")),
        }
    }
}
