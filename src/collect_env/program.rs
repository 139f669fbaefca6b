//! This program, the models that it finds, and the environment that it reads.

use std::{env, ffi::OsString, fs, path::Path};

use serde_json::{Map, Value, json};

use super::{Facts, size};
use crate::default_model;

/// Beginnings of the names of variables that change what a server does.
const VARIABLES: &[&str] = &[
    "SHARDWIRE_",
    "FD_",
    "RUST_",
    "CUDA_",
    "NVIDIA_",
    "NCCL_",
    "OMP_",
    "HF_",
    "HUGGINGFACE_",
    "XDG_",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "LANG",
    "TERM",
];
/// Parts of names whose values are nobody's business.
const SECRETS: &[&str] = &["KEY", "TOKEN", "SECRET", "PASSW", "CREDENTIAL", "AUTH"];
/// Entries that are listed, of variables and of models.
const ENTRIES_MAX: usize = 100;

/// The program. The commit is known where it was told while building: `SHARDWIRE_COMMIT=$(git rev-parse HEAD) cargo build`.
pub fn shardwire() -> Facts {
    vec![
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("commit", json!(option_env!("SHARDWIRE_COMMIT"))),
        ("build", json!(if cfg!(debug_assertions) { "debug" } else { "release" })),
        ("binary", json!(env::current_exe().ok().map(|path| path.display().to_string()))),
    ]
}

/// The models that are there without fetching.
pub fn models() -> Facts {
    let own = default_model::models_folder().ok();
    let hub = hub_folder();
    vec![
        ("cache", json!(own.as_ref().map(|folder| folder.display().to_string()))),
        ("cached", own.map_or(Value::Null, |folder| files(&folder))),
        ("hub_cache", json!(hub.as_ref().map(|folder| folder.display().to_string()))),
        ("hub_cached", hub.map_or(Value::Null, |folder| hub_models(&folder))),
    ]
}

/// The variables that matter; what may be secret is hidden.
pub fn environment(variables: impl Iterator<Item = (OsString, OsString)>) -> Facts {
    let text = |(name, value): (OsString, OsString)| {
        (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
    };
    let matters = |name: &str| VARIABLES.iter().any(|beginning| name.starts_with(beginning));
    let mut found: Vec<_> = variables.map(text).filter(|(name, _)| matters(name)).collect();
    found.sort();
    let shown = found.into_iter().take(ENTRIES_MAX).map(|(name, value)| {
        let value = shown(&name, &value);
        (name, json!(value))
    });
    vec![("variables", Value::Object(shown.collect::<Map<_, _>>()))]
}

fn shown(name: &str, value: &str) -> String {
    let upper = name.to_ascii_uppercase();
    if SECRETS.iter().any(|part| upper.contains(part)) {
        return format!("(hidden, {} characters)", value.chars().count());
    }
    // A proxy's address may carry a password.
    match (value.split_once("://"), value.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://(hidden)@{host}"),
        _ => value.chars().take(500).collect(),
    }
}

fn hub_folder() -> Option<std::path::PathBuf> {
    let folder =
        |variable, rest: &str| env::var_os(variable).filter(|v| !v.is_empty()).map(|v| Path::new(&v).join(rest));
    folder("HF_HUB_CACHE", "").or_else(|| folder("HF_HOME", "hub")).or_else(|| folder("HOME", ".cache/huggingface/hub"))
}

fn files(folder: &Path) -> Value {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().take(ENTRIES_MAX);
    let mut files: Vec<_> = entries
        .filter_map(|entry| Some((entry.file_name(), entry.metadata().ok().filter(|meta| meta.is_file())?.len())))
        .filter(|(name, _)| !name.as_encoded_bytes().starts_with(b"."))
        .map(|(name, bytes)| format!("{} ({})", name.display(), size(bytes)))
        .collect();
    files.sort();
    json!(files)
}

/// Folders named `models--OWNER--NAME`, as the hub's own programs keep them.
fn hub_models(folder: &Path) -> Value {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let name = |entry: fs::DirEntry| Some(entry.file_name().to_str()?.strip_prefix("models--")?.replacen("--", "/", 1));
    let mut names: Vec<_> = entries.filter_map(name).take(ENTRIES_MAX).collect();
    names.sort();
    json!(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_and_strangers_left_out() {
        let variables = [
            ("SHARDWIRE_API_KEY", "sk-1"),
            ("HF_TOKEN", "hf_x"),
            ("HTTPS_PROXY", "http://me:pw@proxy:3128"),
            ("FD_LOG_DIR", "/logs"),
            ("AWS_SECRET_ACCESS_KEY", "x"),
        ];
        let facts = environment(variables.into_iter().map(|(name, value)| (name.into(), value.into())));
        let expected = json!({
            "FD_LOG_DIR": "/logs",
            "HF_TOKEN": "(hidden, 4 characters)",
            "HTTPS_PROXY": "http://(hidden)@proxy:3128",
            "SHARDWIRE_API_KEY": "(hidden, 4 characters)",
        });
        assert_eq!(facts, [("variables", expected)]);
    }

    #[test]
    fn models_are_listed_by_their_names() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("models--org--a--b")).unwrap();
        fs::create_dir(folder.path().join("datasets--x")).unwrap();
        fs::write(folder.path().join("m.gguf"), vec![0; 2048]).unwrap();
        fs::write(folder.path().join(".lock"), "").unwrap();
        assert_eq!(hub_models(folder.path()), json!(["org/a--b"]));
        assert_eq!(files(folder.path()), json!(["m.gguf (2.0 KiB)"]));
        assert_eq!(files(&folder.path().join("nowhere")), json!([]));
    }
}
