//! What the rows of a step take.
//!
//! How much a further row takes is seen where a step has more rows, or fewer, than the one before it: what both have in
//! common, and what makes the machine slower for a while, falls out. Older steps count less and less.

/// How much less a step counts than the one after it, where a row's time is concerned.
const FADING: f64 = 0.95;

/// How much of the level that was known a new step replaces.
const RATE: f64 = 0.1;

/// A step that takes longer than this many times what was expected was held up by something else.
const OUTLIER: f64 = 3.0;

/// Seconds by rows.
#[derive(Debug, Default)]
pub struct StepCosts {
    /// The last step: rows, seconds.
    last: Option<(f64, f64)>,
    /// Faded sums over steps beside the ones before: squares of rows more or fewer, and products with seconds.
    squares: f64,
    products: f64,
    /// Faded means of rows and seconds.
    rows: f64,
    seconds: f64,
}

impl StepCosts {
    /// A step of so many rows took so long.
    pub fn learn(&mut self, rows: usize, seconds: f64) {
        let seconds = if self.last.is_some() { seconds.min(OUTLIER * self.seconds(rows)) } else { seconds };
        let rows = rows as f64;
        let rate = if self.last.is_some() { RATE } else { 1.0 };
        if let Some((rows_before, seconds_before)) = self.last.replace((rows, seconds))
            && rows_before != rows
        {
            let (more_rows, more_seconds) = (rows - rows_before, seconds - seconds_before);
            self.squares = self.squares * FADING + more_rows * more_rows;
            self.products = self.products * FADING + more_rows * more_seconds;
        }
        self.rows += rate * (rows - self.rows);
        self.seconds += rate * (seconds - self.seconds);
    }

    /// What a further row takes; 0 as long as nothing is known, and never less, as what says so is noise.
    pub fn row_seconds(&self) -> f64 {
        if self.squares > 0.0 { (self.products / self.squares).max(0.0) } else { 0.0 }
    }

    /// What a step of so many rows takes.
    pub fn seconds(&self, rows: usize) -> f64 {
        let (rows, row) = (rows as f64, self.row_seconds());
        (self.seconds + row * (rows - self.rows)).max(row * rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 0.15 * expected, "{found} instead of {expected}");
    }

    #[test]
    fn a_line_is_found() {
        let mut costs = StepCosts::default();
        (0..50).for_each(|round| costs.learn(1 + round % 3, 20.0 + 4.0 * (1 + round % 3) as f64));
        close(costs.row_seconds(), 4.0);
        close(costs.seconds(1), 24.0);
        close(costs.seconds(8), 52.0);
    }

    #[test]
    fn what_changes_is_followed_and_what_does_not_vary_is_remembered() {
        let mut costs = StepCosts::default();
        (0..50).for_each(|round| costs.learn(1 + round % 2, 10.0 + 5.0 * (round % 2) as f64));
        (0..300).for_each(|_| costs.learn(1, 20.0));
        close(costs.seconds(1), 20.0);
        close(costs.row_seconds(), 5.0);
        (0..100).for_each(|round| costs.learn(16 + round % 2, 60.0 + 2.0 * (round % 2) as f64));
        close(costs.row_seconds(), 2.0);
    }

    #[test]
    fn a_step_that_was_held_up_does_not_count_in_full() {
        let mut costs = StepCosts::default();
        (0..50).for_each(|round| costs.learn(1 + round % 2, 10.0 + (round % 2) as f64));
        costs.learn(1, 10_000.0);
        assert!(costs.seconds(1) < 13.0, "{}", costs.seconds(1));
    }
}
