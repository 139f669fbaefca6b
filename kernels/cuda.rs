//! NVIDIA's GPUs as a device: one GPU per rank, kernels compiled for it at first use, NCCL between the ranks.
//!
//! Everything of a rank runs on one stream, in the order in which it was asked for: no kernel waits for another but by
//! coming after it. Activations are bf16, or f32 where that is asked for; the residual stream, logits, vectors (norms'
//! weights, biases) and every sum are f32 in both.

mod arena;
mod batch;
mod communicator;
mod compile;
mod cublaslt;
mod driver;
mod error;
mod kv_cache;
mod launch;
mod libraries;
mod peers;
mod pinned;
mod product;
mod region;
mod sensors;
mod staging;
mod tensor;
mod tensor_map;
mod weight;

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

pub(crate) use arena::Buffer;
pub use batch::DeviceBatch;
pub(crate) use batch::NO_SLOT;
pub(crate) use compile::Source;
pub(crate) use cublaslt::{CublasLt, Operands, Product};
pub(crate) use driver::{Driver, Graph, Grid, Pointer};
pub use driver::{Facts, count};
pub(crate) use kv_cache::KvBoxes;
pub use kv_cache::KvCache;
pub(crate) use launch::Argument;
pub use libraries::{check_products, search_path};
pub(crate) use pinned::Pinned;
pub(crate) use product::{Shape, Skinny, staged_words, step_columns};
pub(crate) use region::Region;
pub use tensor::Tensor;
pub(crate) use tensor::{Element, RowsHere, TensorPlace};
pub(crate) use tensor_map::{ByteMatrix, Matrix as MappedMatrix, TensorMap};
pub(crate) use weight::Part;
pub use weight::Weight;

use crate::{
    Backend, Batch, DType, DeviceError, Result,
    choose::Choices,
    group::{Group, Waiting, run_ranks},
    repeat::Recordings,
    sensors::Sensors,
};
pub(crate) use peers::{AREA_BYTES, BLOCKS, Peers};

use arena::Arena;
use communicator::Communicator;
use compile::Compiler;
use launch::Kernels;
use sensors::GpuSensors;

/// What a GPU is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CudaConfig {
    /// Which GPU, among the visible ones.
    pub ordinal: usize,
    /// What activations are.
    pub activations: Activations,
    /// Whether every step is computed kernel by kernel, and none recorded.
    pub eager: bool,
    /// Whether all-reduces of every size are NCCL's.
    pub nccl_only: bool,
    /// Whether own kernels compute all matrix products, though NVIDIA's library may be there.
    pub own_products: bool,
    /// Whether products keep to kernels that every GPU has, though there may be better ones for this.
    pub common_products: bool,
    /// Where compiled kernels are kept.
    pub cache: Option<PathBuf>,
    /// Where prebuilt kernels lie; they win over compiling.
    pub prebuilt: Option<PathBuf>,
}

/// The type of activations, and so of matrix products' inputs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Activations {
    /// bfloat16, for tensor cores.
    #[default]
    BF16,
    /// binary32: slow, and as exact as the CPU.
    F32,
}

/// Of how many clusters a GPU has room at once, by their blocks from 1 on, each of which takes a multiprocessor.
pub(crate) type ClustersAtOnce = [usize; CLUSTER_BLOCKS_MAX];

/// Blocks of a cluster, as in clusters.cuh.
pub(crate) const CLUSTER_BLOCKS_MAX: usize = 8;

/// One rank's GPU.
pub struct Cuda {
    kernels: Kernels,
    arena: Arena,
    choices: Choices,
    activations: Activations,
    eager: bool,
    recordings: Mutex<Recordings>,
    /// None where own kernels compute all products.
    cublaslt: Option<CublasLt>,
    common_products: bool,
    clusters: OnceLock<ClustersAtOnce>,
    group: Group,
    /// None where the rank is alone.
    communicator: Option<Mutex<Communicator>>,
    /// None where the rank is alone, or the GPUs don't reach each other.
    peers: Option<Peers>,
    /// Behind all that was made with it: with the last of these the context goes.
    driver: Driver,
}

impl Activations {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::BF16 => "bf16",
            Self::F32 => "f32",
        }
    }
}

impl Cuda {
    /// The GPU of `config`, which meets those of the other ranks of `group`.
    pub fn open(config: CudaConfig, group: Group) -> Result<Self> {
        let CudaConfig { ordinal, activations, eager, nccl_only, own_products, common_products, cache, prebuilt } =
            config;
        let driver = Driver::open(ordinal)?;
        let compiler = Compiler::new(driver.facts().capability, cache, prebuilt)?;
        let cublaslt = match activations {
            Activations::BF16 if !own_products => CublasLt::find(&driver)?,
            _ => None,
        };
        let (communicator, peers) = match group.world_size() {
            1 => (None, None),
            _ => (
                Some(Mutex::new(Communicator::meet(&group)?)),
                if nccl_only { None } else { Peers::meet(&driver, &group)? },
            ),
        };
        Ok(Self {
            kernels: Kernels::new(compiler, activations),
            arena: Arena::new(driver.clone()),
            choices: Choices::new(&driver, group.world_size())?,
            activations,
            eager,
            recordings: Mutex::default(),
            cublaslt,
            common_products,
            clusters: OnceLock::new(),
            group,
            communicator,
            peers,
            driver,
        })
    }

    /// What the GPU is.
    pub fn facts(&self) -> &Facts {
        self.driver.facts()
    }

    /// Bytes free on the GPU, and bytes in all.
    pub fn memory(&self) -> Result<(u64, u64)> {
        self.driver.memory()
    }

    /// Bytes taken for activations.
    pub fn activation_bytes(&self) -> usize {
        self.arena.bytes()
    }

    pub(crate) fn driver(&self) -> &Driver {
        &self.driver
    }

    /// What activations are stored as.
    pub(crate) fn act(&self) -> Element {
        match self.activations {
            Activations::BF16 => Element::BF16,
            Activations::F32 => Element::F32,
        }
    }

    /// A tensor of activations, with left-over contents.
    pub(crate) fn activations(&self, rows: usize, columns: usize) -> Result<Tensor> {
        Tensor::take(&self.arena, rows, columns, self.act())
    }

    /// A tensor of f32, with left-over contents.
    pub(crate) fn floats(&self, rows: usize, columns: usize) -> Result<Tensor> {
        Tensor::take(&self.arena, rows, columns, Element::F32)
    }

    /// A tensor of the same type as another, with left-over contents.
    pub(crate) fn alike(&self, other: &Tensor, rows: usize, columns: usize) -> Result<Tensor> {
        Tensor::take(&self.arena, rows, columns, other.element())
    }

    /// What was chosen last.
    pub(crate) fn choices(&self) -> &Choices {
        &self.choices
    }

    /// Copies a step's batch to the GPU.
    pub(crate) fn upload_batch(&self, batch: Batch) -> Result<DeviceBatch> {
        DeviceBatch::new(&self.driver, &self.arena, batch)
    }

    /// The same for steps that will be recorded.
    pub(crate) fn lasting_batch(&self, batch: Batch, table_width: usize, context_max: usize) -> Result<DeviceBatch> {
        DeviceBatch::lasting(&self.driver, batch, table_width, context_max)
    }

    /// Gives a recorded step the numbers of another batch of its size.
    pub(crate) fn refill(&self, lasting: &mut DeviceBatch, batch: Batch) -> Result<()> {
        lasting.refill(&self.driver, batch)
    }

    /// Whether steps may be recorded.
    pub(crate) fn records(&self) -> bool {
        !self.eager
    }

    /// What was recorded.
    pub(crate) fn recordings(&self) -> MutexGuard<'_, Recordings> {
        self.recordings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records what `compute` enqueues, and where its result will be; none if something of it can't be recorded. Other
    /// errors (a lost rank) are met again by whoever computes instead.
    pub(crate) fn record(&self, compute: impl FnOnce() -> Result<Tensor>) -> Result<Option<(Graph, TensorPlace)>> {
        let recorded = self.arena.without_growing(|| self.driver.record(compute));
        Ok(recorded.ok().map(|(graph, result)| (graph, result.place())))
    }

    /// Enqueues a recorded step.
    pub(crate) fn replay(&self, graph: &Graph) -> Result<()> {
        // SAFETY: its kernels use weights, caches and its lasting batch, which live as long as the model that recorded
        // it; and runs of the arena, of which nobody has any between steps.
        unsafe { self.driver.replay(graph) }
    }

    /// The tensor that a recorded step has made.
    pub(crate) fn tensor_at(&self, place: TensorPlace) -> Tensor {
        place.retake(&self.arena)
    }

    /// Bytes for a kernel's own use, with left-over contents.
    pub(crate) fn scratch(&self, bytes: usize) -> Result<Buffer> {
        self.arena.take(bytes)
    }

    /// Enqueues the kernel `entry` of `source`.
    ///
    /// # Safety
    /// What the arguments say (addresses, sizes) is true.
    pub(crate) unsafe fn launch(
        &self,
        source: &'static Source,
        entry: &'static str,
        grid: Grid,
        arguments: &mut [Argument],
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.kernels.launch(&self.driver, (source, None), entry, grid, arguments) }
    }

    /// The same of a kernel that reads weights of `format`.
    ///
    /// # Safety
    /// What the arguments say (addresses, sizes, the format) is true.
    pub(crate) unsafe fn launch_for(
        &self,
        (source, format): (&'static Source, DType),
        entry: &'static str,
        grid: Grid,
        arguments: &mut [Argument],
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.kernels.launch(&self.driver, (source, Some(format)), entry, grid, arguments) }
    }

    /// How many clusters of blocks such as those of `grid`, which take a multiprocessor each, run at once.
    pub(crate) fn clusters_at_once(
        &self,
        (source, format): (&'static Source, DType),
        entry: &'static str,
        grid: Grid,
    ) -> Result<ClustersAtOnce> {
        if let Some(known) = self.clusters.get() {
            return Ok(*known);
        }
        let mut clusters = ClustersAtOnce::default();
        for (blocks, at_once) in (1..).zip(&mut clusters) {
            let grid = Grid { blocks: [1, 1, blocks], ..grid };
            *at_once = self.kernels.clusters_at_once(&self.driver, (source, Some(format)), entry, grid)?;
        }
        Ok(*self.clusters.get_or_init(|| clusters))
    }

    /// NVIDIA's library of matrix products; none where own kernels compute all of them.
    pub(crate) fn cublaslt(&self) -> Option<&CublasLt> {
        self.cublaslt.as_ref()
    }

    /// Whether blocks that run at once may read each other's shared memory.
    pub(crate) fn has_clusters(&self) -> bool {
        self.facts().capability >= (9, 0)
    }

    /// Whether products may be left to kernels of instructions that only GPUs of compute capability 9.0 have.
    pub(crate) fn has_warpgroups(&self) -> bool {
        self.facts().capability == (9, 0) && self.activations == Activations::BF16 && !self.common_products
    }

    /// The ranks' common memory.
    pub(crate) fn peers(&self) -> Option<&Peers> {
        self.peers.as_ref()
    }

    /// Does something with the communicator; nothing where the rank is alone.
    pub(crate) fn with_communicator(&self, enqueue: impl FnOnce(&Communicator) -> Result<()>) -> Result<()> {
        match &self.communicator {
            None => Ok(()),
            Some(communicator) => enqueue(&communicator.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// Waits until all that was enqueued is done. Where other ranks take part in it, they are watched.
    pub(crate) fn finish(&self) -> Result<()> {
        match self.communicator {
            None => self.driver.synchronize(),
            Some(_) => self.wait_until(|| self.check_others().and_then(|()| self.driver.is_idle())),
        }
    }

    /// Asks again and again.
    pub(crate) fn wait_until(&self, is_done: impl Fn() -> Result<bool>) -> Result<()> {
        while !is_done()? {
            std::thread::yield_now();
        }
        Ok(())
    }

    /// An error if another rank is gone: its part of a collective never comes, and the wait for it is ended. They are
    /// looked at now and then, however often this is called.
    pub(crate) fn check_others(&self) -> Result<()> {
        let Some(communicator) = &self.communicator else { return Ok(()) };
        let mut communicator = communicator.lock().unwrap_or_else(PoisonError::into_inner);
        if !communicator.is_to_be_checked() {
            return Ok(());
        }
        let lost = self.group.gone().map_or(Ok(()), Err);
        let checked = lost.and_then(|()| communicator.check());
        if checked.is_err() {
            communicator.abort();
        }
        checked
    }
}

impl Backend for Cuda {
    fn group(&self) -> &Group {
        &self.group
    }

    fn sensors(&self) -> Option<Box<dyn Sensors>> {
        Some(Box::new(GpuSensors::new(&self.facts().bus_id)))
    }
}

/// The first `wanted` GPUs of this machine; the error says what is missing for them to be used.
pub fn find(wanted: usize) -> Result<Vec<Facts>> {
    let found = count()?;
    if found < wanted {
        let ranks = if wanted == 1 { "1 rank wants a GPU" } else { &format!("{wanted} ranks want a GPU each") };
        return Err(DeviceError::Unavailable(format!("{ranks}, and {found} are visible")));
    }
    if wanted > 1 {
        libraries::check_collectives()?;
    }
    (0..wanted).map(Facts::of).collect()
}

impl Cuda {
    /// Runs `rank` on so many GPUs, each a rank of one group, on a thread of its own; what each returned. An error if there
    /// are not as many.
    pub(crate) fn each_of<T: Send>(
        config: &CudaConfig,
        ranks: usize,
        rank: impl Fn(&Self) -> T + Sync,
    ) -> Result<Vec<T>> {
        find(ranks)?;
        let on_one = |group: Group| {
            let gpu = Self::open(CudaConfig { ordinal: group.rank(), ..config.clone() }, group)?;
            let result = rank(&gpu);
            // Nobody takes its memory away while others may still read it.
            gpu.finish()?;
            gpu.group.barrier()?;
            Ok(result)
        };
        run_ranks(ranks, Waiting::Sleep, on_one).into_iter().collect()
    }
}

#[cfg(test)]
impl CudaConfig {
    /// Keeps kernels where all tests do.
    pub(crate) fn with_test_cache(self) -> Self {
        Self { cache: Some(std::env::temp_dir().join("shardwire-test-kernels")), ..self }
    }
}

#[cfg(test)]
impl Cuda {
    /// The devices that every operation's check runs on: both types of activations. None where there is no GPU and no
    /// stand-in for one, unless `SHARDWIRE_TEST_GPU` says that there must be.
    pub(crate) fn kinds() -> Vec<Self> {
        Self::tested(
            [Activations::F32, Activations::BF16]
                .map(|activations| CudaConfig { activations, ..CudaConfig::default() }),
        )
    }

    /// One that computes all matrix products itself, by kernels that every GPU has; none where the others do so, too.
    pub(crate) fn without_cublaslt() -> Vec<Self> {
        match libraries::check_products() {
            Ok(()) => Self::tested([CudaConfig { own_products: true, common_products: true, ..CudaConfig::default() }]),
            Err(_) => Vec::new(),
        }
    }

    /// Runs `check` on every rank of groups of two, three and four GPUs, as far as there are as many.
    pub(crate) fn in_groups(config: CudaConfig, check: impl Fn(&Self) + Sync) {
        for ranks in (2..=4).filter(|&ranks| find(ranks).is_ok()) {
            Self::each_of(&config.clone().with_test_cache(), ranks, &check).expect("GPUs");
        }
    }

    fn tested<const N: usize>(configs: [CudaConfig; N]) -> Vec<Self> {
        let open = |config: CudaConfig| Self::open(config.with_test_cache(), Group::solo());
        let kinds: Result<Vec<Self>> = configs.into_iter().map(open).collect();
        match kinds {
            Ok(kinds) => kinds,
            Err(error) if std::env::var_os("SHARDWIRE_TEST_GPU").is_some() => panic!("no GPU to test: {error}"),
            Err(error) => {
                eprintln!("not tested, for there is no GPU: {error}");
                Vec::new()
            }
        }
    }
}
