//! The merges of a vocabulary that doesn't list them.

use tokenizers::models::bpe::{Merges, Vocab};

/// SentencePiece and tiktoken keep no list of merges: they merge the pair whose result has the best score (or the
/// lowest rank). The same order comes from listing every way to put a piece together from two others, best score first.
///
/// `score` of an id: the higher, the earlier; None for what is never merged, nor made by merging.
pub(crate) fn merges_of_scores(vocab: &Vocab, score: impl Fn(u32) -> Option<f64>) -> Merges {
    let piece = |text: &str| vocab.get(text).copied().filter(|&id| score(id).is_some());
    let mut merges = Vec::new();
    for (text, &id) in vocab {
        let Some(score) = score(id) else { continue };
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if let Some(left_id) = piece(left)
                && let Some(right_id) = piece(right)
            {
                merges.push((score, (id, left_id, right_id), (left, right)));
            }
        }
    }
    merges.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    merges.into_iter().map(|(_, _, (left, right))| (left.into(), right.into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_make_a_piece_is_listed_best_score_first() {
        let pieces = ["a", "b", "c", "ab", "bc", "abc", "<x>"];
        let scores = [-9.0, -9.0, -9.0, -2.0, -1.0, -3.0];
        let vocab = pieces.iter().map(|piece| piece.to_string()).zip(0..).collect();
        let merges = merges_of_scores(&vocab, |id| scores.get(id as usize).copied());
        let merges: Vec<_> = merges.iter().map(|(left, right)| format!("{left}+{right}")).collect();
        assert_eq!(merges, ["b+c", "a+b", "a+bc", "ab+c"]);
    }
}
