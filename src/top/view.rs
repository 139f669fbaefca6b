//! The screen: the group's line, the ranks' table, what is wrong, how to leave.

use ratatui::{
    Frame,
    layout::{Constraint, Layout},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Paragraph, Row, Table},
};
use workers::ThrottleReason;

use super::{
    Screen,
    plain::summary,
    rows::{TITLES, age, bytes, cells, shown, tokens_per_second},
    source::Sample,
};
use crate::supervisor::{RankReport, ReportedState};

/// Widths of the columns, in characters; zero: what is left.
const WIDTHS: [u16; TITLES.len()] = [4, 15, 8, 8, 9, 11, 8, 10, 13, 7, 28, 0];

/// Draws everything anew.
pub fn draw(frame: &mut Frame, screen: &Screen) {
    let areas = Layout::vertical([Constraint::Length(3), Constraint::Min(0), Constraint::Length(1)]);
    let [head, middle, foot] = areas.areas(frame.area());
    frame.render_widget(Paragraph::new(heading(screen)), head);
    if let Some(sample) = &screen.sample {
        frame.render_widget(table(screen, sample), middle);
    }
    frame.render_widget(Paragraph::new("q leaves").style(Style::new().add_modifier(Modifier::DIM)), foot);
}

fn heading(screen: &Screen) -> Vec<Line<'_>> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let mut title = vec![Span::styled("Shardwire ", bold), Span::raw(&screen.url)];
    if let Some(trouble) = &screen.trouble {
        title.push(Span::styled(format!("  {trouble}"), Style::new().fg(Color::Red)));
    }
    let mut lines = vec![Line::from(title)];
    if let Some(sample) = &screen.sample {
        lines.push(Line::from(format!("{}{}", summary(sample), rates(screen))));
    }
    lines
}

/// What the group computed per second between the last two answers, or how old the last one is.
fn rates(screen: &Screen) -> String {
    let Some(sample) = &screen.sample else { return String::new() };
    if screen.trouble.is_some() {
        return format!("; {} ago", age(sample.at.elapsed()));
    }
    let (Some(earlier), Some(elapsed_s)) = (&screen.earlier, screen.elapsed_s()) else { return String::new() };
    let rate = |before: Option<f64>, now: Option<f64>| match (before, now) {
        (Some(before), Some(now)) if now >= before => format!("{:.0}", (now - before) / elapsed_s),
        _ => "-".to_owned(),
    };
    let (before, now) = (&earlier.counters, &sample.counters);
    let generated = rate(before.generation_tokens, now.generation_tokens);
    let prompt = rate(before.prompt_tokens, now.prompt_tokens);
    format!("; {generated} tokens/s generated, {prompt} prompt tokens/s")
}

fn table<'a>(screen: &Screen, sample: &Sample) -> Table<'a> {
    let ranks = &sample.ranks.ranks;
    let row = |rank: &RankReport| {
        let earlier = screen.earlier.as_ref().zip(screen.elapsed_s());
        let rate = earlier.and_then(|(earlier, elapsed_s)| tokens_per_second(rank.rank, earlier, sample, elapsed_s));
        Row::new(shown(cells(rank, rate), ranks)).style(color(rank))
    };
    let memory: u64 = ranks.iter().map(|rank| rank.rss_bytes).sum();
    let title = Style::new().add_modifier(Modifier::REVERSED);
    let width = |width| if width == 0 { Constraint::Fill(1) } else { Constraint::Length(width) };
    Table::new(ranks.iter().map(row), shown(WIDTHS.map(width), ranks))
        .header(Row::new(shown(TITLES, ranks)).style(title))
        .footer(Row::new(["", "", "", "", "", "", "", &bytes(memory) as &str].map(str::to_owned)))
}

fn color(rank: &RankReport) -> Style {
    let is_hot = rank.gpu.as_ref().and_then(|gpu| gpu.is_throttled(ThrottleReason::Heat)) == Some(true);
    match rank.state {
        ReportedState::Ready if is_hot => Style::new().fg(Color::Yellow),
        ReportedState::Ready => Style::new(),
        ReportedState::Starting | ReportedState::Loading => Style::new().fg(Color::Yellow),
        ReportedState::Stalled | ReportedState::Dead => Style::new().fg(Color::Red),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use ratatui::{Terminal, backend::TestBackend};
    use workers::link::vitals::Phase;

    use super::*;
    use crate::{
        supervisor::{GpuReport, RanksReport},
        top::source::Counters,
    };

    fn sample(at: Instant, tokens_total: u64) -> Sample {
        let ready = RankReport {
            pid: Some(4711),
            state: ReportedState::Ready,
            phase: Phase::Forward,
            step: 99,
            step_time_ms: 12.34,
            rss_bytes: 5 << 20,
            device: "cpu".into(),
            tokens_total,
            kv_blocks_used: 7,
            kv_blocks_total: 64,
            ..RankReport::dead(0)
        };
        let loading =
            RankReport { pid: Some(4712), state: ReportedState::Loading, load_progress: 0.5, ..RankReport::dead(1) };
        let ranks = vec![ready, loading, RankReport::dead(2)];
        let counters =
            Counters { running: Some(3.0), generation_tokens: Some(tokens_total as f64), ..Counters::default() };
        Sample { at, ranks: RanksReport { world_size: 3, epoch: 1, restarts: 1, last_error: None, ranks }, counters }
    }

    fn drawn(screen: &Screen) -> String {
        let mut terminal = Terminal::new(TestBackend::new(130, 9)).unwrap();
        terminal.draw(|frame| draw(frame, screen)).unwrap();
        terminal.backend().to_string()
    }

    fn check(screen: &Screen, expected: &[&str]) {
        let text = drawn(screen);
        expected.iter().for_each(|part| assert!(text.contains(part), "{part:?} is not in\n{text}"));
    }

    fn check_absent(screen: &Screen, unexpected: &str) {
        assert!(!drawn(screen).contains(unexpected), "{unexpected:?} is in\n{}", drawn(screen));
    }

    #[test]
    fn each_rank_has_its_line_and_the_group_its_rates() {
        let mut screen = Screen::new("http://h:1");
        let now = Instant::now();
        screen.take(Ok(sample(now, 100)));
        screen.take(Ok(sample(now + Duration::from_secs(2), 300)));
        check(
            &screen,
            &["Shardwire http://h:1", "3 ranks, epoch 1, 1 restarts; 3 running, - waiting", "100 tokens/s generated"],
        );
        check(
            &screen,
            &["ready", "forward", "4711", "12.3 ms", "5.0 MiB", "7/64", "████░░░░  50 %", "dead", "q leaves"],
        );
    }

    #[test]
    fn a_rank_on_a_gpu_tells_how_it_fares() {
        let mut screen = Screen::new("http://h:1");
        let mut sample = sample(Instant::now(), 1);
        check_absent(&screen, "GPU");
        let gpu = GpuReport { temperature_c: Some(61), power_w: Some(412.3), ..GpuReport::default() };
        sample.ranks.ranks[0].gpu = Some(gpu);
        screen.take(Ok(sample));
        check(&screen, &["MOVED   GPU ", "61°C 412W"]);
    }

    #[test]
    fn a_server_that_is_away_is_told_and_its_last_answer_stays() {
        let mut screen = Screen::new("http://h:1");
        check(&screen, &["asking the server"]);
        screen.take(Err("connection refused".into()));
        check(&screen, &["connection refused"]);
        screen.take(Ok(sample(Instant::now(), 1)));
        screen.take(Err("connection refused".into()));
        check(&screen, &["connection refused", "4711", " ago"]);
    }

    #[test]
    fn a_tiny_terminal_is_no_reason_to_fail() {
        let mut screen = Screen::new("http://h:1");
        screen.take(Ok(sample(Instant::now(), 1)));
        for (width, height) in [(1, 1), (10, 2), (40, 4)] {
            Terminal::new(TestBackend::new(width, height)).unwrap().draw(|frame| draw(frame, &screen)).unwrap();
        }
    }
}
