//! Mixtures of experts: which experts a token goes to, and what they make of it.
//!
//! The weights of a token's experts are one dense row over all experts, zero where an expert was not chosen: routing
//! and computing stay two operations with a plain tensor between them.

mod cpu;
#[allow(unsafe_code, reason = "launches kernels")]
mod cuda;

#[cfg(test)]
use crate::{
    DType, Matrix, glu,
    matmul::dequantize,
    samples::{Samples, assert_close},
};
use crate::{Result, glu::Activation, memory::Memory};

/// How a router's logits become the weights of the chosen experts.
#[derive(Debug, Clone, PartialEq)]
pub struct Routing {
    /// Experts that a token goes to.
    pub chosen: usize,
    /// From logits to scores.
    pub scoring: Scoring,
    /// Experts are chosen from the best groups only.
    pub groups: Option<Groups>,
    /// Weights are divided by their sum, or by this where the sum is smaller; `None`: they stay as they are.
    pub normalise: Option<f32>,
    /// What weights are multiplied by at last.
    pub scale: f32,
}

/// From a router's logits to scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scoring {
    /// Softmax over all experts.
    Softmax,
    /// Sigmoid of each.
    Sigmoid,
    /// The logits choose; the weights are the softmax over the chosen ones.
    SoftmaxOfChosen,
}

/// Experts in groups of neighbours, equally many in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    /// How many.
    pub count: usize,
    /// Of how many groups experts are chosen.
    pub kept: usize,
    /// A group is as good as the sum of so many of its best experts.
    pub best: usize,
}

/// A layer's experts, those of this rank or its part of their width.
pub struct Experts<M: Memory> {
    /// The first expert, by its number in the whole layer.
    pub first: usize,
    /// How many.
    pub count: usize,
    /// `[count × 2 × width, hidden size]`: of each expert the gate's rows, then the up projection's.
    pub gate_up: M::Weight,
    /// `[1, count × 2 × width]`.
    pub gate_up_bias: Option<M::Tensor>,
    /// `[count × hidden size, width]`.
    pub down: M::Weight,
    /// `[1, count × hidden size]`.
    pub down_bias: Option<M::Tensor>,
    /// The gate's.
    pub activation: Activation,
}

/// See the module.
pub trait Moe: Memory {
    /// `[tokens, experts]` from `logits [tokens, experts]`: each token's weight of each expert, zero where not chosen.
    /// `bias [1, experts]` is added to the scores for choosing, not for weighing. Of equal scores the first wins.
    fn route(&self, logits: &Self::Tensor, bias: Option<&Self::Tensor>, routing: &Routing) -> Result<Self::Tensor>;

    /// `[tokens, hidden size]`: `onto` (or nothing) plus what these experts make of `x [tokens, hidden size]`, weighted by
    /// `routes [tokens, experts]`, added in the order of the experts.
    fn experts(
        &self,
        x: &Self::Tensor,
        routes: &Self::Tensor,
        experts: &Experts<Self>,
        onto: Option<Self::Tensor>,
    ) -> Result<Self::Tensor>;
}

/// What routing one token means, plainly and in f64.
#[cfg(test)]
fn reference_route(logits: &[f32], bias: Option<&[f32]>, routing: &Routing) -> Vec<f32> {
    let logits: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();
    let softmax = |values: &[f64]| {
        let total: f64 = values.iter().map(|value| value.exp()).sum();
        values.iter().map(|value| value.exp() / total).collect::<Vec<_>>()
    };
    let scores = match routing.scoring {
        Scoring::Softmax => softmax(&logits),
        Scoring::Sigmoid => logits.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect(),
        Scoring::SoftmaxOfChosen => logits.clone(),
    };
    let mut choice: Vec<f64> =
        scores.iter().enumerate().map(|(e, score)| score + bias.map_or(0.0, |bias| f64::from(bias[e]))).collect();
    if let Some(Groups { count, kept, best }) = routing.groups {
        let size = choice.len() / count;
        let worth = |group: usize| {
            let mut own = choice[group * size..(group + 1) * size].to_vec();
            own.sort_by(|a, b| b.total_cmp(a));
            own[..best].iter().sum::<f64>()
        };
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|&a, &b| worth(b).total_cmp(&worth(a)));
        let dropped = order[kept..].iter().flat_map(|group| group * size..(group + 1) * size).collect::<Vec<_>>();
        dropped.into_iter().for_each(|expert| choice[expert] = f64::NEG_INFINITY);
    }
    let mut order: Vec<usize> = (0..choice.len()).collect();
    order.sort_by(|&a, &b| choice[b].total_cmp(&choice[a]));
    let chosen = &order[..routing.chosen];
    let mut weights: Vec<f64> = chosen.iter().map(|&expert| scores[expert]).collect();
    if routing.scoring == Scoring::SoftmaxOfChosen {
        weights = softmax(&weights);
    }
    let sum = weights.iter().sum::<f64>();
    let divisor = routing.normalise.map_or(1.0, |least| sum.max(f64::from(least)));
    let mut row = vec![0.0; logits.len()];
    for (&expert, weight) in chosen.iter().zip(weights) {
        row[expert] = (weight / divisor * f64::from(routing.scale)) as f32;
    }
    row
}

/// Compares a device's routes and experts with the reference.
#[cfg(test)]
pub(crate) fn check<B: crate::Backend>(device: &B) {
    let plain = Routing { chosen: 2, scoring: Scoring::Softmax, groups: None, normalise: Some(1e-12), scale: 1.0 };
    let groups = Some(Groups { count: 4, kept: 2, best: 2 });
    let sigmoid = Routing { chosen: 3, scoring: Scoring::Sigmoid, groups, normalise: Some(1e-20), scale: 2.5 };
    let of_chosen = Routing { scoring: Scoring::SoftmaxOfChosen, normalise: None, ..plain.clone() };
    let one_best = Routing { groups: Some(Groups { count: 4, kept: 3, best: 1 }), normalise: None, ..plain.clone() };
    for routing in [plain, sigmoid, of_chosen, one_best] {
        for (tokens, has_bias) in [(0, false), (1, true), (70, true), (9, false)] {
            check_route(device, &routing, tokens, has_bias);
        }
    }
    for dtype in [DType::F32, DType::BF16, DType::Q8_0] {
        for (tokens, chosen, has_bias) in [(0, 2, false), (1, 3, true), (5, 1, false), (40, 2, true)] {
            check_experts(device, dtype, tokens, chosen, has_bias);
        }
    }
}

#[cfg(test)]
fn check_route<B: crate::Backend>(device: &B, routing: &Routing, tokens: usize, has_bias: bool) {
    const EXPERTS: usize = 16;
    let mut samples = Samples::new(tokens as u64 + 5);
    let logits: Vec<f32> = samples.floats(tokens * EXPERTS).into_iter().map(|logit| logit * 3.0).collect();
    let bias = has_bias.then(|| samples.floats(EXPERTS));
    let expected: Vec<f32> =
        logits.chunks_exact(EXPERTS).flat_map(|row| reference_route(row, bias.as_deref(), routing)).collect();
    let logits = device.tensor(tokens, EXPERTS, &logits).expect("memory");
    let bias = bias.map(|bias| device.tensor(1, EXPERTS, &bias).expect("memory"));
    let routes = device.route(&logits, bias.as_ref(), routing).expect("routes");
    assert_close(&device.to_host(&routes).expect("a copy"), &expected, 1e-6, &format!("{tokens} tokens, {routing:?}"));
}

/// A rank that has five of seven experts.
#[cfg(test)]
fn check_experts<B: crate::Backend>(device: &B, dtype: DType, tokens: usize, chosen: usize, has_bias: bool) {
    const ALL: usize = 7;
    const FIRST: usize = 1;
    const COUNT: usize = 5;
    const HIDDEN: usize = 64;
    const WIDTH: usize = 32;
    let mut samples = Samples::new(tokens as u64 + 11);
    let gate_up: Vec<Matrix> = (0..2 * COUNT).map(|_| samples.matrix(dtype, WIDTH, HIDDEN)).collect();
    let down: Vec<Matrix> = (0..COUNT).map(|_| samples.matrix(dtype, HIDDEN, WIDTH)).collect();
    let biases = has_bias.then(|| [samples.floats(COUNT * 2 * WIDTH), samples.floats(COUNT * HIDDEN)]);
    let (x, onto) = (samples.floats(tokens * HIDDEN), samples.floats(tokens * HIDDEN));
    let mut routes = vec![0.0; tokens * ALL];
    for token in 0..tokens {
        (0..chosen).for_each(|_| routes[token * ALL + samples.below(ALL)] = samples.float() + 1.5);
    }
    let activation = Activation::Clamped { limit: 2.0, alpha: 1.5 };
    let mut expected: Vec<f64> = onto.iter().map(|&value| f64::from(value)).collect();
    for (index, weight) in routes.iter().enumerate().filter(|(_, weight)| **weight != 0.0) {
        let (token, expert) = (index / ALL, index % ALL);
        let Some(own) = expert.checked_sub(FIRST).filter(|own| *own < COUNT) else { continue };
        let bias = |which: usize, from: usize, length: usize| {
            biases.as_ref().map_or(vec![0.0; length], |biases| biases[which][from..from + length].to_vec())
        };
        let row = &x[token * HIDDEN..][..HIDDEN];
        let gates = linear(&gate_up[2 * own], row, &bias(0, 2 * own * WIDTH, WIDTH));
        let ups = linear(&gate_up[2 * own + 1], row, &bias(0, (2 * own + 1) * WIDTH, WIDTH));
        let inner: Vec<f32> =
            gates.iter().zip(ups).map(|(&gate, up)| glu::reference(gate as f32, up as f32, activation)).collect();
        let outer = linear(&down[own], &inner, &bias(1, own * HIDDEN, HIDDEN));
        let to = &mut expected[token * HIDDEN..][..HIDDEN];
        to.iter_mut().zip(outer).for_each(|(to, value)| *to += f64::from(*weight) * value);
    }
    let tensor = |rows: usize, values: &[f32]| {
        device.tensor(rows, values.len().checked_div(rows).unwrap_or(HIDDEN), values).expect("memory")
    };
    let [gate_up_bias, down_bias] = match &biases {
        None => [None, None],
        Some(biases) => biases.each_ref().map(|bias| Some(tensor(1, bias))),
    };
    let experts = Experts {
        first: FIRST,
        count: COUNT,
        gate_up: device.weight(gate_up).expect("a weight"),
        gate_up_bias,
        down: device.weight(down).expect("a weight"),
        down_bias,
        activation,
    };
    let routes = device.tensor(tokens, ALL, &routes).expect("memory");
    let found = device.experts(&tensor(tokens, &x), &routes, &experts, Some(tensor(tokens, &onto))).expect("experts");
    let (found, expected): (_, Vec<f32>) =
        (device.to_host(&found).expect("a copy"), expected.into_iter().map(|value| value as f32).collect());
    // Weights of Q8_0 samples reach 127.
    let tolerance = if dtype == DType::Q8_0 { 2e-3 } else { 1e-5 };
    assert_close(&found, &expected, tolerance, &format!("{dtype:?}, {tokens} tokens to {chosen} experts"));
}

#[cfg(test)]
fn linear(weight: &Matrix, x: &[f32], bias: &[f32]) -> Vec<f64> {
    let mut values = vec![0.0; weight.columns()];
    let mut output = |row: usize| {
        dequantize(weight.dtype(), weight.row(row), &mut values);
        values.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum::<f64>() + f64::from(bias[row])
    };
    (0..weight.rows()).map(&mut output).collect()
}
