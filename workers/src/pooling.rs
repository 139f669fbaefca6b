//! A prompt's hidden states become one vector.

use crate::link::step::Pooling;

/// One sequence's hidden states so far, pooled. Sums are kept in f64 and grow token by token, in the order of the
/// sequence: chunks of any size give the same bits.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    pooling: Pooling,
    /// `[hidden size]`; empty before the first token. Of `Last`, the last token's hidden state itself.
    sum: Vec<f64>,
    /// Tokens in the sum.
    tokens: usize,
}

impl Pool {
    /// Nothing yet.
    pub fn new(pooling: Pooling) -> Self {
        Self { pooling, sum: Vec::new(), tokens: 0 }
    }

    /// How.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Takes the next tokens' hidden states, `[tokens, hidden size]` in `hidden`.
    pub fn add(&mut self, hidden: &[f32], hidden_size: usize) {
        for row in hidden.chunks_exact(hidden_size) {
            if self.pooling == Pooling::Last || self.tokens == 0 {
                self.sum.clear();
                self.sum.resize(hidden_size, 0.0);
                self.tokens = 0;
            }
            self.sum.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
            self.tokens += 1;
        }
    }

    /// The vector, `[hidden size]`.
    pub fn vector(&self) -> Vec<f32> {
        self.sum.iter().map(|sum| (sum / self.tokens.max(1) as f64) as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_and_the_last_do_not_depend_on_chunks() {
        let hidden: Vec<f32> = (0..30).map(|i| (i as f32 * 0.7).sin() * 1e3).collect();
        let pooled = |pooling, tokens_at_once: usize| {
            let mut pool = Pool::new(pooling);
            hidden.chunks(tokens_at_once * 3).for_each(|rows| pool.add(rows, 3));
            pool.vector()
        };
        for pooling in [Pooling::Mean, Pooling::Last] {
            assert!((1..=10).all(|tokens| pooled(pooling, tokens) == pooled(pooling, 10)), "{pooling:?}");
        }
        assert_eq!(pooled(Pooling::Last, 4), hidden[27..]);
        let mean = hidden.iter().step_by(3).map(|&value| f64::from(value)).sum::<f64>() / 10.0;
        assert_eq!(pooled(Pooling::Mean, 4)[0], mean as f32);
    }
}
