//! Which of a repository's files a server needs.
//!
//! Hugging Face's format: settings, tokenizer and safetensors of the topmost folder. Never the same weights in another form
//! (`.bin`, `.pth`, `.onnx`, `consolidated.safetensors` beside the indexed files), nor what lies in folders (`original/`).

use std::fmt;

use super::gguf;

/// Settings and tokenizer, of which a repository has some.
const SMALL_FILES: &[&str] = &[
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tiktoken.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];
/// Names the family and shape of the model.
pub const CONFIG: &str = "config.json";
/// Weights in one file.
const SINGLE: &str = "model.safetensors";
/// Says which of several files has which weight.
pub const INDEX: &str = "model.safetensors.index.json";

/// What to fetch, by names in the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Files that make a folder in Hugging Face's format.
    Folder(Vec<String>),
    /// One GGUF file, or the parts of one in order.
    Gguf(Vec<String>),
}

impl Choice {
    /// The names.
    pub fn names(&self) -> &[String] {
        match self {
            Self::Folder(names) | Self::Gguf(names) => names,
        }
    }
}

/// Why there is nothing to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoChoice {
    /// Nothing that a server could read.
    NoWeights,
    /// Weights without the file that says what model they are of.
    NoConfig,
    /// A GGUF file of that kind is not there; what is, if anything.
    NoSuchQuant(Vec<String>),
    /// Several GGUF files, and none of the usual kind.
    SeveralQuants(Vec<String>),
    /// Of a GGUF file in parts, this is missing.
    PartMissing(String),
}

/// Chooses among the names of all files.
pub fn choose(names: &[String], quant: Option<&str>) -> Result<Choice, NoChoice> {
    let weights = weights(names);
    if quant.is_some() || weights.is_empty() {
        return gguf::choose(names, quant).map(Choice::Gguf);
    }
    if !has(names, CONFIG) {
        return Err(NoChoice::NoConfig);
    }
    let small = names.iter().filter(|name| is_small_file(name));
    Ok(Choice::Folder(small.chain(weights).cloned().collect()))
}

fn has(names: &[String], name: &str) -> bool {
    names.iter().any(|other| other == name)
}

fn is_small_file(name: &str) -> bool {
    SMALL_FILES.contains(&name) || (name.ends_with(".tiktoken") && is_topmost(name))
}

fn is_topmost(name: &str) -> bool {
    !name.contains('/')
}

/// The safetensors that belong together, their index first. A server reads `model.safetensors` or what the index names.
fn weights(names: &[String]) -> Vec<&String> {
    if !has(names, INDEX) {
        return names.iter().filter(|name| *name == SINGLE).collect();
    }
    let topmost = |name: &&String| name.ends_with(".safetensors") && is_topmost(name);
    let usual: Vec<_> = names.iter().filter(topmost).filter(|name| is_numbered(name)).collect();
    let unusual = || names.iter().filter(topmost).filter(|name| !name.starts_with("consolidated")).collect();
    let files = if usual.is_empty() { unusual() } else { usual };
    let index = names.iter().filter(|name| *name == INDEX && !files.is_empty());
    index.chain(files.iter().copied()).collect()
}

/// `model-00001-of-00003.safetensors`.
fn is_numbered(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name.strip_prefix("model-")
        .and_then(|rest| rest.strip_suffix(".safetensors")?.split_once("-of-"))
        .is_some_and(|(part, all)| number(part) && number(all))
}

impl fmt::Display for NoChoice {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::NoWeights => {
                write!(
                    to,
                    "has neither {SINGLE} (or {INDEX}) nor a .gguf file, and no other form of weights can be read"
                )
            }
            Self::NoConfig => write!(to, "has weights, but no {CONFIG}: it isn't a whole model"),
            Self::NoSuchQuant(there) if there.is_empty() => {
                write!(to, "has no GGUF file: leave out the colon and what follows it")
            }
            Self::NoSuchQuant(there) => write!(to, "has no GGUF file of that kind; it has {}", there.join(", ")),
            Self::SeveralQuants(there) => {
                write!(to, "has several GGUF files; write one of these behind a colon: {}", there.join(", "))
            }
            Self::PartMissing(part) => write!(to, "lacks {part}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(there: &[&str], expected: &[&str]) {
        let names: Vec<String> = there.iter().map(|&name| name.to_owned()).collect();
        let chosen = choose(&names, None).map(|choice| choice.names().to_vec());
        assert_eq!(chosen, Ok(expected.iter().map(|&name| name.to_owned()).collect()), "of {there:?}");
    }

    #[test]
    fn a_folder_has_what_a_server_reads_and_no_more() {
        let others =
            ["README.md", ".gitattributes", "pytorch_model.bin", "onnx/model.onnx", "original/model.safetensors"];
        let small = ["config.json", "tokenizer.json", "chat_template.jinja", "x.tiktoken"];
        let single = ["model.safetensors", "adapter_model.safetensors", "model.fp16.safetensors", "flax_model.msgpack"];
        check(&[&others[..], &small, &single].concat(), &[&small[..], &["model.safetensors"]].concat());
        let several = [INDEX, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        let twice = ["consolidated.safetensors", "model.safetensors", "consolidated.00.pth"];
        check(&[&others[..], &small, &several, &twice].concat(), &[&small[..], &several].concat());
        // The index may name files of any name.
        check(&["config.json", "weights.safetensors", INDEX], &["config.json", INDEX, "weights.safetensors"]);
    }

    #[test]
    fn what_is_no_model_is_told() {
        let check = |there: &[&str], expected: NoChoice| {
            let names: Vec<String> = there.iter().map(|&name| name.to_owned()).collect();
            assert_eq!(choose(&names, None), Err(expected), "of {there:?}");
        };
        check(&["config.json", "pytorch_model.bin", "original/model.safetensors"], NoChoice::NoWeights);
        check(&["config.json", INDEX], NoChoice::NoWeights);
        check(&["config.json", "consolidated.safetensors"], NoChoice::NoWeights);
        check(&["model.safetensors"], NoChoice::NoConfig);
        check(&[], NoChoice::NoWeights);
    }
}
