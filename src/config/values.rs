//! How the values of flags are written.

use std::str::FromStr;

/// The reasoning parsers that are known by name.
pub const REASONING_PARSERS: &[&str] = &["ernie-x1", "ernie-45-vl", "qwen3", "deepseek-r1"];

/// The tool-call parsers that are known by name.
pub const TOOL_CALL_PARSERS: &[&str] = &["ernie-x1", "qwen3", "hermes"];

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

/// A share in `0 < x <= 1`.
pub fn fraction(text: &str) -> Result<f64, String> {
    match f64::from_str(text) {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("must be more than 0 and at most 1".to_owned()),
    }
}

/// One of `known`, written with `-` or `_`, in either case.
pub fn parser_name(known: &'static [&'static str]) -> impl Fn(&str) -> Result<String, String> + Clone {
    move |text| {
        let name = text.trim().to_ascii_lowercase().replace('_', "-");
        if known.contains(&name.as_str()) { Ok(name) } else { Err(format!("known are: {}", known.join(", "))) }
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
    fn shares_are_bounded() {
        assert_eq!(fraction("0.9"), Ok(0.9));
        for wrong in ["0", "1.1", "NaN", "-0.5", "x"] {
            assert!(fraction(wrong).is_err(), "{wrong}");
        }
    }
}
