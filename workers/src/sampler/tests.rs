use proptest::prelude::*;

use super::{bans::Bans, *};

pub(super) fn history(tokens: &[u32], prompt_length: usize) -> History<'_> {
    History { tokens, prompt_length }
}

fn choose(logits: &[f32], sampling: &Sampling, tokens: &[u32], prompt_length: usize) -> u32 {
    Sampler::default()
        .sample(logits, sampling, history(tokens, prompt_length), &Allowed::All)
        .expect("finite")
        .expect("a choice")
        .token
}

pub(super) fn probabilities(logits: &[f32], sampling: &Sampling, tokens: &[u32]) -> Vec<(usize, f64)> {
    let mut sampler = Sampler::default();
    let (history, all) = (history(tokens, tokens.len()), Allowed::All);
    let Sampler { scores, penalties, distribution } = &mut sampler;
    let scores = change(scores, penalties, logits, sampling, history, &Bans::of(sampling, history, &all));
    distribution.compute(scores, maximum(scores), &draw(sampling, history));
    sampler.distribution.probabilities()
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

/// What is chosen greedily, if anything, with a guide's word.
fn guided(logits: &[f32], sampling: Sampling, tokens: &[u32], allowed: Allowed) -> Option<u32> {
    let greedy = Sampling { temperature: 0.0, ..sampling };
    let choice = Sampler::default().sample(logits, &greedy, history(tokens, 1), &allowed).expect("finite");
    choice.map(|choice| choice.token)
}

#[test]
fn what_a_guide_does_not_allow_is_not_chosen() {
    let logits: Vec<f32> = (0..70).map(|token| token as f32).collect();
    let check = |allowed: Allowed, expected| {
        assert_eq!(guided(&logits, Sampling::default(), &[0], allowed.clone()), expected, "{allowed:?}");
    };
    check(Allowed::All, Some(69));
    check(Allowed::Only(vec![3, 7]), Some(7));
    check(Allowed::Only(vec![3, 70, u32::MAX]), Some(3));
    check(Allowed::Only(vec![70]), None);
    check(Allowed::Only(vec![]), None);
    check(Allowed::Bits(vec![0b1010]), Some(3));
    check(Allowed::Bits(vec![0, u32::MAX]), Some(63));
    check(Allowed::Bits(vec![1, 0, u32::MAX, u32::MAX]), Some(69));
    check(Allowed::Bits(vec![0, 0, 1 << 6]), None); // token 70 is beyond the vocabulary
    check(Allowed::Bits(vec![]), None);
}

#[test]
fn a_guide_wins_over_min_tokens_and_over_nothing_else() {
    let logits = [1.0, 2.0, 3.0, 4.0];
    let early = Sampling { min_tokens: 5, stop_token_ids: vec![1, 3], ..Sampling::default() };
    let check = |sampling: &Sampling, allowed: &[u32], expected| {
        let allowed = Allowed::Only(allowed.to_vec());
        assert_eq!(guided(&logits, sampling.clone(), &[0], allowed.clone()), expected, "{sampling:?} {allowed:?}");
    };
    check(&early, &[2, 3], Some(2));
    check(&early, &[1, 3], Some(3));
    check(&early, &[], None);
    let banned = Sampling { bad_words: vec![vec![3]], ..early };
    check(&banned, &[1, 3], Some(1));
    check(&banned, &[3], None);
    check(&Sampling { bad_words: vec![vec![2], vec![0]], ..banned }, &[0, 2], None);
}

#[test]
fn where_everything_is_forbidden_nothing_is_chosen() {
    let held_back = Sampling { min_tokens: 1, stop_token_ids: vec![0, 1], ..Sampling::default() };
    assert_eq!(guided(&[0.0, 1.0], held_back, &[0], Allowed::All), None);
    let bad_words = Sampling { bad_words: vec![vec![0], vec![1]], ..Sampling::default() };
    assert_eq!(guided(&[0.0, 1.0], bad_words, &[0], Allowed::All), None);
    assert_eq!(guided(&[], Sampling::default(), &[], Allowed::All), None);
}

#[test]
fn a_bad_word_is_forbidden_where_it_would_be_completed() {
    let logits = [1.0, 2.0, 3.0, 4.0];
    let check = |word: &[u32], tokens: &[u32], expected| {
        let sampling = Sampling { bad_words: vec![word.to_vec()], ..Sampling::default() };
        assert_eq!(guided(&logits, sampling, tokens, Allowed::All), Some(expected), "{word:?} after {tokens:?}");
    };
    check(&[3], &[0], 2);
    check(&[1, 3], &[0, 1], 2);
    check(&[1, 3], &[0, 1, 2], 3);
    check(&[1, 3], &[1], 3); // the prompt's own token begins nothing
    check(&[0, 1, 3], &[0, 1], 3); // nor does half a word of it
    check(&[2, 1, 3], &[0, 2, 1], 2);
    check(&[9], &[0], 3);
}

#[test]
fn biases_move_logits_before_penalties_do() {
    let greedy = Sampling { temperature: 0.0, ..Default::default() };
    let check = |sampling: Sampling, expected| {
        assert_eq!(choose(&[1.0, 2.0, 4.0, 3.9, -1.0], &sampling, &[2], 1), expected, "{sampling:?}");
    };
    check(Sampling { logit_bias: vec![(4, 100.0)], ..greedy.clone() }, 4);
    check(Sampling { logit_bias: vec![(2, -0.2), (77, 100.0)], ..greedy.clone() }, 3);
    // 4 + 4 halved is 4; had the penalty come first, 2 + 4 were 6.
    let both = Sampling { logit_bias: vec![(2, 4.0), (3, 1.0)], repetition_penalty: 2.0, ..greedy.clone() };
    check(both, 3);
    check(Sampling { logit_bias: vec![(3, 100.0)], bad_words: vec![vec![3]], ..greedy }, 2);
}

#[test]
fn confidence_is_that_of_the_untouched_distribution() {
    let logits = [0.0f32, 2.0];
    let likely = (1.0 / (1.0 + f32::exp(-2.0)), 1.0 - 1.0 / (1.0 + f32::exp(-2.0)));
    let check = |threshold, bias: f32, expected| {
        let sampling = Sampling {
            confidence_threshold: threshold,
            logit_bias: vec![(0, bias)],
            temperature: 0.0,
            ..Default::default()
        };
        let choice = Sampler::default().sample(&logits, &sampling, history(&[], 0), &Allowed::All);
        assert_eq!(choice.expect("finite").expect("a choice").confident, expected, "{sampling:?}");
    };
    check(None, 0.0, false);
    check(Some(likely.0 - 1e-4), 0.0, true);
    check(Some(likely.0 + 1e-4), 0.0, false);
    check(Some(likely.1 - 1e-4), 100.0, true); // token 0 is chosen, and not for its own merit
    check(Some(likely.1 + 1e-4), 100.0, false);
}

#[test]
fn logprobs_are_shaped_where_that_is_wanted() {
    let logits = [1.0f32, 3.0, 2.0, 3.5, -200.0];
    let check = |sampling: Sampling, kept: &[usize], temperature: f64| {
        let sampling = Sampling { logprobs: Some(5), repetition_penalty: 2.0, seed: 3, ..sampling };
        let choice = Sampler::default().sample(&logits, &sampling, history(&[3], 0), &Allowed::All);
        let logprobs = choice.expect("finite").expect("a choice").logprobs.expect("asked for");
        let weight = |token: usize| f64::from(logits[token]) / temperature;
        let log_sum = kept.iter().map(|&token| weight(token).exp()).sum::<f64>().ln();
        assert_eq!(logprobs.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [3, 1, 2, 0, 4]);
        for (token, found) in logprobs.top {
            let token = token as usize;
            let expected = if kept.contains(&token) { weight(token) - log_sum } else { f64::NEG_INFINITY };
            let near = (f64::from(found) - expected).abs() < 1e-4 || f64::from(found) == expected;
            assert!(near, "{sampling:?}: {found} instead of {expected} for token {token}");
        }
    };
    let shaped = Sampling { temperature: 0.5, top_p: 0.9, ..Sampling::default() };
    let (scaled, normalised) = (true, true);
    check(shaped.clone(), &[0, 1, 2, 3, 4], 1.0);
    check(Sampling { temp_scaled_logprobs: scaled, ..shaped.clone() }, &[0, 1, 2, 3, 4], 0.5);
    check(Sampling { top_p_normalized_logprobs: normalised, ..shaped.clone() }, &[1, 2, 3], 1.0);
    let both = Sampling { temp_scaled_logprobs: scaled, top_p_normalized_logprobs: normalised, ..shaped };
    check(both.clone(), &[1, 3], 0.5);
    check(Sampling { temperature: 0.0, top_p: 1.0, ..both }, &[0, 1, 2, 3, 4], 1.0);
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
