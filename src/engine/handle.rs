//! The engine from outside: submit and follow requests, bring ranks and take them away.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
};

use crossbeam::channel::Sender;
use tokio::sync::{
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    oneshot, watch,
};

use super::{
    EngineConfig,
    flow::Flow,
    ranks::{GroupEnd, Ranks},
    request::{Event, Failure, NewRequest},
    sequence::RequestKey,
    stats::{Board, EngineStats},
};

/// What the loop is told. Submissions, cancellations and resumptions are bounded by the requests outstanding.
pub(super) enum Command {
    Submit {
        key: RequestKey,
        request: Box<NewRequest>,
        outlet: Outlet,
    },
    Cancel(RequestKey),
    /// Its reader, for whom it was paused, has caught up.
    Resume(RequestKey),
    GroupUp {
        ranks: Box<dyn Ranks>,
        kv_blocks: usize,
    },
    GroupDown(GroupEnd),
    GiveSign(oneshot::Sender<()>),
    Stop {
        ranks_lost: Option<String>,
    },
}

/// Where a sequence's events go.
pub(super) struct Outlet {
    pub events: UnboundedSender<Event>,
    pub flow: Flow,
}

/// A handle on the running engine; all clones speak to the same one. No call blocks, [`EngineHandle::stop`] and
/// [`EngineHandle::give_up`] excepted.
#[derive(Clone)]
pub struct EngineHandle {
    inner: Arc<Inner>,
}

struct Inner {
    config: EngineConfig,
    board: Arc<Board>,
    commands: Sender<Command>,
    next_key: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Closed once the loop has ended.
    running: watch::Receiver<()>,
}

impl EngineHandle {
    pub(super) fn new(
        config: EngineConfig,
        board: Arc<Board>,
        commands: Sender<Command>,
        thread: JoinHandle<()>,
        running: watch::Receiver<()>,
    ) -> Self {
        let (next_key, thread) = (AtomicU64::new(1), Mutex::new(Some(thread)));
        Self { inner: Arc::new(Inner { config, board, commands, next_key, thread, running }) }
    }

    /// Queues a request. Its events come from the stream; dropping the stream cancels it.
    ///
    /// Before the first group of ranks is up, and between two groups, requests wait.
    pub fn submit(&self, request: NewRequest) -> Result<RequestStream, Failure> {
        let inner = &*self.inner;
        if inner.board.draining.load(Relaxed) {
            return Err(Failure::Unavailable("it is shutting down".into()));
        }
        self.check_fits(&request)?;
        self.reserve()?;
        let key = RequestKey(inner.next_key.fetch_add(1, Relaxed));
        let ((sender, events), flow) = (unbounded_channel(), Flow::default());
        let outlet = Outlet { events: sender, flow: flow.clone() };
        if inner.commands.send(Command::Submit { key, request: Box::new(request), outlet }).is_err() {
            inner.board.outstanding.fetch_sub(1, Relaxed);
            return Err(Failure::Unavailable("its engine has stopped".into()));
        }
        Ok(RequestStream { key, events, flow, commands: inner.commands.clone() })
    }

    fn check_fits(&self, request: &NewRequest) -> Result<(), Failure> {
        let (prompt_length, context) = (request.prompt.len(), self.inner.config.model_len_max);
        // Pooled ones never get another token.
        let longest = if request.pooling.is_some() { context } else { context - 1 };
        if prompt_length == 0 || prompt_length > longest {
            let text = format!(
                "the prompt has {prompt_length} tokens; it must have at least 1 and at most {longest} in the context \
                 of {context}"
            );
            return Err(Failure::TooLarge(text));
        }
        match self.inner.board.cache_tokens_max.load(Relaxed) {
            0 => Ok(()),
            tokens_max => super::scheduler::check_fits_cache(prompt_length, tokens_max),
        }
    }

    /// Counts one more outstanding request, unless the limit is reached.
    fn reserve(&self) -> Result<(), Failure> {
        let limit = self.inner.config.sequences_max + self.inner.config.waiting_max;
        let one_more = |count| (count < limit).then_some(count + 1);
        let reserved = self.inner.board.outstanding.fetch_update(Relaxed, Relaxed, one_more);
        reserved.map(|_| ()).map_err(|_| Failure::QueueFull { limit })
    }

    /// A group of ranks is ready, its KV cache empty and `kv_blocks` large on every rank. Replaces a group that was up.
    pub fn group_up(&self, ranks: Box<dyn Ranks>, kv_blocks: usize) {
        self.tell(Command::GroupUp { ranks, kv_blocks });
    }

    /// The group of ranks is gone. Running sequences wait for the next group, beside those that wait.
    pub fn group_down(&self, end: GroupEnd) {
        self.tell(Command::GroupDown(end));
    }

    /// From now on every new request is refused; those that were taken go on.
    pub fn drain(&self) {
        self.inner.board.draining.store(true, Relaxed);
    }

    /// Requests that were submitted and have not ended.
    pub fn outstanding(&self) -> usize {
        self.inner.board.outstanding.load(Relaxed)
    }

    /// Comes when the loop turns next, and is an error if it never will. A loop that hangs leaves it open.
    pub fn sign_of_life(&self) -> oneshot::Receiver<()> {
        let (sender, sign) = oneshot::channel();
        self.tell(Command::GiveSign(sender));
        sign
    }

    /// Comes when the loop has ended, in order or by a panic.
    pub async fn ended(&self) {
        // Nothing is ever sent.
        let _ = self.inner.running.clone().changed().await;
    }

    /// The counters now. Cheap: two dozen relaxed loads.
    pub fn stats(&self) -> EngineStats {
        self.inner.board.read()
    }

    /// Ends the loop and waits for its thread. Whatever is still outstanding fails with `Stopped`.
    pub fn stop(&self) {
        self.end(None);
    }

    /// The same where no group of ranks will follow the last one: what had begun to run fails with the reason.
    pub fn give_up(&self, reason: String) {
        self.end(Some(reason));
    }

    fn end(&self, ranks_lost: Option<String>) {
        self.drain();
        self.tell(Command::Stop { ranks_lost });
        let thread = self.inner.thread.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the engine's thread had panicked");
        }
    }

    /// A loop that has ended has nobody to tell.
    fn tell(&self, command: Command) {
        let _ = self.inner.commands.send(command);
    }
}

/// The events of one request, in order. Dropping it gives the request up: its blocks are free at the loop's next turn.
pub struct RequestStream {
    key: RequestKey,
    events: UnboundedReceiver<Event>,
    flow: Flow,
    commands: Sender<Command>,
}

impl RequestStream {
    /// The next event. `None` after `Finished` or `Failed`; without either, only if the engine itself broke.
    pub async fn next(&mut self) -> Option<Event> {
        let event = self.events.recv().await?;
        if self.flow.read() {
            // Once the loop has ended there's nothing to go on with.
            let _ = self.commands.send(Command::Resume(self.key));
        }
        Some(event)
    }
}

impl Drop for RequestStream {
    fn drop(&mut self) {
        // Once the loop has dropped its end there's nothing to cancel.
        if !self.events.is_closed() {
            let _ = self.commands.send(Command::Cancel(self.key));
        }
    }
}
