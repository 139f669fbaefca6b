//! Figures for people: a row for each quantity, a column for each level.

use std::collections::BTreeMap;

use super::{
    figures::{Figures, Spread},
    levels::Level,
};

/// Which quantities are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// All.
    Full,
    /// Those that make sense where all requests come at once.
    Throughput,
}

/// The table, what failed below it, and what has to be known to read it.
pub fn table(levels: &[Level], detail: Detail) -> String {
    let heads: Vec<String> = levels.iter().map(|level| level.plan.name()).collect();
    let head = match levels.first().is_some_and(|level| level.plan.rate.is_some()) {
        true => "request rate",
        false => "concurrency",
    };
    let figures: Vec<&Figures> = levels.iter().map(|level| &level.figures).collect();
    let mut rows = vec![(head.to_owned(), heads)];
    let mut row = |name: &str, cell: &dyn Fn(&Figures) -> String| {
        rows.push((name.to_owned(), figures.iter().map(|figures| cell(figures)).collect()));
    };
    row("requests ok", &|figures| figures.requests_ok.to_string());
    row("requests failed", &|figures| figures.requests_failed.to_string());
    row("duration (s)", &|figures| number(figures.duration_s));
    row("requests/s", &|figures| number(figures.requests_per_s));
    row("input tokens/s", &|figures| number(figures.input_tokens_per_s));
    row("output tokens/s", &|figures| number(figures.output_tokens_per_s));
    row("total tokens/s", &|figures| number(figures.total_tokens_per_s));
    for (name, times) in times(detail) {
        for (part, of) in PARTS {
            row(&format!("{name:<10} {part}"), &|figures| {
                times(figures).map_or("–".into(), |spread| number(of(&spread)))
            });
        }
    }
    row("client's CPU (cores)", &|figures| format!("{:.2}", figures.client_cpu_share));
    format!("{}{}", aligned(&rows), notes(&figures))
}

type Times = fn(&Figures) -> Option<Spread>;

fn times(detail: Detail) -> &'static [(&'static str, Times)] {
    const ALL: &[(&str, Times)] = &[
        ("E2E (ms)", |figures| figures.e2e_ms),
        ("TTFT (ms)", |figures| figures.ttft_ms),
        ("TPOT (ms)", |figures| figures.tpot_ms),
        ("ITL (ms)", |figures| figures.itl_ms),
    ];
    match detail {
        Detail::Full => ALL,
        Detail::Throughput => &ALL[..1],
    }
}

/// One number of a spread.
pub type Part = fn(&Spread) -> f64;

/// The numbers of a spread that are told.
pub const PARTS: &[(&str, Part)] = &[
    ("mean", |spread| spread.mean),
    ("p50", |spread| spread.p50),
    ("p90", |spread| spread.p90),
    ("p99", |spread| spread.p99),
    ("max", |spread| spread.max),
];

/// Three digits or more, as many as can be read.
pub fn number(value: f64) -> String {
    let decimals = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

/// Rows with their first cells to the left and the others to the right.
pub fn aligned(rows: &[(String, Vec<String>)]) -> String {
    let width = |text: &str| text.chars().count();
    let columns = rows.iter().map(|(_, cells)| cells.len()).max().unwrap_or(0);
    let name_width = rows.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
    let cells = |column: usize| rows.iter().filter_map(move |(_, cells)| cells.get(column));
    let widths: Vec<usize> =
        (0..columns).map(|column| cells(column).map(|cell| width(cell)).max().unwrap_or(0)).collect();
    let line = |(name, cells): &(String, Vec<String>)| {
        let cells: String = cells.iter().zip(&widths).map(|(cell, &width)| format!("  {cell:>width$}")).collect();
        format!("{name:<name_width$}{cells}\n")
    };
    rows.iter().map(line).collect()
}

fn notes(figures: &[&Figures]) -> String {
    let mut failures: BTreeMap<&str, u64> = BTreeMap::new();
    for (why, count) in figures.iter().flat_map(|figures| &figures.failures) {
        *failures.entry(why).or_insert(0) += count;
    }
    let mut notes: String = failures.iter().map(|(why, count)| format!("failed: {count} × {why}\n")).collect();
    let without: u64 = figures.iter().map(|figures| figures.requests_without_usage).sum();
    if without > 0 {
        notes.push_str(&format!(
            "note: the server told no usage for {without} requests; their pieces are counted as tokens, their prompts as asked\n"
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_characters() {
        let row = |name: &str, cells: &[&str]| (name.to_owned(), cells.iter().map(|&cell| cell.to_owned()).collect());
        let rows = [row("a", &["1", "–"]), row("long", &["100", "22"])];
        assert_eq!(aligned(&rows), "a       1   –\nlong  100  22\n");
    }

    #[test]
    fn numbers_have_the_digits_that_matter() {
        for (value, expected) in [(1234.56, "1235"), (99.94, "99.9"), (0.0, "0.00"), (2.3456, "2.35")] {
            assert_eq!(number(value), expected);
        }
    }
}
