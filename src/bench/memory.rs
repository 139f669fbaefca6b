//! What a server's processes take of the memory.

use std::{collections::HashMap, fs, path::Path};

use serde::Serialize;

/// The memory of a process and all that it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TreeMemory {
    /// How many processes there are.
    pub processes: usize,
    /// Their proportional set sizes together: a page that several share counts once.
    pub pss_bytes: u64,
}

/// Of this process and its descendants; none where the kernel does not tell.
pub fn of_tree(pid: u32) -> Option<TreeMemory> {
    let parents = parents();
    let is_in = |process: &u32| {
        let ancestors = std::iter::successors(Some(*process), |process| parents.get(process).copied());
        // Between two looks an id may be given to another process; a circle must not be followed for ever.
        ancestors.take(64).any(|ancestor| ancestor == pid)
    };
    let sizes: Vec<u64> = parents.keys().filter(|process| is_in(process)).filter_map(|&process| pss(process)).collect();
    (!sizes.is_empty()).then(|| TreeMemory { processes: sizes.len(), pss_bytes: sizes.iter().sum() })
}

/// The process that started a rank's, if it runs the same program: an id alone may be that of another container.
pub fn server_of_rank(rank_pid: u32) -> Option<u32> {
    let parent = parent(&fs::read_to_string(process_folder(rank_pid).join("stat")).ok()?)?;
    let program = |pid| fs::read_link(process_folder(pid).join("exe")).ok();
    (program(rank_pid)? == program(parent)?).then_some(parent)
}

fn process_folder(pid: u32) -> std::path::PathBuf {
    Path::new("/proc").join(pid.to_string())
}

/// Who started whom.
fn parents() -> HashMap<u32, u32> {
    let pid = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(pid);
    let with_parent = |pid| Some((pid, parent(&fs::read_to_string(process_folder(pid).join("stat")).ok()?)?));
    pids.filter_map(with_parent).collect()
}

/// The fourth field of /proc/PID/stat, counted behind the name, which may hold anything.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn pss(pid: u32) -> Option<u64> {
    pss_bytes(&fs::read_to_string(process_folder(pid).join("smaps_rollup")).ok()?)
}

fn pss_bytes(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_understood() {
        assert_eq!(parent("12 (a) (b c) S 7 12 12 0"), Some(7));
        assert_eq!(parent("12"), None);
        let rollup = "55d0-7ffe ---p 00000000 00:00 0 [rollup]\nRss:    2000 kB\nPss:    1000 kB\nPss_Dirty: 10 kB\n";
        assert_eq!((pss_bytes(rollup), pss_bytes("")), (Some(1_024_000), None));
    }

    #[test]
    fn this_process_has_memory() {
        let own = of_tree(std::process::id()).unwrap();
        assert!(own.processes >= 1 && own.pss_bytes > 0, "{own:?}");
        assert_eq!(of_tree(u32::MAX), None);
    }
}
