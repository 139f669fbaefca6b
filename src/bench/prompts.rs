//! Prompts of a wanted length that nobody asked before, so that no cache knows them.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

/// What prompts are made of: common words, one token each in most vocabularies.
pub const WORDS: &[&str] = &[
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state",
    "family", "student", "group", "country", "problem", "hand", "part", "place", "case", "week", "company", "system",
    "program", "question", "work", "number", "night", "point", "home", "water", "room", "mother", "area", "money",
    "story", "fact", "month", "lot", "right", "study", "book", "eye", "job", "word", "business", "issue", "side",
    "kind", "head", "house", "service", "friend", "father", "power", "hour", "game", "line", "end", "member", "law",
    "car", "city", "name", "team", "minute", "idea", "body", "back", "parent", "face", "level", "office", "door",
    "health", "person", "art", "war", "history", "party", "result", "change", "morning", "reason", "research", "girl",
    "moment", "air", "teacher", "force", "river", "mountain", "summer", "winter", "paper", "letter", "music", "road",
    "market", "language", "science",
];

/// How a server counts what is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Vocabulary {
    /// It takes token ids.
    Ids {
        /// Those that prompts are made of, at least one.
        ids: Vec<u32>,
        /// Tokens that it adds by itself.
        added: u32,
    },
    /// It takes text.
    Words {
        /// Tokens of a word, in the mean.
        tokens_per_word: f64,
        /// Tokens that it adds by itself, such as a chat's template.
        added: f64,
    },
}

/// A prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// As token ids.
    Ids(Vec<u32>),
    /// As text.
    Text(String),
}

/// Makes prompts, the same ones for the same seed.
#[derive(Debug)]
pub struct PromptMaker {
    vocabulary: Vocabulary,
    /// What all prompts begin with, as indices of ids or words.
    prefix: Vec<usize>,
    rng: StdRng,
}

impl PromptMaker {
    /// Of prompts whose first `shared` tokens are the same.
    pub fn new(vocabulary: Vocabulary, shared: u32, seed: u64) -> Self {
        // The prefix has a stream of its own, so that it stays what it is for every length.
        let mut prefix_rng = StdRng::seed_from_u64(seed.wrapping_add(1));
        let mut maker = Self { vocabulary, prefix: Vec::new(), rng: StdRng::seed_from_u64(seed) };
        let (units, count) = (maker.units(), maker.count(f64::from(shared)));
        maker.prefix = (0..count).map(|_| prefix_rng.random_range(0..units)).collect();
        maker
    }

    /// One of so many tokens, at least one of them new.
    pub fn prompt(&mut self, tokens: u32) -> Prompt {
        let added = match &self.vocabulary {
            Vocabulary::Ids { added, .. } => f64::from(*added),
            Vocabulary::Words { added, .. } => *added,
        };
        let (units, count) = (self.units(), self.count(f64::from(tokens) - added).max(1));
        let shared = self.prefix.len().min(count - 1);
        let new = (shared..count).map(|_| self.rng.random_range(0..units));
        let chosen: Vec<usize> = self.prefix[..shared].iter().copied().chain(new).collect();
        match &self.vocabulary {
            Vocabulary::Ids { ids, .. } => Prompt::Ids(chosen.into_iter().map(|index| ids[index]).collect()),
            Vocabulary::Words { .. } => Prompt::Text(text(chosen.into_iter().map(|index| WORDS[index]))),
        }
    }

    fn units(&self) -> usize {
        match &self.vocabulary {
            Vocabulary::Ids { ids, .. } => ids.len(),
            Vocabulary::Words { .. } => WORDS.len(),
        }
    }

    /// Ids or words of so many tokens.
    fn count(&self, tokens: f64) -> usize {
        match &self.vocabulary {
            Vocabulary::Ids { .. } => tokens.max(0.0) as usize,
            Vocabulary::Words { tokens_per_word, .. } => (tokens / tokens_per_word).round().max(0.0) as usize,
        }
    }
}

/// So many random words.
pub fn random_text(words: usize, rng: &mut impl Rng) -> String {
    text((0..words).filter_map(|_| WORDS.choose(rng).copied()))
}

fn text<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(maker: &mut PromptMaker, tokens: u32) -> Vec<u32> {
        match maker.prompt(tokens) {
            Prompt::Ids(ids) => ids,
            Prompt::Text(text) => panic!("{text}"),
        }
    }

    #[test]
    fn prompts_of_ids_have_their_exact_length_and_share_what_they_shall() {
        let vocabulary = Vocabulary::Ids { ids: (100..400).collect(), added: 1 };
        let mut maker = PromptMaker::new(vocabulary.clone(), 16, 3);
        let (first, second, short) = (ids(&mut maker, 33), ids(&mut maker, 33), ids(&mut maker, 9));
        assert_eq!((first.len(), second.len(), short.len()), (32, 32, 8));
        assert_eq!(first[..16], second[..16]);
        assert_ne!(first[16..], second[16..]);
        assert_eq!(short[..7], first[..7], "the last token is always new");
        assert_eq!(ids(&mut PromptMaker::new(vocabulary.clone(), 16, 3), 33), first);
        assert_ne!(ids(&mut PromptMaker::new(vocabulary, 16, 4), 33), first);
    }

    #[test]
    fn prompts_of_text_have_about_their_length() {
        let vocabulary = Vocabulary::Words { tokens_per_word: 2.0, added: 10.0 };
        let mut maker = PromptMaker::new(vocabulary, 20, 3);
        let mut words = |tokens| match maker.prompt(tokens) {
            Prompt::Text(text) => text.split(' ').map(str::to_owned).collect::<Vec<_>>(),
            Prompt::Ids(ids) => panic!("{ids:?}"),
        };
        let (first, second) = (words(50), words(50));
        assert_eq!((first.len(), words(1).len()), (20, 1));
        assert!(first[..10] == second[..10] && first[10..] != second[10..]);
    }
}
