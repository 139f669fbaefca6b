//! Memory, shared memory, and the limits that processes start under.

use std::path::Path;

use nix::sys::statvfs::statvfs;
use serde_json::{Value, json};

use super::{
    Facts,
    machine::{cgroup, field, read},
    size,
};

/// The limits that a server meets first, as /proc/self/limits calls them.
const LIMITS: &[(&str, &str)] = &[
    ("open_files", "Max open files"),
    ("processes", "Max processes"),
    ("locked_memory", "Max locked memory"),
    ("address_space", "Max address space"),
    ("stack", "Max stack size"),
    ("core_file", "Max core file size"),
];

/// Memory.
pub fn memory(root: &Path) -> Facts {
    let meminfo = read(root, "proc/meminfo").unwrap_or_default();
    let of = |name: &str| {
        let kibibytes = field(&meminfo, name).and_then(|text| text.strip_suffix(" kB")?.trim().parse::<u64>().ok());
        json!(kibibytes.map(|kibibytes| size(kibibytes << 10)))
    };
    let (shm_total, shm_free) = free(&root.join("dev/shm"));
    vec![
        ("total", of("MemTotal")),
        ("available", of("MemAvailable")),
        ("swap_total", of("SwapTotal")),
        ("swap_free", of("SwapFree")),
        ("cgroup_limit", cgroup(root, "memory.max", "memory/memory.limit_in_bytes")),
        ("cgroup_used", cgroup(root, "memory.current", "memory/memory.usage_in_bytes")),
        ("dev_shm_total", shm_total),
        ("dev_shm_free", shm_free),
        ("overcommit", json!(read(root, "proc/sys/vm/overcommit_memory"))),
    ]
}

/// What this process may use, soft limit and hard limit.
pub fn limits(root: &Path) -> Facts {
    let text = read(root, "proc/self/limits").unwrap_or_default();
    LIMITS.iter().map(|&(name, line)| (name, json!(field(&text, line).map(|limits| spaced(&limits))))).collect()
}

fn spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn free(folder: &Path) -> (Value, Value) {
    match statvfs(folder) {
        Ok(found) => {
            let bytes = |blocks| json!(size(blocks * found.fragment_size()));
            (bytes(found.blocks()), bytes(found.blocks_available()))
        }
        Err(_) => (Value::Null, Value::Null),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_found_by_their_names() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("proc/self")).unwrap();
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
                    Max open files            1024                 4096                 files\n";
        std::fs::write(folder.path().join("proc/self/limits"), text).unwrap();
        let limits = limits(folder.path());
        assert_eq!(limits[0], ("open_files", json!("1024 4096 files")));
        assert_eq!(limits[1], ("processes", Value::Null));
    }
}
