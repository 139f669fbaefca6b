//! The output: records appended as they come, and what an earlier run left in the file.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions, TryLockError},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt,
    path::Path,
};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::record::{DUPLICATE, Record};

/// Sixteen bytes of a text's SHA-256: millions of names in little memory.
type Name = [u8; 16];

/// The file, locked for this run.
#[derive(Debug)]
pub struct Output(File);

/// What an output file holds already.
#[derive(Debug, Default)]
pub struct Earlier {
    custom_ids: HashSet<Name>,
    record_ids: HashSet<Name>,
    /// Records.
    pub records: u64,
    /// Those that tell of a failure.
    pub failed: u64,
}

/// Why the file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The system refuses.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The output is the input.
    #[error("the input and the output are the same file")]
    IsInput,
    /// Two runs at once.
    #[error("another run is writing this file")]
    InUse,
    /// The file is something else; nothing in it was touched.
    #[error("line {0} is no record of a batch; name another file, or move this one away")]
    NoRecord(u64),
}

/// As much of a record as must be known again.
#[derive(Deserialize)]
struct Known {
    id: String,
    custom_id: Option<String>,
    error: Option<KnownError>,
}

#[derive(Deserialize)]
struct KnownError {
    code: Option<serde_json::Value>,
}

impl Output {
    /// Opens or makes the file, reads what it holds, and repairs a last line that was torn by a crash.
    pub fn open(path: &Path, input: &File) -> Result<(Self, Earlier), OutputError> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let (own, other) = (file.metadata()?, input.metadata()?);
        if (own.dev(), own.ino()) == (other.dev(), other.ino()) {
            return Err(OutputError::IsInput);
        }
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(OutputError::InUse),
            Err(TryLockError::Error(error)) => return Err(error.into()),
            Ok(()) => {}
        }
        let earlier = Earlier::read(&mut file)?;
        file.seek(SeekFrom::End(0))?;
        Ok((Self(file), earlier))
    }

    /// Appends a record in one write. What is written has left this process: a crash of it loses nothing.
    pub fn append(&mut self, record: &Record) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.0.write_all(&line)
    }

    /// Makes sure that all is on the disk.
    pub fn finish(&self) -> io::Result<()> {
        match self.0.sync_data() {
            // A pipe or a device has nothing to make sure of.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            result => result,
        }
    }
}

impl Earlier {
    /// Reads all records; leaves the file ending with a whole line.
    fn read(file: &mut File) -> Result<Self, OutputError> {
        let mut earlier = Self::default();
        let mut reader = BufReader::new(&mut *file);
        let (mut line, mut end, mut number) = (Vec::new(), 0, 0);
        let torn = loop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line)? as u64;
            number += 1;
            match serde_json::from_slice::<Known>(&line) {
                _ if length == 0 => break None,
                _ if line.ends_with(b"\n") && line.trim_ascii().is_empty() => {}
                Ok(known) => earlier.note(&known),
                Err(_) if !line.ends_with(b"\n") && torn_record(&line) => break Some(end),
                Err(_) => return Err(OutputError::NoRecord(number)),
            }
            end += length;
        };
        let unfinished = end > 0 && torn.is_none() && !ends_with_newline(file, end)?;
        match torn {
            Some(whole) => file.set_len(whole)?,
            None if unfinished => {
                file.seek(SeekFrom::End(0))?;
                file.write_all(b"\n")?;
            }
            None => {}
        }
        Ok(earlier)
    }

    fn note(&mut self, known: &Known) {
        self.records += 1;
        self.failed += u64::from(known.error.is_some());
        self.record_ids.insert(name(&known.id));
        let code = known.error.as_ref().and_then(|error| error.code.as_ref()?.as_str());
        // The record of a second line of this name says nothing of the first.
        if let Some(custom_id) = known.custom_id.as_deref().filter(|_| code != Some(DUPLICATE)) {
            self.custom_ids.insert(name(custom_id));
        }
    }

    /// Whether this very line has its record.
    pub fn has_record(&self, id: &str) -> bool {
        self.record_ids.contains(&name(id))
    }

    /// Whether a request of this name has its record.
    pub fn has_answered(&self, custom_id: &str) -> bool {
        self.custom_ids.contains(&name(custom_id))
    }
}

/// The names of one file's requests; each may occur once.
#[derive(Debug, Default)]
pub struct Seen(HashSet<Name>);

impl Seen {
    /// Whether the name is new.
    pub fn is_new(&mut self, custom_id: &str) -> bool {
        self.0.insert(name(custom_id))
    }
}

fn name(text: &str) -> Name {
    let digest = Sha256::digest(text);
    let mut name = Name::default();
    name.copy_from_slice(&digest[..16]);
    name
}

/// Whether this may be the beginning of a record of ours: what else ends without a newline is not cut.
fn torn_record(line: &[u8]) -> bool {
    let beginning: &[u8] = br#"{"id":"batch_req_"#;
    line.starts_with(beginning) || beginning.starts_with(line)
}

fn ends_with_newline(file: &mut File, length: u64) -> io::Result<bool> {
    let mut last = [0];
    file.seek(SeekFrom::Start(length - 1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"{"id":"batch_req_1","custom_id":"a","response":{"status_code":200},"error":null}"#;

    /// Opens a file of this content: the content then, or the error.
    fn check(content: &str, expected: Result<&str, &str>) -> Option<Earlier> {
        let folder = tempfile::tempdir().unwrap();
        let (path, input) = (folder.path().join("out"), folder.path().join("in"));
        std::fs::write(&path, content).unwrap();
        let input = File::create_new(input).unwrap();
        match (Output::open(&path, &input), expected) {
            (Ok((_output, earlier)), Ok(expected)) => {
                assert_eq!(std::fs::read_to_string(&path).unwrap(), expected, "{content}");
                assert!(matches!(Output::open(&path, &input), Err(OutputError::InUse)));
                Some(earlier)
            }
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{content}: {error}");
                assert_eq!(std::fs::read_to_string(&path).unwrap(), content, "a strange file was touched");
                None
            }
            (result, _) => panic!("{content}: {result:?}"),
        }
    }

    #[test]
    fn torn_ends_are_repaired_and_strange_files_left_alone() {
        let line = format!("{WHOLE}\n");
        for (content, expected) in [
            (String::new(), Ok("")),
            (line.clone(), Ok(line.as_str())),
            (WHOLE.to_owned(), Ok(&line)),
            (format!("{line}\n"), Ok(&format!("{line}\n"))),
            (format!("{line}{}", &WHOLE[..40]), Ok(&line)),
            (format!("{line}{}", &WHOLE[..5]), Ok(&line)),
            (format!("{line}my notes"), Err("line 2 is no record")),
            (format!("my notes\n{line}"), Err("line 1 is no record")),
            (format!("{}\n{line}", &WHOLE[..40]), Err("line 1 is no record")),
        ] {
            check(&content, expected);
        }
    }

    #[test]
    fn what_was_answered_is_known_again() {
        let failed = r#"{"id":"batch_req_2","custom_id":"b","response":null,"error":{"code":"invalid_url"}}"#;
        let second = r#"{"id":"batch_req_3","custom_id":"c","response":null,"error":{"code":"duplicate_custom_id"}}"#;
        let content = format!("{WHOLE}\n{failed}\n{second}\n");
        let earlier = check(&content, Ok(&content)).unwrap();
        assert_eq!((earlier.records, earlier.failed), (3, 2));
        let answered = ["a", "b", "c", "d"].map(|id| earlier.has_answered(id));
        assert_eq!(answered, [true, true, false, false], "a duplicate's record says nothing of the first");
        assert!(earlier.has_record("batch_req_3") && !earlier.has_record("batch_req_4"));
    }

    #[test]
    fn the_input_is_never_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in");
        std::fs::write(&path, "x").unwrap();
        let input = File::open(&path).unwrap();
        assert!(matches!(Output::open(&path, &input), Err(OutputError::IsInput)));
    }
}
