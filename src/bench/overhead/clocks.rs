//! Processor time of the server's parts, as the kernel counts it.

use std::{fs, path::Path, time::Duration};

use super::Halt;
use crate::bench::target::Target;

/// What was taken since the processes began; or between two looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clocks {
    /// By all threads of the process.
    pub process: Duration,
    /// By its engine, where it has one.
    pub engine: Duration,
    /// By all threads of rank 0, where there is one.
    pub rank: Duration,
    /// Steps of the engine.
    pub steps: u64,
}

impl Clocks {
    /// Of a process that is neither.
    pub fn of_process(pid: u32) -> Result<Self, Halt> {
        let process = taken(pid, None).ok_or_else(|| untold(pid))?;
        Ok(Self { process, engine: Duration::ZERO, rank: Duration::ZERO, steps: 0 })
    }

    /// Of a server of this machine.
    pub fn of_server(target: &Target) -> Result<Self, Halt> {
        let pid = target.pid.ok_or_else(|| Halt::Refused("the server's process can't be told".into()))?;
        let remote = &target.server.remote;
        let ask = |path| {
            let answer = remote.get(path).map_err(|error| Halt::Refused(format!("{}: {error}", remote.url(path))))?;
            Ok::<String, Halt>(answer.text)
        };
        let ranks: serde_json::Value = serde_json::from_str(&ask("/ranks")?).unwrap_or_default();
        let rank = ranks["ranks"][0]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        let steps = steps(&ask("/metrics")?).ok_or_else(|| Halt::Refused("the server counts no steps".into()))?;
        Ok(Self {
            engine: taken(pid, Some("sw-engine")).ok_or_else(|| untold(pid))?,
            rank: rank.and_then(|pid| taken(pid, None)).unwrap_or_default(),
            steps,
            ..Self::of_process(pid)?
        })
    }

    /// Since an earlier look.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            process: self.process.saturating_sub(before.process),
            engine: self.engine.saturating_sub(before.engine),
            rank: self.rank.saturating_sub(before.rank),
            steps: self.steps.saturating_sub(before.steps),
        }
    }
}

fn untold(pid: u32) -> Halt {
    Halt::Refused(format!(
        "the kernel does not tell the processor time of process {pid} (/proc/{pid}/task/*/schedstat)"
    ))
}

/// Of a process's threads, all or those of a name. Threads that have ended are gone from it.
fn taken(pid: u32, name: Option<&str>) -> Option<Duration> {
    let threads = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task")).ok()?.flatten();
    let is_named = |folder: &Path| {
        name.is_none_or(|name| fs::read_to_string(folder.join("comm")).is_ok_and(|comm| comm.trim_end() == name))
    };
    let of = |folder: &Path| on_processor(&fs::read_to_string(folder.join("schedstat")).ok()?);
    let times: Vec<Duration> = threads
        .map(|thread| thread.path())
        .filter(|folder| is_named(folder))
        .filter_map(|folder| of(&folder))
        .collect();
    (!times.is_empty()).then(|| times.iter().sum())
}

/// The first of a thread's three numbers: nanoseconds on a processor.
fn on_processor(schedstat: &str) -> Option<Duration> {
    Some(Duration::from_nanos(schedstat.split_whitespace().next()?.parse().ok()?))
}

fn steps(metrics: &str) -> Option<u64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix("shardwire:steps_total "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_and_the_servers_words_are_understood() {
        assert_eq!(on_processor("1500 20 3\n"), Some(Duration::from_nanos(1500)));
        assert_eq!(on_processor(""), None);
        let metrics = "# TYPE shardwire:steps counter\nshardwire:steps_total 7\nshardwire:other_total 9\n";
        assert_eq!((steps(metrics), steps("")), (Some(7), None));
        let own = Clocks::of_process(std::process::id()).unwrap();
        let later = Clocks::of_process(std::process::id()).unwrap().since(&own);
        assert!(own.process > Duration::ZERO && later.process < own.process, "{own:?}");
        assert!(taken(std::process::id(), Some("no such thread")).is_none());
    }
}
