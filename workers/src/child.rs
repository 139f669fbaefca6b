//! What makes a process a good child: it is named, lives no longer than its parent, leaves signals to it, and whatever
//! goes wrong ends in one line.

use std::env;
use std::ffi::CString;
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook};
use std::sync::{Mutex, PoisonError};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::prctl::{set_name, set_pdeathsig};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;
use tracing_subscriber::{EnvFilter, Layer, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// The last panic, in one line.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Names the form of log lines, `text` or `json`, to the processes of ranks.
pub const LOG_FORMAT: &str = "SHARDWIRE_LOG_FORMAT";

/// Logs to standard error, which the server writes to this rank's file; `RUST_LOG` chooses what, info and above without it.
pub(crate) fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // A full disk costs lines: to complain of it there would end the process.
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(false).log_internal_errors(false);
    let lines = if env::var_os(LOG_FORMAT).is_some_and(|format| format == "json") {
        lines.json().boxed()
    } else {
        lines.boxed()
    };
    // A second subscriber is refused; whoever set the first one (a test) is content with it.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
}

/// From here on this process is rank `rank`'s: it dies with the process that started it, and only when that one wants.
pub(crate) fn belong_to_parent(rank: usize) -> io::Result<()> {
    // A terminal's Ctrl-C and a service manager's SIGTERM reach all processes, but the server decides when ranks go:
    // its streams may still need them. Blocked here, they are blocked in all threads to come.
    SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]).thread_block()?;
    // The kernel's way, which works even while this process is stopped; and the pipe's, which also works if the parent
    // was gone before this line, or its thread ended that had started us.
    set_pdeathsig(Signal::SIGKILL)?;
    std::thread::Builder::new().name("death-pipe".into()).spawn(leave_with_parent)?;
    let name = CString::new(format!("shardwire-r{rank}")).expect("a name without zeros");
    set_name(&name).map_err(io::Error::from)
}

/// From here on this thread, and those that it starts, keep to these cores; to any where there are none. A core that the
/// system refuses is no reason to stop, only a slower machine.
pub(crate) fn keep_to(cores: &[usize]) {
    let mut set = CpuSet::new();
    if !cores.is_empty() && cores.iter().all(|core| set.set(*core).is_ok()) {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

/// Standard input says nothing more; it ends when the server closes it or dies.
fn leave_with_parent() {
    let mut silence = [0; 64];
    loop {
        match io::stdin().read(&mut silence) {
            Ok(0) => std::process::exit(0),
            Err(error) if error.kind() != io::ErrorKind::Interrupted => std::process::exit(0),
            _ => {}
        }
    }
}

/// A panic becomes one line on standard error. Outside the main thread nobody would miss the thread: the process ends.
pub(crate) fn tell_panics() {
    set_hook(Box::new(|panic| {
        let line = line_of(panic);
        let _ = writeln!(io::stderr(), "{line}");
        *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = Some(line);
        if std::thread::current().name() != Some("main") {
            std::process::exit(1);
        }
    }));
}

fn line_of(panic: &PanicHookInfo<'_>) -> String {
    let place = panic.location().map_or_else(String::new, |place| format!(" at {}:{}", place.file(), place.line()));
    let message = panic.payload_as_str().unwrap_or("(no message)");
    format!("panicked{place}: {}", message.replace('\n', " "))
}

/// Runs `life`; its panic's line where it panicked.
pub(crate) fn catch_panic<T>(life: impl FnOnce() -> T) -> Result<T, String> {
    // Nothing that `life` leaves half done is looked at again: the process ends.
    catch_unwind(AssertUnwindSafe(life)).map_err(|_| {
        let line = PANIC.lock().unwrap_or_else(PoisonError::into_inner).take();
        line.unwrap_or_else(|| "panicked".into())
    })
}

/// Resident memory of this process, bytes; zero where the system does not tell.
pub(crate) fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use nix::sched::sched_getaffinity;

    use super::*;

    #[test]
    fn threads_keep_to_the_cores_of_the_one_that_started_them() {
        let allowed = || sched_getaffinity(Pid::from_raw(0)).unwrap();
        let check = |cores: &'static [usize], expected: CpuSet| {
            let seen = std::thread::spawn(move || {
                keep_to(cores);
                std::thread::spawn(move || sched_getaffinity(Pid::from_raw(0)).unwrap()).join().unwrap()
            });
            assert_eq!(seen.join().unwrap(), expected, "{cores:?}");
        };
        let first = (0..CpuSet::count()).find(|core| allowed().is_set(*core).unwrap()).unwrap();
        let mut one = CpuSet::new();
        one.set(first).unwrap();
        check(vec![first].leak(), one);
        check(&[], allowed());
        check(&[usize::MAX], allowed());
    }

    #[test]
    fn memory_is_measured() {
        assert!(resident_bytes() > 1 << 20, "a test takes more than a mebibyte");
    }
}
