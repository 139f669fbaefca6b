//! Which cores each rank keeps to.

use std::path::Path;

use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::Pid,
};

use super::neighbours::Neighbours;

/// How the machine's cores are shared among the ranks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorePlan {
    /// Compute threads of each rank, at least one.
    pub threads_per_rank: usize,
    /// For each rank its cores: on the CPU one for each thread, beside a GPU all that are near it, for all its threads;
    /// empty lists where ranks are not bound.
    pub cores: Vec<Vec<usize>>,
    /// Whether every thread has a core of its own, so that waiting within a step may spin.
    pub spin: bool,
}

/// The cores that this process may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AvailableCores {
    /// Indices of the cores in the affinity mask, ascending.
    pub cores: Vec<usize>,
    /// How many of them may be busy at the same time: less than their number under a CPU quota.
    pub parallelism: usize,
}

impl AvailableCores {
    /// Asks the kernel: the affinity mask, and the quota of the control group.
    pub fn of_this_process() -> Self {
        let cores = match sched_getaffinity(Pid::from_raw(0)) {
            Ok(mask) => (0..CpuSet::count()).filter(|&core| mask.is_set(core).unwrap_or(false)).collect(),
            Err(_) => Vec::new(),
        };
        let parallelism = std::thread::available_parallelism().map_or(1, usize::from);
        Self { cores, parallelism }
    }
}

impl CorePlan {
    /// Shares `available` among `ranks`: disjoint pinned cores where there are enough, else the kernel decides.
    pub fn new(ranks: usize, threads_per_rank: Option<usize>, available: &AvailableCores) -> Self {
        let usable = available.parallelism.min(available.cores.len());
        let threads = threads_per_rank.unwrap_or(available.parallelism / ranks.max(1)).max(1);
        let fits = ranks.saturating_mul(threads) <= usable;
        let cores_of = |rank: usize| match fits {
            true => available.cores[rank * threads..(rank + 1) * threads].to_vec(),
            false => Vec::new(),
        };
        Self { threads_per_rank: threads, cores: (0..ranks).map(cores_of).collect(), spin: fits }
    }

    /// Of ranks that compute on the GPUs at these places on the PCI bus: each keeps to the NUMA node of its GPU, and
    /// with it the memory that it touches first, which the system takes from the node of the core that touches it. What
    /// its few threads do there is the system's to decide.
    pub fn beside(gpus: &[String], threads_per_rank: Option<usize>, available: &AvailableCores, root: &Path) -> Self {
        let cores_of = |(rank, bus_id): (usize, &String)| {
            let Some(mut near) = Neighbours::of(root, bus_id) else { return Vec::new() };
            near.cores.retain(|core| available.cores.contains(core));
            let (node, count) = (near.node, near.cores.len());
            if near.cores.is_empty() {
                tracing::warn!("rank {rank} runs far from its GPU {bus_id}: no core of NUMA node {node} may be used");
            } else {
                tracing::info!("rank {rank} keeps to the {count} cores of NUMA node {node}, beside its GPU {bus_id}");
            }
            near.cores
        };
        let cores = gpus.iter().enumerate().map(cores_of).collect();
        Self { cores, ..Self::new(gpus.len(), threads_per_rank, available) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(ranks: usize, threads: Option<usize>, available: (&[usize], usize), expected: (usize, &[&[usize]], bool)) {
        let available = AvailableCores { cores: available.0.to_vec(), parallelism: available.1 };
        let plan = CorePlan::new(ranks, threads, &available);
        let (threads_per_rank, cores, spin) = expected;
        let cores = cores.iter().map(|cores| cores.to_vec()).collect();
        assert_eq!(
            plan,
            CorePlan { threads_per_rank, cores, spin },
            "{ranks} ranks, threads {threads:?}, {available:?}"
        );
    }

    #[test]
    fn cores_are_shared_evenly_and_pinned_where_they_suffice() {
        check(2, None, (&[0, 1], 2), (1, &[&[0], &[1]], true));
        check(2, None, (&[2, 3, 5, 7, 8], 5), (2, &[&[2, 3], &[5, 7]], true));
        check(1, Some(2), (&[0, 1, 2, 3], 4), (2, &[&[0, 1]], true));
    }

    #[test]
    fn too_few_cores_mean_no_pinning_and_no_spinning() {
        check(4, None, (&[0, 1], 2), (1, &[&[], &[], &[], &[]], false));
        check(2, Some(2), (&[0, 1], 2), (2, &[&[], &[]], false));
        // A quota of two cores on a machine of eight: pinned threads would be throttled while they spin.
        check(2, Some(4), (&[0, 1, 2, 3, 4, 5, 6, 7], 2), (4, &[&[], &[]], false));
        check(1, None, (&[], 1), (1, &[&[]], false));
    }

    #[test]
    fn a_rank_keeps_to_the_node_of_its_gpu_as_far_as_it_may() {
        let root = tempfile::tempdir().unwrap();
        for (bus_id, node, cores) in [("0000:01:00.0", "0", "0-3"), ("0000:02:00.0", "1", "4-7"), ("3", "-1", "0-7")] {
            let device = root.path().join("sys/bus/pci/devices").join(bus_id);
            std::fs::create_dir_all(&device).unwrap();
            std::fs::write(device.join("numa_node"), node).unwrap();
            std::fs::write(device.join("local_cpulist"), cores).unwrap();
        }
        let gpus = ["0000:01:00.0", "0000:02:00.0", "3", "0000:04:00.0"].map(str::to_owned);
        let check = |gpus: &[String], cores: &[usize], expected: &[&[usize]]| {
            let available = AvailableCores { cores: cores.to_vec(), parallelism: cores.len() };
            let plan = CorePlan::beside(gpus, None, &available, root.path());
            assert_eq!(plan.cores, expected, "{available:?}");
            assert_eq!(plan.threads_per_rank, CorePlan::new(gpus.len(), None, &available).threads_per_rank);
        };
        check(&gpus, &[0, 1, 2, 3, 4, 5, 6, 7], &[&[0, 1, 2, 3], &[4, 5, 6, 7], &[], &[]]);
        check(&gpus[..2], &[2, 3], &[&[2, 3], &[]]);
        // More ranks than cores: near is near all the same.
        check(&gpus[..2], &[4], &[&[], &[4]]);
    }

    #[test]
    fn this_machine_has_a_core() {
        assert!(AvailableCores::of_this_process().parallelism >= 1);
    }

    proptest! {
        #[test]
        fn no_core_is_given_twice(ranks in 1usize..20, threads in prop::option::of(1usize..9), cores in 0usize..65) {
            let available = AvailableCores { cores: (0..cores).collect(), parallelism: cores.max(1) };
            let plan = CorePlan::new(ranks, threads, &available);
            prop_assert_eq!(plan.cores.len(), ranks);
            let mut given = plan.cores.concat();
            let count = given.len();
            given.sort_unstable();
            given.dedup();
            prop_assert_eq!(given.len(), count);
            prop_assert!(count == 0 || count == ranks * plan.threads_per_rank);
        }
    }
}
