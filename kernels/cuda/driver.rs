//! The driver's calls that the backend makes, each with what must hold for it: contexts, memory, copies, launches.

use std::{
    ffi::{CStr, CString, c_char, c_void},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use cudarc::driver::{CudaContext, CudaStream, result, sys};
use sys::{CUdevice_attribute_enum as Attribute, CUfunction_attribute_enum as FunctionAttribute};

use super::{
    error::failed,
    libraries,
    pinned::Pinned,
    staging::{STAGED_BYTES_MAX, Staging},
};
use crate::{DeviceError, Result};

/// One GPU and the stream that everything of it runs on, in order.
#[derive(Clone)]
pub(crate) struct Driver {
    stream: Arc<CudaStream>,
    facts: Facts,
    staging: Arc<Mutex<Staging>>,
    /// Whether what is enqueued is recorded, and not run.
    is_recording: Arc<AtomicBool>,
}

/// Work that was recorded.
pub(crate) struct Graph {
    executable: sys::CUgraphExec,
    /// The driver takes no graph back once its context is gone.
    _context: Arc<CudaStream>,
}

// SAFETY: a handle of the driver's, which may be used from any thread that has the context current.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by `Driver::record`, destroyed here only; the driver waits for a run of it. An error here is one
        // of earlier work, which the next call reports too.
        let _ = unsafe { result::graph::exec_destroy(self.executable) };
    }
}

/// What a GPU is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Its number among the visible ones.
    pub ordinal: usize,
    /// As its maker calls it.
    pub name: String,
    /// Compute capability.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory that a block may have if it asks for it, bytes.
    pub shared_bytes_max: u32,
    /// Its memory, bytes.
    pub memory_bytes: u64,
    /// Its place on the PCI bus as the system writes it, `0000:3b:00.0`.
    pub bus_id: String,
}

/// Bytes of what names memory to other processes.
pub(crate) const IPC_HANDLE_BYTES: usize = 64;

/// An address on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pointer(pub(crate) sys::CUdeviceptr);

impl Pointer {
    /// So many bytes further on.
    pub(crate) fn offset(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// A kernel that was loaded; it lives as long as the process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Function(sys::CUfunction);

// SAFETY: a handle of the driver's, which may be used from any thread that has the context current.
unsafe impl Send for Function {}

/// How many blocks and threads a launch has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    /// Blocks in x, y and z.
    pub(crate) blocks: [u32; 3],
    /// Threads of a block.
    pub(crate) threads: u32,
    /// Dynamic shared memory of a block, bytes.
    pub(crate) shared_bytes: u32,
}

/// How a kernel's text wants it to be launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Manner {
    /// It may begin while the kernel before it ends.
    pub(crate) early: bool,
    /// Its blocks of a column in z run at once, and read each other's shared memory.
    pub(crate) clustered: bool,
}

/// GPUs that this process sees; an error says why none can be used.
pub fn count() -> Result<usize> {
    libraries::check_driver()?;
    let unavailable = |error: result::DriverError| match failed("looking for GPUs")(error) {
        DeviceError::Failed { fault, .. } => DeviceError::Unavailable(format!("the driver says {fault}")),
        other => other,
    };
    result::init().map_err(unavailable)?;
    let count = result::device::get_count().map_err(unavailable)?;
    Ok(usize::try_from(count).unwrap_or(0))
}

impl Facts {
    /// Asks the driver, which needs none of the GPU's memory for the answer.
    pub fn of(ordinal: usize) -> Result<Self> {
        let visible = count()?;
        if ordinal >= visible {
            return Err(DeviceError::Unavailable(format!("GPU {ordinal} is wanted, and {visible} are visible")));
        }
        let doing = format!("asking what GPU {ordinal} is");
        let device = result::device::get(ordinal as i32).map_err(failed(&doing))?;
        // SAFETY: the driver's own handle of a device, which is for ever.
        let attribute = |attribute| unsafe { result::device::get_attribute(device, attribute) }.map_err(failed(&doing));
        let attribute = |name| attribute(name).map(|value| value as u32);
        Ok(Self {
            ordinal,
            name: result::device::get_name(device).map_err(failed(&doing))?,
            capability: (
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_bytes_max: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            // SAFETY: as above.
            memory_bytes: unsafe { result::device::total_mem(device) }.map_err(failed(&doing))? as u64,
            bus_id: bus_id(device).map_err(failed(&doing))?,
        })
    }
}

fn bus_id(device: sys::CUdevice) -> std::result::Result<String, result::DriverError> {
    let mut bytes = [0u8; 32];
    // SAFETY: the driver's own handle of a device, which is for ever; so many bytes may be written.
    unsafe { sys::cuDeviceGetPCIBusId(bytes.as_mut_ptr().cast::<c_char>(), bytes.len() as i32, device) }.result()?;
    let text = CStr::from_bytes_until_nul(&bytes).unwrap_or_default();
    Ok(text.to_string_lossy().to_lowercase())
}

impl Driver {
    /// Makes GPU `ordinal` this thread's.
    pub(crate) fn open(ordinal: usize) -> Result<Self> {
        let facts = Facts::of(ordinal)?;
        let doing = format!("opening GPU {ordinal}");
        let context = CudaContext::new(ordinal).map_err(failed(&doing))?;
        // SAFETY: all work is on one stream, so that no event is needed to order it; those that cudarc would record
        // cannot be waited for within a graph.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(failed(&doing))?;
        let staging = Arc::new(Mutex::new(Staging::new(&stream)?));
        Ok(Self { stream, facts, staging, is_recording: Arc::default() })
    }

    /// What it is.
    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The stream, for libraries that enqueue work of their own.
    pub(crate) fn stream(&self) -> sys::CUstream {
        self.stream.cu_stream()
    }

    /// Bytes free, and bytes in all.
    pub(crate) fn memory(&self) -> Result<(u64, u64)> {
        let (free, total) = result::mem_get_info().map_err(failed("asking for free memory"))?;
        Ok((free as u64, total as u64))
    }

    /// Takes memory, with whatever is in it.
    pub(crate) fn allocate(&self, bytes: usize, purpose: &str) -> Result<Pointer> {
        // SAFETY: memory of unknown contents, which its users write before they read.
        match unsafe { result::malloc_sync(bytes) } {
            Ok(pointer) => Ok(Pointer(pointer)),
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Err(DeviceError::OutOfMemory {
                device: format!("cuda:{}", self.facts.ordinal),
                bytes,
                purpose: purpose.into(),
            }),
            Err(error) => Err(failed("taking memory")(error)),
        }
    }

    /// Gives memory back.
    ///
    /// # Safety
    /// It came from [`Self::allocate`], and nothing refers to it any more; work that is enqueued may (the driver waits).
    pub(crate) unsafe fn free(&self, pointer: Pointer) {
        // An error here is one of earlier work, which the next call reports too.
        // SAFETY: the caller's promise.
        let _ = unsafe { result::free_sync(pointer.0) };
    }

    /// Sets `bytes` bytes to zero.
    ///
    /// # Safety
    /// So many bytes at `to` are the caller's to write.
    pub(crate) unsafe fn zero(&self, to: Pointer, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { result::memset_d8_async(to.0, 0, bytes, self.stream()) }.map_err(failed("clearing memory"))
    }

    /// Copies to the device. The driver has taken the values over when this returns.
    ///
    /// # Safety
    /// As many bytes at `to` are the caller's to write.
    pub(crate) unsafe fn copy_in(&self, to: Pointer, values: &[u8]) -> Result<()> {
        if self.is_recording() {
            let fault = "it copies from the host, which can't be recorded".into();
            return Err(DeviceError::Failed { doing: "recording a step".into(), fault });
        }
        if values.len() <= STAGED_BYTES_MAX {
            let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: the caller's promise.
            return unsafe { staging.send(to, values) };
        }
        // SAFETY: the caller's promise; pageable memory is staged before the call returns.
        unsafe { result::memcpy_htod_async(to.0, values, self.stream()) }.map_err(failed("copying to the GPU"))
    }

    /// Takes page-locked memory for copies that the host doesn't wait for.
    pub(crate) fn pinned(&self, bytes: usize) -> Result<Pinned> {
        Pinned::new(&self.stream, bytes)
    }

    /// Copies to the host, and waits for it and all before it.
    ///
    /// # Safety
    /// As many bytes at `from` are initialised.
    pub(crate) unsafe fn copy_out(&self, values: &mut [u8], from: Pointer) -> Result<()> {
        // SAFETY: the caller's promise; `values` outlives the copy, for the stream is waited for.
        unsafe { result::memcpy_dtoh_async(values, from.0, self.stream()) }.map_err(failed("copying from the GPU"))?;
        self.synchronize()
    }

    /// Whether this GPU may read and write the memory of another.
    pub(crate) fn reaches(&self, ordinal: usize) -> bool {
        let mut can = 0;
        let devices = (result::device::get(self.facts.ordinal as i32), result::device::get(ordinal as i32));
        let (Ok(own), Ok(other)) = devices else { return false };
        // SAFETY: the driver writes a number; both are its own handles.
        unsafe { sys::cuDeviceCanAccessPeer(&mut can, own, other) }.result().is_ok() && can == 1
    }

    /// Has kernels of this GPU reach the memory that this process has on another.
    pub(crate) fn reach(&self, ordinal: usize) -> Result<()> {
        let doing = "reaching another GPU";
        let other = result::device::get(ordinal as i32).map_err(failed(doing))?;
        // SAFETY: the driver's own handles; the context stays retained, for the process has a rank there.
        let enabled = unsafe {
            let context = result::primary_ctx::retain(other).map_err(failed(doing))?;
            sys::cuCtxEnablePeerAccess(context, 0)
        };
        match enabled {
            sys::CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED => Ok(()),
            answer => answer.result().map_err(failed(doing)),
        }
    }

    /// By which other processes can map what [`Self::allocate`] gave.
    pub(crate) fn share(&self, pointer: Pointer) -> Result<[u8; IPC_HANDLE_BYTES]> {
        let mut handle = sys::CUipcMemHandle { reserved: [0; IPC_HANDLE_BYTES] };
        // SAFETY: the driver writes the handle; the memory was allocated, and not from a pool.
        let shared = unsafe { sys::cuIpcGetMemHandle(&mut handle, pointer.0) }.result();
        shared.map_err(failed("sharing memory with other ranks"))?;
        Ok(handle.reserved.map(|byte| byte as u8))
    }

    /// Maps what another process shares.
    pub(crate) fn open_shared(&self, handle: [u8; IPC_HANDLE_BYTES]) -> Result<Pointer> {
        let handle = sys::CUipcMemHandle { reserved: handle.map(|byte| byte as c_char) };
        let flags = sys::CUipcMem_flags::CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS as u32;
        let mut pointer = 0;
        // SAFETY: the driver writes an address; a handle that means nothing is an error.
        let opened = unsafe { sys::cuIpcOpenMemHandle_v2(&mut pointer, handle, flags) }.result();
        opened.map_err(failed("mapping another rank's memory"))?;
        Ok(Pointer(pointer))
    }

    /// Unmaps it.
    ///
    /// # Safety
    /// It came from [`Self::open_shared`], and nothing refers to it any more.
    pub(crate) unsafe fn close_shared(&self, pointer: Pointer) {
        // SAFETY: the caller's promise. An error here is one of earlier work, which the next call reports too.
        let _ = unsafe { sys::cuIpcCloseMemHandle(pointer.0) };
    }

    /// Waits until all that was enqueued is done; the first error of it is told here.
    pub(crate) fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(failed("computing"))
    }

    /// Whether all that was enqueued is done.
    pub(crate) fn is_idle(&self) -> Result<bool> {
        // SAFETY: the stream lives as long as `self`.
        match unsafe { sys::cuStreamQuery(self.stream()) } {
            sys::CUresult::CUDA_SUCCESS => Ok(true),
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            error => Err(failed("computing")(result::DriverError(error))),
        }
    }

    /// Whether what is enqueued now is recorded, and not run.
    pub(crate) fn is_recording(&self) -> bool {
        self.is_recording.load(Relaxed)
    }

    /// Records what `enqueue` enqueues; none of it is run. If it fails, or the driver does, nothing was recorded.
    pub(crate) fn record<T>(&self, enqueue: impl FnOnce() -> Result<T>) -> Result<(Graph, T)> {
        let doing = "recording a step";
        // Other threads of this process (NCCL's own) may go on with what a recording forbids.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::begin_capture(self.stream(), mode) }.map_err(failed(doing))?;
        self.is_recording.store(true, Relaxed);
        let enqueued = enqueue();
        self.is_recording.store(false, Relaxed);
        // SAFETY: the capture began above; it must end in any case.
        let graph = unsafe { result::stream::end_capture(self.stream()) }.map_err(failed(doing));
        let graph = match (&enqueued, graph) {
            (_, Ok(graph)) if !graph.is_null() => graph,
            (_, Ok(_)) => return Err(DeviceError::Failed { doing: doing.into(), fault: "it was broken off".into() }),
            (_, Err(error)) => return enqueued.and(Err(error)),
        };
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the graph was made above; the executable one does not need it any more.
        let made = unsafe {
            let made = enqueued
                .and_then(|value| Ok((result::graph::instantiate(graph, flags).map_err(failed(doing))?, value)));
            let _ = result::graph::destroy(graph);
            made
        };
        made.map(|(executable, value)| (Graph { executable, _context: self.stream.clone() }, value))
    }

    /// Enqueues what was recorded.
    ///
    /// # Safety
    /// What its kernels read and write is still theirs.
    pub(crate) unsafe fn replay(&self, graph: &Graph) -> Result<()> {
        // SAFETY: the caller's promise; the graph lives.
        unsafe { result::graph::launch(graph.executable, self.stream()) }.map_err(failed("repeating a step"))
    }

    /// Loads a module for good, and finds the kernels `names` in it.
    pub(crate) fn load(&self, image: &[u8], names: &[String]) -> Result<Vec<Function>> {
        let doing = "loading kernels";
        // A text ends with a zero; machine code knows its own length.
        let image: Vec<u8> = image.iter().copied().chain([0]).collect();
        // SAFETY: one of the two, which the driver copies.
        let module = unsafe { result::module::load_data(image.as_ptr().cast::<c_void>()) }.map_err(failed(doing))?;
        let function = |name: &String| {
            let name = CString::new(name.as_str()).expect("names of kernels are plain words");
            // SAFETY: the module was loaded above, and is never unloaded.
            unsafe { result::module::get_function(module, name) }.map(Function).map_err(failed(doing))
        };
        names.iter().map(function).collect()
    }

    /// Dynamic shared memory that blocks of `function` may have unless [`Self::allow_shared`] allows more: 48 KiB less
    /// what the kernel declares itself.
    pub(crate) fn allowed_shared(&self, function: Function) -> Result<u32> {
        let attribute = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function's module is never unloaded.
        let bytes = unsafe { result::function::get_function_attribute(function.0, attribute) };
        Ok(bytes.map_err(failed("asking for a kernel's shared memory"))?.unsigned_abs())
    }

    /// Lets blocks of `function` have more dynamic shared memory than that.
    pub(crate) fn allow_shared(&self, function: Function, bytes: u32) -> Result<()> {
        let attribute = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function's module is never unloaded.
        unsafe { result::function::set_function_attribute(function.0, attribute, bytes as i32) }
            .map_err(failed("giving a kernel shared memory"))
    }

    /// Enqueues the kernel `name`, which may begin `early`: while the one before it ends, and not before this has run or
    /// ended in all of its blocks. Kernels that do wait themselves (`wait_for_last` in device.cuh). Blocks of a column in z
    /// are a cluster where the kernel is `clustered` (clusters.cuh).
    ///
    /// # Safety
    /// `arguments` point at values of the kinds that the kernel takes, and what they say (addresses, sizes) is true.
    pub(crate) unsafe fn launch(
        &self,
        (function, name): (Function, &str),
        Manner { early, clustered }: Manner,
        grid: Grid,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        let mut attributes = Vec::with_capacity(2);
        if early {
            attributes.push(sys::CUlaunchAttribute {
                id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                pad: Default::default(),
                value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
            });
        }
        if clustered {
            attributes.push(cluster_in_z(grid.blocks[2]));
        }
        let config = self.launch_config(grid, &mut attributes);
        let (values, none) = (arguments.as_mut_ptr(), std::ptr::null_mut());
        // SAFETY: the caller's promise; the module of the function is never unloaded, and the rest outlives the call.
        let launched = unsafe { sys::cuLaunchKernelEx(&raw const config, function.0, values, none) };
        launched.result().map_err(|error| {
            let Grid { blocks: [x, y, z], threads, shared_bytes } = grid;
            let asked = format!("{x} × {y} × {z} blocks of {threads} threads, {shared_bytes} bytes");
            failed(&format!("starting {name} ({asked})"))(error)
        })
    }

    /// How many columns in z of such a grid, whose blocks are clusters, run at once; none where it has no room for one.
    pub(crate) fn clusters_at_once(&self, function: Function, grid: Grid) -> Result<usize> {
        let mut attributes = [cluster_in_z(grid.blocks[2])];
        let config = self.launch_config(grid, &mut attributes);
        let mut clusters = 0;
        // SAFETY: the function's module is never unloaded, and the rest outlives the call.
        let told = unsafe { sys::cuOccupancyMaxActiveClusters(&raw mut clusters, function.0, &raw const config) };
        told.result().map_err(failed("asking how many clusters run at once"))?;
        Ok(usize::try_from(clusters).unwrap_or(0))
    }

    /// A launch as the driver is told of it, which points at `attributes`.
    fn launch_config(&self, grid: Grid, attributes: &mut [sys::CUlaunchAttribute]) -> sys::CUlaunchConfig {
        let Grid { blocks: [x, y, z], threads, shared_bytes } = grid;
        sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shared_bytes,
            hStream: self.stream(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        }
    }

    /// Copies within the device.
    ///
    /// # Safety
    /// So many bytes at `from` may be read and at `to` be written; the two don't overlap.
    pub(crate) unsafe fn copy_within(&self, to: Pointer, from: Pointer, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { result::memcpy_dtod_async(to.0, from.0, bytes, self.stream()) }.map_err(failed("copying on the GPU"))
    }
}

/// That so many blocks in z are a cluster.
fn cluster_in_z(blocks: u32) -> sys::CUlaunchAttribute {
    let column = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: 1, y: 1, z: blocks };
    sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
        pad: Default::default(),
        value: sys::CUlaunchAttributeValue { clusterDim: column },
    }
}
