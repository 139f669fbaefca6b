//! Compiling in a bounded space and time: on threads of their own, with a large stack, of which only a few may stay behind.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crossbeam::channel::{RecvTimeoutError, bounded};

use super::error::GrammarError;

/// The library descends into a grammar as deep as it is nested; the bounds on a grammar's size keep that within this stack.
const STACK_BYTES: usize = 256 << 20;
/// A client is answered after this, even if its grammar isn't ready.
const COMPILE_TIME_MAX: Duration = Duration::from_secs(5);
/// Threads that work on after their client was answered. A thread can't be ended from outside.
const LEFT_BEHIND_MAX: usize = 2;

/// Those who compile.
#[derive(Debug, Default)]
pub(super) struct Compilers {
    left_behind: Arc<AtomicUsize>,
}

impl Compilers {
    /// Does `work` on a thread of its own and waits for it, not for ever.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, GrammarError> + Send + 'static,
    ) -> Result<T, GrammarError> {
        self.run_within(COMPILE_TIME_MAX, work)
    }

    fn run_within<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> Result<T, GrammarError> + Send + 'static,
    ) -> Result<T, GrammarError> {
        if self.left_behind.load(Ordering::Acquire) >= LEFT_BEHIND_MAX {
            return Err(GrammarError::Busy);
        }
        let (sender, receiver) = bounded(0);
        let left_behind = self.left_behind.clone();
        let compile = move || {
            let result = work();
            // Nobody waits any more: whoever gave up has counted this thread.
            if sender.send(result).is_err() {
                left_behind.fetch_sub(1, Ordering::AcqRel);
            }
        };
        let thread = thread::Builder::new().name("grammar".into()).stack_size(STACK_BYTES);
        thread.spawn(compile).map_err(|_| GrammarError::Busy)?;
        match receiver.recv_timeout(limit) {
            Ok(result) => result,
            Err(RecvTimeoutError::Disconnected) => Err(GrammarError::refused("it is beyond what can be compiled")),
            Err(RecvTimeoutError::Timeout) => {
                self.left_behind.fetch_add(1, Ordering::AcqRel);
                drop(receiver);
                Err(GrammarError::refused(format!("it takes more than {} s to compile", limit.as_secs_f32())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn who_takes_too_long_is_left_behind_only_so_often() {
        let compilers = Compilers::default();
        let (end, ended) = (0..LEFT_BEHIND_MAX).map(|_| mpsc::channel::<()>()).collect::<(Vec<_>, Vec<_>)>();
        for wait in ended {
            let answer = compilers.run_within(Duration::from_millis(1), move || Ok(wait.recv().is_ok()));
            assert!(matches!(answer, Err(GrammarError::Refused(_))));
        }
        assert_eq!(compilers.run(|| Ok(1)), Err(GrammarError::Busy));
        drop(end);
        while compilers.left_behind.load(Ordering::Acquire) > 0 {
            thread::yield_now();
        }
        assert_eq!(compilers.run(|| Ok(1)), Ok(1));
        assert!(matches!(compilers.run::<()>(|| panic!("as a bug would")), Err(GrammarError::Refused(_))));
    }
}
