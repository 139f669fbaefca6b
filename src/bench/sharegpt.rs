//! Conversations out of a file, as the ShareGPT collection has them: a JSON list of `{"conversations": [{"from", "value"}]}`.

use std::{fs::File, io::BufReader, path::Path};

use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde::Deserialize;

/// Shorter prompts and answers are left out, as in vLLM's tool.
const TOKENS_MIN: u32 = 4;
/// Longer prompts are.
const PROMPT_TOKENS_MAX: u32 = 1024;
/// Longer questions with their answers are.
const SUM_TOKENS_MAX: u32 = 2048;

/// A question and the length of its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What is asked.
    pub text: String,
    /// Its tokens, perhaps estimated.
    pub tokens: u32,
    /// The tokens of its answer, perhaps estimated.
    pub answer_tokens: u32,
}

/// Which questions are wanted.
pub struct Wanted<'a> {
    /// At most so many.
    pub count: usize,
    /// In which order they are looked at.
    pub seed: u64,
    /// What answers are taken to be long, whatever the file says.
    pub answer_tokens: Option<u32>,
    /// The longest sequence, tokens.
    pub sequence_tokens_max: Option<u32>,
    /// Counts the tokens of a text.
    pub count_tokens: &'a dyn Fn(&str) -> u32,
}

#[derive(Deserialize)]
struct Conversation {
    #[serde(default, alias = "conversation", alias = "items")]
    conversations: Vec<Turn>,
}

#[derive(Deserialize)]
struct Turn {
    #[serde(default)]
    value: String,
}

/// The first questions of conversations. The error is one line for people, without the file's name.
pub fn read(path: &Path, wanted: &Wanted) -> Result<Vec<Question>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let conversations = serde_json::from_reader::<_, Vec<Conversation>>(BufReader::new(file)).map_err(|error| {
        format!("not a JSON list of {{\"conversations\": [{{\"from\", \"value\"}}]}} as ShareGPT has it: {error}")
    })?;
    let questions = questions(conversations, wanted);
    match questions.is_empty() {
        true => Err(format!(
            "no conversation can be used: it needs a question of {TOKENS_MIN} to {PROMPT_TOKENS_MAX} tokens and an answer"
        )),
        false => Ok(questions),
    }
}

fn questions(mut conversations: Vec<Conversation>, wanted: &Wanted) -> Vec<Question> {
    conversations.shuffle(&mut StdRng::seed_from_u64(wanted.seed));
    let sum_max = wanted.sequence_tokens_max.map_or(SUM_TOKENS_MAX, |max| max.min(SUM_TOKENS_MAX));
    let question = |conversation: Conversation| {
        let mut turns = conversation.conversations.into_iter();
        let (text, answer) = (turns.next()?.value, turns.next()?.value);
        let tokens = (wanted.count_tokens)(&text);
        if !(TOKENS_MIN..=PROMPT_TOKENS_MAX).contains(&tokens) {
            return None;
        }
        let answer_tokens = wanted.answer_tokens.unwrap_or_else(|| (wanted.count_tokens)(&answer));
        let long_enough = wanted.answer_tokens.is_some() || answer_tokens >= TOKENS_MIN;
        (long_enough && tokens + answer_tokens <= sum_max).then_some(Question { text, tokens, answer_tokens })
    };
    conversations.into_iter().filter_map(question).take(wanted.count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words for tokens.
    fn found(text: &str, answer_tokens: Option<u32>) -> Result<Vec<Question>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.json");
        std::fs::write(&path, text).unwrap();
        let count_tokens = |text: &str| text.split_whitespace().count() as u32;
        let wanted =
            Wanted { count: 10, seed: 1, answer_tokens, sequence_tokens_max: Some(20), count_tokens: &count_tokens };
        read(&path, &wanted)
    }

    #[test]
    fn the_first_questions_are_taken_where_they_can_be_used() {
        let long = "a ".repeat(16);
        let text = format!(
            r#"[{{"id": "1", "conversations": [{{"from": "human", "value": "a b c d"}}, {{"from": "gpt", "value": "a b c d e"}}, {{"value": "x"}}]}},
                {{"conversations": []}}, {{}}, {{"conversations": [{{"value": "a b c d"}}]}},
                {{"conversations": [{{"value": "a b"}}, {{"value": "a b c d"}}]}},
                {{"conversations": [{{"value": "{long}"}}, {{"value": "a b c d e"}}]}},
                {{"conversations": [{{"value": "a b c d e"}}, {{"value": "yes"}}]}}]"#
        );
        let question = |text: &str, tokens, answer_tokens| Question { text: text.into(), tokens, answer_tokens };
        assert_eq!(found(&text, None).unwrap(), [question("a b c d", 4, 5)]);
        let mut with_length = found(&text, Some(3)).unwrap();
        with_length.sort_by_key(|question| question.tokens);
        assert_eq!(with_length[..2], [question("a b c d", 4, 3), question("a b c d e", 5, 3)]);
    }

    #[test]
    fn other_files_are_refused_in_one_line() {
        for (text, part) in [
            ("", "EOF"),
            ("{}", "not a JSON list"),
            ("[1]", "not a JSON list"),
            (r#"[{"conversations": "x"}]"#, "line 1"),
            ("[]", "no conversation can be used"),
        ] {
            let error = found(text, None).unwrap_err();
            assert!(error.contains(part) && !error.contains('\n'), "{text}: {error}");
        }
        let wanted = Wanted { count: 1, seed: 1, answer_tokens: None, sequence_tokens_max: None, count_tokens: &|_| 4 };
        assert!(read(Path::new("/nowhere/file"), &wanted).is_err());
    }
}
