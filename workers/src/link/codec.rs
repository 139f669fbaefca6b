//! Frames as bytes: bincode's standard encoding, bounded both ways.

use serde::{Serialize, de::DeserializeOwned};

use super::{error::LinkError, ring::layout::CAPACITY_MAX};

/// What decoding one frame may claim. The codec counts a number at its full width, a frame is at most half of a ring,
/// and no number is encoded in less than an eighth of its width: no honest frame meets this limit.
const CLAIM_BYTES_MAX: usize = CAPACITY_MAX / 2 * 8;

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<CLAIM_BYTES_MAX>()
}

/// Encodes `value` into `frame`, replacing what was there.
pub fn encode(value: &impl Serialize, frame: &mut Vec<u8>) {
    frame.clear();
    let encoded = bincode::serde::encode_into_std_write(value, frame, config());
    encoded.expect("numbers, options and lists are always encodable, and a vector takes them all");
}

/// Decodes a frame out of `segment`. Bytes left over are as wrong as missing ones.
pub fn decode<T: DeserializeOwned>(frame: &[u8], segment: &str) -> Result<T, LinkError> {
    let corrupt = |found| LinkError::Corrupt { segment: segment.to_owned(), found };
    match bincode::serde::decode_from_slice(frame, config()) {
        Ok((value, used)) if used == frame.len() => Ok(value),
        Ok((_, used)) => Err(corrupt(format!("{} bytes follow the end of a frame", frame.len() - used))),
        Err(error) => Err(corrupt(format!("an undecodable frame ({error})"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::link::{
        mask::{Allowed, TokenMask},
        report::{Embedding, Logprobs, Outcome, PromptLogprobs, SampledTokens, StepReport},
        sampling::Sampling,
        step::{Chunk, NewSequence, Pooling, SequenceId, Step},
    };

    fn id() -> impl Strategy<Value = SequenceId> {
        any::<u64>().prop_map(SequenceId)
    }

    fn list<T: std::fmt::Debug>(of: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
        prop::collection::vec(of, 0..6)
    }

    fn sampling() -> impl Strategy<Value = Sampling> {
        let lists = (any::<u32>(), list(any::<u32>()), any::<Option<u32>>());
        let more = (list(any::<(u32, f32)>()), list(list(any::<u32>())), any::<bool>(), any::<Option<f32>>());
        (any::<[f32; 6]>(), any::<u32>(), any::<u64>(), lists, more).prop_map(|(floats, top_k, seed, lists, more)| {
            let [temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty] = floats;
            let (min_tokens, stop_token_ids, logprobs) = lists;
            let (logit_bias, bad_words, guided, confidence_threshold) = more;
            Sampling {
                temperature,
                top_p,
                top_k,
                min_p,
                repetition_penalty,
                presence_penalty,
                frequency_penalty,
                seed,
                min_tokens,
                stop_token_ids,
                logprobs,
                logit_bias,
                bad_words,
                guided,
                confidence_threshold,
                ..Sampling::default()
            }
        })
    }

    fn sequence() -> impl Strategy<Value = NewSequence> {
        let pooling = prop_oneof![Just(None), Just(Some(Pooling::Mean)), Just(Some(Pooling::Last))];
        let parts = (id(), list(any::<u32>()), any::<u32>(), sampling(), pooling);
        parts.prop_map(|(id, tokens, prompt_length, sampling, pooling)| NewSequence {
            id,
            tokens,
            prompt_length,
            sampling,
            pooling,
        })
    }

    fn chunk() -> impl Strategy<Value = Chunk> {
        let lists = (list(any::<u32>()), list(any::<u32>()));
        let parts = (id(), any::<u32>(), any::<u32>(), lists, any::<bool>(), any::<(u32, u32)>());
        parts.prop_map(|(id, start, count, (new_blocks, draft), samples, scored)| Chunk {
            id,
            start,
            count,
            new_blocks,
            samples,
            draft,
            scored: scored.0..scored.1,
        })
    }

    fn step() -> impl Strategy<Value = Step> {
        let parts = (any::<u64>(), list(id()), list(sequence()), list(chunk()));
        parts.prop_map(|(number, finished, started, batch)| Step { number, finished, started, batch })
    }

    fn logprobs() -> impl Strategy<Value = Logprobs> {
        let parts = (any::<f32>(), any::<u32>(), list(any::<(u32, f32)>()));
        parts.prop_map(|(sampled, rank, top)| Logprobs { sampled, rank, top })
    }

    fn report() -> impl Strategy<Value = StepReport> {
        let chosen = (any::<u32>(), prop::option::of(logprobs()), any::<bool>());
        let chosen = chosen.prop_map(|(token, logprobs, confident)| Outcome::Chosen { token, logprobs, confident });
        let outcome = prop_oneof![chosen, Just(Outcome::Deferred), Just(Outcome::NothingLeft)];
        let token = (id(), list(outcome)).prop_map(|(id, outcomes)| SampledTokens { id, outcomes });
        let scored = (id(), list(logprobs())).prop_map(|(id, entries)| PromptLogprobs { id, entries });
        let embedding = (id(), list(any::<f32>())).prop_map(|(id, values)| Embedding { id, values });
        let parts = (any::<u64>(), list(token), list(scored), list(embedding));
        parts.prop_map(|(step, tokens, prompt_logprobs, embeddings)| StepReport {
            step,
            tokens,
            prompt_logprobs,
            embeddings,
        })
    }

    fn mask() -> impl Strategy<Value = TokenMask> {
        let only = list(any::<u32>()).prop_map(Allowed::Only);
        let allowed = prop_oneof![Just(Allowed::All), only, list(any::<u32>()).prop_map(Allowed::Bits)];
        let parts = (id(), any::<u32>(), allowed);
        parts.prop_map(|(id, position, allowed)| TokenMask { id, position, allowed })
    }

    fn encoded(value: &impl Serialize) -> Vec<u8> {
        let mut frame = vec![1, 2, 3];
        encode(value, &mut frame);
        frame
    }

    proptest! {
        #[test]
        fn a_step_survives_the_way(step in step()) {
            prop_assert_eq!(decode::<Step>(&encoded(&step), "steps").unwrap(), step);
        }

        #[test]
        fn a_report_survives_the_way(report in report()) {
            prop_assert_eq!(decode::<StepReport>(&encoded(&report), "reports").unwrap(), report);
        }

        #[test]
        fn a_mask_survives_the_way(mask in mask()) {
            prop_assert_eq!(decode::<TokenMask>(&encoded(&mask), "masks").unwrap(), mask);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = decode::<Step>(&bytes, "steps");
            let _ = decode::<StepReport>(&bytes, "reports");
            let _ = decode::<TokenMask>(&bytes, "masks");
        }

        #[test]
        fn a_damaged_step_is_survived(step in step(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut frame = encoded(&step);
            let at = at.index(frame.len());
            frame[at] = byte;
            if let Ok(read) = decode::<Step>(&frame, "steps") {
                prop_assert!(read.started.len() + read.batch.len() <= frame.len());
            }
        }

        #[test]
        fn a_frame_cut_short_or_followed_by_more_is_refused(step in step(), cut in any::<prop::sample::Index>()) {
            let mut frame = encoded(&step);
            prop_assert!(decode::<Step>(&frame[..cut.index(frame.len())], "steps").is_err());
            frame.push(0);
            let refused = decode::<Step>(&frame, "steps").unwrap_err().to_string();
            prop_assert!(refused.contains("1 bytes follow"), "{}", refused);
        }
    }

    #[test]
    fn a_list_of_endless_length_is_refused_without_making_room_for_it() {
        // number 0, then a list that claims u64::MAX entries (bincode: 253, then 8 bytes).
        let mut frame = vec![0, 253];
        frame.extend([0xff; 8]);
        frame.extend([1; 100]);
        assert!(matches!(decode::<Step>(&frame, "steps"), Err(LinkError::Corrupt { .. })));
        assert!(matches!(decode::<StepReport>(&frame, "reports"), Err(LinkError::Corrupt { .. })));
    }

    #[test]
    fn the_largest_frame_of_small_numbers_is_within_the_limit() {
        let tokens = vec![7; CAPACITY_MAX / 2 - 100];
        let sequence = NewSequence { id: SequenceId(1), tokens, prompt_length: 1, ..NewSequence::default() };
        let step = Step { started: vec![sequence], ..Step::default() };
        let frame = encoded(&step);
        assert!(frame.len() > CAPACITY_MAX / 2 - 100);
        assert!(decode::<Step>(&frame, "steps").is_ok());
    }
}
