//! Speculation: several tokens of a sequence in one step, by drafts that the ranks confirm.
//!
//! A text often says again what it said before: names, code that is edited, sources that are summed up. Where a sequence's
//! last tokens stood before ([`Lookup`]), what followed then is *forecast* to follow now, and may travel with its next step
//! as a draft. Ranks compute the draft's rows beside the others and sample at each of its places, by the same numbers as if
//! the tokens before had come one by one; so they keep what is right of it, and no answer depends on what was drafted.
//! (The idea is known as prompt look-up: Saxena 2023, after the copying of Yang et al. 2023, "Inference with Reference".)
//!
//! A row costs time whether its token is right or not, and all sequences wait for it. So it is drafted only where it gives
//! more tokens per second than the step does without it: [`Odds`] knows how often forecasts were right, [`StepCosts`]
//! what rows take. Forecasts are scored whether they were drafted or not. Nothing here knows a clock: how long steps took is
//! told by the loop.

mod costs;
mod lookup;
mod odds;

use workers::link::step::DRAFT_MAX;

pub use self::lookup::Lookup;
use self::{costs::StepCosts, odds::Odds};

/// Longer repetitions are not told apart.
pub const NGRAM_MAX: usize = 16;

/// Steps that go by without a draft, though something was forecast, before one is drafted to see what it costs now.
const TRIAL_INTERVAL: u32 = 64;

/// What a server is told of speculation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Most tokens of a draft: `1..=`[`DRAFT_MAX`].
    pub draft_max: usize,
    /// The fewest last tokens that must have stood before, at least one.
    pub ngram_min: usize,
    /// Of longer repetitions only so many tokens are looked at; at least `ngram_min`, at most [`NGRAM_MAX`].
    pub ngram_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { draft_max: 5, ngram_min: 2, ngram_max: NGRAM_MAX }
    }
}

/// What a sequence's next tokens may be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forecast {
    /// In order.
    pub tokens: Vec<u32>,
    /// How many tokens before them stood before, too.
    pub matched: usize,
}

/// What drafts are worth, by what was seen of them.
#[derive(Debug)]
pub struct Speculation {
    settings: Settings,
    odds: Odds,
    costs: StepCosts,
    /// Steps since the last with a draft in which there could have been one.
    since_draft: u32,
}

/// A step's drafts in the making.
#[derive(Debug)]
pub struct Drafting<'a> {
    speculation: &'a mut Speculation,
    /// Tokens that the step is expected to give.
    tokens: f64,
    /// How long it is expected to take, seconds.
    seconds: f64,
    is_trial: bool,
    /// Whether anything was forecast, and drafted.
    has_forecast: bool,
    has_draft: bool,
}

impl Speculation {
    /// With nothing seen yet.
    pub fn new(settings: Settings) -> Self {
        let settings = Settings { draft_max: settings.draft_max.clamp(1, DRAFT_MAX), ..settings };
        Self { settings, odds: Odds::default(), costs: StepCosts::default(), since_draft: 0 }
    }

    /// As it was told.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// A step that only decoded took so long, with so many rows.
    pub fn took(&mut self, rows: usize, seconds: f64) {
        self.costs.learn(rows, seconds);
    }

    /// What came of a forecast: the tokens that came instead, or as it said.
    pub fn came(&mut self, forecast: &Forecast, tokens: &[u32]) {
        for (place, (forecast_token, token)) in forecast.tokens.iter().zip(tokens).enumerate() {
            let is_right = forecast_token == token;
            self.odds.learn(forecast.matched + place, is_right);
            if !is_right {
                return;
            }
        }
    }

    /// Begins to draft for a step that has so many rows, and gives so many tokens without a draft.
    pub fn draft(&mut self, rows: usize, tokens: usize) -> Drafting<'_> {
        let (tokens, seconds) = (tokens as f64, self.costs.seconds(rows));
        let is_trial = self.since_draft >= TRIAL_INTERVAL;
        Drafting { speculation: self, tokens, seconds, is_trial, has_forecast: false, has_draft: false }
    }
}

impl Drafting<'_> {
    /// How many of a forecast's first `most` tokens are worth their rows.
    pub fn worth(&mut self, forecast: &Forecast, most: usize) -> usize {
        let most = most.min(forecast.tokens.len()).min(self.speculation.settings.draft_max);
        self.has_forecast |= most > 0;
        let row = self.speculation.costs.row_seconds();
        let mut right = 1.0;
        let mut count = 0;
        while count < most {
            right *= self.speculation.odds.of(forecast.matched + count);
            // Tokens per second of the row, and of the step as it is.
            if !self.is_trial && right * self.seconds < row * self.tokens {
                break;
            }
            self.tokens += right;
            self.seconds += row;
            count += 1;
        }
        self.has_draft |= count > 0;
        count
    }
}

impl Drop for Drafting<'_> {
    fn drop(&mut self) {
        if self.has_draft {
            self.speculation.since_draft = 0;
        } else if self.has_forecast {
            self.speculation.since_draft += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forecast(tokens: &[u32]) -> Forecast {
        Forecast { tokens: tokens.to_vec(), matched: 4 }
    }

    /// A step of n rows takes 10 + n.
    fn seen(right: bool) -> Speculation {
        let mut speculation = Speculation::new(Settings::default());
        for round in 0..200 {
            speculation.took(1 + round % 4, 11.0 + (round % 4) as f64);
            speculation.came(&forecast(&[1, 2, 3, 4, 5]), if right { &[1, 2, 3, 4, 5] } else { &[9] });
        }
        speculation
    }

    #[test]
    fn what_is_right_is_drafted_where_rows_are_cheap() {
        let (forecast, all) = (forecast(&[1, 2, 3, 4, 5, 6, 7]), usize::MAX);
        assert_eq!(seen(true).draft(1, 1).worth(&forecast, all), 5);
        assert_eq!(seen(true).draft(1, 1).worth(&forecast, 3), 3);
        assert_eq!(seen(false).draft(1, 1).worth(&forecast, all), 0);
        assert_eq!(Speculation::new(Settings::default()).draft(1, 1).worth(&forecast, all), 5, "nothing is known yet");
    }

    #[test]
    fn what_is_half_right_is_drafted_where_the_step_is_not_full() {
        let mut speculation = seen(true);
        (0..200).for_each(|round| speculation.came(&forecast(&[1]), &[round % 2]));
        // Of n sequences a row gives half a token for 1, and the step as it is n for 10 + n.
        for (sequences, expected) in [(1, true), (8, true), (16, false), (64, false)] {
            let drafted = speculation.draft(sequences, sequences).worth(&forecast(&[1]), 1) > 0;
            assert_eq!(drafted, expected, "beside {sequences} sequences");
        }
    }

    #[test]
    fn now_and_then_something_is_drafted_in_any_case() {
        let mut speculation = seen(false);
        let drafted = |speculation: &mut Speculation| speculation.draft(1, 1).worth(&forecast(&[1, 2]), 2);
        let drafts: Vec<usize> = (0..200).map(|_| drafted(&mut speculation)).collect();
        assert_eq!(drafts.iter().filter(|&&count| count > 0).count(), 3);
    }
}
