//! All sequences of one request: submitted together, followed together, counted together, given up together.

use std::{future::poll_fn, task::Poll, time::Instant};

use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Api,
    admission::Place,
    choice::{Choice, FinishReason, Update},
    error::ApiError,
    generation::{Generation, Prompt},
    open_requests::Entry,
};
use crate::{
    engine::request::{Failure, NewRequest},
    monitor::{Ending, Monitor, Passage},
    text::Part,
};

/// What a request has used, as answers tell it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Usage {
    /// Tokens of all prompts.
    pub prompt_tokens: u64,
    /// Both together.
    pub total_tokens: u64,
    /// Tokens generated in all sequences, ends of sequence included.
    pub completion_tokens: u64,
    /// More about the prompts.
    pub prompt_tokens_details: PromptTokensDetails,
    /// More about the tokens generated.
    pub completion_tokens_details: CompletionTokensDetails,
}

/// More about the prompts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct PromptTokensDetails {
    /// Tokens found in the prefix cache.
    pub cached_tokens: u64,
}

/// More about the tokens generated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct CompletionTokensDetails {
    /// Tokens of reasoning.
    pub reasoning_tokens: u64,
}

/// A request on its way. Dropping it cancels what hasn't ended.
pub struct Running {
    members: Vec<Member>,
    usage: Usage,
    started: Option<Instant>,
    /// Whether the tokens generated are told, and counted; see [`Generation::scores_only`].
    counts_tokens: bool,
    monitor: Monitor,
    /// Whose turn it is to be looked at first, so that none is starved.
    turn: usize,
    /// Under which names it can be aborted.
    entry: Entry,
    place: Place,
}

struct Member {
    choice: Choice,
    passage: Passage,
    prompt_tokens: u64,
    /// Whether its prompt is counted here: that of several sequences of one prompt is counted once.
    first_of_prompt: bool,
    reasoning: ReasoningCount,
}

/// Counts the tokens of reasoning. A token whose text isn't final yet belongs to what the next ones turn out to be.
#[derive(Default)]
struct ReasoningCount {
    undecided: u64,
}

impl ReasoningCount {
    /// How many tokens are known to be reasoning by the parts that one more token brought.
    fn count(&mut self, parts: &[Part]) -> u64 {
        self.undecided += 1;
        match parts {
            [] => 0,
            parts => {
                let decided = std::mem::take(&mut self.undecided);
                if parts.iter().any(|part| matches!(part, Part::Reasoning(_))) { decided } else { 0 }
            }
        }
    }
}

impl Running {
    /// Submits all candidates of every prompt, in order; each with its own most tokens.
    pub fn submit(
        api: &Api,
        id: &str,
        generation: &Generation,
        prompts: &[(Prompt, u32)],
        place: Place,
    ) -> Result<Self, ApiError> {
        let mut members = Vec::with_capacity(prompts.len() * generation.candidates as usize);
        for (prompt, max_tokens) in prompts {
            for index in 0..generation.candidates {
                let request = new_request(api, id, generation, prompt, *max_tokens, index);
                let events = api.engine.submit(request)?;
                let choice = Choice::new(events, generation, *max_tokens, api.model.text.tokenizer.clone())
                    .that_may_be_cut(api.settings.early_stop.is_some());
                let passage = api.monitor.passage(prompt.ids.len(), *max_tokens, place.trace.clone());
                let prompt_tokens = prompt.ids.len() as u64;
                let (first_of_prompt, reasoning) = (index == 0, ReasoningCount::default());
                members.push(Member { choice, passage, prompt_tokens, first_of_prompt, reasoning });
            }
        }
        let (monitor, usage) = (api.monitor.clone(), Usage::default());
        let counts_tokens = !generation.scores_only;
        monitor.count_answers_wanted(generation.n);
        if let Some(trace) = &place.trace {
            trace.about(id, &api.model.name);
        }
        let entry = api.open.enter(id, [place.name.clone()]);
        Ok(Self { members, usage, started: None, counts_tokens, monitor, turn: 0, entry, place })
    }

    /// How many sequences there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// What was used up to now.
    pub fn usage(&self) -> Usage {
        let Usage { prompt_tokens, completion_tokens, .. } = self.usage;
        Usage { total_tokens: prompt_tokens + completion_tokens, ..self.usage }
    }

    /// What was used before the piece that was told last.
    pub fn usage_before_this_piece(&self) -> Usage {
        let Usage { completion_tokens, total_tokens, .. } = self.usage();
        let one = u64::from(self.counts_tokens);
        Usage { completion_tokens: completion_tokens - one, total_tokens: total_tokens - one, ..self.usage }
    }

    /// What happens next, and to which sequence; `None` once all have ended. Safe to drop while waiting.
    pub async fn next(&mut self) -> Option<(usize, Update)> {
        let (index, mut update) = poll_fn(|context| {
            if self.entry.poll_aborted(context) {
                return Poll::Ready(Some((0, Update::Failed(Failure::Aborted))));
            }
            let count = self.members.len();
            let mut waiting = false;
            for index in (self.turn..count).chain(0..self.turn) {
                match self.members[index].choice.poll_next(context) {
                    Poll::Ready(Some(update)) => {
                        self.turn = (index + 1) % count;
                        return Poll::Ready(Some((index, update)));
                    }
                    Poll::Ready(None) => {}
                    Poll::Pending => waiting = true,
                }
            }
            if waiting { Poll::Pending } else { Poll::Ready(None) }
        })
        .await?;
        self.count(index, &mut update);
        Some((index, update))
    }

    fn count(&mut self, index: usize, update: &mut Update) {
        let member = &mut self.members[index];
        let now = Instant::now();
        match update {
            Update::Started { cached_tokens } => {
                self.started.get_or_insert(now);
                member.passage.started(now);
                if member.first_of_prompt {
                    self.usage.prompt_tokens += member.prompt_tokens;
                    self.usage.prompt_tokens_details.cached_tokens += u64::from(*cached_tokens);
                    self.monitor.count_prompt(member.prompt_tokens, u64::from(*cached_tokens));
                }
            }
            Update::Piece(piece) => {
                piece.arrival_time = now.duration_since(*self.started.get_or_insert(now)).as_secs_f64();
                if self.counts_tokens {
                    self.usage.completion_tokens += 1;
                    self.usage.completion_tokens_details.reasoning_tokens += member.reasoning.count(&piece.parts);
                    member.passage.token(now);
                }
                if let Some(finish) = piece.finish {
                    member.passage.ended(now, ending(finish));
                }
            }
            Update::PromptLogprobs(_) => {}
            // One that is aborted is dropped with all others, and counts as they do.
            Update::Failed(Failure::Aborted) => {}
            Update::Failed(failure) => {
                member.passage.ended(now, Ending::Error);
                if let Some(trace) = &self.place.trace {
                    trace.failed(failure.to_string());
                }
            }
        }
    }
}

fn ending(finish: FinishReason) -> Ending {
    match finish {
        FinishReason::Length => Ending::Length,
        _ => Ending::Stop,
    }
}

impl Drop for Running {
    /// Tokens are paid for when it's known how many there were, however it came to its end.
    fn drop(&mut self) {
        let Usage { prompt_tokens, completion_tokens, total_tokens, .. } = self.usage();
        self.place.charge(total_tokens);
        if let Some(trace) = &self.place.trace {
            trace.used(prompt_tokens, completion_tokens);
        }
    }
}

fn new_request(
    api: &Api,
    id: &str,
    generation: &Generation,
    prompt: &Prompt,
    max_tokens: u32,
    index: u32,
) -> NewRequest {
    let mut sampling = generation.sampling.clone();
    sampling.seed = sampling.seed.wrapping_add(u64::from(index));
    NewRequest {
        id: id.to_owned(),
        prompt: prompt.ids.clone(),
        sampling,
        max_tokens,
        max_waiting: api.settings.max_waiting,
        priority: generation.priority,
        cache_salt: generation.cache_salt.clone(),
        guide: generation.guide(),
        prompt_logprobs: generation.scored_alternatives(),
        early_stop: api.settings.early_stop,
        ..NewRequest::default()
    }
}
