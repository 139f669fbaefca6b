//! Who may come in: as many requests as there are places, while the server is ready and not on its way down.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::Instant,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{error::ApiError, rates::Account};
use crate::traces::RequestTrace;

const STARTING: u8 = 0;
const OPEN: u8 = 1;
const DRAINING: u8 = 2;

/// The door.
#[derive(Debug)]
pub struct Admission {
    places: Arc<Semaphore>,
    limit: usize,
    state: AtomicU8,
}

impl Admission {
    /// A door that is closed until [`open`](Self::open), for `limit` requests at once.
    pub fn new(limit: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(limit)), limit, state: AtomicU8::new(STARTING) }
    }

    /// The ranks are ready.
    pub fn open(&self) {
        // Draining is never taken back.
        let _ = self.state.compare_exchange(STARTING, OPEN, Relaxed, Relaxed);
    }

    /// From now on nobody comes in.
    pub fn drain(&self) {
        self.state.store(DRAINING, Relaxed);
    }

    /// Whether the server is on its way down.
    pub fn is_draining(&self) -> bool {
        self.state.load(Relaxed) == DRAINING
    }

    /// Why nobody may come in, if so.
    pub fn closed(&self) -> Option<&'static str> {
        match self.state.load(Relaxed) {
            STARTING => Some("the server is not ready yet"),
            DRAINING => Some("the server is shutting down"),
            _ => None,
        }
    }

    /// Takes a place; it is free again when the permit is dropped.
    pub fn enter(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        if let Some(why) = self.closed() {
            return Err(ApiError::unavailable(why));
        }
        self.places.clone().try_acquire_owned().map_err(|_| ApiError::too_many_requests(self.limit))
    }

    /// Requests that are inside.
    pub fn inside(&self) -> usize {
        self.limit - self.places.available_permits()
    }
}

/// A request's place inside, free again when this is dropped; and who pays for it.
pub struct Place {
    /// Under which name the request is logged.
    pub name: String,
    /// Its trace, where it has one.
    pub trace: Option<RequestTrace>,
    account: Account,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// Of a request that was let in.
    pub fn new(permit: OwnedSemaphorePermit, account: Account, name: String, trace: Option<RequestTrace>) -> Self {
        Self { name, trace, account, _permit: permit }
    }

    /// It has used so many tokens.
    pub fn charge(&self, tokens: u64) {
        self.account.take_tokens(tokens, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_there_are_places_and_none_before_or_after() {
        let door = Admission::new(1);
        assert!(door.enter().is_err());
        door.open();
        let permit = door.enter().unwrap();
        assert_eq!((door.inside(), door.enter().is_err()), (1, true));
        drop(permit);
        assert!(door.enter().is_ok());
        door.drain();
        door.open();
        assert!(door.enter().is_err());
    }
}
