//! How far a download is: bars on a terminal (all of it, and each file on its way), else a line now and then.

use std::{
    io::{self, IsTerminal},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::listing::HubFile;

/// Time between two lines.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Characters of a file's name beside its bar.
const NAME_WIDTH: usize = 40;

/// The progress of one download.
pub struct Progress {
    what: String,
    bytes_total: u64,
    bytes_done: AtomicU64,
    shown: Shown,
}

enum Shown {
    Bars { all: MultiProgress, total: ProgressBar },
    Lines { told_at: Mutex<Instant> },
}

/// The progress of one file in it.
pub struct FileProgress<'a> {
    all: &'a Progress,
    bar: Option<ProgressBar>,
    bytes: AtomicU64,
}

impl Progress {
    /// Of a download of so many files and bytes, what earlier downloads left included.
    pub fn new(what: &str, files: usize, bytes_total: u64, into: &str) -> Self {
        let plural = if files == 1 { "file" } else { "files" };
        eprintln!("Fetching {what}: {files} {plural}, {}, into {into}.", size(bytes_total));
        let shown = if io::stderr().is_terminal() {
            let all = MultiProgress::new();
            let total = all.add(bar(
                bytes_total,
                "{msg:40} {bar:24} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}",
            ));
            total.set_message(shortened(what));
            Shown::Bars { all, total }
        } else {
            Shown::Lines { told_at: Mutex::new(Instant::now()) }
        };
        Self { what: what.to_owned(), bytes_total, bytes_done: AtomicU64::new(0), shown }
    }

    /// A file begins, `bytes` of which are there already.
    pub fn file(&self, file: &HubFile, bytes: u64) -> FileProgress<'_> {
        let bar = match &self.shown {
            Shown::Bars { all, .. } => {
                let bar = all.add(bar(file.bytes, "{msg:40} {bar:24} {decimal_bytes}/{decimal_total_bytes}"));
                bar.set_message(shortened(&file.name));
                Some(bar)
            }
            Shown::Lines { .. } => None,
        };
        let progress = FileProgress { all: self, bar, bytes: AtomicU64::new(0) };
        progress.at(bytes);
        progress
    }

    /// A line that people should see.
    pub fn say(&self, line: &str) {
        match &self.shown {
            Shown::Bars { all, .. } => drop(all.println(line)),
            Shown::Lines { .. } => eprintln!("{line}"),
        }
    }

    /// No more comes: all of it is there, or something went wrong.
    pub fn end(&self, complete: bool) {
        if let Shown::Bars { all, total } = &self.shown {
            total.finish_and_clear();
            // What can't be wiped off stays.
            let _ = all.clear();
        }
        if complete {
            eprintln!("Fetching {}: complete.", self.what);
        }
    }

    fn add(&self, grown: u64) {
        let done = self.bytes_done.fetch_add(grown, Ordering::Relaxed).wrapping_add(grown);
        match &self.shown {
            Shown::Bars { total, .. } => total.set_position(done),
            Shown::Lines { told_at } => {
                let mut told_at = told_at.lock().unwrap_or_else(PoisonError::into_inner);
                if told_at.elapsed() >= LINE_EVERY {
                    *told_at = Instant::now();
                    let percent = done.saturating_mul(100) / self.bytes_total.max(1);
                    eprintln!("Fetching {}: {} of {} ({percent} %).", self.what, size(done), size(self.bytes_total));
                }
            }
        }
    }
}

impl FileProgress<'_> {
    /// So many bytes are there; fewer than before where a download has to begin anew.
    pub fn at(&self, bytes: u64) {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        // Modulo 2⁶⁴, so that a step back is one, too.
        self.all.add(bytes.wrapping_sub(before));
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
        }
    }

    /// It is there, checked and named.
    pub fn end(self) {
        if let (Some(bar), Shown::Bars { all, .. }) = (&self.bar, &self.all.shown) {
            bar.finish_and_clear();
            all.remove(bar);
        }
    }
}

fn bar(bytes: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(bytes).with_style(style)
}

/// The end of a name says more than its beginning.
fn shortened(name: &str) -> String {
    let count = name.chars().count();
    if count <= NAME_WIDTH {
        return name.to_owned();
    }
    format!("…{}", name.chars().skip(count + 1 - NAME_WIDTH).collect::<String>())
}

/// Bytes for people, in powers of 1000 as disks and the hub count.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..100_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_for_people() {
        for (bytes, text) in [(0, "0.0 kB"), (1234, "1.2 kB"), (45_600_000, "45.6 MB"), (12_345_678_901, "12.3 GB")] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn names_keep_their_ends() {
        assert_eq!(shortened("model.safetensors"), "model.safetensors");
        let long = shortened(&format!("{}-00001-of-00002.gguf", "x".repeat(80)));
        assert!(long.chars().count() == NAME_WIDTH && long.ends_with("x-00001-of-00002.gguf"), "{long}");
    }
}
