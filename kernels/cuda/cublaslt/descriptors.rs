//! What cuBLASLt is told of a product: each descriptor as long as its owner lives.

use cudarc::{
    cublas::sys::cublasOperation_t,
    cublaslt::{result, sys},
};

use super::Product;
use crate::Result;
use crate::cuda::{error::cublas_failed, tensor::Element};

const DESCRIBING: &str = "describing a matrix product";

/// How a product's matrices lie in memory.
pub(super) struct Layouts {
    pub(super) weight: Layout,
    pub(super) x: Layout,
    pub(super) y: Layout,
}

/// How one does.
pub(super) struct Layout(pub(super) sys::cublasLtMatrixLayout_t);

/// What is computed.
pub(super) struct Computation(pub(super) sys::cublasLtMatmulDesc_t);

/// What an algorithm must keep to.
pub(super) struct Preference(pub(super) sys::cublasLtMatmulPreference_t);

impl Layouts {
    pub(super) fn new(product: &Product) -> Result<Self> {
        let &Product { rows, inputs, outputs, weight_stride, y_stride, y, .. } = product;
        Ok(Self {
            weight: Layout::new(Element::BF16, inputs, outputs, weight_stride)?,
            x: Layout::new(Element::BF16, inputs, rows, inputs)?,
            y: Layout::new(y, outputs, rows, y_stride)?,
        })
    }
}

impl Layout {
    /// Columns of `length` elements, `stride` apart.
    fn new(element: Element, length: usize, columns: usize, stride: usize) -> Result<Self> {
        let layout = result::create_matrix_layout(data_type(element), length as u64, columns as u64, stride as i64);
        layout.map(Self).map_err(cublas_failed(DESCRIBING))
    }
}

impl Computation {
    /// Sums in f32, the weight transposed.
    pub(super) fn new(product: &Product) -> Result<Self> {
        use sys::cublasLtMatmulDescAttributes_t::{CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_MATMUL_DESC_TRANSA};
        let (sums, scales) = (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType_t::CUDA_R_32F);
        let computation = result::create_matmul_desc(sums, scales).map(Self).map_err(cublas_failed(DESCRIBING))?;
        computation.set(CUBLASLT_MATMUL_DESC_TRANSA, cublasOperation_t::CUBLAS_OP_T as i32)?;
        if product.has_bias {
            computation.set(CUBLASLT_MATMUL_DESC_EPILOGUE, sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as u32)?;
            // Whoever chooses an algorithm looks at how it is aligned, and at nothing else.
            computation.bias(product.y_alignment as u64)?;
        }
        Ok(computation)
    }

    /// Sets where the bias lies.
    pub(super) fn bias(&self, address: u64) -> Result<()> {
        self.set(sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER, address)
    }

    fn set<T: Copy>(&self, attribute: sys::cublasLtMatmulDescAttributes_t, value: T) -> Result<()> {
        // SAFETY: the descriptor lives; the library reads as many bytes as the value has, or refuses.
        unsafe { result::set_matmul_desc_attribute(self.0, attribute, (&raw const value).cast(), size_of::<T>()) }
            .map_err(cublas_failed(DESCRIBING))
    }
}

impl Preference {
    pub(super) fn new(product: &Product, workspace_bytes: usize) -> Result<Self> {
        use sys::cublasLtMatmulPreferenceAttributes_t::{
            CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        };
        let preference = result::create_matmul_pref().map(Self).map_err(cublas_failed(DESCRIBING))?;
        preference.set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes as u64)?;
        // Of the others the library supposes 256 bytes, which they have.
        preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, product.y_alignment as u32)?;
        preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, product.y_alignment as u32)?;
        Ok(preference)
    }

    fn set<T: Copy>(&self, attribute: sys::cublasLtMatmulPreferenceAttributes_t, value: T) -> Result<()> {
        // SAFETY: the descriptor lives; the library reads as many bytes as the value has, or refuses.
        unsafe { result::set_matmul_pref_attribute(self.0, attribute, (&raw const value).cast(), size_of::<T>()) }
            .map_err(cublas_failed(DESCRIBING))
    }
}

fn data_type(element: Element) -> sys::cudaDataType_t {
    match element {
        Element::F32 => sys::cudaDataType_t::CUDA_R_32F,
        Element::BF16 => sys::cudaDataType_t::CUDA_R_16BF,
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: made by the library, and forgotten now.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

impl Drop for Computation {
    fn drop(&mut self) {
        // SAFETY: as above.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: as above.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}
