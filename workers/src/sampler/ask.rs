//! Choices that a device can make which has the logits: those that need nothing else.

use kernels::choose::Ask;

use super::{History, bans::Bans, draw, penalties};
use crate::link::{mask::Allowed, sampling::Sampling};

/// What the device is asked for the token that follows `history`, by the logits of `row`; none where the choice needs
/// more than they are (what was said before, a guide's word), or more than a token is to come of it.
pub fn ask(row: usize, sampling: &Sampling, history: History<'_>) -> Option<Ask> {
    let changes = penalties::apply_to(sampling) || !Bans::of(sampling, history, &Allowed::All).is_empty();
    let reports = sampling.logprobs.is_some() || sampling.confidence_threshold.is_some();
    let draw = (!sampling.is_greedy()).then(|| draw(sampling, history));
    (!changes && !reports && !sampling.guided).then_some(Ask { row, draw })
}

#[cfg(test)]
mod tests {
    use kernels::choose::Draw;

    use super::*;
    use crate::sampler::random;

    const HISTORY: History<'_> = History { tokens: &[1, 2, 3], prompt_length: 2 };

    #[test]
    fn a_draw_is_asked_for_with_its_own_number() {
        let sampling = Sampling { temperature: 0.7, top_k: 40, top_p: 0.9, min_p: 0.1, seed: 5, ..Sampling::default() };
        let uniform = random::uniform(5, 3);
        let draw = Draw { temperature: 0.7, top_k: 40, top_p: 0.9, min_p: 0.1, uniform };
        assert_eq!(ask(7, &sampling, HISTORY), Some(Ask { row: 7, draw: Some(draw) }));
        for greedy in [
            Sampling { temperature: 0.0, ..sampling.clone() },
            Sampling { top_p: 0.0, ..sampling.clone() },
            Sampling { top_k: 1, ..sampling },
        ] {
            assert_eq!(ask(7, &greedy, HISTORY), Some(Ask { row: 7, draw: None }));
        }
    }

    #[test]
    fn a_choice_that_needs_more_than_logits_is_not_asked_for() {
        let check = |needs_more, sampling: Sampling| {
            assert_eq!(ask(0, &sampling, HISTORY).is_none(), needs_more, "{sampling:?}");
        };
        check(true, Sampling { repetition_penalty: 1.1, ..Sampling::default() });
        check(true, Sampling { presence_penalty: -0.1, ..Sampling::default() });
        check(true, Sampling { frequency_penalty: 0.1, ..Sampling::default() });
        check(true, Sampling { logit_bias: vec![(1, 1.0)], ..Sampling::default() });
        check(true, Sampling { guided: true, ..Sampling::default() });
        check(true, Sampling { logprobs: Some(0), ..Sampling::default() });
        check(true, Sampling { confidence_threshold: Some(0.5), ..Sampling::default() });
        let held_back = |min_tokens| Sampling { min_tokens, stop_token_ids: vec![9], ..Sampling::default() };
        check(true, held_back(2));
        check(false, held_back(1));
        let bad_word = |first| Sampling { bad_words: vec![vec![first, 9]], ..Sampling::default() };
        check(true, bad_word(3));
        check(false, bad_word(4));
        check(false, Sampling { prompt_alternatives: 3, ..Sampling::default() });
    }
}
