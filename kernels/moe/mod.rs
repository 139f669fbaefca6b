//! Mixtures of experts: which experts a token goes to, and what they make of it.
//!
//! The weights of a token's experts are one dense row over all experts, zero where an expert was not chosen: routing
//! and computing stay two operations with a plain tensor between them.

mod cpu;
#[allow(unsafe_code, reason = "launches kernels")]
mod cuda;

use crate::{
    DType, Matrix, glu,
    matmul::dequantize,
    samples::{Samples, Tested, assert_close, formats},
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
    /// To how many of the layer's experts a token goes at most.
    pub chosen: usize,
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
    /// `routes [tokens, experts]`, added in the order of the experts. No token has more routes than `experts.chosen`.
    fn experts(
        &self,
        x: &Self::Tensor,
        routes: &Self::Tensor,
        experts: &Experts<Self>,
        onto: Option<Self::Tensor>,
    ) -> Result<Self::Tensor>;
}

/// What routing one token means, plainly and in f64.
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
pub(crate) fn check<B: Tested>(device: &B) {
    check_routes(device);
    let plain = Case {
        tokens: 5,
        chosen: 2,
        formats: [DType::F32; 3],
        last: None,
        hidden_size: 64,
        width: 32,
        has_bias: false,
    };
    for dtype in [DType::F32, DType::BF16, DType::Q8_0] {
        for (tokens, chosen, has_bias) in [(0, 2, false), (1, 3, true), (5, 1, false), (40, 2, true)] {
            check_experts(device, &Case { tokens, chosen, has_bias, formats: [dtype; 3], ..plain });
        }
    }
    for (formats, hidden_size, width) in [
        // What experts of well-known checkpoints are stored as.
        ([DType::MXFP4; 3], 64, 96),
        ([DType::WInt4; 3], 128, 128),
        ([DType::Q4_K; 3], 256, 256),
        // A gate and an up projection that one product cannot compute.
        ([DType::Q8_0, DType::BF16, DType::F32], 64, 32),
        // Rows that do not begin at multiples of 16 bytes, and no whole tiles.
        ([DType::BF16; 3], 36, 21),
    ] {
        for tokens in [2, 33, 150] {
            check_experts(device, &Case { tokens, formats, hidden_size, width, has_bias: true, ..plain });
        }
    }
    // Experts with about 16 visits, of every format, and with 32.
    for dtype in formats() {
        let size = dtype.block_elements().max(64);
        check_experts(device, &Case { tokens: 60, formats: [dtype; 3], hidden_size: size, width: size, ..plain });
    }
    for formats in [[DType::BF16; 3], [DType::WInt4, DType::Q8_0, DType::BF16]] {
        check_experts(device, &Case { tokens: 110, formats, hidden_size: 128, width: 128, has_bias: true, ..plain });
    }
    // Experts that differ.
    for formats in [[DType::F32; 3], [DType::Q8_0, DType::BF16, DType::F32]] {
        check_experts(device, &Case { tokens: 20, formats, last: Some(DType::BF16), ..plain });
    }
    // More tokens than one block finds the visits of, and experts with many.
    check_experts(device, &Case { tokens: 300, chosen: 4, ..plain });
    check_experts(device, &Case { tokens: 300, chosen: 4, formats: [DType::Q8_0; 3], ..plain });
}

fn check_routes<B: Tested>(device: &B) {
    let plain = Routing { chosen: 2, scoring: Scoring::Softmax, groups: None, normalise: Some(1e-12), scale: 1.0 };
    let groups = Some(Groups { count: 4, kept: 2, best: 2 });
    let sigmoid = Routing { chosen: 3, scoring: Scoring::Sigmoid, groups, normalise: Some(1e-20), scale: 2.5 };
    let of_chosen = Routing { scoring: Scoring::SoftmaxOfChosen, normalise: None, ..plain.clone() };
    let one_best = Routing { groups: Some(Groups { count: 4, kept: 3, best: 1 }), normalise: None, ..plain.clone() };
    for routing in [&plain, &sigmoid, &of_chosen, &one_best] {
        for (tokens, has_bias) in [(0, false), (1, true), (70, true), (9, false)] {
            check_route(device, routing, [tokens, 16], 3.0, has_bias);
        }
        // All are equal: the first win.
        check_route(device, routing, [2, 16], 0.0, false);
    }
    let eight_groups = Some(Groups { count: 8, kept: 4, best: 2 });
    for (experts, routing) in [
        (60, Routing { chosen: 4, normalise: None, ..plain.clone() }),
        (128, Routing { chosen: 8, ..plain.clone() }),
        (160, Routing { groups: Some(Groups { count: 8, kept: 3, best: 1 }), chosen: 6, scale: 16.0, ..plain.clone() }),
        (256, Routing { groups: eight_groups, chosen: 8, ..sigmoid }),
        (512, Routing { chosen: 10, ..plain }),
    ] {
        check_route(device, &routing, [5, experts], 3.0, true);
    }
}

fn check_route<B: Tested>(device: &B, routing: &Routing, [tokens, experts]: [usize; 2], spread: f32, has_bias: bool) {
    let mut samples = Samples::new(tokens as u64 + 5);
    let logits: Vec<f32> = samples.floats(tokens * experts).into_iter().map(|logit| logit * spread + 0.5).collect();
    let bias = has_bias.then(|| samples.floats(experts));
    let expected: Vec<f32> =
        logits.chunks_exact(experts).flat_map(|row| reference_route(row, bias.as_deref(), routing)).collect();
    let logits = device.residual(tokens, experts, &logits);
    let bias = bias.map(|bias| device.vector(&bias).expect("memory"));
    let routes = device.route(&logits, bias.as_ref(), routing).expect("routes");
    let what = format!("{}: {tokens} tokens, {experts} experts, {routing:?}", device.name());
    assert_close(&device.to_host(&routes).expect("a copy"), &expected, 1e-6, &what);
}

/// Tokens at a rank that has five of seven experts.
#[derive(Debug, Clone, Copy)]
struct Case {
    tokens: usize,
    chosen: usize,
    /// The gates', the up projections' and the down projections'.
    formats: [DType; 3],
    /// What the last two experts are stored as, where that is something else.
    last: Option<DType>,
    hidden_size: usize,
    width: usize,
    has_bias: bool,
}

fn check_experts<B: Tested>(device: &B, case: &Case) {
    const ALL: usize = 7;
    const FIRST: usize = 1;
    const COUNT: usize = 5;
    let &Case { tokens, chosen, formats: [gate, up, down], last, hidden_size, width, has_bias } = case;
    let format = |expert: usize, dtype: DType| last.filter(|_| expert + 2 >= COUNT).unwrap_or(dtype);
    let mut samples = Samples::new(tokens as u64 + 11);
    let gate_up: Vec<Matrix> = (0..COUNT)
        .flat_map(|expert| [format(expert, gate), format(expert, up)])
        .map(|dtype| samples.matrix(dtype, width, hidden_size))
        .collect();
    let down: Vec<Matrix> = (0..COUNT).map(|expert| samples.matrix(format(expert, down), hidden_size, width)).collect();
    let biases = has_bias.then(|| [samples.floats(COUNT * 2 * width), samples.floats(COUNT * hidden_size)]);
    let x = device.stored(samples.floats(tokens * hidden_size));
    let onto = device.stored(samples.floats(tokens * hidden_size));
    let mut routes = vec![0.0; tokens * ALL];
    for token in 0..tokens {
        (0..chosen).for_each(|_| routes[token * ALL + samples.below(ALL)] = samples.float() + 1.5);
    }
    let activation = Activation::Clamped { limit: 2.0, alpha: 1.5 };
    let rounding = case.formats.map(|dtype| device.rounding(dtype)).into_iter().fold(0.0, f32::max);
    let unit = device.tolerance(1e-6) + rounding;
    let mut expected: Vec<Rounded> = onto.iter().map(|&value| Rounded::exact(value)).collect();
    for (index, weight) in routes.iter().enumerate().filter(|(_, weight)| **weight != 0.0) {
        let (token, expert) = (index / ALL, index % ALL);
        let Some(own) = expert.checked_sub(FIRST).filter(|own| *own < COUNT) else { continue };
        let bias = |which: usize, from: usize, length: usize| {
            biases.as_ref().map_or(vec![0.0; length], |biases| biases[which][from..from + length].to_vec())
        };
        let row: Vec<Rounded> = x[token * hidden_size..][..hidden_size].iter().copied().map(Rounded::exact).collect();
        let gates = linear(&gate_up[2 * own], &row, &bias(0, 2 * own * width, width), unit);
        let ups = linear(&gate_up[2 * own + 1], &row, &bias(0, (2 * own + 1) * width, width), unit);
        let inner: Vec<Rounded> =
            gates.iter().zip(&ups).map(|(gate, up)| Rounded::gated(gate, up, activation, unit)).collect();
        let outer = linear(&down[own], &inner, &bias(1, own * hidden_size, hidden_size), unit);
        let to = &mut expected[token * hidden_size..][..hidden_size];
        to.iter_mut().zip(&outer).for_each(|(to, made)| to.add(f64::from(*weight), made, unit));
    }
    let tensor = |values: &[f32]| device.tensor(tokens, hidden_size, values).expect("memory");
    let [gate_up_bias, down_bias] = match &biases {
        None => [None, None],
        Some(biases) => biases.each_ref().map(|bias| Some(device.vector(bias).expect("memory"))),
    };
    let experts = Experts {
        first: FIRST,
        count: COUNT,
        chosen,
        gate_up: device.weight(gate_up).expect("a weight"),
        gate_up_bias,
        down: device.weight(down).expect("a weight"),
        down_bias,
        activation,
    };
    let routes = device.residual(tokens, ALL, &routes);
    let what = format!("{}: {case:?}", device.name());
    let found = device.experts(&tensor(&x), &routes, &experts, Some(tensor(&onto))).expect("experts");
    assert_rounded(&device.to_host(&found).expect("a copy"), &expected, unit, &what);
    let alone = device.experts(&tensor(&x), &routes, &experts, None).expect("experts");
    expected.iter_mut().zip(&onto).for_each(|(sum, &onto)| sum.value -= f64::from(onto));
    assert_rounded(&device.to_host(&alone).expect("a copy"), &expected, unit, &what);
}

/// A number that a device knows only about: its roundings before this are within `error`. A sum may be off by as much as
/// all that is summed, which can be far more than what remains of it; so a share of the result is no measure.
#[derive(Debug, Clone, Copy)]
struct Rounded {
    value: f64,
    error: f64,
}

impl Rounded {
    fn exact(value: f32) -> Self {
        Self { value: f64::from(value), error: 0.0 }
    }

    /// A gated value is off by as much as those of gates and ups that are off, and by being rounded itself.
    fn gated(gate: &Self, up: &Self, activation: Activation, unit: f32) -> Self {
        let of = |gate: f64, up: f64| f64::from(glu::reference(gate as f32, up as f32, activation));
        let value = of(gate.value, up.value);
        let corners = [(1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)];
        let off = corners.map(|(g, u)| (of(gate.value + g * gate.error, up.value + u * up.error) - value).abs());
        Self { value, error: off.into_iter().fold(0.0, f64::max) + f64::from(unit) * value.abs() }
    }

    /// Adds what an expert made, once it is rounded.
    fn add(&mut self, weight: f64, made: &Self, unit: f32) {
        self.value += weight * made.value;
        self.error += weight.abs() * (made.error + f64::from(unit) * made.value.abs());
    }
}

fn assert_rounded(actual: &[f32], expected: &[Rounded], unit: f32, what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}: length");
    for (index, (&actual, expected)) in actual.iter().zip(expected).enumerate() {
        let bound = expected.error + f64::from(unit) * expected.value.abs().max(1.0);
        let off = (f64::from(actual) - expected.value).abs();
        assert!(off <= bound, "{what}: element {index} is {actual}, expected {expected:?}");
    }
}

/// A stored weight may be rounded too before it is multiplied.
fn linear(weight: &Matrix, x: &[Rounded], bias: &[f32], unit: f32) -> Vec<Rounded> {
    let mut values = vec![0.0; weight.columns()];
    let mut output = |row: usize| {
        dequantize(weight.dtype(), weight.row(row), &mut values);
        let products = values.iter().zip(x).map(|(&w, x)| (f64::from(w), x));
        let value = products.clone().map(|(w, x)| w * x.value).sum::<f64>() + f64::from(bias[row]);
        let error = products.map(|(w, x)| w.abs() * (f64::from(unit) * x.value.abs() + x.error)).sum();
        Rounded { value, error }
    };
    (0..weight.rows()).map(&mut output).collect()
}
