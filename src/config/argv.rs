//! Spellings that clap doesn't know by itself.

use std::ffi::OsString;

/// Rewrites one argument: `--max_model_len` (FastDeploy's documents) to `--max-model-len`, `-tp` to the long name.
/// Only the name is touched, never what follows `=`.
pub fn modern_spelling(argument: OsString) -> OsString {
    let Some(text) = argument.to_str() else { return argument };
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    let name = match name {
        "-tp" => "--tensor-parallel-size".to_owned(),
        // Prose and JSON that happen to begin with dashes aren't names.
        long if long.starts_with("--")
            && long.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) =>
        {
            long.replace('_', "-")
        }
        _ => return argument,
    };
    OsString::from(match value {
        Some(value) => format!("{name}={value}"),
        None => name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_rewritten_and_values_left_alone() {
        for (before, after) in [
            ("--max_model_len", "--max-model-len"),
            ("--served_model_name=my_model", "--served-model-name=my_model"),
            ("-tp", "--tensor-parallel-size"),
            ("-tp=2", "--tensor-parallel-size=2"),
            ("/path/with_underscore", "/path/with_underscore"),
            ("{\"a_b\": 1}", "{\"a_b\": 1}"),
            ("-h", "-h"),
        ] {
            assert_eq!(modern_spelling(before.into()), OsString::from(after));
        }
    }
}
