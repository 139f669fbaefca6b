//! How far the reader of a sequence's events is behind, on both sides: the loop counts what it tells, the reader what it has
//! read. One that is too far behind is paused, so that what waits for it has a bound, until it has caught up.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

/// Events that may wait for a reader. Sockets hold thousands more: only who reads much slower than tokens come gets here.
const UNREAD_MAX: usize = 256;
/// With so few waiting, it has caught up.
const CAUGHT_UP: usize = 64;

/// Of one sequence.
#[derive(Debug, Clone, Default)]
pub(super) struct Flow(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    unread: AtomicUsize,
    paused: AtomicBool,
}

// Both sides write one of the two, then read the other. In the one order that SeqCst gives all four, at least one of them
// sees what the other wrote; and `swap` lets no more than one of them act on it.
impl Flow {
    /// The loop has one more event to tell; whether the sequence is to be paused now.
    pub fn tell(&self) -> bool {
        let Inner { unread, paused } = &*self.0;
        if unread.fetch_add(1, SeqCst) + 1 < UNREAD_MAX || paused.swap(true, SeqCst) {
            return false;
        }
        // The reader may have read on meanwhile without seeing that it has to say so.
        let has_caught_up = unread.load(SeqCst) <= CAUGHT_UP;
        !(has_caught_up && paused.swap(false, SeqCst))
    }

    /// The reader has read one; whether the sequence is to go on now.
    pub fn read(&self) -> bool {
        let Inner { unread, paused } = &*self.0;
        unread.fetch_sub(1, SeqCst) - 1 <= CAUGHT_UP && paused.load(SeqCst) && paused.swap(false, SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    #[test]
    fn who_is_behind_is_paused_once_and_goes_on_once() {
        let flow = Flow::default();
        let pauses: Vec<usize> = (1..=2 * UNREAD_MAX).filter(|_| flow.tell()).collect();
        assert_eq!(pauses, [UNREAD_MAX]);
        let left: Vec<usize> = (0..2 * UNREAD_MAX).rev().filter(|_| flow.read()).collect();
        assert_eq!(left, [CAUGHT_UP]);
        assert_eq!((1..=UNREAD_MAX).filter(|_| flow.tell()).count(), 1, "and so it goes on");
    }

    /// The loop tells as long as it isn't to pause; it goes on when it is told to, in whatever order the two come.
    #[test]
    fn no_pause_lasts_for_ever() {
        const EVENTS: usize = 200_000;
        let (flow, (tell, events), (resume, resumed)) = (Flow::default(), mpsc::channel(), mpsc::channel());
        let reading = flow.clone();
        let reader = thread::spawn(move || {
            for () in events {
                if reading.read() {
                    resume.send(()).expect("the loop waits");
                }
            }
        });
        for _ in 0..EVENTS {
            // As the loop does: what is counted is told, or nothing could be subtracted from it.
            let is_behind = flow.tell();
            tell.send(()).expect("a reader");
            if is_behind {
                resumed.recv_timeout(std::time::Duration::from_secs(60)).expect("it is told to go on");
            }
        }
        drop(tell);
        reader.join().expect("the reader ends");
    }
}
