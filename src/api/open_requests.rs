//! Requests that are being computed, by the names under which clients know them.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use tokio::sync::oneshot;

/// All of them. As many as there are places inside, at most.
#[derive(Clone, Default)]
pub struct OpenRequests(Arc<Mutex<Register>>);

#[derive(Default)]
struct Register {
    next: u64,
    open: HashMap<u64, Open>,
}

struct Open {
    names: Vec<String>,
    abort: oneshot::Sender<()>,
}

/// A request's own entry; it is taken out again when this is dropped.
pub struct Entry {
    requests: OpenRequests,
    number: u64,
    abort: oneshot::Receiver<()>,
    aborted: bool,
}

impl OpenRequests {
    /// Enters a request: the id of its answer, with or without the prefix (`chatcmpl-`), and its other names.
    pub fn enter(&self, id: &str, others: impl IntoIterator<Item = String>) -> Entry {
        let chosen = id.split_once('-').map(|(_, chosen)| chosen.to_owned());
        let names = [id.to_owned()].into_iter().chain(chosen).chain(others).collect();
        let (tell, abort) = oneshot::channel();
        let mut register = self.register();
        register.next += 1;
        let number = register.next;
        register.open.insert(number, Open { names, abort: tell });
        Entry { requests: self.clone(), number, abort, aborted: false }
    }

    /// Aborts every request of this name; whether there was one.
    pub fn abort(&self, name: &str) -> bool {
        let named = |open: &Open| open.names.iter().any(|own| own == name);
        !self.abort_those(named).is_empty()
    }

    /// Aborts all; their answers' ids.
    pub fn abort_all(&self) -> Vec<String> {
        self.abort_those(|_| true)
    }

    fn abort_those(&self, these: impl Fn(&Open) -> bool) -> Vec<String> {
        let aborted = self.register().open.extract_if(|_, open| these(open)).collect::<Vec<_>>();
        let told = aborted.into_iter().map(|(_, mut open)| {
            // One that has just ended isn't there to be told.
            let _ = open.abort.send(());
            open.names.swap_remove(0)
        });
        told.collect()
    }

    fn register(&self) -> MutexGuard<'_, Register> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Whether it was aborted; wakes as futures do.
    pub fn poll_aborted(&mut self, context: &mut Context<'_>) -> bool {
        self.aborted = self.aborted || matches!(Pin::new(&mut self.abort).poll(context), Poll::Ready(Ok(())));
        self.aborted
    }

    /// Waits until it is aborted.
    pub async fn aborted(&mut self) {
        std::future::poll_fn(|context| if self.poll_aborted(context) { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.requests.register().open.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn requests_are_known_by_all_their_names_while_they_last() {
        let requests = OpenRequests::default();
        for name in ["chatcmpl-a-1", "a-1", "mine"] {
            let mut one = requests.enter("chatcmpl-a-1", ["mine".to_owned()]);
            let mut other = requests.enter("cmpl-b", []);
            assert!(!requests.abort("a") && !requests.abort(""));
            assert!(requests.abort(name), "{name}");
            assert!(one.aborted().now_or_never().is_some() && other.aborted().now_or_never().is_none());
            assert!(one.aborted().now_or_never().is_some(), "it stays aborted");
        }
        assert!(requests.register().open.is_empty(), "each takes its entry out again");
        assert!(!requests.abort("mine"));
    }

    #[test]
    fn all_are_told() {
        let requests = OpenRequests::default();
        let mut entries = ["cmpl-a", "cmpl-b"].map(|id| requests.enter(id, []));
        let mut ids = requests.abort_all();
        ids.sort();
        assert_eq!(ids, ["cmpl-a", "cmpl-b"]);
        assert!(entries.iter_mut().all(|entry| entry.aborted().now_or_never().is_some()));
    }
}
