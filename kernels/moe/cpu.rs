//! Mixtures of experts on the CPU: the tokens of an expert are multiplied together, so that its weights are read once.

use std::ops::Range;

use super::{Experts, Groups, Moe, Routing, Scoring};
use crate::{
    Result,
    cpu::{Cpu, Piece, Split, Tensor, Weight},
    glu::Glu,
    matmul::{PACKED_SIDE, Place, Product, Rows},
};

/// What routing a token costs a thread per expert, roughly: only sharing among threads depends on it.
const ROUTE_NANOSECONDS: f64 = 10.0;

/// What adding an element of an expert's output costs, roughly.
const ADD_NANOSECONDS: f64 = 0.3;

/// Outputs that a thread takes at once.
const GRAIN: usize = 64;

impl Moe for Cpu {
    fn route(&self, logits: &Tensor, bias: Option<&Tensor>, routing: &Routing) -> Result<Tensor> {
        let (tokens, experts) = (logits.rows(), logits.columns());
        assert!((1..=experts).contains(&routing.chosen), "some of the experts are chosen");
        assert!(bias.is_none_or(|bias| bias.data().len() == experts), "a bias per expert");
        let mut routes = self.scratch(tokens, experts);
        let nanoseconds = ROUTE_NANOSECONDS * experts as f64;
        self.team.share_rows([(routes.data_mut(), experts)], tokens, nanoseconds, |token, [row]| {
            route(logits.row(token), bias.map(Tensor::data), routing, row);
        });
        Ok(routes)
    }

    fn experts(&self, x: &Tensor, routes: &Tensor, experts: &Experts<Self>, onto: Option<Tensor>) -> Result<Tensor> {
        let visits = Visits::of(routes, experts);
        let (count, hidden_size) = (visits.tokens.len(), x.columns());
        let gate_up_width = experts.gate_up.outputs() / experts.count;
        let of_token = |own: Range<usize>| Rows::of(x).list(&visits.tokens[own]);
        let gate_up = self.grouped(&visits, (x, of_token), &experts.gate_up, gate_up_width, &experts.gate_up_bias);
        let inner = self.glu(&gate_up, experts.activation)?;
        drop(gate_up);
        let of_visit = |own| Rows::of(&inner).run(own);
        let outer = self.grouped(&visits, (&inner, of_visit), &experts.down, hidden_size, &experts.down_bias);
        let mut sum = onto.unwrap_or_else(|| {
            let mut zeros = self.scratch(x.rows(), hidden_size);
            zeros.data_mut().fill(0.0);
            zeros
        });
        let own_routes = |token: usize| &routes.row(token)[experts.first..experts.first + experts.count];
        let nanoseconds = ADD_NANOSECONDS * (hidden_size * count) as f64 / x.rows().max(1) as f64;
        self.team.share_rows([(sum.data_mut(), hidden_size)], x.rows(), nanoseconds, |token, [to]| {
            let weights = own_routes(token).iter().filter(|weight| **weight != 0.0);
            for (weight, &visit) in weights.zip(visits.of_token(token)) {
                for (to, value) in to.iter_mut().zip(outer.row(visit as usize)) {
                    *to += weight * value;
                }
            }
        });
        Ok(sum)
    }
}

/// Which tokens go to this rank's experts. A visit is a token at an expert; they are numbered expert by expert.
struct Visits {
    /// The token of each visit.
    tokens: Vec<u32>,
    /// Where each expert's visits begin, and where the last one's end.
    starts: Vec<usize>,
    /// The visits of each token, in the order of the experts …
    by_token: Vec<u32>,
    /// … and where a token's begin in that list.
    token_starts: Vec<usize>,
}

impl Visits {
    fn of(routes: &Tensor, experts: &Experts<Cpu>) -> Self {
        let own = |token: usize| &routes.row(token)[experts.first..experts.first + experts.count];
        let (mut tokens, mut starts) = (Vec::new(), vec![0]);
        for expert in 0..experts.count {
            tokens.extend((0..routes.rows()).filter(|&token| own(token)[expert] != 0.0).map(|token| token as u32));
            starts.push(tokens.len());
        }
        let mut by_token: Vec<u32> = (0..tokens.len() as u32).collect();
        // Stable, so that a token's visits stay in the order of the experts.
        by_token.sort_by_key(|&visit| tokens[visit as usize]);
        let mut token_starts = vec![0; routes.rows() + 1];
        tokens.iter().for_each(|&token| token_starts[token as usize + 1] += 1);
        (0..routes.rows()).for_each(|token| token_starts[token + 1] += token_starts[token]);
        Self { tokens, starts, by_token, token_starts }
    }

    fn of_token(&self, token: usize) -> &[u32] {
        &self.by_token[self.token_starts[token]..self.token_starts[token + 1]]
    }
}

impl Cpu {
    /// `[visits, width]`: the rows of `x` that an expert's visits pick, times its `width` outputs of `weight`.
    fn grouped<'a>(
        &self,
        visits: &Visits,
        (x, picked): (&Tensor, impl Fn(Range<usize>) -> Rows<'a> + Sync),
        weight: &Weight,
        width: usize,
        bias: &Option<Tensor>,
    ) -> Tensor {
        let mut output = self.scratch(visits.tokens.len(), width);
        // Else some expert would begin within what is packed together.
        let fits = width.is_multiple_of(PACKED_SIDE);
        let rounded = if fits { self.rounded(x, weight) } else { None };
        let experts = visits.starts.len() - 1;
        let visited = (0..experts).filter(|&expert| visits.starts[expert] < visits.starts[expert + 1]);
        let items: Vec<(usize, Piece)> = visited
            .flat_map(|expert| {
                weight.pieces(expert * width..(expert + 1) * width, GRAIN).map(move |piece| (expert, piece))
            })
            .collect();
        let (split, isa) = (Split::new(output.data_mut()), self.isa);
        self.team.run(items.len(), |item| {
            let (expert, Piece { part, packed, rows, first }) = items[item].clone();
            let own = visits.starts[expert]..visits.starts[expert + 1];
            let bias = bias.as_ref().map(|bias| &bias.data()[expert * width..(expert + 1) * width]);
            let place = Place { output: &split, stride: width, first_row: own.start, first_column: first, bias };
            let packed = packed.filter(|_| fits);
            Product { x: picked(own), rounded: rounded.as_deref(), part, packed, rows, place }.run(isa);
        });
        output
    }
}

/// One token's weights of all experts.
fn route(logits: &[f32], bias: Option<&[f32]>, routing: &Routing, weights: &mut [f32]) {
    let scores = scores(logits, routing.scoring);
    let mut choice = scores.clone();
    choice.iter_mut().zip(bias.unwrap_or_default()).for_each(|(choice, bias)| *choice += bias);
    if let Some(groups) = routing.groups {
        keep_best_groups(&mut choice, groups);
    }
    let chosen = best(&choice, routing.chosen);
    weights.fill(0.0);
    chosen.iter().for_each(|&expert| weights[expert] = scores[expert]);
    if routing.scoring == Scoring::SoftmaxOfChosen {
        let most = scores[chosen[0]];
        chosen.iter().for_each(|&expert| weights[expert] = (scores[expert] - most).exp());
    }
    let sum: f32 = chosen.iter().map(|&expert| weights[expert]).sum();
    let divisor = match (routing.scoring, routing.normalise) {
        (Scoring::SoftmaxOfChosen, _) => sum,
        (_, Some(least)) => sum.max(least),
        (_, None) => 1.0,
    };
    chosen.iter().for_each(|&expert| weights[expert] = weights[expert] / divisor * routing.scale);
}

fn scores(logits: &[f32], scoring: Scoring) -> Vec<f32> {
    match scoring {
        Scoring::Softmax => {
            let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let powers: Vec<f32> = logits.iter().map(|logit| (logit - most).exp()).collect();
            let total: f32 = powers.iter().sum();
            powers.into_iter().map(|power| power / total).collect()
        }
        Scoring::Sigmoid => logits.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect(),
        Scoring::SoftmaxOfChosen => logits.to_vec(),
    }
}

fn keep_best_groups(choice: &mut [f32], Groups { count, kept, best: of_best }: Groups) {
    let size = choice.len() / count;
    let worth = |group: &[f32]| best(group, of_best).iter().map(|&expert| group[expert]).sum::<f32>();
    let worths: Vec<f32> = choice.chunks_exact(size).map(worth).collect();
    let kept = best(&worths, kept);
    let dropped = choice.chunks_exact_mut(size).enumerate().filter(|(group, _)| !kept.contains(group));
    dropped.for_each(|(_, experts)| experts.fill(f32::NEG_INFINITY));
}

/// The indices of the `count` greatest values, the greatest first; of equal ones the first.
fn best(values: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    let greater = |&a: &usize, &b: &usize| values[b].total_cmp(&values[a]).then(a.cmp(&b));
    if count < order.len() {
        order.select_nth_unstable_by(count, greater);
        order.truncate(count);
    }
    order.sort_unstable_by(greater);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        for cpu in Cpu::kinds().into_iter().chain(Cpu::kinds_of_bytes()) {
            crate::moe::check(&cpu);
        }
    }
}
