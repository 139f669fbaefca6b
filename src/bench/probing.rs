//! Finds out how a server counts what is asked, before anything is measured.

use rand::{SeedableRng, rngs::StdRng};

use super::{
    prompts::{Prompt, Vocabulary, WORDS, random_text},
    target::{Refusal, Target},
};
use crate::config::BenchEndpoint;

/// Ids of ordinary text in every large vocabulary, where the server does not tell which it has.
const IDS: std::ops::Range<u32> = 1000..20_000;
/// Ids of the prompt that is tried.
const TRIED_IDS: usize = 4;
/// Words of the first text that is tried.
const FIRST_WORDS: usize = 8;
/// Words of the second at most: what is counted there is precise enough.
const SECOND_WORDS_MAX: usize = 2000;

/// What prompts for this server are made of, so that they have about `input_tokens` tokens. The error is one line for people.
pub fn vocabulary(target: &Target, input_tokens: u32) -> Result<Vocabulary, String> {
    if target.endpoint == BenchEndpoint::Completions {
        match ids(target) {
            Ok(found) => return Ok(found),
            // Not every server takes ids.
            Err(refusal) if refusal.is_of_the_request() => {}
            Err(refusal) => return Err(refusal.message),
        }
    }
    words(target, input_tokens).map_err(|refusal| refusal.message)
}

fn ids(target: &Target) -> Result<Vocabulary, Refusal> {
    let mut ids = target.tokenize(&WORDS.join(" ")).unwrap_or_default();
    ids.sort_unstable();
    ids.dedup();
    if ids.len() < TRIED_IDS {
        ids = IDS.collect();
    }
    let counted = target.ask_once(&Prompt::Ids(ids[..TRIED_IDS].to_vec()))?;
    let added = counted.map_or(0, |counted| counted.saturating_sub(TRIED_IDS as u64));
    Ok(Vocabulary::Ids { ids, added: u32::try_from(added).unwrap_or(0) })
}

/// Counts two texts, the second about as long as prompts will be: what a word has more, and what there is without words.
fn words(target: &Target, input_tokens: u32) -> Result<Vocabulary, Refusal> {
    let mut rng = StdRng::seed_from_u64(0);
    let mut counted = |words| target.ask_once(&Prompt::Text(random_text(words, &mut rng)));
    // As if nothing was added: then the second text is too short rather than too long.
    let first = counted(FIRST_WORDS)?.map(|tokens| tokens as usize);
    let second_words = FIRST_WORDS * input_tokens as usize / first.unwrap_or(FIRST_WORDS).max(1);
    let second_words = second_words.clamp(FIRST_WORDS * 2, SECOND_WORDS_MAX);
    let second = counted(second_words)?.map(|tokens| tokens as usize);
    Ok(match (first, second) {
        (Some(first), Some(second)) if second > first => {
            let tokens_per_word = (second - first) as f64 / (second_words - FIRST_WORDS) as f64;
            let added = (first as f64 - tokens_per_word * FIRST_WORDS as f64).max(0.0);
            Vocabulary::Words { tokens_per_word, added }
        }
        _ => Vocabulary::Words { tokens_per_word: 1.0, added: 0.0 },
    })
}
