//! What is asked, round by round: never the same prompt twice, always the same lengths in the same order.

use std::path::Path;

use rand::{SeedableRng, rngs::StdRng};

use super::{
    Halt,
    lengths::Lengths,
    load::Request,
    probing,
    prompts::{Prompt, PromptMaker, Vocabulary},
    sharegpt::{self, Question, Wanted},
    target::Target,
};
use crate::config::{AskingFlags, Dataset, PromptFlags};

/// Characters of a token of English, where the server does not count.
const CHARACTERS_PER_TOKEN: usize = 4;

/// Where requests come from.
#[derive(Debug)]
pub struct Workload {
    source: Source,
    /// What it is, for people.
    pub name: String,
}

#[derive(Debug)]
enum Source {
    Made { prompts: Box<PromptMaker>, input: Lengths, output: Lengths, seed: u64 },
    Read { questions: Vec<Question>, next: usize },
}

impl Workload {
    /// As the flags say, for this server and so many requests in all.
    pub fn open(asking: &AskingFlags, prompts: &PromptFlags, count: usize, target: &Target) -> Result<Self, Halt> {
        match &prompts.dataset_path {
            Some(path) => Self::read(asking, path, count, target),
            None => Self::make(asking, prompts, target),
        }
    }

    fn make(asking: &AskingFlags, prompts: &PromptFlags, target: &Target) -> Result<Self, Halt> {
        let (input, output) = lengths(asking, prompts, target.sequence_tokens_max).map_err(Halt::Refused)?;
        let vocabulary = probing::vocabulary(target, asking.input_len).map_err(Halt::Refused)?;
        let name = name(asking, prompts, &vocabulary);
        let prompts = Box::new(PromptMaker::new(vocabulary, prompts.shared_prefix_len, asking.seed));
        Ok(Self { source: Source::Made { prompts, input, output, seed: asking.seed }, name })
    }

    fn read(asking: &AskingFlags, path: &Path, count: usize, target: &Target) -> Result<Self, Halt> {
        // The first question tells whether the key and the model's name are right.
        target.ask_once(&Prompt::Text("Hello".into())).map_err(|refusal| Halt::Refused(refusal.message))?;
        let counts = target.tokenize("Hello").is_some();
        let count_tokens = |text: &str| match counts.then(|| target.tokenize(text)).flatten() {
            Some(ids) => ids.len() as u32,
            None => text.chars().count().div_ceil(CHARACTERS_PER_TOKEN) as u32,
        };
        let wanted = Wanted {
            count,
            seed: asking.seed,
            answer_tokens: asking.output_len,
            sequence_tokens_max: target.sequence_tokens_max,
            count_tokens: &count_tokens,
        };
        let questions = sharegpt::read(path, &wanted)
            .map_err(|why| Halt::Refused(format!("--dataset-path {}: {why}", path.display())))?;
        let again =
            if questions.len() < count { ", asked again where they are too few (a cache may know them)" } else { "" };
        let counted = if counts { "" } else { ", lengths estimated" };
        let name = format!("{} questions of {}{again}{counted}", questions.len(), path.display());
        Ok(Self { source: Source::Read { questions, next: 0 }, name })
    }

    /// The next round's requests.
    pub fn round(&mut self, count: usize, target: &Target) -> Vec<Request> {
        let request = |prompt: Prompt, input_tokens, output_tokens| Request {
            json: target.streamed(&prompt, output_tokens),
            input_tokens,
            output_tokens,
        };
        match &mut self.source {
            Source::Made { prompts, input, output, seed } => {
                let mut rng = StdRng::seed_from_u64(seed.wrapping_add(2));
                let mut next = || {
                    let (input, output) = (input.sample(&mut rng), output.sample(&mut rng));
                    request(prompts.prompt(input), input, output)
                };
                (0..count).map(|_| next()).collect()
            }
            Source::Read { questions, next } => {
                let mut one = || {
                    let question = &questions[*next % questions.len()];
                    *next += 1;
                    request(Prompt::Text(question.text.clone()), question.tokens, question.answer_tokens)
                };
                (0..count).map(|_| one()).collect()
            }
        }
    }
}

/// Lengths of prompts and of answers, that fit the server's longest sequence.
fn lengths(
    asking: &AskingFlags,
    prompts: &PromptFlags,
    sequence_max: Option<u32>,
) -> Result<(Lengths, Lengths), String> {
    let (input_len, shared) = (asking.input_len, prompts.shared_prefix_len);
    if shared > 0 && shared >= input_len {
        return Err(format!(
            "--shared-prefix-len {shared} leaves nothing of --input-len {input_len} to differ; make it shorter"
        ));
    }
    let sequence_max = sequence_max.unwrap_or(u32::MAX);
    let lengths = |mean| match prompts.dataset {
        Dataset::Fixed => Lengths::Even { mean, ratio: prompts.range_ratio },
        // A half for each, so that every request fits.
        Dataset::SharegptLike => Lengths::LogNormal { mean, max: sequence_max / 2 },
    };
    let (input, output) = (lengths(input_len), lengths(asking.output_len()));
    let longest = u64::from(input.longest()) + u64::from(output.longest());
    if longest > u64::from(sequence_max) {
        return Err(format!(
            "prompts and answers have up to {longest} tokens together, more than this server's {sequence_max}; lower \
             --input-len or --output-len"
        ));
    }
    Ok((input, output))
}

/// What is asked, for people.
fn name(asking: &AskingFlags, prompts: &PromptFlags, vocabulary: &Vocabulary) -> String {
    let kind = match prompts.dataset {
        Dataset::Fixed if prompts.range_ratio > 0.0 => format!("± {:.0} %", prompts.range_ratio * 100.0),
        Dataset::Fixed => "fixed".into(),
        Dataset::SharegptLike => "in the mean, sharegpt-like".into(),
    };
    let shared = match prompts.shared_prefix_len {
        0 => String::new(),
        shared => format!(", the first {shared} shared"),
    };
    let unit = match vocabulary {
        Vocabulary::Ids { .. } => "token ids".to_owned(),
        Vocabulary::Words { tokens_per_word, added } => {
            format!("text of {tokens_per_word:.2} tokens a word, {added:.0} tokens added by the server")
        }
    };
    format!("{} + {} tokens ({kind}{shared}), {unit}", asking.input_len, asking.output_len())
}
