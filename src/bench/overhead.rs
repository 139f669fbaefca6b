//! `shardwire bench overhead`: what a token costs where nothing is computed. A server on no device streams as fast as it
//! can; beside it, in turns, a bare loop that writes events, the least that any server of streams does.

mod bare;
mod clocks;

use serde_json::{Value, json};

use self::{bare::Bare, clocks::Clocks};
use super::{
    Halt,
    client::Client,
    conditions::Conditions,
    figures::{Figures, Spread, median},
    load::{Ended, Pacing, Run},
    results,
    session::Session,
    table::{aligned, number},
    workload::Workload,
};
use crate::{
    config::{AskingFlags, BenchOverheadFlags, PromptFlags},
    remote::Remote,
};

pub use self::bare::run as run_event_loop;

/// How long a step takes where it is not as short as can be, ms.
const STEP_MS: f64 = 10.0;

/// What the rounds of one of the two came down to.
#[derive(Debug, Clone, PartialEq)]
struct Cost {
    tokens_per_s: f64,
    /// From one piece of a stream to the next, ms.
    gaps: Option<Spread>,
    /// Processor time of the process for a token, µs.
    process_us: f64,
    /// The same of the server's engine and of rank 0 for a step, µs.
    engine_us: f64,
    rank_us: f64,
}

/// Measures; the exit code.
pub fn measure(flags: &BenchOverheadFlags) -> Result<u8, Halt> {
    results::check_writable([flags.asking.json.as_deref(), None])?;
    if flags.asking.server.url.is_some() {
        let why = "no --url: the server that is measured has no device, and this command starts it itself";
        return Err(Halt::Refused(why.into()));
    }
    let Asked { mut session, mut workload, asking, pacing } = Asked::open(flags, 0.0, flags.rounds)?;
    let events = Bare::start().map_err(|error| Halt::Refused(format!("the bare loop can't be started: {error}")))?;
    let client = Remote::new(&events.url, None, None).and_then(|remote| Client::new(&remote)).map_err(Halt::Refused)?;
    let path = format!("/{}", asking.output_len());
    let (mut served, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..flags.rounds {
        let requests = workload.round(pacing.open_max, &session.target);
        let before = Clocks::of_server(&session.target)?;
        let run = session.run(&requests, pacing.clone(), "server".into());
        let figures = figures_of(&mut session, &run)?;
        served.push(Cost::of(&figures, &Clocks::of_server(&session.target)?.since(&before)));
        let before = Clocks::of_process(events.pid())?;
        let run = session.run_at(&client, &path, &requests, pacing.clone(), "bare loop".into());
        let figures = figures_of(&mut session, &run)?;
        bare.push(Cost::of(&figures, &Clocks::of_process(events.pid())?.since(&before)));
    }
    let conditions = Conditions::of(&session.target, &asking.server.serve_words, workload.name);
    drop(session); // and its server: the next one has the cores for itself
    let added = added_ms(flags)?;
    let (served, bare) = (Cost::median(&served), Cost::median(&bare));
    println!("{}\n{}", conditions.text(), table(flags.streams, &served, &bare, added.as_ref()).trim_end());
    if let Some(path) = &asking.json {
        let figures = json!({
            "command": "bench overhead", "conditions": conditions.json(), "streams": flags.streams,
            "rounds": flags.rounds, "server": served.json(), "bare_loop": bare.json(),
            "ratio": served.tokens_per_s / bare.tokens_per_s, "step_ms": STEP_MS, "beyond_step_ms": added,
        });
        results::write(path, &format!("{figures}\n"))?;
    }
    Ok(0)
}

/// A server without a device, warm, and what it is asked.
struct Asked {
    session: Session,
    workload: Workload,
    asking: AskingFlags,
    pacing: Pacing,
}

impl Asked {
    /// One whose steps take so long, for so many rounds.
    fn open(flags: &BenchOverheadFlags, step_ms: f64, rounds: u32) -> Result<Self, Halt> {
        let mut asking = flags.asking.clone();
        let (streams, step_us) = (flags.streams, (step_ms * 1e3) as u64);
        let own = [format!("--max-num-seqs={streams}"), "--device=null".into(), format!("--null-step-us={step_us}")];
        asking.server.serve_words.extend(own.map(Into::into));
        let mut session = Session::open(&asking, streams)?;
        let pacing = Pacing { arrivals: None, open_max: streams as usize };
        let count = pacing.open_max * (rounds as usize + 1);
        let mut workload = Workload::open(&asking, &PromptFlags::FIXED, count, &session.target)?;
        session.warm_up(&workload.round(pacing.open_max, &session.target), pacing.open_max)?;
        Ok(Self { session, workload, asking, pacing })
    }
}

/// What server and link add to a step of [`STEP_MS`], from one token of a stream to the next: ms, less where a late token
/// makes the next one's way shorter.
fn added_ms(flags: &BenchOverheadFlags) -> Result<Option<Spread>, Halt> {
    let Asked { mut session, mut workload, pacing, .. } = Asked::open(flags, STEP_MS, 1)?;
    let requests = workload.round(pacing.open_max, &session.target);
    let run = session.run(&requests, pacing, format!("steps of {STEP_MS} ms"));
    let beyond = |ms: f64| ms - STEP_MS;
    Ok(figures_of(&mut session, &run)?.itl_ms.map(|gaps| Spread {
        mean: beyond(gaps.mean),
        p50: beyond(gaps.p50),
        p90: beyond(gaps.p90),
        p99: beyond(gaps.p99),
        max: beyond(gaps.max),
        count: gaps.count,
    }))
}

/// The figures of a round; a part of one tells nothing.
fn figures_of(session: &mut Session, run: &Run) -> Result<Figures, Halt> {
    let figures = Figures::of(run);
    match (&run.ended, figures.failures.keys().next()) {
        (Ended::Interrupted, _) => Err(Halt::Interrupted),
        (Ended::ServerGone, _) => Err(Halt::Refused(session.obituary())),
        (Ended::Whole, Some(failure)) => Err(Halt::Refused(format!("a stream broke off: {failure}"))),
        (Ended::Whole, None) => Ok(figures),
    }
}

impl Cost {
    /// Of one round, in which so much processor time was taken.
    fn of(figures: &Figures, took: &Clocks) -> Self {
        let tokens = figures.output_tokens.max(1) as f64;
        let steps = took.steps.max(1) as f64;
        Self {
            tokens_per_s: figures.output_tokens_per_s,
            gaps: figures.itl_ms,
            process_us: took.process.as_secs_f64() * 1e6 / tokens,
            engine_us: took.engine.as_secs_f64() * 1e6 / steps,
            rank_us: took.rank.as_secs_f64() * 1e6 / steps,
        }
    }

    fn median(rounds: &[Self]) -> Self {
        let of = |part: fn(&Self) -> f64| median(rounds.iter().map(part).collect()).unwrap_or(0.0);
        Self {
            tokens_per_s: of(|cost| cost.tokens_per_s),
            gaps: Spread::median(&rounds.iter().filter_map(|cost| cost.gaps).collect::<Vec<_>>()),
            process_us: of(|cost| cost.process_us),
            engine_us: of(|cost| cost.engine_us),
            rank_us: of(|cost| cost.rank_us),
        }
    }

    fn json(&self) -> Value {
        json!({
            "tokens_per_s": self.tokens_per_s, "itl_ms": self.gaps, "process_us_per_token": self.process_us,
            "engine_us_per_step": self.engine_us, "rank_us_per_step": self.rank_us,
        })
    }
}

fn table(streams: u32, served: &Cost, bare: &Cost, added: Option<&Spread>) -> String {
    let gap =
        |cost: &Cost, part: fn(&Spread) -> f64| cost.gaps.as_ref().map_or("–".into(), |gaps| number(part(gaps)));
    let both = |what: &str, cell: &dyn Fn(&Cost) -> String| (what.to_owned(), vec![cell(served), cell(bare)]);
    let of_steps = |what: &str, us: f64| (what.to_owned(), vec![number(us), "–".into()]);
    let of_added = |part: &str, ms: Option<f64>| {
        let what = format!("steps of {STEP_MS} ms: from token to token beyond that (ms) {part}");
        (what, vec![ms.map_or("–".into(), number), "–".into()])
    };
    let ratio = served.tokens_per_s / bare.tokens_per_s;
    let rows = [
        (format!("{streams} streams"), vec!["server, no device".into(), "bare loop".into()]),
        both("tokens/s", &|cost| number(cost.tokens_per_s)),
        ("of the loop's".to_owned(), vec![format!("{ratio:.2} ×"), "1".into()]),
        both("from token to token (ms) p50", &|cost| gap(cost, |gaps| gaps.p50)),
        both("from token to token (ms) p99", &|cost| gap(cost, |gaps| gaps.p99)),
        both("processor time of its process, a token (µs)", &|cost| number(cost.process_us)),
        of_steps("of that the engine's, a step (µs)", served.engine_us),
        of_steps("rank 0's, a step (µs)", served.rank_us),
        of_added("p50", added.map(|added| added.p50)),
        of_added("p99", added.map(|added| added.p99)),
    ];
    aligned(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_stands_beside_what_is_least() {
        let gaps = Spread { mean: 1.0, p50: 0.5, p90: 1.0, p99: 2.0, max: 9.0, count: 7 };
        let cost =
            |tokens_per_s| Cost { tokens_per_s, gaps: Some(gaps), process_us: 4.0, engine_us: 21.0, rank_us: 9.0 };
        let table = table(64, &cost(100_000.0), &Cost { gaps: None, ..cost(160_000.0) }, Some(&gaps));
        let line = |start: &str| {
            let line = table.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {table}"));
            line.split_whitespace().rev().take(2).collect::<Vec<_>>()
        };
        assert_eq!(line("tokens/s"), ["160000", "100000"]);
        assert_eq!(line("from token to token (ms) p99"), ["–", "2.00"]);
        assert!(table.contains("0.62 ×"), "{table}");
        assert_eq!(Cost::median(&[cost(1.0), cost(9.0), cost(2.0)]).tokens_per_s, 2.0);
    }
}
