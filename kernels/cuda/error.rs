//! What the driver and its companions answer, as this crate's errors.

use cudarc::{cublaslt::result::CublasError, driver::DriverError, nccl::result::NcclError};

use crate::DeviceError;

/// A failed call, by what it was for.
pub(crate) fn failed(doing: &str) -> impl FnOnce(DriverError) -> DeviceError + '_ {
    move |error| DeviceError::Failed { doing: doing.into(), fault: describe(&error) }
}

/// The same of a call to NCCL.
pub(crate) fn nccl_failed(doing: &str) -> impl FnOnce(NcclError) -> DeviceError + '_ {
    move |error| DeviceError::Failed { doing: doing.into(), fault: format!("{:?}", error.0) }
}

/// The same of a call to cuBLAS.
pub(crate) fn cublas_failed(doing: &str) -> impl FnOnce(CublasError) -> DeviceError + '_ {
    move |error| DeviceError::Failed { doing: doing.into(), fault: format!("{:?}", error.0) }
}

/// `CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered`.
fn describe(error: &DriverError) -> String {
    let text = |text: Result<&std::ffi::CStr, _>| text.map(|text| text.to_string_lossy().into_owned()).ok();
    match (text(error.error_name()), text(error.error_string())) {
        (Some(name), Some(string)) => format!("{name}: {string}"),
        _ => format!("CUDA error {}", error.0 as u32),
    }
}
