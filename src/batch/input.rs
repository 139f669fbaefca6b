//! The input, read line by line, however long it is.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    sync::Arc,
};

use crossbeam::channel::{Receiver, Sender};

use super::{
    News,
    line::{self, BadLine, Request},
    output::{Earlier, Seen},
    record::DUPLICATE,
};

/// The longest line that is sent, bytes. A server takes bodies of 32 MiB unless it is told otherwise.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// Where lines go.
pub struct Reading {
    /// What an earlier run did.
    pub earlier: Earlier,
    /// Requests to send.
    pub requests: Sender<Request>,
    /// Lines that need no sending.
    pub news: Sender<News>,
    /// Disconnected: no more lines are wanted.
    pub stopped: Arc<Receiver<()>>,
}

impl Reading {
    /// Reads to the end, or until nobody wants more.
    pub fn run(self, input: File) {
        if let Err(error) = self.read(BufReader::with_capacity(1 << 20, input)) {
            let _ = self.news.send(News::InputFailed(error.to_string()));
        }
    }

    fn read(&self, mut input: impl BufRead) -> io::Result<()> {
        let mut seen = Seen::default();
        for number in 1.. {
            let Some(line) = next_line(&mut input)? else { break };
            if line.trim_ascii().is_empty() {
                continue;
            }
            if super::is_stopped(&self.stopped) || !self.take(number, &line, &mut seen) {
                break;
            }
        }
        Ok(())
    }

    /// Whether anybody still listens.
    fn take(&self, number: u64, line: &[u8], seen: &mut Seen) -> bool {
        let news = match read_line(number, line, seen) {
            Ok(request) if self.earlier.has_answered(&request.custom_id) => News::Skipped,
            Ok(request) => return self.requests.send(request).is_ok(),
            Err(bad) if self.earlier.has_record(&bad.id) => News::Skipped,
            Err(bad) => News::Refused(bad),
        };
        self.news.send(news).is_ok()
    }
}

/// A request, unless the line can't be sent or an earlier one has its name.
fn read_line(number: u64, line: &[u8], seen: &mut Seen) -> Result<Request, Box<BadLine>> {
    if line.len() as u64 > LINE_BYTES_MAX {
        let message = format!("line {number}: longer than {} MiB", LINE_BYTES_MAX >> 20);
        return Err(Box::new(BadLine { id: line::record_id(number, b""), custom_id: None, code: "too_long", message }));
    }
    let request = line::parse(number, line)?;
    if seen.is_new(&request.custom_id) {
        return Ok(request);
    }
    let message = format!("line {number}: an earlier line has this `custom_id`");
    Err(Box::new(BadLine { id: request.id, custom_id: Some(request.custom_id), code: DUPLICATE, message }))
}

/// One line without its end; of one that is too long the rest is passed over.
fn next_line(input: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let bound = LINE_BYTES_MAX + 1;
    if input.by_ref().take(bound).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.len() as u64 == bound && !line.ends_with(b"\n") {
        input.skip_until(b'\n')?;
    }
    if line.ends_with(b"\n") {
        line.pop();
    }
    Ok(Some(line))
}

/// How many lines a file has; none where it can be read only once.
pub fn count_lines(path: &std::path::Path) -> Option<u64> {
    let file = File::open(path).ok().filter(|file| file.metadata().is_ok_and(|meta| meta.is_file()))?;
    let (mut reader, mut count, mut ends_open) = (BufReader::with_capacity(1 << 20, file), 0, false);
    loop {
        let chunk = reader.fill_buf().ok()?;
        let Some(last) = chunk.last() else { return Some(count + u64::from(ends_open)) };
        ends_open = *last != b'\n';
        count += chunk.iter().filter(|&&byte| byte == b'\n').count() as u64;
        let length = chunk.len();
        reader.consume(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_counted_alike() {
        for (text, expected) in [("", 0), ("a", 1), ("a\n", 1), ("a\nb", 2), ("a\n\nb\n", 3)] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("in");
            std::fs::write(&path, text).unwrap();
            assert_eq!(count_lines(&path), Some(expected), "{text:?}");
            let mut input = text.as_bytes();
            let lines = std::iter::from_fn(|| next_line(&mut input).unwrap()).count();
            assert_eq!(lines as u64, expected, "{text:?}");
        }
        assert_eq!(count_lines("/dev/null".as_ref()), None);
    }

    #[test]
    fn a_name_is_taken_once() {
        let mut seen = Seen::default();
        let line = br#"{"custom_id": "a", "url": "/v1/completions", "body": {}}"#;
        assert!(read_line(1, line, &mut seen).is_ok());
        let bad = read_line(2, line, &mut seen).unwrap_err();
        assert_eq!((bad.code, bad.custom_id.as_deref()), (DUPLICATE, Some("a")));
    }
}
