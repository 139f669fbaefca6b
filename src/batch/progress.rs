//! How far a batch is: a bar on a terminal, a line now and then elsewhere, and the sum at the end.

use std::{
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::record::Record;

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// What was done, counted as it happens.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    plain: bool,
    start: Instant,
    last_line: Instant,
    total: Option<u64>,
    /// What happened so far.
    pub sum: Sum,
}

/// What happened to the lines of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// Lines with an answer of this run.
    pub answered: u64,
    /// Lines with an error of this run.
    pub failed: u64,
    /// Lines whose record an earlier run wrote.
    pub skipped: u64,
    /// Tokens that answers were charged for.
    pub prompt_tokens: u64,
    /// Tokens of the answers.
    pub completion_tokens: u64,
}

impl Progress {
    /// Of a batch of so many lines, where that is known.
    pub fn new(total: Option<u64>) -> Self {
        let plain = !stderr().is_terminal();
        let bar = match (plain, total) {
            (true, _) => ProgressBar::hidden(),
            (false, Some(total)) => ProgressBar::new(total),
            (false, None) => ProgressBar::no_length(),
        };
        let template = "{wide_bar} {human_pos}/{human_len} {msg} [{elapsed} < {eta}]";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let now = Instant::now();
        Self { bar: bar.with_style(style), plain, start: now, last_line: now, total, sum: Sum::default() }
    }

    /// One line more has its record.
    pub fn count(&mut self, record: &Record) {
        match record.failed() {
            true => self.sum.failed += 1,
            false => self.sum.answered += 1,
        }
        let usage = |names: [&str; 2]| {
            let usage = record.response.as_ref().map(|response| &response.body["usage"]);
            names.iter().find_map(|name| usage?.get(name)?.as_u64()).unwrap_or(0)
        };
        // /v1/responses has names of its own.
        self.sum.prompt_tokens += usage(["prompt_tokens", "input_tokens"]);
        self.sum.completion_tokens += usage(["completion_tokens", "output_tokens"]);
        self.tell();
    }

    /// One line more had its record before.
    pub fn skip(&mut self) {
        self.sum.skipped += 1;
        self.tell();
    }

    /// A sentence beside the bar.
    pub fn say(&self, text: &str) {
        match self.plain {
            true => eprintln!("{text}"),
            false => self.bar.println(text),
        }
    }

    /// Takes the bar away; the sum as one line.
    pub fn finish(&self) -> String {
        self.bar.finish_and_clear();
        self.sum.line(self.start.elapsed())
    }

    fn tell(&mut self) {
        self.bar.set_position(self.sum.lines());
        self.bar.set_message(if self.sum.failed == 0 {
            String::new()
        } else {
            format!("({} failed)", self.sum.failed)
        });
        if self.plain && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let total = self.total.map_or_else(String::new, |total| format!(" of {total}"));
            eprintln!(
                "{}{total} lines, {} failed, {:.0} s",
                self.sum.lines(),
                self.sum.failed,
                self.start.elapsed().as_secs_f64()
            );
        }
    }
}

impl Sum {
    /// Lines that are done.
    pub fn lines(&self) -> u64 {
        self.answered + self.failed + self.skipped
    }

    fn line(&self, elapsed: Duration) -> String {
        let seconds = elapsed.as_secs_f64();
        let skipped = match self.skipped {
            0 => String::new(),
            skipped => format!(", {skipped} done before"),
        };
        format!(
            "{} lines: {} answered, {} failed{skipped}; {} prompt tokens, {} completion tokens in {seconds:.1} s ({:.1} tokens/s)",
            self.lines(),
            self.answered,
            self.failed,
            self.prompt_tokens,
            self.completion_tokens,
            self.completion_tokens as f64 / seconds.max(0.001),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_one_line() {
        let sum = Sum { answered: 3, failed: 1, skipped: 0, prompt_tokens: 10, completion_tokens: 20 };
        let expected = "4 lines: 3 answered, 1 failed; 10 prompt tokens, 20 completion tokens in 2.0 s (10.0 tokens/s)";
        assert_eq!(sum.line(Duration::from_secs(2)), expected);
        let resumed = Sum { skipped: 5, ..sum }.line(Duration::ZERO);
        assert!(resumed.starts_with("9 lines: 3 answered, 1 failed, 5 done before; "), "{resumed}");
    }
}
