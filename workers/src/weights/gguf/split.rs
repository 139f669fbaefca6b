//! A model in several files: `NAME-00001-of-00003.gguf` and so on.

use std::path::{Path, PathBuf};

use super::{File, LoadError};

/// The most parts; hub repositories of the largest models have dozens.
const PARTS_MAX: u64 = 4096;

/// Opens every part of the model of which `path` is one of `count` parts, in order.
pub(super) fn open_all(path: &Path, count: u64) -> Result<Vec<File>, LoadError> {
    let corrupt = |fault: String| LoadError::corrupt(path, fault);
    if count > PARTS_MAX {
        return Err(corrupt(format!("is corrupt: split.count is {count}, at most {PARTS_MAX} parts are read")));
    }
    let parts = part_paths(path, count).ok_or_else(|| {
        corrupt(format!(
            "is one of {count} parts, so its name must end in -00001-of-{count:05}.gguf (or another number), \
             and the other parts must lie beside it"
        ))
    })?;
    let mut files = Vec::new();
    for (index, path) in parts.iter().enumerate() {
        let file = File::open(path)?;
        let of_this_model = |key: &str, expected: u64| file.metadata.unsigned(key) == Some(expected);
        if !of_this_model("split.no", index as u64) || !of_this_model("split.count", count) {
            return Err(LoadError::corrupt(path, format!("is not part {} of {count}, as its name says", index + 1)));
        }
        files.push(file);
    }
    Ok(files)
}

/// The parts' paths, from one's.
fn part_paths(path: &Path, count: u64) -> Option<Vec<PathBuf>> {
    let name = path.file_name()?.to_str()?;
    let stem = name.strip_suffix(&format!("-of-{count:05}.gguf"))?;
    let (stem, number) = stem.rsplit_once('-')?;
    (number.len() == 5 && number.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| (1..=count).map(|part| path.with_file_name(format!("{stem}-{part:05}-of-{count:05}.gguf"))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_named_from_any_of_them() {
        let names = |name: &str, count| {
            part_paths(Path::new(name), count)
                .map(|paths| paths.iter().map(|path| path.display().to_string()).collect())
        };
        let expected: Vec<String> = vec!["a/m-Q8-00001-of-00002.gguf".into(), "a/m-Q8-00002-of-00002.gguf".into()];
        assert_eq!(names("a/m-Q8-00002-of-00002.gguf", 2), Some(expected));
        assert_eq!(names("m-00001-of-00003.gguf", 2), None::<Vec<String>>);
        assert_eq!(names("m.gguf", 2), None::<Vec<String>>);
        assert_eq!(names("m-1-of-00002.gguf", 2), None::<Vec<String>>);
    }
}
