//! Whether this machine's devices compute as they should, and how fast its GPUs are.

use std::panic;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::thread;

use kernels::{DeviceError, conformance, cuda::CudaConfig, speed};

pub use kernels::conformance::Finding;
pub use kernels::speed::{Sizes, Speed};

/// Checks every operation on the processor.
pub fn on_cpu(tell: &mut dyn FnMut(Finding)) {
    quietly(|| conformance::check_cpu(tell));
}

/// Where kernels for GPUs come from.
#[derive(Debug, Clone, Default)]
pub struct GpuKernels {
    /// Where compiled ones are kept.
    pub cache: Option<PathBuf>,
    /// Where prebuilt ones lie.
    pub prebuilt: Option<PathBuf>,
}

impl GpuKernels {
    fn config(&self, ordinal: usize) -> CudaConfig {
        CudaConfig { ordinal, cache: self.cache.clone(), prebuilt: self.prebuilt.clone(), ..CudaConfig::default() }
    }
}

/// Checks every operation on each of so many GPUs, on all at once, and with several what they do together; an error says why
/// one can't be used.
pub fn on_gpus(count: usize, kernels: &GpuKernels, tell: &mut dyn FnMut(Finding)) -> Result<(), DeviceError> {
    quietly(|| {
        thread::scope(|scope| {
            let (found, findings) = channel();
            let check = |ordinal| {
                let found = found.clone();
                scope.spawn(move || {
                    // Heard until the last check has ended.
                    let mut tell = |finding| found.send(finding).unwrap_or_default();
                    conformance::check_gpu(&kernels.config(ordinal), &mut tell)
                })
            };
            let checks: Vec<_> = (0..count).map(check).collect();
            drop(found);
            findings.into_iter().for_each(&mut *tell);
            checks.into_iter().try_for_each(|check| check.join().unwrap_or_else(|panic| panic::resume_unwind(panic)))
        })?;
        if count > 1 { conformance::check_gpus(&kernels.config(0), count, tell) } else { Ok(()) }
    })
}

/// Measures each of so many GPUs, and with several what they do together.
pub fn measure_gpus(
    count: usize,
    kernels: &GpuKernels,
    sizes: Sizes,
    tell: &mut dyn FnMut(Speed),
) -> Result<(), DeviceError> {
    for ordinal in 0..count {
        speed::measure_gpu(&kernels.config(ordinal), sizes, tell)?;
    }
    if count > 1 { speed::measure_gpus(&kernels.config(0), count, sizes, tell) } else { Ok(()) }
}

/// A check that fails has its say in its finding, and not on standard error as well.
pub(crate) fn quietly<T>(check: impl FnOnce() -> T) -> T {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let result = check();
    panic::set_hook(hook);
    result
}
