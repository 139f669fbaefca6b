//! Tokens chosen where the logits are, so that these need not go to the host: the greatest, or a draw.
//!
//! A token weighs `exp((logit − greatest) / temperature)`. Of all tokens those are kept that weigh more than `min_p`, of
//! these the `top_k` heaviest, and of these the fewest heaviest whose share reaches `top_p`; equals go by their ids. One
//! is drawn: the token at which the weights, added up in the order of ids, or where anything was cut from the heaviest
//! on, pass the share `uniform` of their sum.

#[allow(unsafe_code, reason = "threads write disjoint parts")]
mod cpu;
#[allow(unsafe_code, reason = "launches kernels")]
mod cuda;
mod distribution;
pub mod rows;

pub(crate) use cuda::{ASKS_MAX, Choices};
pub use distribution::Distribution;

use crate::samples::{Samples, Tested};
use crate::{CHOSEN, Result, memory::Memory};

/// See the module.
pub trait Choose: Memory {
    /// A choice that was asked for.
    type Choice;

    /// All ranks together: asks for a token for each of `asks`, by logits of which each rank has as many columns, `shard
    /// [rows, columns]`. Of all ranks' columns, side by side, the first `vocabulary` are tokens. None where the host chooses
    /// as fast. A choice depends on nothing but its ask and its row.
    ///
    /// The tokens need not be known to be computed further: until the next choice is asked for, a batch may name them by
    /// their places ([`CHOSEN`]).
    ///
    /// Tokens are taken before the next choice is asked for.
    fn begin_choice(&self, shard: &Self::Tensor, vocabulary: usize, asks: &[Ask]) -> Result<Option<Self::Choice>>;

    /// Whether the tokens can be taken without waiting. An error says that they never can.
    fn is_chosen(&self, choice: &Self::Choice) -> Result<bool>;

    /// The tokens, one for each ask; waits for them.
    ///
    /// # Panics
    /// If another choice was asked for meanwhile.
    fn chosen(&self, choice: Self::Choice) -> Result<Vec<Chosen>>;

    /// This rank alone: the tokens at once, by logits of which it has all columns.
    fn choose(&self, logits: &Self::Tensor, vocabulary: usize, asks: &[Ask]) -> Result<Option<Vec<Chosen>>>;
}

/// One token to choose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ask {
    /// The row of the logits.
    pub row: usize,
    /// How it is drawn; none: the greatest, the first of equals.
    pub draw: Option<Draw>,
}

/// A draw, and what is cut before it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// `> 0`
    pub temperature: f32,
    /// How many tokens are kept; 0: all.
    pub top_k: usize,
    /// The share that is kept; 1: all. `0..=1`.
    pub top_p: f32,
    /// Nothing that weighs as little is kept, but the heaviest; 0: all. `0..=1`.
    pub min_p: f32,
    /// Where the draw falls. `0..1`, 1 not included.
    pub uniform: f64,
}

/// What came of an ask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Chosen {
    /// The token.
    Token(u32),
    /// Nothing can be chosen: a logit is not finite.
    NotFinite {
        /// The first such token.
        token: u32,
        /// Its logit.
        value: f32,
    },
}

/// A row and where its tokens lie in `0..1`, plainly and in f64.
struct Reference<'a> {
    logits: &'a [f32],
    /// Tokens and their weights, the heaviest first.
    weights: Vec<(usize, f64)>,
}

impl<'a> Reference<'a> {
    fn new(logits: &'a [f32], temperature: f32) -> Self {
        let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |logit: f32| ((f64::from(logit) - f64::from(greatest)) / f64::from(temperature)).exp();
        let mut weights: Vec<(usize, f64)> = logits.iter().map(|&logit| weight(logit)).enumerate().collect();
        weights.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        Self { logits, weights }
    }

    /// The tokens that may be drawn, in the order in which their weights are added up.
    fn kept(&self, draw: &Draw) -> Vec<(usize, f64)> {
        let above = |weight: f64| weight > f64::from(draw.min_p) || weight == 1.0;
        let mut kept: Vec<(usize, f64)> = self.weights.iter().copied().filter(|&(_, weight)| above(weight)).collect();
        if draw.top_k > 0 {
            kept.truncate(draw.top_k);
        }
        let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
        let mut before = 0.0;
        kept.retain(|(_, weight)| {
            let is_needed = before < f64::from(draw.top_p) * total;
            before += weight;
            is_needed || draw.top_p >= 1.0
        });
        let cuts = draw.min_p > 0.0 || (1..self.logits.len()).contains(&draw.top_k) || draw.top_p < 1.0;
        if !cuts {
            kept.sort_by_key(|&(token, _)| token);
        }
        kept
    }

    /// Whether `token` is what is drawn, or what another rounding of the weights may draw.
    fn allows(&self, draw: &Draw, token: u32) -> bool {
        /// What weights, their sums and what is cut by them may be off.
        const TOLERANCE: f64 = 1e-5;
        [1.0 - TOLERANCE as f32, 1.0, 1.0 + TOLERANCE as f32].into_iter().any(|nudge| {
            let top_p = if draw.top_p < 1.0 { draw.top_p * nudge } else { 1.0 };
            let kept = self.kept(&Draw { min_p: draw.min_p * nudge, top_p, ..*draw });
            let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
            let before =
                kept.iter().take_while(|&&(id, _)| id != token as usize).map(|(_, weight)| weight).sum::<f64>();
            let own = kept.iter().find(|&&(id, _)| id == token as usize);
            own.is_some_and(|(_, own)| {
                let (begin, end) = (before / total - TOLERANCE, (before + own) / total + TOLERANCE);
                (begin..end).contains(&draw.uniform)
            })
        })
    }
}

/// A device's choices, where it makes any, against the plain ones.
pub(crate) fn check<B: Tested>(device: &B) {
    let mut samples = Samples::new(5);
    let mut bells = |count: usize| -> Vec<f32> { (0..count).map(|_| 2.0 * samples.bell()).collect() };
    let small = bells(37);
    let uniforms: Vec<f64> = (0..32).map(|index| (f64::from(index) + 0.5) / 32.0).chain([0.0, LAST]).collect();
    check_row(device, "bells", &small, &SHAPES, &uniforms);
    let tied: Vec<f32> = bells(5000).iter().map(|logit| logit.round()).collect();
    check_row(device, "ties", &tied, &SHAPES, &[0.1, 0.6, LAST]);
    let mut steep = bells(4097);
    steep[4096] += 40.0;
    check_row(device, "one that dominates", &steep, &SHAPES, &[0.0, LAST]);
    let lowest = [0.0, f32::MIN, -1e30, 1.0, -1e4, f32::MIN, 0.5];
    check_row(device, "very low ones", &lowest, &SHAPES, &[0.0, 0.3, 0.5, 0.9, LAST]);
    check_row(device, "extremes", &[f32::MIN, f32::MAX, -0.0, f32::MAX], &SHAPES, &[0.2, 0.7]);
    check_row(device, "a flat row", &[-7.5; 6000], &SHAPES, &[0.3]);
    check_row(device, "one token", &[-7.5], &SHAPES, &[0.3]);
    check_row(device, "many", &bells(50_000), &SHAPES, &[0.0005, 0.7, LAST]);
    check_exact_shares(device);
    check_greatest(device);
    check_not_finite(device);
    check_company(device, &[bells(9000), bells(9000), bells(9000)]);
    check_named(device);
}

const PLAIN: Draw = Draw { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, uniform: 0.0 };

/// Just below 1.
const LAST: f64 = 1.0 - f64::EPSILON / 2.0;

const SHAPES: [Draw; 12] = [
    PLAIN,
    Draw { temperature: 0.3, ..PLAIN },
    Draw { temperature: 50.0, ..PLAIN },
    Draw { top_k: 3, ..PLAIN },
    Draw { top_k: 1000, temperature: 0.7, ..PLAIN },
    Draw { top_k: 1 << 40, ..PLAIN },
    Draw { top_p: 0.9, ..PLAIN },
    Draw { top_p: 0.5, temperature: 40.0, ..PLAIN },
    Draw { top_p: 1e-30, ..PLAIN },
    Draw { min_p: 0.05, ..PLAIN },
    Draw { min_p: 1.0, ..PLAIN },
    Draw { top_k: 20, top_p: 0.8, min_p: 0.01, temperature: 1.5, ..PLAIN },
];

/// Chooses by rows that have padding which is no number.
fn choose<B: Tested>(device: &B, rows: &[Vec<f32>], asks: &[Ask]) -> Option<Vec<Chosen>> {
    const PADDING: usize = 3;
    let vocabulary = rows[0].len();
    let padded: Vec<f32> = rows.iter().flat_map(|row| row.iter().copied().chain([f32::NAN; PADDING])).collect();
    let logits = device.residual(rows.len(), vocabulary + PADDING, &padded);
    device.choose(&logits, vocabulary, asks).expect("choices")
}

/// All shapes and all uniforms at once.
fn check_row<B: Tested>(device: &B, what: &str, logits: &[f32], shapes: &[Draw], uniforms: &[f64]) {
    let draws: Vec<Draw> =
        shapes.iter().flat_map(|shape| uniforms.iter().map(|&uniform| Draw { uniform, ..*shape })).collect();
    let asks: Vec<Ask> = draws.iter().map(|&draw| Ask { row: 0, draw: Some(draw) }).collect();
    let Some(chosen) = choose(device, &[logits.to_vec()], &asks) else { return };
    for (draws, chosen) in draws.chunks(uniforms.len()).zip(chosen.chunks(uniforms.len())) {
        let reference = Reference::new(logits, draws[0].temperature);
        for (draw, &chosen) in draws.iter().zip(chosen) {
            let fine = matches!(chosen, Chosen::Token(token) if reference.allows(draw, token));
            assert!(fine, "{}: {what}, {draw:?}: {chosen:?} of {}", device.name(), logits.len());
        }
    }
}

/// Where shares of equal weights meet `top_p` exactly, no token more is kept.
fn check_exact_shares<B: Tested>(device: &B) {
    for (top_p, last) in [(0.25, 0), (0.2501, 1), (0.5, 1), (0.75, 2), (0.7501, 3)] {
        let draw = Draw { top_p, uniform: LAST, ..PLAIN };
        let chosen = choose(device, &[vec![1.5; 4]], &[Ask { row: 0, draw: Some(draw) }]);
        assert!(chosen.is_none_or(|chosen| chosen == [Chosen::Token(last)]), "{top_p} of four equals");
    }
}

fn check_greatest<B: Tested>(device: &B) {
    let greatest = |logits: Vec<f32>, expected: u32| {
        let count = logits.len();
        let chosen = choose(device, &[vec![0.0; count], logits], &[Ask { row: 1, draw: None }]);
        assert!(chosen.is_none_or(|chosen| chosen == [Chosen::Token(expected)]), "token {expected} of {count}");
    };
    greatest(vec![-3.0], 0);
    greatest(vec![-0.0, 0.0, -1.0], 0);
    greatest(vec![f32::MIN, f32::MIN, -1e38], 2);
    for places in [[0, 9_999], [4_095, 4_096], [4_096, 8_000], [9_998, 9_999]] {
        let mut logits = vec![-2.0; 10_000];
        places.iter().for_each(|&place| logits[place] = -0.5);
        greatest(logits, places[0] as u32);
    }
}

/// The first token without a logit is named, and other rows are chosen by.
fn check_not_finite<B: Tested>(device: &B) {
    let fine = vec![1.0f32; 5000];
    for (faults, first) in [
        (&[(3, f32::NAN)][..], 3),
        (&[(4999, f32::INFINITY), (4998, f32::NEG_INFINITY)], 4998),
        (&[(4500, -f32::NAN), (17, f32::NEG_INFINITY)], 17),
    ] {
        let mut faulty = fine.clone();
        faults.iter().for_each(|&(token, value)| faulty[token] = value);
        let value = faulty[first];
        let cut = Draw { top_p: 0.4, ..PLAIN };
        let asks = [(1, None), (0, None), (1, Some(PLAIN)), (1, Some(cut)), (0, Some(cut))];
        let asks = asks.map(|(row, draw)| Ask { row, draw });
        let Some(chosen) = choose(device, &[fine.clone(), faulty], &asks) else { return };
        for (ask, chosen) in asks.iter().zip(chosen) {
            match chosen {
                Chosen::Token(token) => assert_eq!((ask.row, token), (0, 0)),
                Chosen::NotFinite { token, value: found } => {
                    assert_eq!((ask.row, token as usize, found.to_bits()), (1, first, value.to_bits()));
                }
            }
        }
    }
}

/// A batch that names chosen tokens by their places is one that has them, known or not.
fn check_named<B: Tested>(device: &B) {
    const COLUMNS: usize = 8;
    let values = Samples::new(8).floats(6 * COLUMNS);
    let table = device.weight(vec![crate::Matrix::from_f32(&values, 6, COLUMNS)]).expect("a weight");
    let logits: Vec<f32> =
        [4, 2].into_iter().flat_map(|best| (0..6).map(move |token| -f32::from(token != best))).collect();
    let logits = device.residual(2, 6, &logits);
    let asks = [1, 0].map(|row| Ask { row, draw: None });
    let Some(choice) = device.begin_choice(&logits, 6, &asks).expect("a choice") else { return };
    let embedded = || {
        let batch = crate::Batch { tokens: vec![CHOSEN | 1, 5, CHOSEN, CHOSEN | 1], ..crate::Batch::default() };
        let batch = device.batch(batch).expect("memory");
        device.to_host(&device.embed(&table, 0, 1.0, &batch).expect("rows")).expect("a copy")
    };
    let expected: Vec<f32> =
        [4, 5, 2, 4].into_iter().flat_map(|token| &values[token * COLUMNS..][..COLUMNS]).copied().collect();
    assert_eq!(embedded(), expected, "{}: not known yet", device.name());
    while !device.is_chosen(&choice).expect("it goes well") {
        std::thread::yield_now();
    }
    assert_eq!(device.chosen(choice).expect("tokens"), [Chosen::Token(2), Chosen::Token(4)]);
    assert_eq!(embedded(), expected, "{}: known", device.name());
}

/// What is chosen together is what is chosen alone.
fn check_company<B: Tested>(device: &B, rows: &[Vec<f32>]) {
    let asks: Vec<Ask> = (SHAPES.iter().enumerate())
        .map(|(index, shape)| Ask { row: 2 - index % 3, draw: Some(Draw { uniform: 0.77, ..*shape }) })
        .chain([Ask { row: 1, draw: None }])
        .collect();
    let Some(together) = choose(device, rows, &asks) else { return };
    for (ask, together) in asks.iter().zip(together) {
        let alone = choose(device, &rows[ask.row..=ask.row], &[Ask { row: 0, ..*ask }]);
        assert_eq!(alone, Some(vec![together]), "{ask:?}");
    }
}

/// All ranks together: they choose what one does that has all logits. With fewer rows than ranks, with as many for each, and
/// where some have fewer or none.
pub(crate) fn check_among<B: Tested>(device: &B) {
    const COLUMNS: usize = 2100;
    let (rank, ranks) = (device.group().rank(), device.group().world_size());
    let draw = |uniform| Draw { temperature: 0.9, top_p: 0.8, uniform, ..PLAIN };
    for rows in [1, 2, 4, 5, 8, 9] {
        let mut samples = Samples::new(rows as u64);
        let logits: Vec<f32> = (0..rows * ranks * COLUMNS).map(|_| 3.0 * samples.bell()).collect();
        let all = device.residual(rows, ranks * COLUMNS, &logits);
        let own: Vec<f32> = logits.chunks_exact(COLUMNS).skip(rank).step_by(ranks).flatten().copied().collect();
        let shard = device.residual(rows, COLUMNS, &own);
        let mut ask = |row| Ask { row, draw: (row % 3 != 1).then(|| draw(samples.below(1000) as f64 / 1000.0)) };
        let asks: Vec<Ask> = (0..rows).map(&mut ask).collect();
        let vocabulary = ranks * COLUMNS - 7;
        let Some(choice) = device.begin_choice(&shard, vocabulary, &asks).expect("a choice") else { return };
        let together = device.chosen(choice).expect("tokens");
        let alone = device.choose(&all, vocabulary, &asks).expect("a choice");
        assert_eq!(Some(together), alone, "{}: {rows} rows on rank {rank} of {ranks}", device.name());
    }
}
