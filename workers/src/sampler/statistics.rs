//! What is drawn, and how often: against the reference's distributions, and against plain definitions in f64.
//!
//! Seeds are fixed, so that no test fails by chance.

use proptest::prelude::*;
use serde_json::Value;

use super::tests::{history, probabilities};
use super::*;

const DRAWS: u32 = 20_000;

/// SmolLM2's logits after a prompt, and the reference's distributions of them.
fn golden() -> (Vec<f32>, Value) {
    let folder = crate::fixtures::golden("smollm2");
    let bytes = std::fs::read(folder.join("last_logits_sampling.f32le.bin")).expect("the logits");
    let logits = bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    let golden = std::fs::read(folder.join("golden.json")).expect("the golden file");
    (logits, serde_json::from_slice::<Value>(&golden).expect("JSON")["sampling"].take())
}

/// One of the reference's distributions: the likeliest tokens with their probabilities, best first.
struct Expected {
    name: String,
    support: usize,
    tokens: Vec<(usize, f64)>,
}

/// The prompt, and its distributions.
fn expectations(golden: &Value) -> (Vec<u32>, Vec<Expected>) {
    let expected = |(name, value): (&String, &Value)| {
        let ids: Vec<usize> = serde_json::from_value(value["top_ids"].clone()).expect("ids");
        let probabilities: Vec<f64> = serde_json::from_value(value["top_probs"].clone()).expect("probabilities");
        let support = value["support"].as_u64().expect("a number") as usize;
        Expected { name: name.clone(), support, tokens: ids.into_iter().zip(probabilities).collect() }
    };
    let distributions = golden["distributions"].as_object().expect("distributions");
    assert!(!distributions.is_empty());
    let prompt = serde_json::from_value(golden["prompt_ids"].clone()).expect("ids");
    (prompt, distributions.iter().map(expected).collect())
}

/// The parameters in a golden distribution's name, for instance `t0.7_top_k40_top_p0.9`.
fn recipe(name: &str) -> Sampling {
    let mut sampling = Sampling::default();
    for part in name.replace("top_", "top").replace("min_", "min").split('_') {
        let digits = part.find(|c: char| c.is_ascii_digit()).expect("a number");
        let (parameter, value) = part.split_at(digits);
        let value: f32 = value.parse().expect("a number");
        match parameter {
            "t" => sampling.temperature = value,
            "topp" => sampling.top_p = value,
            "topk" => sampling.top_k = value as u32,
            "minp" => sampling.min_p = value,
            "rep" => sampling.repetition_penalty = value,
            other => panic!("unknown parameter {other} in {name}"),
        }
    }
    sampling
}

/// Fails where the counts of so many draws are less likely than one in a thousand. Tokens expected less than ten times
/// count as one class, together with all that `expected` does not list.
fn check_counts(name: &str, counts: &[u32], expected: &[(usize, f64)]) {
    let draws = f64::from(counts.iter().sum::<u32>());
    let often: Vec<_> = expected.iter().filter(|(_, p)| p * draws >= 10.0).collect();
    let mut classes: Vec<(f64, u32)> = often.iter().map(|&&(token, p)| (p * draws, counts[token])).collect();
    let (mean, count) = classes.iter().fold((0.0, 0), |(mean, count), class| (mean + class.0, count + class.1));
    let rest = (draws - mean, draws as u32 - count);
    if rest.0 >= 10.0 {
        classes.push(rest);
    } else {
        // Too few for a class: a tail bound. Poisson draws exceed a mean of 10 by 25 once in a billion.
        assert!(rest.1 < 35, "{name}: {} draws of tokens that are hardly ever to be drawn", rest.1);
    }
    let chi_square: f64 = classes.iter().map(|(mean, count)| (f64::from(*count) - mean).powi(2) / mean).sum();
    let limit = chi_square_of_one_in_a_thousand(classes.len() as f64 - 1.0);
    assert!(chi_square < limit, "{name}: {chi_square} with {} classes, {limit} is the limit", classes.len());
}

/// Wilson & Hilferty (1931): the cube root of a chi-square over its degrees of freedom is nearly normal.
fn chi_square_of_one_in_a_thousand(freedom: f64) -> f64 {
    // Of a normal distribution, one in a thousand lies above 3.09. With a little less, no limit is above the true one.
    const Z: f64 = 3.055;
    let variance = 2.0 / (9.0 * freedom);
    freedom * (1.0 - variance + Z * variance.sqrt()).powi(3)
}

#[test]
fn the_limit_is_that_of_the_tables() {
    for (freedom, limit) in [(4.0, 18.467), (10.0, 29.588), (100.0, 149.449)] {
        let ours = chi_square_of_one_in_a_thousand(freedom);
        assert!((0.98 * limit..=limit).contains(&ours), "{freedom}: {ours}");
    }
}

#[test]
fn distributions_equal_the_reference() {
    let (logits, golden) = golden();
    let (prompt, distributions) = expectations(&golden);
    for Expected { name, support, tokens } in distributions {
        let ours = probabilities(&logits, &recipe(&name), &prompt);
        assert_eq!(ours.len(), support, "support of {name}");
        for ((token, p), &(our_token, our_p)) in tokens.into_iter().zip(&ours) {
            assert_eq!(our_token, token, "an id of {name}");
            assert!((our_p - p).abs() < 1e-5 * p.max(0.01), "token {token} of {name}: {our_p} instead of {p}");
        }
    }
}

#[test]
fn draws_follow_the_reference() {
    let (logits, golden) = golden();
    let (prompt, distributions) = expectations(&golden);
    for Expected { name, tokens, .. } in distributions {
        let mut sampler = Sampler::default();
        let sampling = Sampling { seed: 1, ..recipe(&name) };
        let history = history(&prompt, prompt.len());
        sampler.sample(&logits, &sampling, history, &Allowed::All).expect("finite").expect("a choice");
        // The distribution stays as that choice left it; what a choice adds is a draw of (seed, position).
        let mut counts = vec![0u32; logits.len()];
        let position = prompt.len() as u64;
        (0..u64::from(DRAWS)).for_each(|seed| counts[sampler.distribution.draw(random::uniform(seed, position))] += 1);
        check_counts(&name, &counts, &tokens);
    }
}

/// A few dozen tokens whose logits are far enough apart to matter and near enough to be drawn.
fn few_logits() -> Vec<f32> {
    (0..60).map(|token| ((token * 37 % 60) as f32 / 10.0).sin() * 3.0).collect()
}

/// Biases, then penalties, then bans, then temperature: probabilities by the plain definition, without truncation.
fn plainly(logits: &[f32], sampling: &Sampling, tokens: &[u32], prompt_length: usize, allowed: &Allowed) -> Vec<f64> {
    let generated = &tokens[prompt_length..];
    let score = |token: usize| {
        let id = token as u32;
        let is = |&&other: &&u32| other == id;
        let biases = sampling.logit_bias.iter().filter(|(other, _)| *other == id).map(|(_, bias)| f64::from(*bias));
        let mut score = f64::from(logits[token]) + biases.sum::<f64>();
        if tokens.contains(&id) {
            let penalty = f64::from(sampling.repetition_penalty);
            score = if score > 0.0 { score / penalty } else { score * penalty };
        }
        let count = generated.iter().filter(is).count() as f64;
        score -= f64::from(sampling.frequency_penalty) * count;
        score -= if count > 0.0 { f64::from(sampling.presence_penalty) } else { 0.0 };
        let ends_word = |word: &Vec<u32>| word.last() == Some(&id) && generated.ends_with(&word[..word.len() - 1]);
        let banned = sampling.bad_words.iter().any(ends_word) || !allowed.contains(id);
        if banned { f64::NEG_INFINITY } else { score / f64::from(sampling.temperature) }
    };
    let scores: Vec<f64> = (0..logits.len()).map(score).collect();
    // Biases and penalties multiply to exponents that not even this type can raise to.
    let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.into_iter().map(|score| (score - greatest).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

/// Whole choices, each with its own seed, against the plain definition.
#[test]
fn choices_follow_the_plain_definition() {
    let logits = few_logits();
    let tokens = [3, 17, 17, 40, 8, 8, 8, 25];
    let plain = Sampling { temperature: 0.9, ..Sampling::default() };
    let everything = Sampling {
        repetition_penalty: 1.3,
        presence_penalty: -0.4,
        frequency_penalty: 0.5,
        logit_bias: vec![(5, 2.5), (17, -1.5), (58, -100.0), (9_999, 100.0)],
        bad_words: vec![vec![33], vec![8, 25, 12], vec![17, 17, 4], vec![9_999]],
        ..plain.clone()
    };
    let bits = Allowed::Bits(vec![0x00ff_f0f3, u32::MAX, u32::MAX]);
    let only = Allowed::Only(vec![1, 5, 8, 12, 33, 59, 9_999]);
    let cases = [
        ("nothing", plain.clone(), Allowed::All),
        ("penalties", Sampling { logit_bias: vec![], bad_words: vec![], ..everything.clone() }, Allowed::All),
        ("logit_bias", Sampling { logit_bias: everything.logit_bias.clone(), ..plain.clone() }, Allowed::All),
        ("bad_words", Sampling { bad_words: everything.bad_words.clone(), ..plain.clone() }, Allowed::All),
        ("a mask of bits", plain, bits.clone()),
        ("everything", everything.clone(), bits),
        ("everything, few allowed", everything, only),
    ];
    for (name, sampling, allowed) in cases {
        let expected: Vec<(usize, f64)> =
            plainly(&logits, &sampling, &tokens, 3, &allowed).into_iter().enumerate().collect();
        let (mut sampler, mut counts) = (Sampler::default(), vec![0u32; logits.len()]);
        for seed in 0..u64::from(DRAWS) {
            let sampling = Sampling { seed, ..sampling.clone() };
            let choice = sampler.sample(&logits, &sampling, history(&tokens, 3), &allowed).expect("finite");
            counts[choice.expect("a choice").token as usize] += 1;
        }
        let never = expected.iter().filter(|(_, p)| *p == 0.0);
        never.for_each(|&(token, _)| assert_eq!(counts[token], 0, "{name}: token {token} is forbidden"));
        check_counts(name, &counts, &expected);
    }
}

proptest! {
    #[test]
    fn probabilities_equal_the_plain_definition(
        logits in prop::collection::vec(-9f32..9.0, 40),
        tokens in prop::collection::vec(0u32..40, 0..20),
        biases in prop::collection::btree_map(0u32..50, -100f32..=100.0, 0..6),
        penalties in (0.2f32..3.0, -2f32..=2.0, -2f32..=2.0),
        temperature in 0.3f32..3.0,
    ) {
        let (repetition_penalty, presence_penalty, frequency_penalty) = penalties;
        let logit_bias = biases.into_iter().collect();
        let sampling = Sampling {
            temperature, repetition_penalty, presence_penalty, frequency_penalty, logit_bias, ..Sampling::default()
        };
        let half = tokens.len() / 2;
        let expected = plainly(&logits, &sampling, &tokens, half, &Allowed::All);
        let mut sampler = Sampler::default();
        sampler.sample(&logits, &sampling, history(&tokens, half), &Allowed::All).expect("finite").expect("a choice");
        for (token, p) in sampler.distribution.probabilities() {
            prop_assert!((p - expected[token]).abs() < 1e-4, "token {}: {} instead of {}", token, p, expected[token]);
        }
    }
}
