use proptest::prelude::*;
use serde_json::Value;

use super::{bans::Bans, *};

fn history(tokens: &[u32], prompt_length: usize) -> History<'_> {
    History { tokens, prompt_length }
}

fn choose(logits: &[f32], sampling: &Sampling, tokens: &[u32], prompt_length: usize) -> u32 {
    Sampler::default()
        .sample(logits, sampling, history(tokens, prompt_length), &Allowed::All)
        .expect("finite")
        .expect("a choice")
        .token
}

fn probabilities(logits: &[f32], sampling: &Sampling, tokens: &[u32]) -> Vec<(usize, f64)> {
    let mut sampler = Sampler::default();
    let (history, all) = (history(tokens, tokens.len()), Allowed::All);
    let Sampler { scores, penalties, distribution } = &mut sampler;
    let scores = change(scores, penalties, logits, sampling, history, &Bans::of(sampling, history, &all));
    distribution.compute(scores, maximum(scores), sampling);
    sampler.distribution.probabilities()
}

/// SmolLM2's logits after a prompt, and the reference's distributions of them.
fn golden() -> (Vec<f32>, Value) {
    let folder = crate::fixtures::golden("smollm2");
    let bytes = std::fs::read(folder.join("last_logits_sampling.f32le.bin")).expect("the logits");
    let logits = bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    let golden = std::fs::read(folder.join("golden.json")).expect("the golden file");
    (logits, serde_json::from_slice::<Value>(&golden).expect("JSON")["sampling"].take())
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

#[test]
fn distributions_equal_the_reference() {
    let (logits, golden) = golden();
    let prompt: Vec<u32> = serde_json::from_value(golden["prompt_ids"].clone()).expect("ids");
    let distributions = golden["distributions"].as_object().expect("distributions");
    assert!(!distributions.is_empty());
    for (name, expected) in distributions {
        let ours = probabilities(&logits, &recipe(name), &prompt);
        assert_eq!(ours.len() as u64, expected["support"].as_u64().expect("support"), "support of {name}");
        let ids = expected["top_ids"].as_array().expect("ids").iter().map(|id| id.as_u64().expect("id") as usize);
        let probs = expected["top_probs"].as_array().expect("probs").iter().map(|p| p.as_f64().expect("p"));
        for ((id, p), &(our_id, our_p)) in ids.zip(probs).zip(&ours) {
            assert_eq!(our_id, id, "an id of {name}");
            assert!((our_p - p).abs() < 1e-5 * p.max(0.01), "token {id} of {name}: {our_p} instead of {p}");
        }
    }
}

/// Seeds differ, so the draws are independent; and fixed, so the test cannot fail by chance.
#[test]
fn draws_follow_the_distribution() {
    const DRAWS: u32 = 20_000;
    let (logits, _) = golden();
    for name in ["t0.7_top_k40_top_p0.9", "t0.7"] {
        let sampling = recipe(name);
        let expected = probabilities(&logits, &sampling, &[]);
        let mut counts = vec![0u32; logits.len()];
        let mut sampler = Sampler::default();
        sampler.distribution.compute(&logits, maximum(&logits), &sampling);
        (0..u64::from(DRAWS)).for_each(|n| counts[sampler.distribution.draw(random::uniform(n, 5))] += 1);
        // Tokens expected less than ten times are counted as one.
        let (often, seldom) = expected.split_at(expected.partition_point(|(_, p)| p * f64::from(DRAWS) >= 10.0));
        let rest = (seldom.iter().map(|(_, p)| p).sum::<f64>(), seldom.iter().map(|&(t, _)| counts[t]).sum());
        let classes = often.iter().map(|&(token, p)| (p, counts[token])).chain((rest.0 > 0.0).then_some(rest));
        let (mut chi_square, mut freedom) = (0.0, -1.0);
        for (p, count) in classes {
            let mean = p * f64::from(DRAWS);
            chi_square += (f64::from(count) - mean).powi(2) / mean;
            freedom += 1.0;
        }
        // Mean `freedom`, variance twice that: four standard deviations.
        assert!(chi_square < freedom + 4.0 * f64::sqrt(2.0 * freedom), "{name}: {chi_square} for {freedom}");
    }
}

#[test]
fn exp_is_close_to_the_real_one() {
    for i in 0..87_000 {
        let x = -(i as f32) / 1000.0;
        let exact = f64::from(x).exp();
        assert!((f64::from(distribution::exp(x)) - exact).abs() <= 2e-7 * exact, "exp({x})");
    }
    assert_eq!((distribution::exp(0.0), distribution::exp(f32::NEG_INFINITY)), (1.0, 0.0));
}

#[test]
fn greedy_takes_the_first_of_the_greatest() {
    let mut logits = vec![0.5; 1000];
    logits[700] = 3.0;
    logits[300] = 3.0;
    for greedy in [
        Sampling { temperature: 0.0, ..Default::default() },
        Sampling { top_p: 0.0, ..Default::default() },
        Sampling { top_k: 1, ..Default::default() },
    ] {
        assert_eq!(choose(&logits, &greedy, &[], 0), 300);
    }
}

#[test]
fn penalties_and_masks() {
    let greedy = Sampling { temperature: 0.0, ..Default::default() };
    let logits = [1.0, 2.0, 4.0, 3.9, -1.0];
    let check = |sampling: Sampling, tokens: &[u32], prompt_length, expected| {
        assert_eq!(choose(&logits, &sampling, tokens, prompt_length), expected, "{sampling:?}");
    };
    check(greedy.clone(), &[2], 1, 2);
    check(Sampling { repetition_penalty: 1.1, ..greedy.clone() }, &[2], 1, 3);
    check(Sampling { presence_penalty: 0.2, ..greedy.clone() }, &[2], 1, 2); // the prompt does not count
    check(Sampling { presence_penalty: 0.2, ..greedy.clone() }, &[0, 2], 1, 3);
    check(Sampling { frequency_penalty: 0.06, ..greedy.clone() }, &[0, 2], 1, 2);
    check(Sampling { frequency_penalty: 0.06, ..greedy.clone() }, &[0, 2, 2], 1, 3);
    check(Sampling { repetition_penalty: f32::MIN_POSITIVE, ..greedy.clone() }, &[4, 99], 1, 2); // clamped, not infinite
    let early = Sampling { min_tokens: 2, stop_token_ids: vec![2, 77], ..greedy };
    check(early.clone(), &[0, 1], 1, 3);
    check(early, &[0, 1, 1], 1, 2);
}

#[test]
fn logprobs_are_of_the_untouched_distribution() {
    let logits = [1.0f32, 3.0, 2.0, 3.0, -50.0];
    let log_sum = logits.iter().map(|&l| f64::from(l).exp()).sum::<f64>().ln();
    let sampling = Sampling { temperature: 0.0, repetition_penalty: 9.0, logprobs: Some(3), ..Default::default() };
    let choice = Sampler::default().sample(&logits, &sampling, history(&[1, 3], 2), &Allowed::All);
    let choice = choice.expect("finite").expect("a choice");
    let logprobs = choice.logprobs.expect("asked for");
    assert_eq!(choice.token, 2);
    assert!((f64::from(logprobs.sampled) - (2.0 - log_sum)).abs() < 1e-6);
    assert_eq!(logprobs.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [1, 3, 2]);
    assert!(logprobs.top.iter().all(|&(t, p)| (f64::from(p) - (f64::from(logits[t as usize]) - log_sum)).abs() < 1e-6));
}

#[test]
fn bad_logits_are_named() {
    let check = |logits: &[f32], sampling: &Sampling, expected: &str| {
        let error =
            Sampler::default().sample(logits, sampling, history(&[], 0), &Allowed::All).expect_err("bad logits");
        assert_eq!(error.to_string(), expected);
    };
    let plain = Sampling::default();
    check(&[0.0, f32::NAN], &plain, "the logit of token 1 is NaN");
    check(&[f32::INFINITY, 0.0], &plain, "the logit of token 0 is inf");
}

fn samplings() -> impl Strategy<Value = Sampling> {
    let shape = (0.0f32..3.0, 0.0f32..=1.0, 0u32..40, prop_oneof![Just(0.0f32), 0.0f32..=1.0]);
    let rest = (0.1f32..3.0, -2.0f32..2.0, -2.0f32..2.0, any::<u64>(), 0u32..4);
    (shape, rest).prop_map(
        |((temperature, top_p, top_k, min_p), (repetition, presence, frequency, seed, min_tokens))| Sampling {
            temperature,
            top_p,
            top_k,
            min_p,
            repetition_penalty: repetition,
            presence_penalty: presence,
            frequency_penalty: frequency,
            seed,
            min_tokens,
            stop_token_ids: vec![3],
            logprobs: Some(5),
            ..Sampling::default()
        },
    )
}

proptest! {
    #[test]
    fn the_choice_is_in_the_support_and_repeats(
        logits in prop::collection::vec(-20f32..20.0, 5..300),
        sampling in samplings(),
        tokens in prop::collection::vec(0u32..300, 0..20),
    ) {
        let prompt_length = tokens.len() / 2;
        let mut sampler = Sampler::default();
        let draw = |sampler: &mut Sampler| {
            sampler.sample(&logits, &sampling, history(&tokens, prompt_length), &Allowed::All).expect("finite").expect("a choice")
        };
        let (first, used_again, fresh) = (draw(&mut sampler), draw(&mut sampler), draw(&mut Sampler::default()));
        prop_assert_eq!(&first, &used_again);
        prop_assert_eq!(&first, &fresh);
        prop_assert!(tokens.len() - prompt_length >= sampling.min_tokens as usize || first.token != 3);
        if !sampling.is_greedy() {
            let support = sampler.distribution.probabilities();
            prop_assert!(support.iter().any(|&(token, p)| token == first.token as usize && p > 0.0));
        }
    }

    /// Against the plain definition: sort all, then cut.
    #[test]
    fn truncation_equals_sorting(
        logits in prop::collection::vec((-40i32..40).prop_map(|n| n as f32 / 4.0), 1..200),
        top_k in 0u32..250,
        top_p in 0.01f32..1.0,
    ) {
        let sampling = Sampling { top_k, top_p, ..Default::default() };
        let mut expected = probabilities(&logits, &Sampling::default(), &[]);
        if top_k > 0 {
            expected.truncate(top_k as usize);
        }
        let total: f64 = expected.iter().map(|(_, p)| p).sum();
        let mut mass = 0.0;
        let margin = expected.iter().map(|(_, p)| { mass += p / total; (mass - f64::from(top_p)).abs() }).fold(1.0, f64::min);
        prop_assume!(margin > 1e-9); // where the mass meets top_p exactly, rounding decides
        let mut before = 0.0;
        expected.retain(|(_, p)| { let keep = before < f64::from(top_p); before += p / total; keep });
        let kept: Vec<usize> = probabilities(&logits, &sampling, &[]).iter().map(|(token, _)| *token).collect();
        prop_assert_eq!(kept, expected.iter().map(|(token, _)| *token).collect::<Vec<_>>());
    }
}
