//! Who broke the group, in one line.
//!
//! When one rank dies, the others soon fail as well, for want of it. Telling those failures too would bury the cause.

use super::process::Exit;
use crate::engine::GroupEnd;

/// How one rank went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fate {
    /// Which.
    pub rank: usize,
    /// Its process.
    pub pid: u32,
    /// How the process ended; none while it still lives.
    pub exit: Option<Exit>,
    /// What the rank said, empty where it could not.
    pub error: String,
    /// The last lines of its log.
    pub last_words: Vec<String>,
}

/// What a rank says when it failed only because another one was gone (`kernels`' `PeerLost` and `JoinError`).
const CONSEQUENCES: [&str; 2] = ["left the group during", "did not join within"];

impl Fate {
    /// Whether another rank's end explains this one.
    pub fn is_consequence(&self) -> bool {
        CONSEQUENCES.iter().any(|words| self.error.contains(words))
    }

    /// In one line: its own words, else how the process ended and what it last wrote.
    fn tell(&self) -> String {
        let Self { rank, pid, .. } = self;
        if !self.error.is_empty() {
            return format!("rank {rank}: {}", one_line(&self.error));
        }
        let exit = self.exit.map_or("failed".to_owned(), |exit| exit.to_string());
        match self.last_words.join(" | ") {
            _ if self.exit.is_some_and(|exit| exit.is_kill()) => {
                format!("rank {rank} (pid {pid}) {exit}, by hand or by the kernel for want of memory")
            }
            words if words.is_empty() => format!("rank {rank} (pid {pid}) {exit}"),
            words => format!("rank {rank} (pid {pid}) {exit}; its log ends: {words}"),
        }
    }
}

/// Names the rank that broke the group, given the fates in the order in which they were noticed. SIGKILL comes from
/// outside: by hand, or from a system without memory, which ranks take at their start and not for what they compute.
pub fn root_cause(fates: &[Fate]) -> GroupEnd {
    let cause = fates.iter().find(|fate| !fate.is_consequence()).or(fates.first());
    let is_kill = |fate: &Fate| fate.error.is_empty() && fate.exit.is_some_and(Exit::is_kill);
    GroupEnd {
        reason: cause.map_or("a rank was lost".to_owned(), Fate::tell),
        is_suspicious: !cause.is_some_and(is_kill),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    fn fate(rank: usize, raw_status: i32, error: &str, last_words: &[&str]) -> Fate {
        let exit = Some(Exit(std::process::ExitStatus::from_raw(raw_status)));
        let last_words = last_words.iter().map(|line| line.to_string()).collect();
        Fate { rank, pid: 100 + rank as u32, exit, error: error.into(), last_words }
    }

    #[test]
    fn the_cause_is_told_and_not_its_consequences() {
        let lost = "rank 1 left the group during all_reduce";
        let check = |fates: &[Fate], expected: &str| {
            let GroupEnd { reason, is_suspicious } = root_cause(fates);
            assert_eq!((reason.as_str(), is_suspicious), (expected, !expected.contains("SIGKILL")));
        };
        let killed = "rank 1 (pid 101) was killed by signal 9 (SIGKILL), by hand or by the kernel for want of memory";
        check(&[fate(0, 256, lost, &[]), fate(1, 9, "", &["all was well"])], killed);
        check(
            &[fate(0, 256, "model.gguf:\nno  such tensor", &[]), fate(1, 256, lost, &[])],
            "rank 0: model.gguf: no such tensor",
        );
        check(
            &[fate(2, 101 << 8, "", &["thread main panicked", "at x"])],
            "rank 2 (pid 102) ended with exit code 101; its log ends: thread main panicked | at x",
        );
        check(&[fate(0, 256, lost, &[])], "rank 0: rank 1 left the group during all_reduce");
        check(&[], "a rank was lost");
    }
}
