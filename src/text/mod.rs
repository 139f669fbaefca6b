//! Strings and tokens: chat templates, tokenizers, incremental detokenizing, stop strings.
