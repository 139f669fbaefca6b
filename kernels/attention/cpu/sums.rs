//! The softmax of a query, in the making: sums over some of its positions, which further positions join.

use std::f32::consts::LOG2_E;

/// Softmax-weighted sums of values in the making, one per query.
pub(super) struct Sums<'a> {
    /// `[queries][padded value dim]`: Σ 2^(score − best) · value.
    pub(super) values: &'a mut [f32],
    /// The best score so far; scores are in units of ln 2.
    pub(super) best: &'a mut [f32],
    /// Σ 2^(score − best).
    pub(super) total: &'a mut [f32],
}

impl<'a> Sums<'a> {
    pub(super) fn new(floats: &'a mut [f32], queries: usize) -> Self {
        let (values, rest) = floats.split_at_mut(floats.len() - 2 * queries);
        let (best, total) = rest.split_at_mut(queries);
        Self { values, best, total }
    }

    pub(super) fn reset(&mut self) {
        self.values.fill(0.0);
        self.best.fill(f32::NEG_INFINITY);
        self.total.fill(0.0);
    }

    /// What a query's sum of values is to be divided by: its total, and a sink's share in the softmax.
    pub(super) fn share(&self, query: usize, sink: Option<f32>) -> f32 {
        let (total, best) = (self.total[query], self.best[query]);
        // A sink far above the best score takes all: infinity, and nothing is left for the values.
        total + sink.map_or(0.0, |sink| (sink * LOG2_E - best).exp2())
    }

    /// Adds the sums over further positions. Queries that see none of those stay as they are.
    pub(super) fn merge(&mut self, next: &Sums) {
        let dim = self.values.len() / self.best.len().max(1);
        for query in 0..self.best.len() {
            if next.best[query] == f32::NEG_INFINITY {
                continue;
            }
            let best = self.best[query].max(next.best[query]);
            let (keep, take) = ((self.best[query] - best).exp2(), (next.best[query] - best).exp2());
            self.best[query] = best;
            self.total[query] = self.total[query] * keep + next.total[query] * take;
            let own = &mut self.values[query * dim..][..dim];
            for (own, next) in own.iter_mut().zip(&next.values[query * dim..][..dim]) {
                *own = *own * keep + *next * take;
            }
        }
    }
}
