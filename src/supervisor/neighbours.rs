//! Which cores are a GPU's neighbours: those of the NUMA node that it is attached to.

use std::{fs, path::Path};

/// A NUMA node, as far as a process may use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbours {
    /// Its number.
    pub node: u32,
    /// Its cores, ascending.
    pub cores: Vec<usize>,
}

impl Neighbours {
    /// Of the GPU at this place on the PCI bus (`0000:3b:00.0`), as the system's files under `root` tell; none on a
    /// machine of one node, which has no near and far.
    pub fn of(root: &Path, bus_id: &str) -> Option<Self> {
        let device = root.join("sys/bus/pci/devices").join(bus_id);
        let read = |name| fs::read_to_string(device.join(name)).ok();
        // -1 where the firmware does not tell.
        let node = read("numa_node")?.trim().parse().ok()?;
        let cores = core_list(&read("local_cpulist")?)?;
        Some(Self { node, cores })
    }
}

/// `0-2,8` is 0, 1, 2, 8.
fn core_list(text: &str) -> Option<Vec<usize>> {
    /// The kernel knows no larger machine.
    const CORES_MAX: usize = 1 << 16;
    let mut cores = Vec::new();
    for range in text.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        cores.extend(first..=last.min(CORES_MAX));
    }
    Some(cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with a GPU whose files say this.
    fn machine(numa_node: &str, local_cpulist: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let device = root.path().join("sys/bus/pci/devices/0000:3b:00.0");
        fs::create_dir_all(&device).unwrap();
        fs::write(device.join("numa_node"), numa_node).unwrap();
        fs::write(device.join("local_cpulist"), local_cpulist).unwrap();
        root
    }

    #[test]
    fn a_gpu_s_node_is_found_by_its_place_on_the_bus() {
        let check = |numa_node, list, expected: Option<(u32, &[usize])>| {
            let expected = expected.map(|(node, cores)| Neighbours { node, cores: cores.to_vec() });
            assert_eq!(Neighbours::of(machine(numa_node, list).path(), "0000:3b:00.0"), expected, "{numa_node} {list}");
        };
        check("1\n", "2-3,6-7\n", Some((1, &[2, 3, 6, 7])));
        check("0\n", "5\n", Some((0, &[5])));
        check("0\n", "\n", Some((0, &[])));
        check("-1\n", "0-7\n", None);
        check("0\n", "a-b\n", None);
        assert_eq!(Neighbours::of(machine("0\n", "0\n").path(), "0000:3c:00.0"), None, "no such device");
    }

    #[test]
    fn a_list_of_lies_is_no_reason_to_take_all_memory() {
        assert!(core_list("0-18446744073709551615").unwrap().len() < 1 << 17);
    }
}
