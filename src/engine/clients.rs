//! Who is told about which request, and until when each is willing to wait for its turn.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use tokio::sync::mpsc::UnboundedSender;

use super::{
    flow::Flow,
    handle::Outlet,
    request::{Event, Failure},
    sequence::RequestKey,
    stats::Board,
};

/// The clients of all outstanding requests.
pub(super) struct Clients {
    open: HashMap<RequestKey, Client>,
    /// Of those that were not admitted yet and won't wait for ever.
    deadlines: BTreeSet<(Instant, RequestKey)>,
    board: Arc<Board>,
}

struct Client {
    /// Unbounded, so that a slow client never holds up the loop; [`Flow`] bounds its length.
    events: UnboundedSender<Event>,
    flow: Flow,
    patience: Option<Patience>,
}

#[derive(Clone, Copy)]
struct Patience {
    deadline: Instant,
    waiting_max: Duration,
}

impl Clients {
    pub fn new(board: Arc<Board>) -> Self {
        Self { open: HashMap::new(), deadlines: BTreeSet::new(), board }
    }

    pub fn add(&mut self, key: RequestKey, Outlet { events, flow }: Outlet, max_waiting: Option<Duration>) {
        // A wait too long for the clock to express is a wait for ever.
        let patience = max_waiting.and_then(|waiting_max| {
            Instant::now().checked_add(waiting_max).map(|deadline| Patience { deadline, waiting_max })
        });
        if let Some(Patience { deadline, .. }) = patience {
            self.deadlines.insert((deadline, key));
        }
        self.open.insert(key, Client { events, flow, patience });
    }

    /// Sends an event; the last one of a request closes it. A client that went away will be cancelled by its stream's end.
    /// Whether this client now is so far behind that its sequence has to wait for it.
    pub fn tell(&mut self, key: RequestKey, event: Event) -> bool {
        let Some(client) = self.open.get_mut(&key) else { return false };
        if let Event::Started { .. } = event
            && let Some(Patience { deadline, .. }) = client.patience.take()
        {
            self.deadlines.remove(&(deadline, key));
        }
        // Counted before it is sent: whoever reads it subtracts.
        let is_behind = client.flow.tell();
        let fails = matches!(event, Event::Failed(_));
        if !fails && !matches!(event, Event::Finished(_)) {
            return client.events.send(event).is_ok() && is_behind;
        }
        if let Some(client) = self.close(key) {
            self.board.failed_total.fetch_add(u64::from(fails), Relaxed);
            let _ = client.events.send(event);
        }
        false
    }

    /// Forgets a request that its client gave up.
    pub fn abort(&mut self, key: RequestKey) {
        if self.close(key).is_some() {
            self.board.aborted_total.fetch_add(1, Relaxed);
        }
    }

    pub fn fail_all(&mut self, failure: Failure) {
        let keys: Vec<_> = self.open.keys().copied().collect();
        for key in keys {
            self.tell(key, Event::Failed(failure.clone()));
        }
    }

    /// When the first of those who wait loses patience.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// Tells those whose time has come that they waited too long, and names them.
    pub fn waited_too_long(&mut self) -> Vec<RequestKey> {
        let mut late = Vec::new();
        while let Some(&(deadline, key)) = self.deadlines.first()
            && deadline <= Instant::now()
        {
            let waiting_max = self.open[&key].patience.map_or(Duration::ZERO, |patience| patience.waiting_max);
            self.tell(key, Event::Failed(Failure::WaitedTooLong(waiting_max)));
            late.push(key);
        }
        late
    }

    fn close(&mut self, key: RequestKey) -> Option<Client> {
        let client = self.open.remove(&key)?;
        if let Some(Patience { deadline, .. }) = client.patience {
            self.deadlines.remove(&(deadline, key));
        }
        self.board.outstanding.fetch_sub(1, Relaxed);
        Some(client)
    }
}
