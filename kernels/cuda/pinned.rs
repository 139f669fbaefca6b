//! Host memory that a GPU copies from and to by itself, while the host goes on.

use std::{ffi::c_void, slice, sync::Arc};

use cudarc::driver::{CudaStream, result, sys};

use super::{driver::Pointer, error::failed};
use crate::{DeviceError, Result};

/// Page-locked memory, and how far the last copy from or to it has come.
pub(crate) struct Pinned {
    address: *mut u8,
    bytes: usize,
    /// Recorded behind each copy.
    copied: sys::CUevent,
    stream: Arc<CudaStream>,
}

// SAFETY: memory of the process's own, and a handle of the driver's, which any thread may use.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Takes memory, zeroed, for copies on `stream`.
    pub(crate) fn new(stream: &Arc<CudaStream>, bytes: usize) -> Result<Self> {
        // Not write-combined: the host reads it, too.
        // SAFETY: memory of unknown contents, which are written below.
        let address = match unsafe { result::malloc_host(bytes, 0) } {
            Ok(address) => address.cast::<u8>(),
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let purpose = "what a GPU copies by itself (page-locked)".into();
                return Err(DeviceError::OutOfMemory { device: "the host".into(), bytes, purpose });
            }
            Err(error) => return Err(failed("taking page-locked memory")(error)),
        };
        // SAFETY: so many bytes were taken.
        unsafe { address.write_bytes(0, bytes) };
        match result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING) {
            Ok(copied) => Ok(Self { address, bytes, copied, stream: stream.clone() }),
            Err(error) => {
                // SAFETY: taken above, and used by nobody.
                let _ = unsafe { result::free_host(address.cast::<c_void>()) };
                Err(failed("making an event")(error))
            }
        }
    }

    /// Enqueues a copy of `values` to the device. Waits first until the copy before it is done.
    ///
    /// # Safety
    /// As many bytes at `to` are the caller's to write.
    pub(crate) unsafe fn send(&mut self, to: Pointer, values: &[u8]) -> Result<()> {
        self.wait()?;
        // SAFETY: nothing is copied from or to it any more, and the borrow is unique.
        let own = unsafe { slice::from_raw_parts_mut(self.address, self.bytes) };
        let own = &mut own[..values.len()];
        own.copy_from_slice(values);
        // SAFETY: the caller's promise; the memory is left alone until the event that is recorded next.
        unsafe { result::memcpy_htod_async(to.0, own, self.stream.cu_stream()) }
            .map_err(failed("copying to the GPU"))?;
        self.mark()
    }

    /// Enqueues a copy of the first `bytes` bytes from the device. Waits first until the copy before it is done.
    ///
    /// # Safety
    /// As many bytes at `from` are initialised.
    pub(crate) unsafe fn fetch(&mut self, from: Pointer, bytes: usize) -> Result<()> {
        self.wait()?;
        // SAFETY: nothing is copied from or to it any more, and the borrow is unique.
        let own = unsafe { slice::from_raw_parts_mut(self.address, self.bytes) };
        // SAFETY: the caller's promise; the memory is left alone until the event that is recorded next.
        unsafe { result::memcpy_dtoh_async(&mut own[..bytes], from.0, self.stream.cu_stream()) }
            .map_err(failed("copying from the GPU"))?;
        self.mark()
    }

    /// Whether the last copy is done.
    pub(crate) fn is_done(&self) -> Result<bool> {
        // SAFETY: the event lives as long as `self`; never recorded, it counts as done.
        match unsafe { result::event::query(self.copied) } {
            Ok(()) => Ok(true),
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            Err(error) => Err(failed("computing")(error)),
        }
    }

    /// What was fetched; waits until it is there.
    pub(crate) fn contents(&mut self) -> Result<&[u8]> {
        self.wait()?;
        // SAFETY: nothing is copied from or to it any more; it was initialised when it was taken.
        Ok(unsafe { slice::from_raw_parts(self.address, self.bytes) })
    }

    fn wait(&self) -> Result<()> {
        // SAFETY: the event lives as long as `self`; never recorded, it counts as done.
        unsafe { result::event::synchronize(self.copied) }.map_err(failed("computing"))
    }

    fn mark(&self) -> Result<()> {
        // SAFETY: event and stream live as long as `self`.
        unsafe { result::event::record(self.copied, self.stream.cu_stream()) }.map_err(failed("recording an event"))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // A copy that is on its way keeps the memory: it may wait for a rank that is gone.
        if !matches!(self.is_done(), Ok(false)) {
            // SAFETY: both were taken in `new`, and are used by nobody any more. An error here is one of earlier work.
            unsafe {
                let _ = result::event::destroy(self.copied);
                let _ = result::free_host(self.address.cast::<c_void>());
            }
        }
    }
}
