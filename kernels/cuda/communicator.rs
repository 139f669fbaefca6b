//! NCCL: collectives between the GPUs of one group's ranks.

use std::{
    ffi::c_char,
    mem::MaybeUninit,
    ops::Range,
    time::{Duration, Instant},
};

use cudarc::nccl::{result, sys};

use super::driver::{Driver, Pointer};
use super::error::nccl_failed;
use super::{libraries, tensor::Element};
use crate::{DeviceError, Result, group::Group};

/// One rank's membership in its group on the GPUs.
pub(crate) struct Communicator {
    handle: sys::ncclComm_t,
    checked: Instant,
}

// SAFETY: the handle may be used from any thread, one at a time; `Communicator` lends it to none.
unsafe impl Send for Communicator {}

/// Words of NCCL's unique id.
const ID_WORDS: usize = 32;

/// How often the other ranks are looked at by who waits for them.
const PATIENCE: Duration = Duration::from_millis(1);

impl Communicator {
    /// Meets the other ranks of `group`; returns once all have come. The caller's GPU is current.
    pub(crate) fn meet(group: &Group) -> Result<Self> {
        libraries::check_collectives()?;
        let mut words = [0u32; ID_WORDS];
        if group.rank() == 0 {
            let id = result::get_uniqueid().map_err(nccl_failed("starting NCCL"))?;
            let bytes = id.internal.map(|byte| byte as u8);
            words.iter_mut().zip(bytes.as_chunks::<4>().0).for_each(|(word, bytes)| *word = u32::from_le_bytes(*bytes));
        }
        crate::broadcast::among(group, &mut words)?;
        let mut id = sys::ncclUniqueId { internal: [0; 4 * ID_WORDS] };
        let bytes = words.iter().flat_map(|word| word.to_le_bytes());
        id.internal.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte as c_char);
        let mut handle = MaybeUninit::uninit();
        let (ranks, rank) = (group.world_size() as i32, group.rank() as i32);
        // SAFETY: NCCL writes the handle where it answers that all went well.
        unsafe { result::comm_init_rank(handle.as_mut_ptr(), ranks, id, rank) }
            .map_err(nccl_failed("meeting the other ranks with NCCL"))?;
        // SAFETY: it was written.
        Ok(Self { handle: unsafe { handle.assume_init() }, checked: Instant::now() })
    }

    /// Enqueues: `count` elements at `at` become their sums over the ranks.
    ///
    /// # Safety
    /// So many elements at `at` are initialised, and the caller's to write.
    pub(crate) unsafe fn all_reduce(&self, driver: &Driver, at: Pointer, count: usize, element: Element) -> Result<()> {
        let (from, to) = (at.0 as *const _, at.0 as *mut _);
        let sum = sys::ncclRedOp_t::ncclSum;
        // SAFETY: the caller's promise; the handle is a communicator that was not destroyed.
        unsafe { result::all_reduce(from, to, count, data_type(element), sum, self.handle, driver.stream().cast()) }
            .map_err(nccl_failed("all-reduce"))?;
        Ok(())
    }

    /// Enqueues: `count` elements of each rank, at `from`, one rank's after the other's at `to`.
    ///
    /// # Safety
    /// So many elements at `from` are initialised; as many times the number of ranks at `to` are the caller's to write.
    pub(crate) unsafe fn all_gather(
        &self,
        driver: &Driver,
        to: Pointer,
        from: Pointer,
        count: usize,
        element: Element,
    ) -> Result<()> {
        let (from, to) = (from.0 as *const _, to.0 as *mut _);
        // SAFETY: the caller's promise; the handle is a communicator that was not destroyed.
        unsafe { result::all_gather(from, to, count, data_type(element), self.handle, driver.stream().cast()) }
            .map_err(nccl_failed("all-gather"))?;
        Ok(())
    }

    /// Enqueues: each rank gets its rows of every rank's matrix of `row_elements` f32 a row, which begins at `from`; rank
    /// r's are `rows_of(r)`. At `to` those of rank 0's matrix come first.
    ///
    /// # Safety
    /// The rows at `from` are initialised; at `to` the caller may write as many as are its own, once for each rank.
    pub(crate) unsafe fn all_to_all(
        &self,
        driver: &Driver,
        to: Pointer,
        from: Pointer,
        row_elements: usize,
        (rank, ranks): (usize, usize),
        rows_of: impl Fn(usize) -> Range<usize>,
    ) -> Result<()> {
        let elements = |rows: Range<usize>| rows.len() * row_elements;
        let own = elements(rows_of(rank));
        let at = |base: Pointer, elements: usize| base.offset(elements * Element::F32.bytes());
        let stream: sys::cudaStream_t = driver.stream().cast();
        let f32 = data_type(Element::F32);
        let enqueue = || {
            for peer in (0..ranks).filter(|&peer| peer != rank) {
                let theirs = rows_of(peer);
                let sent = at(from, theirs.start * row_elements).0 as *const _;
                let received = at(to, peer * own).0 as *mut _;
                // SAFETY: the caller's promise; the handle is a communicator that was not destroyed.
                unsafe {
                    if !theirs.is_empty() {
                        result::send(sent, elements(theirs), f32, peer as i32, self.handle, stream)?;
                    }
                    if own > 0 {
                        result::recv(received, own, f32, peer as i32, self.handle, stream)?;
                    }
                }
            }
            Ok(())
        };
        result::group_start().map_err(nccl_failed("all-to-all"))?;
        let enqueued = enqueue();
        result::group_end().map_err(nccl_failed("all-to-all"))?;
        enqueued.map_err(nccl_failed("all-to-all"))?;
        if own > 0 {
            let from = at(from, rows_of(rank).start * row_elements);
            // SAFETY: the caller's promise.
            unsafe { driver.copy_within(at(to, rank * own), from, own * Element::F32.bytes()) }?;
        }
        Ok(())
    }

    /// Whether it is time to look at the other ranks again; answers yes once for each time.
    pub(crate) fn is_to_be_checked(&mut self) -> bool {
        let is_due = self.checked.elapsed() >= PATIENCE;
        if is_due {
            self.checked = Instant::now();
        }
        is_due
    }

    /// An error if a collective can never end.
    pub(crate) fn check(&self) -> Result<()> {
        let mut state = sys::ncclResult_t::ncclSuccess;
        // SAFETY: NCCL writes the state; the handle is a communicator that was not destroyed.
        unsafe { sys::ncclCommGetAsyncError(self.handle, &mut state) }
            .result()
            .map_err(nccl_failed("asking NCCL how it fares"))?;
        match state {
            sys::ncclResult_t::ncclSuccess | sys::ncclResult_t::ncclInProgress => Ok(()),
            error => Err(DeviceError::Failed { doing: "a collective".into(), fault: format!("{error:?}") }),
        }
    }

    /// Ends what never would.
    pub(crate) fn abort(&mut self) {
        let handle = std::mem::replace(&mut self.handle, std::ptr::null_mut());
        if !handle.is_null() {
            // SAFETY: a communicator that was not destroyed, and is forgotten now. An error changes nothing any more.
            let _ = unsafe { result::comm_abort(handle) };
        }
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        self.abort();
    }
}

fn data_type(element: Element) -> sys::ncclDataType_t {
    match element {
        Element::F32 => sys::ncclDataType_t::ncclFloat32,
        Element::BF16 => sys::ncclDataType_t::ncclBfloat16,
    }
}
