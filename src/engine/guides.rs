//! The threads that ask guides which tokens may come, while the ranks compute.
//!
//! ```text
//!   loop ── ask: (tokens generated since, whose choice) ──► thread: take tokens → allowed → publish the mask
//!     ▲                                                         │
//!     └── Ready (if the loop waits for it), Failed ◄────────────┘
//! ```
//! The loop never waits for a guide: what it shares with the threads is a [`Desk`] that is locked for moments only; the guide
//! itself is taken off the desk while it is asked. One that is busy when it is asked again finds that when it is done.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use crossbeam::channel::{Receiver, Sender, unbounded};
use workers::link::{mask::TokenMask, step::SequenceId};

use super::{
    guide::{GuideError, SharedGuide},
    ranks::Masks,
    sequence::{RequestKey, Sequence, as_u32},
};

/// The most threads: masks are small beside what the ranks compute, which have the cores.
const THREADS_MAX: usize = 4;

/// What the loop is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// The mask that was not there in time is there now.
    Ready(RequestKey),
    /// The guide can't go on, and why.
    Failed(RequestKey, String),
}

/// The threads, and how to reach them.
pub(super) struct Guides {
    jobs: Sender<Arc<Guided>>,
    /// What the threads tell the loop; at most two of each sequence.
    pub news: Receiver<News>,
    masks: Option<Arc<dyn Masks>>,
}

/// A sequence's guide, wherever it is.
pub struct Guided {
    key: RequestKey,
    desk: Mutex<Desk>,
}

/// What is in reach of loop and threads.
struct Desk {
    /// Away while a thread asks it; for ever, if it failed.
    asked: Option<Asked>,
    /// Generated, and not taken by the guide yet.
    tokens: Vec<u32>,
    /// How many tokens were put here since the sequence began.
    told: usize,
    wanted: Option<Wanted>,
    /// The choice for which there is a mask.
    ready: Option<u32>,
    /// Whether the loop wants to hear of the next mask.
    awaited: bool,
}

/// A guide, and the last that it said.
struct Asked {
    guide: SharedGuide,
    mask: Option<TokenMask>,
}

/// Whose next choice needs a mask.
struct Wanted {
    /// Under which name the ranks know it.
    id: SequenceId,
    /// Its length before the choice.
    position: u32,
    /// Where to publish it: to the group for which it was asked, never to a later one.
    masks: Arc<dyn Masks>,
}

impl Guides {
    /// Starts the threads.
    pub fn start() -> Self {
        let (jobs, queue) = unbounded::<Arc<Guided>>();
        let (tell, news) = unbounded();
        let cores = thread::available_parallelism().map_or(1, usize::from);
        for index in 0..(cores / 4).clamp(1, THREADS_MAX) {
            let (queue, tell) = (queue.clone(), tell.clone());
            let serve = move || queue.iter().for_each(|guided| guided.serve(&tell));
            let thread = thread::Builder::new().name(format!("sw-guide-{index}")).spawn(serve);
            thread.expect("the system can start a thread");
        }
        Self { jobs, news, masks: None }
    }

    /// Masks go to these ranks from now on; without any, nothing can be asked.
    pub fn publish_to(&mut self, masks: Option<Arc<dyn Masks>>) {
        self.masks = masks;
    }

    /// Wants the mask for the next choice of a sequence. One that is there already is published at once.
    pub fn ask(&self, sequence: &Sequence) {
        let (Some(guided), Some(masks)) = (&sequence.guide, &self.masks) else { return };
        let position = as_u32(sequence.tokens.len());
        let mut desk = guided.desk();
        let generated = &sequence.tokens[sequence.prompt_length..];
        let new = &generated[desk.told..];
        desk.tokens.extend(new);
        desk.told = generated.len();
        desk.awaited = false;
        let wanted = Wanted { id: sequence.id, position, masks: masks.clone() };
        if desk.ready == Some(position)
            && let Some(asked) = &mut desk.asked
        {
            return asked.publish(&wanted);
        }
        desk.wanted = Some(wanted);
        if desk.asked.is_some() {
            // The threads live as long as this sender.
            let _ = self.jobs.send(guided.clone());
        }
    }

    /// Whether the mask for the next choice of a sequence is there; if not, the loop will be told once it is.
    pub fn has_mask(&self, sequence: &Sequence) -> bool {
        let Some(guided) = &sequence.guide else { return true };
        let mut desk = guided.desk();
        desk.awaited = desk.ready != Some(as_u32(sequence.tokens.len()));
        !desk.awaited
    }
}

impl Guided {
    /// A guide at the beginning of its sequence.
    pub fn new(key: RequestKey, guide: SharedGuide) -> Self {
        let (asked, tokens) = (Some(Asked { guide, mask: None }), Vec::new());
        let desk = Desk { asked, tokens, told: 0, wanted: None, ready: None, awaited: false };
        Self { key, desk: Mutex::new(desk) }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        // Nothing that is done with the desk can panic half way.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// On a thread: asks the guide until nothing more is wanted of it.
    fn serve(self: Arc<Self>, tell: &Sender<News>) {
        while let Some((mut asked, tokens, wanted)) = self.begin() {
            let result = catch_unwind(AssertUnwindSafe(|| asked.answer(&tokens, &wanted)));
            match result.unwrap_or_else(|_| Err(GuideError("its rules broke; this is a bug".into()))) {
                Ok(()) => self.finish(asked, wanted, tell),
                Err(error) => {
                    // The loop may have gone, and the sequence with it.
                    let _ = tell.send(News::Failed(self.key, error.to_string()));
                    return;
                }
            }
        }
    }

    /// What is wanted of the guide, if anything, and the guide.
    fn begin(&self) -> Option<(Asked, Vec<u32>, Wanted)> {
        let mut desk = self.desk();
        let asked = desk.asked.take()?;
        let Some(wanted) = desk.wanted.take() else {
            desk.asked = Some(asked);
            return None;
        };
        Some((asked, std::mem::take(&mut desk.tokens), wanted))
    }

    /// Publishes the mask, unless the sequence has another name by now or is gone, or the loop will ask again anyway.
    fn finish(self: &Arc<Self>, mut asked: Asked, wanted: Wanted, tell: &Sender<News>) {
        let mut desk = self.desk();
        desk.ready = Some(wanted.position);
        let (superseded, awaited) = (desk.wanted.is_some(), std::mem::take(&mut desk.awaited));
        drop(desk);
        let is_gone = Arc::strong_count(self) == 1;
        if awaited {
            let _ = tell.send(News::Ready(self.key));
        } else if !superseded && !is_gone {
            asked.publish(&wanted);
        }
        self.desk().asked = Some(asked);
    }
}

impl Asked {
    /// Computes the mask for a choice, unless it is there already.
    fn answer(&mut self, tokens: &[u32], wanted: &Wanted) -> Result<(), GuideError> {
        let mut guide = self.guide.lock();
        for &token in tokens {
            guide.take(token)?;
        }
        if self.mask.as_ref().is_none_or(|mask| mask.position != wanted.position) {
            self.mask = Some(TokenMask { id: wanted.id, position: wanted.position, allowed: guide.allowed()? });
        }
        Ok(())
    }

    /// Publishes the last mask by the name that its sequence has now.
    fn publish(&mut self, wanted: &Wanted) {
        let Some(mask) = &mut self.mask else { return };
        mask.id = wanted.id;
        // A mask that finds no way is as one that came too late: the choice is put off, and it is published again.
        if let Err(error) = wanted.masks.publish(mask) {
            tracing::warn!(%error, "a mask was lost");
        }
    }
}

impl fmt::Debug for Guided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guided").field("key", &self.key).finish_non_exhaustive()
    }
}
