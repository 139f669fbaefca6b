//! `shardwire bench serve`: load on a server, level by level.

use super::{
    Halt, conclude,
    conditions::Conditions,
    levels::{self, Plan, Rate},
    plot::plot,
    results,
    session::Session,
    table::{Detail, table},
    workload::Workload,
};
use crate::config::BenchServeFlags;

/// Requests open at once where nothing is said.
const LEVELS: &[u32] = &[1, 4, 16];
/// Requests of a round where nothing is said: for each that is open at once, and at least.
const REQUESTS_PER_OPEN: usize = 4;
const REQUESTS_MIN: usize = 8;
/// Requests of a round that arrive by themselves, where nothing is said.
const REQUESTS_ARRIVING: usize = 32;

/// Measures; the exit code.
pub fn measure(flags: &BenchServeFlags) -> Result<u8, Halt> {
    results::check_writable([flags.asking.json.as_deref(), flags.plot.as_deref()])?;
    let plans = plans(flags);
    let open_max = plans.iter().map(Plan::open_most).max().unwrap_or(1);
    let mut session = Session::open(&flags.asking, open_max)?;
    let warmup = flags.warmup as usize;
    let count = warmup + plans.iter().map(|plan| plan.requests * flags.rounds as usize).sum::<usize>();
    let mut workload = Workload::open(&flags.asking, &flags.prompts, count, &session.target)?;
    let requests = workload.round(warmup, &session.target);
    session.warm_up(&requests, plans[0].open_most() as usize)?;
    let (levels, ended) = levels::measure(&mut session, &mut workload, &plans, flags.rounds, flags.asking.seed);
    let conditions = Conditions::of(&session.target, &flags.asking.server.serve_words, workload.name);
    println!("{}\n{}", conditions.text(), table(&levels, Detail::Full).trim_end());
    if let Some(path) = &flags.asking.json {
        results::write(path, &format!("{}\n", results::of_levels("bench serve", &conditions, &levels, &ended)))?;
    }
    if let Some(path) = &flags.plot {
        results::write(path, &plot(&conditions.title(), &conditions.caption(), &levels))?;
    }
    conclude(&mut session, &levels, &ended)
}

fn plans(flags: &BenchServeFlags) -> Vec<Plan> {
    let rate =
        flags.request_rate.is_finite().then_some(Rate { per_s: flags.request_rate, burstiness: flags.burstiness });
    let bounds: Vec<Option<u32>> = match (flags.max_concurrency.as_slice(), rate) {
        ([], Some(_)) => vec![None],
        ([], None) => LEVELS.iter().copied().map(Some).collect(),
        (bounds, _) => bounds.iter().copied().map(Some).collect(),
    };
    let requests = |open: Option<u32>| match (flags.num_prompts, rate, open) {
        (Some(count), ..) => count as usize,
        (None, None, Some(open)) => (open as usize * REQUESTS_PER_OPEN).max(REQUESTS_MIN),
        (None, ..) => REQUESTS_ARRIVING,
    };
    bounds.into_iter().map(|open_max| Plan { open_max, rate, requests: requests(open_max) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BenchCommand, Command, CommandLine};

    fn planned(words: &str) -> Vec<(Option<u32>, Option<f64>, usize)> {
        let line = format!("shardwire bench serve {words}");
        let line = CommandLine::read(line.split_whitespace().map(Into::into)).unwrap();
        let Command::Bench(flags) = line.command else { panic!("{line:?}") };
        let BenchCommand::Serve(flags) = flags.command else { panic!("another command") };
        plans(&flags).iter().map(|plan| (plan.open_max, plan.rate.map(|rate| rate.per_s), plan.requests)).collect()
    }

    #[test]
    fn levels_are_planned_as_the_flags_say() {
        assert_eq!(planned(""), [(Some(1), None, 8), (Some(4), None, 16), (Some(16), None, 64)]);
        assert_eq!(planned("--max_concurrency 2,32 --num-prompts 5"), [(Some(2), None, 5), (Some(32), None, 5)]);
        assert_eq!(planned("--request-rate 2.5"), [(None, Some(2.5), 32)]);
        assert_eq!(planned("--request-rate 2 --max-concurrency 8"), [(Some(8), Some(2.0), 32)]);
    }
}
