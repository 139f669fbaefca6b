//! How far a round is: a bar on a terminal, a line at its end elsewhere.

use std::{
    cell::Cell,
    io::{IsTerminal, stderr},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::{figures::Figures, load::Sample};

/// The progress of one round.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    label: String,
    plain: bool,
    failed: Cell<u64>,
}

impl Progress {
    /// Of a round of so many requests.
    pub fn new(label: String, requests: usize) -> Self {
        let plain = !stderr().is_terminal();
        let bar = if plain { ProgressBar::hidden() } else { ProgressBar::new(requests as u64) };
        let template = "{prefix} {wide_bar} {human_pos}/{human_len}{msg} [{elapsed} < {eta}]";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = bar.with_style(style).with_prefix(label.clone());
        bar.tick();
        Self { bar, label, plain, failed: Cell::new(0) }
    }

    /// One request more has ended.
    pub fn count(&self, sample: &Sample) {
        if sample.outcome.is_err() {
            self.failed.set(self.failed.get() + 1);
            self.bar.set_message(format!(" ({} failed)", self.failed.get()));
        }
        self.bar.inc(1);
    }

    /// The round has ended.
    pub fn finish(&self, figures: &Figures) {
        self.bar.finish_and_clear();
        if self.plain {
            eprintln!(
                "{}: {} ok, {} failed, {:.1} output tokens/s",
                self.label, figures.requests_ok, figures.requests_failed, figures.output_tokens_per_s
            );
        }
    }
}
