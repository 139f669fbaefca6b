//! Several levels of load, one after the other, each in some rounds.

use super::{
    arrivals::arrivals,
    figures::Figures,
    load::{Ended, Pacing, Sample},
    session::Session,
    workload::Workload,
};

/// A level that is to be measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// Requests open at once at most; none: no bound.
    pub open_max: Option<u32>,
    /// Arrivals; none: each time when there is room.
    pub rate: Option<Rate>,
    /// Requests of a round.
    pub requests: usize,
}

/// How requests arrive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// In the mean.
    pub per_s: f64,
    /// 1: a Poisson process.
    pub burstiness: f64,
}

/// What a level brought.
#[derive(Debug)]
pub struct Level {
    /// As it was planned.
    pub plan: Plan,
    /// Its rounds: the figures, and what they are made of.
    pub rounds: Vec<(Figures, Vec<Sample>)>,
    /// Of all rounds.
    pub figures: Figures,
}

impl Plan {
    /// For the head of a column.
    pub fn name(&self) -> String {
        match (self.rate, self.open_max) {
            (Some(rate), None) => format!("{}/s", rate.per_s),
            (Some(rate), Some(open)) => format!("{}/s, ≤ {open}", rate.per_s),
            (None, Some(open)) => open.to_string(),
            (None, None) => "all".into(),
        }
    }

    /// Requests that can be open at once.
    pub fn open_most(&self) -> u32 {
        let requests = u32::try_from(self.requests).unwrap_or(u32::MAX);
        self.open_max.map_or(requests, |open| open.min(requests))
    }

    fn pacing(&self, seed: u64) -> Pacing {
        let arrivals = self.rate.map(|rate| arrivals(self.requests, rate.per_s, rate.burstiness, seed));
        Pacing { arrivals, open_max: self.open_max.map_or(usize::MAX, |open| open as usize) }
    }
}

/// Measures the levels, until something ends it: what there is, and how it ended.
pub fn measure(
    session: &mut Session,
    workload: &mut Workload,
    plans: &[Plan],
    rounds: u32,
    seed: u64,
) -> (Vec<Level>, Ended) {
    let mut levels = Vec::new();
    for plan in plans {
        let mut done = Vec::new();
        let mut ended = Ended::Whole;
        for round in 0..rounds {
            let of = if rounds > 1 { format!(", round {} of {rounds}", round + 1) } else { String::new() };
            let label = match plan.rate {
                Some(_) => format!("rate {}{of}", plan.name()),
                None => format!("concurrency {}{of}", plan.name()),
            };
            let requests = workload.round(plan.requests, &session.target);
            let run = session.run(&requests, plan.pacing(seed.wrapping_add(u64::from(round))), label);
            done.push((Figures::of(&run), run.samples));
            ended = run.ended;
            if ended != Ended::Whole {
                break;
            }
        }
        let of_rounds: Vec<Figures> = done.iter().map(|(figures, _)| figures.clone()).collect();
        if let Some(figures) = Figures::median(&of_rounds) {
            levels.push(Level { plan: *plan, rounds: done, figures });
        }
        if ended != Ended::Whole {
            return (levels, ended);
        }
    }
    (levels, Ended::Whole)
}
