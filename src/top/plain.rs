//! The view as plain text, for pipes and logs.

use super::{
    rows::{TITLES, cells, shown},
    source::Sample,
};

/// A line about the group, and a table of its ranks.
pub fn table(sample: &Sample) -> String {
    let ranks = &sample.ranks.ranks;
    let rows = [TITLES.map(str::to_owned)].into_iter().chain(ranks.iter().map(|rank| cells(rank, None)));
    let lines: Vec<Vec<_>> = rows.map(|row| shown(row, ranks).collect()).collect();
    let width = |column: usize| lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..lines[0].len()).map(width).collect();

    let mut text = summary(sample) + "\n";
    for cells in &lines {
        let padded = cells.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        text += padded.collect::<Vec<_>>().join("  ").trim_end();
        text += "\n";
    }
    text
}

/// The group in one line.
pub fn summary(sample: &Sample) -> String {
    let count = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
    let (ranks, counters) = (&sample.ranks, &sample.counters);
    let kv_usage = counters.kv_usage.map_or("-".to_owned(), |share| format!("{:.0} %", share * 100.0));
    format!(
        "{} ranks, epoch {}, {} restarts; {} running, {} waiting, KV cache {kv_usage}",
        ranks.world_size,
        ranks.epoch,
        ranks.restarts,
        count(counters.running),
        count(counters.waiting),
    )
}
