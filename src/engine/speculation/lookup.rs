//! Where a sequence's last tokens stood before.
//!
//! Occurrences of the same few tokens are chained, the newest first, as compressors find matches (Ziv & Lempel 1977; hash
//! chains as in RFC 1951, section 4).

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::{Forecast, Settings};

/// Tokens taken in by one call: a long prompt shall not hold up the step that others wait for.
const INDEXED_MAX: usize = 4096;

/// Occurrences that are compared, the newest.
const COMPARED_MAX: usize = 32;

/// Of one sequence. Occurrences are named by how many tokens end with them.
#[derive(Debug, Default)]
pub struct Lookup {
    /// The newest occurrence of these few tokens, by their hash.
    newest: HashMap<u64, u32>,
    /// Of each place, from the first that has enough tokens before it, the occurrence before; 0 where there is none.
    older: Vec<u32>,
}

impl Lookup {
    /// What may follow `tokens`, which begin with those of the last call: at most `settings.draft_max` tokens. None where
    /// nothing like it stood before, or where that is not known yet.
    pub fn forecast(&mut self, tokens: &[u32], settings: Settings) -> Forecast {
        let fewest = settings.ngram_min.max(1);
        self.take_in(tokens, fewest);
        if tokens.len() < fewest || self.older.len() + fewest < tokens.len() {
            return Forecast::default();
        }
        let mut best = Forecast::default();
        let mut end = self.newest.get(&hash(&tokens[tokens.len() - fewest..])).copied().unwrap_or(0) as usize;
        let mut found = 0;
        for _ in 0..COMPARED_MAX {
            if end == 0 || best.matched >= settings.ngram_max {
                break;
            }
            let matched = alike(&tokens[..end], tokens, settings.ngram_max);
            if matched >= fewest && matched > best.matched {
                (best.matched, found) = (matched, end);
            }
            end = self.older[end - fewest] as usize;
        }
        if found > 0 {
            // What repeats itself up to the last token goes on repeating itself.
            let period = tokens.len() - found;
            best.tokens = (0..settings.draft_max).map(|place| tokens[found + place % period]).collect();
        }
        best
    }

    fn take_in(&mut self, tokens: &[u32], fewest: usize) {
        let first = fewest + self.older.len();
        for end in (first..tokens.len()).take(INDEXED_MAX) {
            let before = self.newest.insert(hash(&tokens[end - fewest..end]), end as u32);
            self.older.push(before.unwrap_or(0));
        }
    }
}

fn hash(tokens: &[u32]) -> u64 {
    let mut hasher = DefaultHasher::new();
    tokens.hash(&mut hasher);
    hasher.finish()
}

/// How many last tokens of both are the same, `most` at most.
fn alike(one: &[u32], other: &[u32], most: usize) -> usize {
    one.iter().rev().zip(other.iter().rev()).take(most).take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const SETTINGS: Settings = Settings { draft_max: 3, ngram_min: 2, ngram_max: 4 };

    fn check(tokens: &[u32], matched: usize, expected: &[u32]) {
        let forecast = Lookup::default().forecast(tokens, SETTINGS);
        assert_eq!((forecast.matched, &forecast.tokens[..]), (matched, expected), "{tokens:?}");
    }

    #[test]
    fn what_followed_before_is_forecast() {
        check(&[], 0, &[]);
        check(&[1, 2], 0, &[]);
        check(&[1, 2, 3, 4, 5, 1, 2], 2, &[3, 4, 5]);
        check(&[1, 2, 3, 9, 1, 2], 2, &[3, 9, 1]);
        check(&[1, 2, 3, 1, 2, 4, 1, 2], 2, &[4, 1, 2]); // the newest of two that are as long
        check(&[7, 1, 2, 3, 8, 1, 2, 4, 7, 1, 2], 3, &[3, 8, 1]); // the longer of two
        check(&[5, 6, 5, 6, 5], 3, &[6, 5, 6]); // what repeats itself
        check(&[8, 8, 8, 8, 8, 8, 8], 4, &[8, 8, 8]);
    }

    #[test]
    fn a_long_prompt_is_taken_in_bit_by_bit() {
        let tokens: Vec<u32> = (0..2 * INDEXED_MAX as u32).chain([10, 11]).collect();
        let mut lookup = Lookup::default();
        assert_eq!(lookup.forecast(&tokens, SETTINGS), Forecast::default());
        assert_eq!(lookup.forecast(&tokens, SETTINGS), Forecast { tokens: vec![12, 13, 14], matched: 2 });
    }

    /// The longest occurrence that is the newest, by looking everywhere.
    fn plainly(tokens: &[u32]) -> Option<(usize, u32)> {
        let ends = (SETTINGS.ngram_min..tokens.len()).rev();
        let found = ends.map(|end| (alike(&tokens[..end], tokens, SETTINGS.ngram_max), end));
        let long_enough = found.filter(|(matched, _)| *matched >= SETTINGS.ngram_min);
        let best = long_enough.max_by_key(|&(matched, end)| (matched, end))?;
        Some((best.0, tokens[best.1]))
    }

    proptest! {
        #[test]
        fn growing_sequences_are_found_as_by_looking_everywhere(tokens in vec(0u32..3, 0..30)) {
            let mut lookup = Lookup::default();
            for length in 0..=tokens.len() {
                let forecast = lookup.forecast(&tokens[..length], SETTINGS);
                let first = forecast.tokens.first().map(|&token| (forecast.matched, token));
                prop_assert_eq!(first, plainly(&tokens[..length]));
            }
        }
    }
}
