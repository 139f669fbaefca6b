//! Guided sequences: masks in time, late, wrong and missing.

use workers::link::mask::Allowed;
use workers::link::report::{Outcome, StepReport};
use workers::link::sampling::Sampling;
use workers::link::step::{NewSequence, SequenceId};

use crate::group::{Ranks, chunk};
use crate::{creative, greedy, prompt};

const MODEL: &str = "llama3_rope";

fn sequence(id: u64, tokens: &[u32], sampling: Sampling) -> NewSequence {
    let (tokens, prompt_length) = (tokens.to_vec(), tokens.len() as u32);
    NewSequence { id: SequenceId(id), tokens, prompt_length, sampling, pooling: None }
}

fn guided(sampling: Sampling) -> Sampling {
    Sampling { guided: true, ..sampling }
}

fn outcome(report: &StepReport, id: u64) -> &Outcome {
    &report.tokens.iter().find(|sampled| sampled.id.0 == id).expect("sampled").outcomes[0]
}

/// Every third token, by bits.
fn thirds(of: u32) -> Allowed {
    let bit = |token: u32| u32::from(token % 3 == of);
    Allowed::Bits((0..32).map(|word| (0..32).map(|at| bit(word * 32 + at) << at).sum()).collect())
}

#[test]
fn a_mask_in_time_is_kept_to() {
    for world_size in [1, 2, 3] {
        let mut ranks = Ranks::start(MODEL, world_size);
        let prompt = prompt(20);
        ranks.meet(sequence(1, &prompt, guided(creative(3))));
        ranks.meet(sequence(2, &prompt, creative(3)));
        let mut plain = Vec::new();
        for position in 20..32 {
            ranks.allow(1, position, thirds(position as u32 % 3));
            let start = if position == 20 { 0 } else { position - 1 };
            let report = ranks.step([1, 2].map(|id| chunk(id, start, position, true)).to_vec());
            let token = outcome(&report, 1).token().expect("allowed");
            assert_eq!(token % 3, position as u32 % 3, "{world_size} ranks, position {position}");
            plain.extend(outcome(&report, 2).token());
        }
        assert_eq!(plain, crate::alone(world_size, &prompt, &creative(3), 12), "a guided neighbour changes nothing");
    }
}

#[test]
fn a_deferred_choice_is_made_later_as_if_nothing_had_been() {
    for world_size in [1, 2, 3] {
        let prompt = prompt(17);
        let run = |deferrals: &[usize]| {
            let mut ranks = Ranks::start(MODEL, world_size);
            ranks.meet(sequence(1, &prompt, guided(creative(5))));
            let (mut tokens, mut computed) = (Vec::new(), 0);
            for position in 17..27 {
                for _ in 0..deferrals.iter().filter(|at| **at == position).count() {
                    let report = ranks.step(vec![chunk(1, computed, position, true)]);
                    assert_eq!(outcome(&report, 1), &Outcome::Deferred, "{world_size} ranks, position {position}");
                    computed = position - 1;
                }
                ranks.allow(1, position, thirds(1));
                let report = ranks.step(vec![chunk(1, computed, position, true)]);
                tokens.extend(outcome(&report, 1).token());
                computed = position;
            }
            tokens
        };
        let expected = run(&[]);
        assert_eq!(expected.len(), 10);
        assert_eq!(run(&[17, 18, 22, 22, 26]), expected, "{world_size} ranks");
    }
}

#[test]
fn only_the_mask_of_the_choice_serves_it() {
    for world_size in [1, 2, 3] {
        let mut ranks = Ranks::start(MODEL, world_size);
        let prompt = prompt(5);
        ranks.meet(sequence(1, &prompt, guided(greedy())));
        ranks.allow(1, 4, Allowed::All); // a choice that was never to be made
        ranks.allow(7, 5, Allowed::All); // another's, whom nobody knows
        let report = ranks.step(vec![chunk(1, 0, 5, true)]);
        assert_eq!(outcome(&report, 1), &Outcome::Deferred);
        ranks.allow(1, 6, Allowed::Only(vec![9])); // the one after the next
        let report = ranks.step(vec![chunk(1, 4, 5, true)]);
        assert_eq!(outcome(&report, 1), &Outcome::Deferred);
        // A sequence that comes under a forgotten one's id would not be served by its masks.
        ranks.forget(1);
        ranks.meet(sequence(2, &prompt, guided(greedy())));
        ranks.allow(2, 5, Allowed::Only(vec![800, 801]));
        let report = ranks.step(vec![chunk(2, 0, 5, true)]);
        assert!(matches!(outcome(&report, 2), Outcome::Chosen { token: 800 | 801, .. }));
    }
}

#[test]
fn a_sequence_with_nothing_left_ends_alone() {
    for world_size in [1, 2, 3] {
        let mut ranks = Ranks::start(MODEL, world_size);
        let prompt = prompt(9);
        let all_but = |token: u32| (0..1024).filter(|&other| other != token).map(|other| vec![other]).collect();
        let banned = Sampling { bad_words: all_but(1024), ..greedy() };
        ranks.meet(sequence(1, &prompt, guided(greedy())));
        ranks.meet(sequence(2, &prompt, guided(greedy())));
        ranks.meet(sequence(3, &prompt, banned));
        ranks.meet(sequence(4, &prompt, greedy()));
        ranks.allow(1, 9, Allowed::Only(vec![]));
        ranks.allow(2, 9, Allowed::Only(vec![1024, u32::MAX])); // beyond the vocabulary
        let report = ranks.step([1, 2, 3, 4].map(|id| chunk(id, 0, 9, true)).to_vec());
        (1..4).for_each(|id| assert_eq!(outcome(&report, id), &Outcome::NothingLeft, "sequence {id}"));
        let first = outcome(&report, 4).token().expect("nothing forbids it");
        (1..4).for_each(|id| ranks.forget(id));
        let report = ranks.step(vec![chunk(4, 9, 10, true)]);
        let second = outcome(&report, 4).token().expect("the group goes on");
        assert_eq!([first, second].to_vec(), crate::alone(world_size, &prompt, &greedy(), 2));
    }
}
