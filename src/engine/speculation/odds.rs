//! How often forecasts are right: the more so the longer the repetition that they are made by.

/// Longer repetitions count as this long.
const LENGTH_MAX: usize = 32;

/// How much of what was known a new observation replaces.
const RATE: f64 = 1.0 / 32.0;

/// By the length of what stood before, tokens.
#[derive(Debug)]
pub struct Odds([f64; LENGTH_MAX + 1]);

impl Default for Odds {
    /// Before anything was seen: the longer, the likelier.
    fn default() -> Self {
        Self(std::array::from_fn(|length| 1.0 - 1.0 / (length.max(1) as f64 + 1.0)))
    }
}

impl Odds {
    /// The probability that what followed so many tokens follows them again.
    pub fn of(&self, length: usize) -> f64 {
        self.0[length.min(LENGTH_MAX)]
    }

    /// It did, or it did not.
    pub fn learn(&mut self, length: usize, is_right: bool) {
        let known = &mut self.0[length.min(LENGTH_MAX)];
        *known += RATE * (f64::from(u8::from(is_right)) - *known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odds_follow_what_is_seen() {
        let mut odds = Odds::default();
        assert!(odds.of(2) < odds.of(9) && odds.of(9) < 1.0);
        (0..400).for_each(|time| odds.learn(3, time % 4 == 0));
        (0..200).for_each(|_| odds.learn(usize::MAX, true));
        assert!((0.2..0.3).contains(&odds.of(3)), "{}", odds.of(3));
        assert!(odds.of(LENGTH_MAX) > 0.99);
        assert_eq!(odds.of(4), Odds::default().of(4), "other lengths are not concerned");
    }
}
