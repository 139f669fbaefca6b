//! Whether this machine's devices compute as they should.

use std::panic;
use std::path::PathBuf;

use kernels::{DeviceError, conformance, cuda::CudaConfig};

pub use kernels::conformance::Finding;

/// Checks every operation on the processor.
pub fn on_cpu(tell: &mut dyn FnMut(Finding)) {
    quietly(|| conformance::check_cpu(tell));
}

/// Checks every operation on GPU `ordinal`; an error says why there is none that can be used. `kernel_cache` is where
/// compiled kernels are kept, `kernels` where prebuilt ones lie.
pub fn on_gpu(
    ordinal: usize,
    kernel_cache: Option<PathBuf>,
    kernels: Option<PathBuf>,
    tell: &mut dyn FnMut(Finding),
) -> Result<(), DeviceError> {
    let config = CudaConfig { ordinal, cache: kernel_cache, prebuilt: kernels, ..CudaConfig::default() };
    quietly(|| conformance::check_gpu(&config, tell))
}

/// A check that fails has its say in its finding, and not on standard error as well.
fn quietly<T>(check: impl FnOnce() -> T) -> T {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let result = check();
    panic::set_hook(hook);
    result
}
