//! What a picture of a measurement shows: throughput and times over the levels, or the distributions of a single one.

mod svg;

use self::svg::{Axis, Line, Panel, draw};
use super::{
    answer::Answer,
    figures::{Figures, Spread, ms},
    levels::Level,
};

/// Points of a distribution's line at most: more than the picture has dots makes it large and no better.
const POINTS_MAX: usize = 400;

/// The picture, SVG. `title` and `caption` are a line each.
pub fn plot(title: &str, caption: &str, levels: &[Level]) -> String {
    match levels {
        [level] => draw(title, caption, &distributions(level)),
        levels => draw(title, caption, &over_levels(levels)),
    }
}

fn over_levels(levels: &[Level]) -> [Panel; 3] {
    let loads: Vec<f64> = levels.iter().map(|level| f64::from(level.plan.open_max.unwrap_or(1))).collect();
    let panel = |title: &str, unit: &str, lines| Panel {
        title: title.into(),
        x_label: "requests open at once".into(),
        y_label: unit.into(),
        x_axis: Axis::Log(loads.clone()),
        lines,
    };
    let line = |name: &str, of: &dyn Fn(&Figures) -> Option<f64>| {
        let points = loads.iter().zip(levels).filter_map(|(&load, level)| Some((load, of(&level.figures)?)));
        Line { name: name.into(), points: points.collect() }
    };
    let times = |of: fn(&Figures) -> Option<Spread>| {
        vec![
            line("p50", &|figures| of(figures).map(|spread| spread.p50)),
            line("p99", &|figures| of(figures).map(|spread| spread.p99)),
        ]
    };
    [
        panel("Throughput", "output tokens/s", vec![line("", &|figures| Some(figures.output_tokens_per_s))]),
        panel("Time to first token", "ms", times(|figures| figures.ttft_ms)),
        panel("Inter-token latency", "ms", times(|figures| figures.itl_ms)),
    ]
}

fn distributions(level: &Level) -> [Panel; 3] {
    let answers: Vec<&Answer> = level
        .rounds
        .iter()
        .flat_map(|(_, samples)| samples)
        .filter_map(|sample| sample.outcome.as_ref().ok())
        .collect();
    let panel = |title: &str, values: Vec<f64>| Panel {
        title: title.into(),
        x_label: "ms".into(),
        y_label: "% of all are shorter".into(),
        x_axis: Axis::Linear,
        lines: vec![Line { name: String::new(), points: cumulated(values) }],
    };
    [
        panel("Time to first token", answers.iter().map(|answer| ms(answer.first)).collect()),
        panel("Inter-token latency", answers.iter().flat_map(|answer| &answer.gaps).map(|&gap| ms(gap)).collect()),
        panel("Whole answer", answers.iter().map(|answer| ms(answer.end)).collect()),
    ]
}

/// Each value with the percentage of those that are not larger.
fn cumulated(mut values: Vec<f64>) -> Vec<(f64, f64)> {
    values.sort_by(f64::total_cmp);
    let count = values.len();
    let percent = |index: usize| 100.0 * (index + 1) as f64 / count as f64;
    let step = count.div_ceil(POINTS_MAX).max(1);
    let chosen = (0..count).filter(|index| index % step == 0 || index + 1 == count);
    chosen.map(|index| (values[index], percent(index))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_rise_to_all() {
        assert_eq!(cumulated(vec![3.0, 1.0]), [(1.0, 50.0), (3.0, 100.0)]);
        assert_eq!(cumulated(Vec::new()), []);
        let many = cumulated((0..10_001).map(f64::from).collect());
        assert!(many.len() <= POINTS_MAX + 1 && many.last() == Some(&(10_000.0, 100.0)), "{}", many.len());
        assert!(many.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1));
    }
}
