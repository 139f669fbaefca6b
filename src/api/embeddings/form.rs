//! In which form a vector is answered.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::{error::ApiError, fields::Fields};

/// How a vector is to be changed and written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Form {
    /// How many of its numbers are wanted.
    dimensions: usize,
    /// Whether its length is to be 1.
    normalize: bool,
    encoding: Encoding,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Encoding {
    Float,
    Base64,
}

/// A vector as it's written.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Embedding {
    /// Its numbers.
    Floats(Vec<f32>),
    /// The same as little-endian f32, in base64.
    Base64(String),
}

impl Form {
    /// Reads it. `hidden_size` is how many numbers there are.
    pub fn read(fields: &Fields, hidden_size: usize) -> Result<Self, ApiError> {
        let encoding = match fields.get::<String>("encoding_format")?.as_deref() {
            None | Some("float") => Encoding::Float,
            Some("base64") => Encoding::Base64,
            Some(_) => {
                return Err(ApiError::invalid("encoding_format", "`encoding_format` must be `float` or `base64`"));
            }
        };
        let dimensions = fields.integer("dimensions", 1..=hidden_size as i64)?;
        let normalize = fields.get("normalize")?.unwrap_or(true);
        Ok(Self { dimensions: dimensions.map_or(hidden_size, |count| count as usize), normalize, encoding })
    }

    /// Cuts first, so that the length is 1 at the end.
    pub fn apply(self, mut vector: Vec<f32>) -> Embedding {
        vector.truncate(self.dimensions);
        if self.normalize {
            normalize(&mut vector);
        }
        match self.encoding {
            Encoding::Float => Embedding::Floats(vector),
            Encoding::Base64 => {
                let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
                Embedding::Base64(BASE64_STANDARD.encode(bytes))
            }
        }
    }
}

/// Scales it to the Euclidean length 1; a vector of zeros stays one.
fn normalize(vector: &mut [f32]) {
    let length = vector.iter().map(|&number| f64::from(number).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|number| *number = (f64::from(*number) / length) as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_cut_then_normalised_then_written() {
        for (fields, expected) in [
            (r#"{}"#, Embedding::Floats(vec![0.6, 0.8, 0.0])),
            (r#"{"normalize": false}"#, Embedding::Floats(vec![3.0, 4.0, 0.0])),
            (r#"{"dimensions": 1}"#, Embedding::Floats(vec![1.0])),
            (r#"{"dimensions": 1, "encoding_format": "base64"}"#, Embedding::Base64("AACAPw==".into())),
        ] {
            let form = Form::read(&Fields::read(fields.as_bytes()).unwrap(), 3).unwrap();
            assert_eq!(form.apply(vec![3.0, 4.0, 0.0]), expected, "{fields}");
        }
        for fields in [r#"{"dimensions": 4}"#, r#"{"dimensions": 0}"#, r#"{"encoding_format": "hex"}"#] {
            assert!(Form::read(&Fields::read(fields.as_bytes()).unwrap(), 3).is_err(), "{fields}");
        }
        let mut zeros = [0.0; 3];
        normalize(&mut zeros);
        assert_eq!(zeros, [0.0; 3]);
    }
}
