//! Frames of the rings, as a peer might have left them: steps on their way into a rank's batch, masks, and reports on their
//! way through the engine.

use std::{
    collections::VecDeque,
    sync::{Arc, mpsc::channel},
    thread::yield_now,
    time::Duration,
};

use shardwire::engine::{Engine, EngineConfig, Masks, Ranks, RanksError, request::NewRequest, speculation};
use workers::{
    batch::Plan,
    link::{codec::decode, mask::TokenMask, report::StepReport, sampling::Sampling, step::Step},
    sequences::{Limits, Sequences},
};

const VOCABULARY: usize = 512;

/// The input is frames, each with its kind before it (`s`tep, `m`ask, `r`eport) and its length, one byte each.
pub fn read(input: &[u8]) {
    let limits = Limits {
        vocab_size: VOCABULARY,
        max_model_len: 64,
        batch_tokens_max: 64,
        sequences_max: 8,
        draft_max: 4,
        block_size: 4,
        kv_blocks: 32,
    };
    let mut sequences = Sequences::new(limits);
    let mut reports = VecDeque::new();
    for (kind, frame) in frames(input) {
        match kind {
            b's' => {
                if let Ok(step) = decode::<Step>(frame, "steps")
                    && let Ok(plan) = Plan::of(&step, &mut sequences)
                {
                    for place in plan.wanted.sampled {
                        let _ = sequences.decide(place.id, &[1, 2]);
                    }
                }
            }
            b'm' => {
                if let Ok(mask) = decode::<TokenMask>(frame, "masks") {
                    let _ = (0..VOCABULARY as u32).filter(|&token| mask.allowed.contains(token)).count();
                }
            }
            _ => reports.extend(decode::<StepReport>(frame, "reports")),
        }
    }
    if !reports.is_empty() {
        settle(reports);
    }
}

fn frames(mut input: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (&[kind, length], rest) = input.split_first_chunk()?;
        let (frame, rest) = rest.split_at_checked(length.into())?;
        input = rest;
        Some((kind, frame))
    })
}

/// One request, answered by these reports as far as they go.
fn settle(reports: VecDeque<StepReport>) {
    let config = EngineConfig {
        cache_outlives_ranks: false,
        block_size: 4,
        batch_tokens_max: 64,
        prompt_tokens_beside: 64,
        sequences_max: 8,
        model_len_max: 64,
        waiting_max: 0,
        prefix_caching: true,
        steps_at_once: 1,
        speculation: Some(speculation::Settings::default()),
        fault: None,
    };
    let (broken, told) = channel();
    let engine = Engine::start(config, Box::new(move |_| broken.send(()).unwrap_or_default()));
    let sampling = Sampling { logprobs: Some(1), ..Sampling::default() };
    let prompt = vec![1, 2, 3, 1, 2];
    let request = NewRequest { prompt, sampling, max_tokens: 8, prompt_logprobs: Some(1), ..NewRequest::default() };
    let _events = engine.submit(request).expect("room for one request");
    engine.group_up(Box::new(Liar { reports }), 32);
    // Its end comes with the request's, or with that of the reports.
    while engine.outstanding() > 0 && told.try_recv().is_err() {
        yield_now();
    }
    engine.stop();
}

/// Ranks that report what they like.
struct Liar {
    reports: VecDeque<StepReport>,
}

impl Ranks for Liar {
    fn publish(&mut self, _: &Step) -> Result<(), RanksError> {
        Ok(())
    }

    fn collect(&mut self, _: Duration) -> Result<Option<StepReport>, RanksError> {
        self.reports.pop_front().map(Some).ok_or_else(|| RanksError::Link("no more reports".into()))
    }

    fn masks(&self) -> Arc<dyn Masks> {
        Arc::new(Nobody)
    }
}

/// Takes masks, and forgets them.
struct Nobody;

impl Masks for Nobody {
    fn publish(&self, _: &TokenMask) -> Result<(), RanksError> {
        Ok(())
    }
}
