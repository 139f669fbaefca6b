//! Work that a client's own text steers, done apart from everything else: on a thread with a deep stack, since a text nests
//! as deep as it is long; and waited for only so long, since a thread can't be ended from outside.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{RecvTimeoutError, channel},
    },
    thread,
    time::Duration,
};

/// Does one kind of such work.
#[derive(Debug)]
pub struct Apart {
    /// The threads' name.
    name: &'static str,
    bounds: Bounds,
    /// Threads that work on after their caller was answered.
    overdue: Arc<AtomicUsize>,
}

/// What the work may use up.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Stack of a thread, bytes of address space.
    pub stack_bytes: usize,
    /// How long it is waited for.
    pub time_max: Duration,
    /// Threads that may work on beyond their time before no other is begun.
    pub overdue_max: usize,
}

/// Why there is no result.
#[derive(Debug)]
pub enum Unfinished {
    /// Too much earlier work goes on beyond its time.
    Busy,
    /// The system has no thread for it.
    NoThread(io::Error),
    /// It takes longer than it may.
    Late,
    /// It panicked.
    Panicked,
}

impl Apart {
    /// Nothing is being done yet.
    pub fn new(name: &'static str, bounds: Bounds) -> Self {
        Self { name, bounds, overdue: Arc::default() }
    }

    /// Does `work` and waits for it, not for ever. Blocks: not for threads that others wait for.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Unfinished> {
        if self.overdue.load(Ordering::Acquire) >= self.bounds.overdue_max {
            return Err(Unfinished::Busy);
        }
        let (sender, receiver) = channel();
        let one_ended = Arc::new(AtomicBool::new(false));
        let working = End { one_ended: one_ended.clone(), overdue: self.overdue.clone() };
        let work = move || {
            let _working = working;
            // Nobody waits for it any more where this fails.
            let _ = sender.send(work());
        };
        let thread = thread::Builder::new().name(self.name.into()).stack_size(self.bounds.stack_bytes);
        thread.spawn(work).map_err(Unfinished::NoThread)?;
        receiver.recv_timeout(self.bounds.time_max).map_err(|error| match error {
            RecvTimeoutError::Timeout => {
                self.overdue.fetch_add(1, Ordering::AcqRel);
                drop(End { one_ended, overdue: self.overdue.clone() });
                Unfinished::Late
            }
            RecvTimeoutError::Disconnected => Unfinished::Panicked,
        })
    }
}

/// Does `work` on a thread with so deep a stack, and waits until it has ended: for work whose steps are counted.
pub fn deep<T: Send>(name: &str, stack_bytes: usize, work: impl FnOnce() -> T + Send) -> Result<T, Unfinished> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name(name.into()).stack_size(stack_bytes);
        let thread = thread.spawn_scoped(scope, work).map_err(Unfinished::NoThread)?;
        thread.join().map_err(|_| Unfinished::Panicked)
    })
}

/// The end of the work, and the end of the waiting for it: the later of the two makes up for the count, also of work that
/// panics when nobody waits any more.
struct End {
    one_ended: Arc<AtomicBool>,
    overdue: Arc<AtomicUsize>,
}

impl Drop for End {
    fn drop(&mut self) {
        if self.one_ended.swap(true, Ordering::AcqRel) {
            self.overdue.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many as may be overdue wait for their channel; `end` says how they go on when it is dropped.
    fn check(end: fn()) {
        let bounds = Bounds { stack_bytes: 1 << 20, time_max: Duration::from_millis(1), overdue_max: 2 };
        let mut apart = Apart::new("test", bounds);
        let (ends, ended) = (0..bounds.overdue_max).map(|_| channel::<()>()).collect::<(Vec<_>, Vec<_>)>();
        for wait in ended {
            let late = apart.run(move || {
                let _ = wait.recv();
                end();
            });
            assert!(matches!(late, Err(Unfinished::Late)), "{late:?}");
        }
        assert!(matches!(apart.run(|| ()), Err(Unfinished::Busy)));
        drop(ends);
        while apart.overdue.load(Ordering::Acquire) > 0 {
            thread::yield_now();
        }
        apart.bounds.time_max = Duration::from_secs(60);
        assert_eq!(apart.run(|| 1).unwrap(), 1);
    }

    #[test]
    fn who_takes_too_long_is_left_behind_only_so_often() {
        check(|| ());
        check(|| panic!("as a bug would, when nobody waits"));
    }

    #[test]
    fn a_panic_is_told() {
        let bounds = Bounds { stack_bytes: 1 << 20, time_max: Duration::from_secs(60), overdue_max: 1 };
        let apart = Apart::new("test", bounds);
        for _ in 0..3 {
            assert!(matches!(apart.run(|| -> u8 { panic!("as a bug would") }), Err(Unfinished::Panicked)));
        }
    }
}
