//! Line charts beside one another, as an SVG file that needs nothing else.

use std::fmt::Write;

/// Width and height of a panel with its margins, in SVG's units.
const PANEL: (f64, f64) = (380.0, 320.0);
/// Margins around the plotted area: left, right, above, below.
const MARGINS: (f64, f64, f64, f64) = (68.0, 16.0, 56.0, 50.0);
/// Room for the title above all panels and the caption below.
const HEAD: f64 = 34.0;
const FOOT: f64 = 26.0;
/// Blue, vermilion, green, purple: told apart by colour-blind people too (Okabe and Ito).
const COLOURS: &[&str] = &["#0072b2", "#d55e00", "#009e73", "#cc79a7"];
/// Points up to which each one is marked.
const MARKED_POINTS_MAX: usize = 20;
/// Marks on an axis, about.
const TICKS: f64 = 5.0;

/// One chart.
#[derive(Debug, Clone)]
pub struct Panel {
    /// What it shows.
    pub title: String,
    /// What goes to the right, with its unit.
    pub x_label: String,
    /// What goes up, with its unit.
    pub y_label: String,
    /// How what goes to the right is spaced.
    pub x_axis: Axis,
    /// The lines.
    pub lines: Vec<Line>,
}

/// How values are spaced on an axis.
#[derive(Debug, Clone, PartialEq)]
pub enum Axis {
    /// Evenly, from 0.
    Linear,
    /// By their logarithms, with marks at these values only; all are above 0.
    Log(Vec<f64>),
}

/// A line through points.
#[derive(Debug, Clone)]
pub struct Line {
    /// What it is; empty: the panel's title says it.
    pub name: String,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
}

/// The picture.
pub fn draw(title: &str, caption: &str, panels: &[Panel]) -> String {
    let width = PANEL.0 * panels.len().max(1) as f64;
    let height = HEAD + PANEL.1 + FOOT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    text(&mut svg, (14.0, 23.0), "font-size=\"15\" font-weight=\"bold\"", title);
    text(&mut svg, (14.0, height - 10.0), "font-size=\"11\" fill=\"#555555\"", caption);
    for (index, panel) in panels.iter().enumerate() {
        let _ = writeln!(svg, "<g transform=\"translate({},{HEAD})\">", PANEL.0 * index as f64);
        Drawing::of(panel).draw(&mut svg);
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

/// A panel and where its values lie.
struct Drawing<'a> {
    panel: &'a Panel,
    x: Scale,
    y: Scale,
}

impl<'a> Drawing<'a> {
    fn of(panel: &'a Panel) -> Self {
        let largest = |part: fn(&(f64, f64)) -> f64| {
            panel.lines.iter().flat_map(|line| &line.points).map(part).fold(0.0, f64::max)
        };
        let x = match &panel.x_axis {
            Axis::Linear => Scale::linear(largest(|point| point.0), MARGINS.0, PANEL.0 - MARGINS.1),
            Axis::Log(values) => Scale::log(values, MARGINS.0, PANEL.0 - MARGINS.1),
        };
        let y = Scale::linear(largest(|point| point.1), PANEL.1 - MARGINS.3, MARGINS.2);
        Self { panel, x, y }
    }

    fn draw(&self, svg: &mut String) {
        self.axes(svg);
        for (index, line) in self.panel.lines.iter().enumerate() {
            self.line(svg, line, index);
        }
        self.legend(svg);
    }

    fn axes(&self, svg: &mut String) {
        let (left, right, top, bottom) = (MARGINS.0, PANEL.0 - MARGINS.1, MARGINS.2, PANEL.1 - MARGINS.3);
        for &value in &self.y.ticks {
            let y = self.y.place(value);
            let _ = writeln!(svg, "<path d=\"M{left:.1},{y:.1}H{right:.1}\" stroke=\"#e2e2e2\"/>");
            text(svg, (left - 6.0, y + 4.0), "text-anchor=\"end\"", &tick(value));
        }
        for &value in &self.x.ticks {
            let x = self.x.place(value);
            let _ = writeln!(svg, "<path d=\"M{x:.1},{bottom:.1}v4\" stroke=\"#333333\"/>");
            text(svg, (x, bottom + 18.0), "text-anchor=\"middle\"", &tick(value));
        }
        let _ =
            writeln!(svg, "<path d=\"M{left:.1},{top:.1}V{bottom:.1}H{right:.1}\" fill=\"none\" stroke=\"#333333\"/>");
        let middle = (left + right) / 2.0;
        text(svg, (middle, 18.0), "text-anchor=\"middle\" font-size=\"13\" font-weight=\"bold\"", &self.panel.title);
        text(svg, (middle, bottom + 38.0), "text-anchor=\"middle\"", &self.panel.x_label);
        let (x, y) = (16.0, (top + bottom) / 2.0);
        let turned = format!("text-anchor=\"middle\" transform=\"rotate(-90 {x} {y})\"");
        text(svg, (x, y), &turned, &self.panel.y_label);
    }

    fn line(&self, svg: &mut String, line: &Line, index: usize) {
        let places: Vec<(f64, f64)> = line.points.iter().map(|&(x, y)| (self.x.place(x), self.y.place(y))).collect();
        let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let (colour, dashes) = style(index);
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>",
            path.join(" ")
        );
        if places.len() <= MARKED_POINTS_MAX {
            for (x, y) in places {
                let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
            }
        }
    }

    fn legend(&self, svg: &mut String) {
        let named = self.panel.lines.iter().enumerate().filter(|(_, line)| !line.name.is_empty());
        for (index, line) in named {
            let (x, y) = (MARGINS.0 + 8.0 + 90.0 * index as f64, MARGINS.2 - 16.0);
            let (colour, dashes) = style(index);
            let _ = writeln!(svg, "<path d=\"M{x:.1},{y:.1}h24\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>");
            text(svg, (x + 29.0, y + 4.0), "", &line.name);
        }
    }
}

/// Where values lie in the picture.
struct Scale {
    ticks: Vec<f64>,
    /// As the axis counts: the least and the greatest value, or their logarithms.
    range: (f64, f64),
    logarithmic: bool,
    from: f64,
    to: f64,
}

impl Scale {
    fn linear(largest: f64, from: f64, to: f64) -> Self {
        let step = tick_step(largest);
        let count = (largest / step).ceil().max(1.0);
        let ticks = (0..=count as u32).map(|tick| f64::from(tick) * step).collect();
        Self { ticks, range: (0.0, count * step), logarithmic: false, from, to }
    }

    fn log(values: &[f64], from: f64, to: f64) -> Self {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        // Some room at both ends, and a width where there is one value.
        let range = (least.ln() - 0.2, most.ln() + 0.2);
        Self { ticks: values.to_vec(), range, logarithmic: true, from, to }
    }

    fn place(&self, value: f64) -> f64 {
        let value = if self.logarithmic { value.ln() } else { value };
        let share = (value - self.range.0) / (self.range.1 - self.range.0);
        self.from + (self.to - self.from) * share
    }
}

/// 1, 2 or 5 times a power of ten, so that about [`TICKS`] of them reach `largest`.
fn tick_step(largest: f64) -> f64 {
    if !(largest > 0.0 && largest.is_finite()) {
        return 1.0;
    }
    let rough = largest / TICKS;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0].into_iter().find(|step| step * power >= rough * 0.999).unwrap_or(10.0);
    step * power
}

fn tick(value: f64) -> String {
    let text = format!("{value:.3}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A line's colour, and dashes for those who print without colours.
fn style(index: usize) -> (&'static str, &'static str) {
    let dashes = if index.is_multiple_of(2) { "" } else { " stroke-dasharray=\"6 4\"" };
    (COLOURS[index % COLOURS.len()], dashes)
}

fn text(svg: &mut String, (x, y): (f64, f64), attributes: &str, text: &str) {
    let space = if attributes.is_empty() { "" } else { " " };
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\"{space}{attributes}>{}</text>", escaped(text));
}

fn escaped(text: &str) -> String {
    let kept = text.chars().filter(|letter| !letter.is_control());
    kept.fold(String::new(), |mut out, letter| {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            letter => out.push(letter),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_reach_the_largest_value() {
        for (largest, step) in
            [(0.0, 1.0), (4.9, 1.0), (7.3, 2.0), (23.0, 5.0), (100.0, 20.0), (0.031, 0.01), (1e6, 2e5)]
        {
            let found = tick_step(largest);
            assert!((found / step - 1.0).abs() < 1e-9, "{largest}: {found}");
        }
        let scale = Scale::linear(7.3, 100.0, 0.0);
        assert_eq!(scale.ticks, [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!((scale.place(0.0), scale.place(8.0)), (100.0, 0.0));
        assert_eq!((tick(0.25), tick(20.0), tick(0.0)), ("0.25".into(), "20".into(), "0".into()));
    }

    #[test]
    fn points_stay_inside_the_picture_and_texts_are_escaped() {
        let line = |name: &str, points: &[(f64, f64)]| Line { name: name.into(), points: points.to_vec() };
        let panel = Panel {
            title: "a < b".into(),
            x_label: "x".into(),
            y_label: "y & z".into(),
            x_axis: Axis::Log(vec![1.0, 4.0, 16.0]),
            lines: vec![line("p50", &[(1.0, 3.0), (4.0, 50.0), (16.0, 9.0)]), line("none", &[])],
        };
        let svg = draw("t\u{7}", "c", &[panel.clone(), Panel { x_axis: Axis::Linear, ..panel }]);
        assert!(svg.contains("a &lt; b") && svg.contains("y &amp; z") && !svg.contains('\u{7}'), "{svg}");
        assert_eq!(svg.matches("<g ").count(), svg.matches("</g>").count());
        for circle in svg.lines().filter(|line| line.starts_with("<circle")) {
            let number =
                |name: &str| circle.split(&format!("{name}=\"")).nth(1)?.split('"').next()?.parse::<f64>().ok();
            let (x, y) = (number("cx").unwrap(), number("cy").unwrap());
            assert!((MARGINS.0..=PANEL.0 - MARGINS.1).contains(&x), "{circle}");
            assert!((MARGINS.2..=PANEL.1 - MARGINS.3).contains(&y), "{circle}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn a_single_point_and_no_point_can_be_drawn() {
        for points in [vec![], vec![(1.0, 0.0)]] {
            let lines = vec![Line { name: String::new(), points }];
            let axes = [Axis::Linear, Axis::Log(vec![1.0])];
            let panels = axes.map(|x_axis| Panel {
                title: String::new(),
                x_label: String::new(),
                y_label: String::new(),
                x_axis,
                lines: lines.clone(),
            });
            let svg = draw("", "", &panels);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
