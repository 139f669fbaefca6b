//! How the values of flags are written.

use std::{path::PathBuf, str::FromStr};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::{Map, Value};
use workers::link::step::DRAFT_MAX;

use crate::engine::{
    request::EarlyStop,
    speculation::{self, NGRAM_MAX},
};

/// A number of bytes: `1048576`, `512M`, `1.5G`, `2GiB`. Suffixes are powers of 1024.
pub fn byte_count(text: &str) -> Result<u64, String> {
    let upper = text.trim().to_ascii_uppercase();
    let number_end = upper.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(upper.len());
    let (number, suffix) = upper.split_at(number_end);
    let unit: u64 = match suffix.trim_end_matches("IB").trim_end_matches('B') {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1 << 40,
        _ => return Err(format!("unknown unit '{suffix}'; write bytes, or a number with K, M, G or T")),
    };
    let number = f64::from_str(number.trim()).map_err(|_| "write bytes, or a number with K, M, G or T".to_owned())?;
    let bytes = number * unit as f64;
    if !(1.0..=(1u64 << 60) as f64).contains(&bytes) {
        return Err("must be at least one byte and at most 1024 P".to_owned());
    }
    Ok(bytes as u64)
}

/// Bits of an activation: `8` or `16`.
pub fn activation_bits() -> impl TypedValueParser<Value = u8> {
    PossibleValuesParser::new(["8", "16"]).try_map(|bits| bits.parse())
}

/// A share in `0 < x <= 1`.
pub fn fraction(text: &str) -> Result<f64, String> {
    match f64::from_str(text) {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("must be more than 0 and at most 1".to_owned()),
    }
}

/// A share in `0 <= x < 1`.
pub fn share_below_one(text: &str) -> Result<f64, String> {
    match f64::from_str(text) {
        Ok(share) if (0.0..1.0).contains(&share) => Ok(share),
        _ => Err("must be at least 0 and less than 1".to_owned()),
    }
}

/// A number above 0; `inf` is one.
pub fn positive(text: &str) -> Result<f64, String> {
    match f64::from_str(text) {
        Ok(number) if number > 0.0 => Ok(number),
        _ => Err("must be more than 0".to_owned()),
    }
}

/// A JSON object.
pub fn json_object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("must be a JSON object: {error}"))
}

/// A file that a picture is written to.
pub fn svg_file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("svg") => Ok(path),
        _ => Err("pictures are written as SVG, which browsers show; name a file that ends in .svg".to_owned()),
    }
}

/// When a text counts as repeating itself, where nothing is said.
pub const EARLY_STOP_DEFAULT: &str = r#"{"window_size": 3000, "threshold": 0.99, "strategy": "repetition"}"#;

/// FastDeploy's JSON object; what it doesn't name is as in [`EARLY_STOP_DEFAULT`].
pub fn early_stop(text: &str) -> Result<EarlyStop, String> {
    let given = json_object(text)?;
    let mut wanted = EarlyStop { window: 3000, threshold: 0.99 };
    for (name, value) in &given {
        match name.as_str() {
            "window_size" => {
                let window = value.as_u64().and_then(|window| u32::try_from(window).ok()).filter(|&window| window > 0);
                wanted.window = window.ok_or("`window_size` must be an integer of at least 1")?;
            }
            "threshold" => {
                let threshold = value.as_f64().filter(|threshold| (0.0..=1.0).contains(threshold));
                wanted.threshold = threshold.ok_or("`threshold` must be between 0 and 1")? as f32;
            }
            "strategy" if value == "repetition" => {}
            "strategy" => return Err("the only `strategy` is \"repetition\"".to_owned()),
            // FastDeploy's own switch within the object; --enable-early-stop is the one that counts.
            "enable_early_stop" => {}
            other => return Err(format!("there is no `{other}`; known are window_size, threshold, strategy")),
        }
    }
    Ok(wanted)
}

/// What `--speculative-config` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Speculative {
    /// Drafts by look-up.
    Ngram(speculation::Settings),
    /// FastDeploy's other method, which needs layers that no served model has.
    Mtp,
}

/// FastDeploy's JSON object, with vLLM's names too; what it doesn't name is as by default.
pub fn speculative(text: &str) -> Result<Speculative, String> {
    let given = json_object(text)?;
    let mut settings = speculation::Settings::default();
    let mut method = None;
    let count = |name: &str, value: &Value, most: usize| {
        let found = value.as_u64().and_then(|number| usize::try_from(number).ok());
        found
            .filter(|number| (1..=most).contains(number))
            .ok_or(format!("`{name}` must be an integer from 1 to {most}"))
    };
    for (name, value) in &given {
        match name.as_str() {
            "method" => method = value.as_str(),
            "num_speculative_tokens" => settings.draft_max = count(name, value, DRAFT_MAX)?,
            "min_ngram_size" | "prompt_lookup_min" => settings.ngram_min = count(name, value, NGRAM_MAX)?,
            "max_ngram_size" | "prompt_lookup_max" => settings.ngram_max = count(name, value, NGRAM_MAX)?,
            // Of FastDeploy's drafting model.
            "model" | "quantization" | "mtp_strategy" | "num_model_steps"
                if given.get("method") == Some(&"mtp".into()) => {}
            other => {
                let known = "method, num_speculative_tokens, min_ngram_size, max_ngram_size";
                return Err(format!("there is no `{other}`; known are {known}"));
            }
        }
    }
    if settings.ngram_min > settings.ngram_max {
        return Err("`min_ngram_size` must not be more than `max_ngram_size`".to_owned());
    }
    match method {
        Some("ngram") => Ok(Speculative::Ngram(settings)),
        Some("mtp") => Ok(Speculative::Mtp),
        _ => Err("`method` must be \"ngram\"".to_owned()),
    }
}

/// One of the names that `known` lists, written with `-` or `_`, in either case.
pub fn parser_name(known: fn() -> Vec<&'static str>) -> impl Fn(&str) -> Result<String, String> + Clone {
    move |text| {
        let name = text.trim().to_ascii_lowercase().replace('_', "-");
        if known().contains(&name.as_str()) { Ok(name) } else { Err(format!("known are: {}", known().join(", "))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_with_their_units() {
        for (text, bytes) in [("7", 7), ("1k", 1024), ("1.5G", 3 << 29), ("2GiB", 2 << 30), ("10 MB", 10 << 20)] {
            assert_eq!(byte_count(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "G", "-1", "nan", "inf", "5X", "0", "9999999T"] {
            assert!(byte_count(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn early_stops_are_read_over_their_defaults() {
        let of = |window, threshold| Ok(EarlyStop { window, threshold });
        assert_eq!(early_stop(EARLY_STOP_DEFAULT), of(3000, 0.99));
        assert_eq!(early_stop("{}"), of(3000, 0.99));
        assert_eq!(early_stop(r#"{"window_size": 1, "threshold": 0.5}"#), of(1, 0.5));
        for wrong in ["", "3", r#"{"window_size": 0}"#, r#"{"threshold": 2}"#, r#"{"strategy": "x"}"#, r#"{"a": 1}"#] {
            assert!(early_stop(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn shares_are_bounded() {
        assert_eq!(fraction("0.9"), Ok(0.9));
        for wrong in ["0", "1.1", "NaN", "-0.5", "x"] {
            assert!(fraction(wrong).is_err(), "{wrong}");
        }
        assert_eq!((share_below_one("0"), share_below_one("0.9")), (Ok(0.0), Ok(0.9)));
        for wrong in ["1", "NaN", "-0.5", "x"] {
            assert!(share_below_one(wrong).is_err(), "{wrong}");
        }
        assert_eq!((positive("0.5"), positive("inf")), (Ok(0.5), Ok(f64::INFINITY)));
        for wrong in ["0", "-1", "NaN", "x"] {
            assert!(positive(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn objects_and_pictures_are_told_from_others() {
        assert!(json_object(r#"{"top_k": 1}"#).is_ok() && json_object("[1]").is_err() && json_object("x").is_err());
        assert!(svg_file("a/b.SVG").is_ok());
        assert!(svg_file("b.png").is_err_and(|why| why.contains(".svg")) && svg_file("svg").is_err());
    }
}
