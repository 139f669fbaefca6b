//! `workerlog.N`: what the worker of rank N prints, start after start.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::config::LogFormat;

/// A log larger than this is set aside as `workerlog.N.1` at the next start.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// How much of a log's end is read to find its last lines.
const TAIL_BYTES_MAX: u64 = 16 << 10;

/// One rank's log, opened for one start of its worker.
#[derive(Debug)]
pub struct WorkerLog {
    path: PathBuf,
    file: File,
    /// Where this start begins in the file.
    start_offset: u64,
}

impl WorkerLog {
    /// Opens the log for appending; makes the folder where it is missing.
    pub fn open(log_dir: &Path, rank: usize) -> io::Result<Self> {
        fs::create_dir_all(log_dir)?;
        let path = log_dir.join(format!("workerlog.{rank}"));
        if fs::metadata(&path).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
            fs::rename(&path, log_dir.join(format!("workerlog.{rank}.1")))?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let start_offset = file.metadata()?.len();
        Ok(Self { path, file, start_offset })
    }

    /// The file twice, for a child's standard output and standard error.
    pub fn outputs(&self) -> io::Result<(File, File)> {
        Ok((self.file.try_clone()?, self.file.try_clone()?))
    }

    /// Writes the line that separates this start from earlier ones. A full disk must not stop the worker.
    pub fn note_start(&mut self, epoch: u64, pid: u32, format: LogFormat) {
        let now = OffsetDateTime::from(SystemTime::now()).format(&Rfc3339).unwrap_or_default();
        let line = match format {
            LogFormat::Text => format!("---- {now} started: epoch {epoch}, pid {pid}\n"),
            LogFormat::Json => {
                let fields = json!({"message": "started", "epoch": epoch, "pid": pid});
                format!("{}\n", json!({"timestamp": now, "level": "INFO", "fields": fields}))
            }
        };
        let _ = self.file.write_all(line.as_bytes());
        self.start_offset += line.len() as u64;
    }

    /// The last lines of this start that say something, oldest first; empty where nothing can be read.
    pub fn last_lines(&self, lines: usize) -> Vec<String> {
        let text = self.tail().unwrap_or_default();
        let said: Vec<_> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        said[said.len().saturating_sub(lines)..].iter().map(|line| line.to_string()).collect()
    }

    fn tail(&self) -> io::Result<String> {
        let mut file = File::open(&self.path)?;
        let from = self.start_offset.max(file.metadata()?.len().saturating_sub(TAIL_BYTES_MAX));
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_belong_to_this_start() {
        let folder = tempfile::tempdir().unwrap();
        let log_dir = folder.path().join("made/here");
        fs::create_dir_all(&log_dir).unwrap();
        fs::write(log_dir.join("workerlog.3"), "of an earlier start\n").unwrap();

        let mut log = WorkerLog::open(&log_dir, 3).unwrap();
        log.note_start(7, 4711, LogFormat::Text);
        assert_eq!(log.last_lines(5), Vec::<String>::new());
        log.outputs().unwrap().0.write_all(b"one\ntwo\n\nthree  \n").unwrap();
        assert_eq!(log.last_lines(2), ["two", "three"]);
        assert_eq!(log.last_lines(5), ["one", "two", "three"]);
        let whole = fs::read_to_string(log_dir.join("workerlog.3")).unwrap();
        assert!(whole.starts_with("of an earlier start\n---- 2"), "{whole}");
        assert!(whole.contains("started: epoch 7, pid 4711\none\n"), "{whole}");
    }

    #[test]
    fn a_large_log_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        File::create(folder.path().join("workerlog.0")).unwrap().set_len(LOG_BYTES_MAX + 1).unwrap();
        WorkerLog::open(folder.path(), 0).unwrap();
        assert_eq!(fs::metadata(folder.path().join("workerlog.0")).unwrap().len(), 0);
        assert_eq!(fs::metadata(folder.path().join("workerlog.0.1")).unwrap().len(), LOG_BYTES_MAX + 1);
    }
}
