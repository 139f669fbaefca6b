//! The file for a measurement's figures: opened before anything is measured, so that a wrong path costs no time.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde_json::Value;

/// A file that will hold one JSON object; or none, where nobody asked for it.
pub struct Sheet(Option<(PathBuf, File)>);

impl Sheet {
    /// Opens it. An error is one line for people.
    pub fn open(path: Option<&Path>) -> Result<Self, String> {
        let file = |path: &Path| match File::create(path) {
            Ok(file) => Ok((path.to_owned(), file)),
            Err(error) => Err(told(path, &error)),
        };
        path.map(file).transpose().map(Self)
    }

    /// Writes the figures. An error is one line for people.
    pub fn write(self, figures: &Value) -> Result<(), String> {
        let Self(Some((path, mut file))) = self else { return Ok(()) };
        writeln!(file, "{figures:#}").map_err(|error| told(&path, &error))
    }
}

fn told(path: &Path, error: &io::Error) -> String {
    format!("{} can't be written: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_are_written_where_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("figures.json");
        Sheet::open(Some(&path)).unwrap().write(&json!({"a": 1})).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\n  \"a\": 1\n}\n");
        Sheet::open(None).unwrap().write(&json!({})).unwrap();
        let error = Sheet::open(Some(&path.join("below"))).err().unwrap();
        assert!(error.ends_with("figures.json/below can't be written: Not a directory (os error 20)"), "{error}");
    }
}
