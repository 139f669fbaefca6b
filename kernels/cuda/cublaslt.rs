//! cuBLASLt: products of many rows with bf16 weights, where NVIDIA's library is there.
//!
//! Its matrices are column-major, so that each of ours is one of its own turned over: `y [rows, outputs]` is to it
//! `[outputs, rows]`, the product of the weight `[inputs, outputs]`, which it is told to transpose, and of x
//! `[inputs, rows]`. That is the arrangement in which both are read along their sums, the one it has most kernels for.
//!
//! All that must be said of a product is made once for its sizes, with the algorithm that the library then thinks
//! fastest, and kept. While a step is recorded nothing is made: newer versions can't choose then, and a kernel that was
//! never run may have to be loaded. A step that is recorded was computed before, so that there is nothing to be made.

mod descriptors;

use std::{
    collections::HashMap,
    ffi::c_void,
    sync::{Mutex, PoisonError},
};

use cudarc::cublaslt::{
    result::{self, CublasError},
    sys,
};

use super::driver::{Driver, Pointer};
use super::error::cublas_failed;
use super::libraries;
use super::region::Region;
use super::tensor::Element;
use crate::Result;
use descriptors::{Computation, Layouts, Preference};

/// So many products are known at once; when there are more, all are forgotten.
const PRODUCTS_MAX: usize = 1024;

/// NVIDIA's matrix products on one GPU.
pub(crate) struct CublasLt {
    driver: Driver,
    /// None: the library has no algorithm for it. Also keeps threads apart that would set one descriptor's bias.
    products: Mutex<HashMap<Product, Option<Prepared>>>,
    /// Where algorithms keep sums that are to be added. All products are on one stream: one is enough.
    workspace: Region,
    workspace_bytes: usize,
    /// Behind what was made with it.
    handle: Handle,
}

/// What an algorithm is chosen by: `y [rows, outputs]` from x `[rows, inputs]` and a weight `[outputs, inputs]`, both
/// bf16. Addresses are multiples of 256 where nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Product {
    pub(crate) rows: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// Elements from the weights of one output to those of the next.
    pub(crate) weight_stride: usize,
    /// Elements from one row of y to the next.
    pub(crate) y_stride: usize,
    /// What y has …
    pub(crate) y: Element,
    /// … and whether a bias of the same type is added to its rows.
    pub(crate) has_bias: bool,
    /// What the addresses of y and of the bias are multiples of, bytes; a power of two.
    pub(crate) y_alignment: usize,
}

/// Where a product's matrices lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operands {
    pub(crate) y: Pointer,
    pub(crate) x: Pointer,
    pub(crate) weight: Pointer,
    /// Of a product that has one.
    pub(crate) bias: Option<Pointer>,
}

impl CublasLt {
    /// None where the library isn't there, or is too old.
    pub(crate) fn find(driver: &Driver) -> Result<Option<Self>> {
        if libraries::check_products().is_err() {
            return Ok(None);
        }
        let workspace_bytes = workspace_bytes(driver.facts().capability);
        Ok(Some(Self {
            driver: driver.clone(),
            products: Mutex::default(),
            workspace: Region::with(driver, workspace_bytes, "the workspace of matrix products", [])?,
            workspace_bytes,
            handle: Handle(result::create_handle().map_err(cublas_failed("starting cuBLAS"))?),
        }))
    }

    /// Whether the library can compute a product.
    pub(crate) fn knows(&self, product: &Product) -> Result<bool> {
        let mut products = self.products.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = products.get(product) {
            return Ok(known.is_some());
        }
        if self.driver.is_recording() {
            return Ok(false);
        }
        let prepared = self.prepare(product)?;
        if products.len() >= PRODUCTS_MAX {
            products.clear();
        }
        Ok(products.entry(*product).insert_entry(prepared).get().is_some())
    }

    /// Enqueues a product that the library knows.
    ///
    /// # Safety
    /// The operands have what `product` says of them; those that are read are initialised, y is the caller's to write.
    pub(crate) unsafe fn enqueue(&self, product: &Product, operands: Operands) -> Result<()> {
        let Operands { y, x, weight, bias } = operands;
        assert_eq!(bias.is_some(), product.has_bias, "a bias where one was announced");
        let products = self.products.lock().unwrap_or_else(PoisonError::into_inner);
        let prepared = products.get(product).and_then(Option::as_ref).expect("the library was asked");
        let Prepared { computation, layouts, algorithm } = prepared;
        if let Some(bias) = bias {
            computation.bias(bias.0)?;
        }
        let (one, zero) = (1.0f32, 0.0f32);
        let address = |pointer: Pointer| pointer.0 as *const c_void;
        // SAFETY: the descriptors live, and are what the algorithm was chosen for; the library has read them and the
        // factors when it returns. The rest is the caller's promise. C is y, of which nothing is read, for its factor
        // is zero. The workspace is used by this stream only.
        let enqueued = unsafe {
            result::matmul(
                self.handle.0,
                computation.0,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                address(weight),
                layouts.weight.0,
                address(x),
                layouts.x.0,
                address(y),
                layouts.y.0,
                y.0 as *mut c_void,
                layouts.y.0,
                algorithm,
                self.workspace.pointer().0 as *mut c_void,
                self.workspace_bytes,
                self.driver.stream().cast(),
            )
        };
        enqueued.map_err(cublas_failed("a matrix product"))
    }

    /// Asks the library how it would compute a product; none if it would not.
    fn prepare(&self, product: &Product) -> Result<Option<Prepared>> {
        let layouts = Layouts::new(product)?;
        let computation = Computation::new(product)?;
        let preference = Preference::new(product, self.workspace_bytes)?;
        let Layouts { weight, x, y } = &layouts;
        // SAFETY: all of these live.
        let found = unsafe {
            result::get_matmul_algo_heuristic(self.handle.0, computation.0, weight.0, x.0, y.0, y.0, preference.0)
        };
        match found {
            Ok(found) => Ok(Some(Prepared { computation, layouts, algorithm: found.algo })),
            Err(CublasError(status)) if is_refusal(status) => Ok(None),
            Err(error) => Err(cublas_failed("choosing how to multiply matrices")(error)),
        }
    }
}

/// As NVIDIA advises ("cublasSetWorkspace" in cuBLAS' manual).
fn workspace_bytes(capability: (u32, u32)) -> usize {
    match capability.0 {
        9 | 10 => 32 << 20,
        12 => 12 << 20,
        _ => 4 << 20,
    }
}

/// Whether a status says of a product that it can't be computed; others are about the GPU.
fn is_refusal(status: sys::cublasStatus_t) -> bool {
    use sys::cublasStatus_t::{CUBLAS_STATUS_ARCH_MISMATCH, CUBLAS_STATUS_INVALID_VALUE, CUBLAS_STATUS_NOT_SUPPORTED};
    matches!(status, CUBLAS_STATUS_ARCH_MISMATCH | CUBLAS_STATUS_INVALID_VALUE | CUBLAS_STATUS_NOT_SUPPORTED)
}

/// A product as the library is told of it.
struct Prepared {
    computation: Computation,
    layouts: Layouts,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// The library's own, for as long as this lives.
struct Handle(sys::cublasLtHandle_t);

// SAFETY: the library's handle may be used from any thread, descriptors by one at a time, which the lock sees to.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}
// SAFETY: as above.
unsafe impl Send for Prepared {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: made by the library, and forgotten now. An error here is one of earlier work, which the next call
        // reports too.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}
