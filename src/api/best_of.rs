//! `best_of`: of several sequences of one prompt, the best are told.

use super::answer::Collected;

/// Of every `candidates` sequences in a row, the `n` of the highest mean log-probability, the best first. Among equals
/// the earlier one goes first.
pub fn choose(all: Vec<Collected>, candidates: usize, n: usize) -> Vec<Collected> {
    let mut chosen = Vec::with_capacity(all.len() / candidates.max(1) * n);
    let mut all = all.into_iter();
    loop {
        let mut of_prompt: Vec<Collected> = all.by_ref().take(candidates).collect();
        if of_prompt.is_empty() {
            return chosen;
        }
        of_prompt.sort_by(|a, b| mean_logprob(b).total_cmp(&mean_logprob(a)));
        of_prompt.truncate(n);
        chosen.append(&mut of_prompt);
    }
}

/// `(ln p(t₁) + … + ln p(tₖ)) / k` over the generated tokens, the one that ended the sequence included. By token, so that
/// a short text isn't better for being short.
fn mean_logprob(sequence: &Collected) -> f64 {
    let of_tokens = sequence.pieces.iter().filter_map(|piece| piece.logprobs.as_ref());
    let sum: f64 = of_tokens.map(|logprobs| f64::from(logprobs.sampled)).sum();
    sum / sequence.pieces.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use workers::link::report::Logprobs;

    use super::*;
    use crate::api::choice::Piece;

    fn sequence(name: &str, logprobs: &[f32]) -> Collected {
        let piece = |&sampled: &f32| Piece {
            token: 0,
            text: String::new(),
            parts: Vec::new(),
            logprobs: Some(Logprobs { sampled, rank: 0, top: Vec::new() }),
            finish: None,
            stop_string: None,
            arrival_time: 0.0,
        };
        Collected { text: name.into(), pieces: logprobs.iter().map(piece).collect(), ..Collected::default() }
    }

    #[test]
    fn the_likeliest_by_token_come_first() {
        let all = vec![
            sequence("short but unlikely", &[-2.0]),
            sequence("long and likely", &[-1.0, -1.0, -1.0]),
            sequence("impossible", &[f32::NEG_INFINITY]),
            sequence("as likely", &[-1.0]),
            sequence("b", &[-0.5]),
            sequence("c", &[-0.1]),
            sequence("d", &[-0.3]),
            sequence("e", &[-0.4]),
        ];
        let names: Vec<String> = choose(all, 4, 2).into_iter().map(|chosen| chosen.text).collect();
        assert_eq!(names, ["long and likely", "as likely", "c", "d"]);
    }
}
