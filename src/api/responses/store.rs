//! Responses that clients may come back to: in memory, bounded in number, size and age, the oldest forgotten first.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::task::AbortHandle;

use crate::api::error::ApiError;

/// How much is kept, and how long.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most responses.
    pub count: usize,
    /// Most bytes of JSON of all of them with the items that they answer.
    pub bytes: usize,
    /// How long after its beginning a response is forgotten.
    pub age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { count: 1024, bytes: 256 << 20, age: Duration::from_secs(24 * 60 * 60) }
    }
}

/// A response, and what it answers.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The response object.
    pub response: Value,
    /// All items of the conversation before it; the last `own_count` came with its own request.
    pub items: Vec<Value>,
    /// How many.
    pub own_count: usize,
}

/// All of them.
#[derive(Debug)]
pub struct Store {
    limits: Limits,
    /// In the order of their beginnings.
    entries: Mutex<VecDeque<Entry>>,
}

#[derive(Debug)]
struct Entry {
    stored: Stored,
    bytes: usize,
    since: Instant,
    /// Who computes it, in the background; none once it has ended.
    task: Option<AbortHandle>,
}

impl Entry {
    fn new(stored: Stored, task: Option<AbortHandle>) -> Self {
        let bytes = size(&stored.response) + stored.items.iter().map(size).sum::<usize>();
        Self { stored, bytes, since: Instant::now(), task }
    }

    fn is(&self, id: &str) -> bool {
        self.stored.response["id"] == id
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Store {
    /// An empty one.
    pub fn new(limits: Limits) -> Self {
        Self { limits, entries: Mutex::default() }
    }

    /// Keeps a response that has ended.
    pub fn put(&self, stored: Stored) {
        self.add(Entry::new(stored, None));
    }

    /// Keeps a response that has begun, and is computed by `task`.
    pub fn begin(&self, stored: Stored, task: AbortHandle) {
        self.add(Entry::new(stored, Some(task)));
    }

    /// A response that was begun has ended. One that was forgotten or cancelled meanwhile stays so.
    pub fn finish(&self, response: &Value) {
        let mut entries = self.entries();
        let id = response["id"].as_str().unwrap_or_default();
        if let Some(entry) = entries.iter_mut().find(|entry| entry.is(id) && entry.task.is_some()) {
            entry.task = None;
            entry.bytes += size(response).saturating_sub(size(&entry.stored.response));
            entry.stored.response = response.clone();
        }
        self.forget(&mut entries);
    }

    /// A response as it is by now.
    pub fn get(&self, id: &str) -> Option<Value> {
        self.find(id, |entry| entry.stored.response.clone())
    }

    /// The items that a response's own request brought.
    pub fn input(&self, id: &str) -> Option<Vec<Value>> {
        self.find(id, |entry| {
            let Stored { items, own_count, .. } = &entry.stored;
            items[items.len() - own_count..].to_vec()
        })
    }

    /// The conversation up to and with a response, which must have ended.
    pub fn conversation(&self, id: &str) -> Result<Vec<Value>, ApiError> {
        let (status, items) = self
            .find(id, |entry| {
                let Stored { response, items, .. } = &entry.stored;
                let output = response["output"].as_array().map_or(&[][..], Vec::as_slice);
                (response["status"].clone(), items.iter().chain(output).cloned().collect())
            })
            .ok_or_else(|| ApiError::unknown_previous_response(id))?;
        match status == "in_progress" {
            true => Err(ApiError::invalid("previous_response_id", "the response is still being computed")),
            false => Ok(items),
        }
    }

    /// An item of any response, given or made.
    pub fn item(&self, id: &str) -> Option<Value> {
        let entries = self.entries();
        let all = entries.iter().rev().flat_map(|entry| {
            let output = entry.stored.response["output"].as_array().map_or(&[][..], Vec::as_slice);
            output.iter().chain(&entry.stored.items)
        });
        all.into_iter().find(|item| item["id"] == id).cloned()
    }

    /// Forgets a response, and ends it; whether there was one.
    pub fn delete(&self, id: &str) -> bool {
        let mut entries = self.entries();
        let before = entries.len();
        entries.retain(|entry| !entry.is(id));
        entries.len() < before
    }

    /// Ends a response that is still being computed; what it is then.
    pub fn cancel(&self, id: &str) -> Option<Value> {
        let mut entries = self.entries();
        let entry = entries.iter_mut().find(|entry| entry.is(id))?;
        if let Some(task) = entry.task.take() {
            task.abort();
            entry.stored.response["status"] = json!("cancelled");
        }
        Some(entry.stored.response.clone())
    }

    fn add(&self, entry: Entry) {
        let mut entries = self.entries();
        entries.push_back(entry);
        self.forget(&mut entries);
    }

    fn find<T>(&self, id: &str, read: impl FnOnce(&Entry) -> T) -> Option<T> {
        let mut entries = self.entries();
        self.forget(&mut entries);
        entries.iter().find(|entry| entry.is(id)).map(read)
    }

    /// Keeps the bounds. What is still being computed stays: as many as there are places inside, at most.
    fn forget(&self, entries: &mut VecDeque<Entry>) {
        let ended = |entry: &Entry| entry.task.is_none();
        entries.retain(|entry| !ended(entry) || entry.since.elapsed() <= self.limits.age);
        let mut bytes: usize = entries.iter().map(|entry| entry.bytes).sum();
        let mut count = entries.len();
        entries.retain(|entry| {
            let over = ended(entry) && (count > self.limits.count || bytes > self.limits.bytes);
            if over {
                count -= 1;
                bytes -= entry.bytes;
            }
            !over
        });
    }

    fn entries(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of a value as JSON.
fn size(value: &Value) -> usize {
    value.to_string().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn response(id: &str, status: &str) -> Stored {
        let output = json!([{"id": format!("out_{id}")}]);
        let response = json!({"id": id, "status": status, "output": output, "background": true});
        Stored { response, items: vec![json!({"id": "old"}), json!({"id": format!("in_{id}")})], own_count: 1 }
    }

    fn ids(store: &Store, all: &[&str]) -> String {
        all.iter().copied().filter(|id| store.get(id).is_some()).collect()
    }

    /// Stores a, b, c, d; what is left.
    fn check(limits: Limits, left: &str) {
        let store = Store::new(limits);
        for id in ["a", "b", "c", "d"] {
            store.put(response(id, "completed"));
        }
        assert_eq!(ids(&store, &["a", "b", "c", "d"]), left, "{limits:?}");
    }

    #[test]
    fn the_oldest_are_forgotten_first() {
        let one = Entry::new(response("a", "completed"), None).bytes;
        check(Limits { count: 9, bytes: 1 << 20, age: DAY }, "abcd");
        check(Limits { count: 2, bytes: 1 << 20, age: DAY }, "cd");
        check(Limits { count: 9, bytes: 3 * one, age: DAY }, "bcd");
        check(Limits { count: 9, bytes: one - 1, age: DAY }, "");
        check(Limits { count: 0, bytes: 1 << 20, age: DAY }, "");
        check(Limits { count: 9, bytes: 1 << 20, age: Duration::ZERO }, "");
    }

    #[test]
    fn a_response_is_found_with_its_items_until_it_is_deleted() {
        let store = Store::new(Limits::default());
        store.put(response("a", "completed"));
        assert_eq!(store.input("a").unwrap(), [json!({"id": "in_a"})]);
        let all: Vec<_> = ["old", "in_a", "out_a"].iter().map(|id| json!({"id": id})).collect();
        assert_eq!(store.conversation("a").unwrap(), all);
        assert_eq!((store.item("out_a"), store.item("in_a")), (Some(all[2].clone()), Some(all[1].clone())));
        assert!(store.delete("a") && !store.delete("a"));
        assert!(store.get("a").is_none() && store.conversation("a").is_err() && store.item("out_a").is_none());
    }

    #[tokio::test]
    async fn what_runs_can_be_cancelled_once_and_is_not_forgotten() {
        let store = Store::new(Limits { count: 0, ..Limits::default() });
        let forever = || tokio::spawn(std::future::pending::<()>());
        let (cancelled, deleted, finished) = (forever(), forever(), forever());
        for (id, task) in [("c", &cancelled), ("d", &deleted), ("f", &finished)] {
            store.begin(response(id, "in_progress"), task.abort_handle());
        }
        assert_eq!(ids(&store, &["c", "d", "f"]), "cdf");
        assert!(store.conversation("c").is_err(), "it hasn't ended");

        assert_eq!(store.cancel("c").unwrap()["status"], "cancelled");
        assert!(cancelled.await.unwrap_err().is_cancelled());
        store.finish(&response("c", "completed").response);
        assert!(store.delete("d"));
        assert!(deleted.await.unwrap_err().is_cancelled());
        store.finish(&response("f", "completed").response);
        assert!(!finished.is_finished());
        assert_eq!(ids(&store, &["c", "d", "f"]), "", "what has ended counts");
        finished.abort();
    }
}
