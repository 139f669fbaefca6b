//! Choosing a token among those of a small model, in the ways that clients ask for.

use kernels::bench::{Arithmetic, Bench, Case, Outcome, State, Timing, Work, fault_of};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    link::{mask::Allowed, sampling::Sampling},
    sampler::{History, Sampler},
};

/// Tokens of SmolLM2.
const VOCABULARY: usize = 49_152;

/// Positions whose choices are compared with what may be chosen.
const COMPARED: usize = 64;

pub(super) fn cases() -> Vec<Case> {
    let plain = Sampling { temperature: 0.8, top_p: 1.0, seed: 7, ..Sampling::default() };
    let ways = [
        ("greedily", Sampling { temperature: 0.0, ..plain.clone() }),
        ("by temperature", plain.clone()),
        ("by top_p", Sampling { top_p: 0.95, ..plain.clone() }),
        ("by top_k and top_p", Sampling { top_k: 50, top_p: 0.95, ..plain }),
    ];
    let case = |(how, sampling): (&str, Sampling)| {
        Case::new("choose", "f32", format!("1 of {VOCABULARY}, {how}"), move |bench| measure(bench, &sampling))
    };
    ways.map(case).into()
}

fn measure(bench: &Bench, sampling: &Sampling) -> Outcome {
    let (logits, tokens) = (logits(), vec![0; COMPARED]);
    let mut sampler = Sampler::default();
    let mut choose = |position: usize| {
        let history = History { tokens: &tokens[..position], prompt_length: 0 };
        sampler.sample(&logits, sampling, history, &Allowed::All).expect("finite logits").expect("a token").token
    };
    let fault = fault_of(|| {
        let kept = kept(&logits, sampling);
        for position in 0..COMPARED {
            let token = choose(position);
            assert!(kept.contains(&(token as usize)), "token {token} at position {position} is not among those kept");
        }
    });
    let mut positions = (0..COMPARED).cycle();
    let timing = Timing::measure(bench.time(), || {
        choose(positions.next().expect("a cycle"));
    });
    let work = Work { bytes: 4 * VOCABULARY, operations: 0, arithmetic: Arithmetic::F32, state: State::Warm };
    Outcome { fault, timing, work }
}

/// Bell-shaped about 0: as many are likely as a model that is not sure leaves.
fn logits() -> Vec<f32> {
    let mut random = StdRng::seed_from_u64(1);
    (0..VOCABULARY).map(|_| 3.0 * (0..12).map(|_| random.random_range(-0.5f32..0.5)).sum::<f32>()).collect()
}

/// Which tokens may be chosen, plainly and in f64: the heaviest `top_k`, and of these the fewest whose share is `top_p`,
/// with room for its rounding.
fn kept(logits: &[f32], sampling: &Sampling) -> Vec<usize> {
    let mut tokens: Vec<usize> = (0..logits.len()).collect();
    tokens.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    if sampling.is_greedy() {
        return tokens[..1].to_vec();
    }
    if sampling.top_k > 0 {
        tokens.truncate(sampling.top_k as usize);
    }
    let weight = |token: usize| (f64::from(logits[token] - logits[tokens[0]]) / f64::from(sampling.temperature)).exp();
    let total: f64 = tokens.iter().map(|&token| weight(token)).sum();
    let shares = tokens.iter().scan(0.0, |before, &token| {
        let is_kept = *before < f64::from(sampling.top_p) * total * 1.00001;
        *before += weight(token);
        is_kept.then_some(token)
    });
    shares.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_choice_keeps_what_the_parameters_leave() {
        let logits = [0.0, 2.0, 1.0, -1.0];
        let check = |sampling: Sampling, expected: &[usize]| assert_eq!(kept(&logits, &sampling), expected);
        let plain = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0, ..Sampling::default() };
        check(Sampling { temperature: 0.0, ..plain.clone() }, &[1]);
        check(plain.clone(), &[1, 2, 0, 3]);
        check(Sampling { top_k: 2, ..plain.clone() }, &[1, 2]);
        // The shares are 0.64, 0.24, 0.09 and 0.03.
        check(Sampling { top_p: 0.7, ..plain.clone() }, &[1, 2]);
        check(Sampling { top_p: 0.5, ..plain }, &[1]);
    }

    #[test]
    fn every_way_of_choosing_is_right() {
        let bench = Bench::new(kernels::cpu::CpuConfig::default(), std::time::Duration::ZERO);
        for case in cases() {
            assert_eq!(case.measure(&bench).fault, None, "{}", case.label());
        }
    }
}
