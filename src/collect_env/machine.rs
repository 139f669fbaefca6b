//! The operating system and the processor.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::{Value, json};

use super::Facts;
use crate::supervisor::AvailableCores;

/// The instruction sets that matter for speed, as /proc/cpuinfo calls them.
const FEATURES: &[&str] = &[
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "sve",
    "bf16",
    "i8mm",
];

/// The system.
pub fn system(root: &Path) -> Facts {
    let kernel = read(root, "proc/sys/kernel/osrelease");
    let os =
        read(root, "etc/os-release").and_then(|text| field(&text, "PRETTY_NAME=").map(|name| name.replace('"', "")));
    let huge = read(root, "sys/kernel/mm/transparent_hugepage/enabled");
    vec![
        ("os", json!(os)),
        ("kernel", json!(kernel)),
        ("architecture", json!(std::env::consts::ARCH)),
        ("container", json!(container(root))),
        ("transparent_hugepages", json!(huge)),
        ("load", json!(read(root, "proc/loadavg"))),
    ]
}

/// The processor, and how much of it this process may use.
pub fn processor(root: &Path) -> Facts {
    let cpuinfo = read(root, "proc/cpuinfo").unwrap_or_default();
    let model = field(&cpuinfo, "model name").or_else(|| field(&cpuinfo, "Hardware"));
    let flags = field(&cpuinfo, "flags").or_else(|| field(&cpuinfo, "Features"));
    let present = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let usable = AvailableCores::of_this_process();
    vec![
        ("model", json!(model)),
        ("features", json!(flags.map(|flags| features(&flags)))),
        ("cores_online", json!(present)),
        ("cores_usable", json!(usable.parallelism)),
        ("affinity", json!(read(root, "proc/self/status").and_then(|text| field(&text, "Cpus_allowed_list")))),
        ("cgroup_cpuset", cgroup(root, "cpuset.cpus.effective", "cpuset/cpuset.effective_cpus")),
        ("cgroup_quota", cgroup(root, "cpu.max", "cpu/cpu.cfs_quota_us")),
        ("threads_per_core", json!(read(root, "sys/devices/system/cpu/cpu0/topology/thread_siblings_list"))),
        ("governor", json!(read(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"))),
        ("numa_nodes", numa_nodes(root)),
    ]
}

/// A small file's text, trimmed; none where it can't be read.
pub fn read(root: &Path, path: &str) -> Option<String> {
    // Files of the kernel are short; this is for one that is not.
    let bytes = fs::read(root.join(path)).ok().filter(|bytes| bytes.len() < 1 << 24)?;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// The value behind `name` in lines like `name: value` or `NAME=value`; the first one's.
pub fn field(text: &str, name: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(value.trim_start_matches([' ', '\t', ':']).trim().to_owned())
}

/// What the control group says, in its second version or the first.
pub fn cgroup(root: &Path, second: &str, first: &str) -> Value {
    let folder = root.join("sys/fs/cgroup");
    json!(read(&folder, second).or_else(|| read(&folder, first)))
}

fn features(flags: &str) -> String {
    let flags: BTreeSet<&str> = flags.split_whitespace().collect();
    FEATURES.iter().filter(|feature| flags.contains(**feature)).copied().collect::<Vec<_>>().join(" ")
}

fn container(root: &Path) -> Option<String> {
    let marks = [(".dockerenv", "docker"), ("run/.containerenv", "podman")];
    let marked = marks.iter().find(|(file, _)| root.join(file).exists()).map(|(_, name)| (*name).to_owned());
    let kubernetes = || std::env::var_os("KUBERNETES_SERVICE_HOST").map(|_| "kubernetes".to_owned());
    marked.or_else(kubernetes)
}

fn numa_nodes(root: &Path) -> Value {
    let folder = root.join("sys/devices/system/node");
    let name = |entry: fs::DirEntry| entry.file_name().into_string().ok();
    let is_node = |name: &String| name.strip_prefix("node").is_some_and(|number| number.parse::<u32>().is_ok());
    let mut nodes: Vec<_> =
        fs::read_dir(&folder).into_iter().flatten().flatten().filter_map(name).filter(is_node).take(256).collect();
    nodes.sort_by_key(|name| (name.len(), name.clone()));
    let cores = |node: String| {
        let list = read(&folder, &format!("{node}/cpulist")).unwrap_or_default();
        Value::String(format!("{node}: cores {list}"))
    };
    nodes.into_iter().map(cores).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_machine_is_read_from_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let cpu = "processor\t: 0\nmodel name\t: A Chip\nflags\t\t: fpu avx2 avx512f amx_bf16\n\nprocessor\t: 1\n";
        file(root, "proc/cpuinfo", cpu);
        file(root, "etc/os-release", "ID=x\nPRETTY_NAME=\"An OS 1\"\n");
        file(root, "sys/fs/cgroup/cpu.max", "200000 100000\n");
        for node in [0, 10, 2] {
            file(root, &format!("sys/devices/system/node/node{node}/cpulist"), "0-1\n");
        }
        let processor: serde_json::Map<_, _> =
            processor(root).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!((&processor["model"], &processor["cores_online"]), (&json!("A Chip"), &json!(2)));
        assert_eq!(processor["features"], "avx2 avx512f amx_bf16");
        assert_eq!(processor["cgroup_quota"], "200000 100000");
        assert_eq!(processor["numa_nodes"], json!(["node0: cores 0-1", "node2: cores 0-1", "node10: cores 0-1"]));
        assert_eq!(system(root)[0], ("os", json!("An OS 1")));
    }

    #[test]
    fn a_machine_without_files_is_unknown_and_no_failure() {
        let folder = tempfile::tempdir().unwrap();
        let facts = processor(folder.path());
        assert_eq!(facts[0], ("model", Value::Null));
        assert_eq!(system(folder.path())[1], ("kernel", Value::Null));
    }
}
