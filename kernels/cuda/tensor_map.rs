//! Matrices as GPUs of compute capability 9.0 copy them to shared memory: box by box (TMA).

use std::ffi::c_void;

use cudarc::driver::sys;

use super::{driver::Pointer, error::failed};
use crate::Result;

/// What a kernel is told of such a matrix, in the driver's own encoding: `TensorMap` in tensor_map.cuh.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(crate) struct TensorMap(sys::CUtensorMap);

/// A matrix of 16-bit elements whose rows lie one behind the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix {
    /// Its first element, at a multiple of 16 bytes.
    pub(crate) first: Pointer,
    pub(crate) rows: usize,
    /// A multiple of 8.
    pub(crate) columns: usize,
}

/// A matrix of bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ByteMatrix {
    /// Its first byte, at a multiple of 16.
    pub(crate) first: Pointer,
    pub(crate) rows: usize,
    pub(crate) row_bytes: usize,
    /// From one row to the next, a multiple of 16.
    pub(crate) stride: usize,
}

/// What of a matrix is described to the driver.
struct Description {
    element: sys::CUtensorMapDataType,
    first: Pointer,
    /// Elements of a row, and rows: of the matrix, and of a box, 256 at most.
    sizes: [usize; 2],
    box_sizes: [usize; 2],
    stride_bytes: usize,
    swizzle: sys::CUtensorMapSwizzle,
}

impl TensorMap {
    /// Of a matrix that is copied by boxes of `box_rows` rows, 256 at most, and 64 columns, whose pieces of 16 bytes change
    /// places as `swizzled_piece` in warpgroups.cuh has it; what of a box lies outside of the matrix becomes zero. The GPU is
    /// not asked, and the memory is not touched.
    pub(crate) fn new(matrix: Matrix, box_rows: usize) -> Result<Self> {
        /// 128 bytes, as far as swizzled rows reach.
        const BOX_COLUMNS: usize = 64;
        Self::encode(&Description {
            element: sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT16,
            first: matrix.first,
            sizes: [matrix.columns, matrix.rows],
            box_sizes: [BOX_COLUMNS, box_rows],
            stride_bytes: matrix.columns * size_of::<u16>(),
            swizzle: sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
        })
    }

    /// The same of bytes, by boxes whose rows of `box_bytes` bytes, a multiple of 16, lie one behind the other.
    pub(crate) fn of_bytes(matrix: ByteMatrix, box_rows: usize, box_bytes: usize) -> Result<Self> {
        Self::encode(&Description {
            element: sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT8,
            first: matrix.first,
            sizes: [matrix.row_bytes, matrix.rows],
            box_sizes: [box_bytes, box_rows],
            stride_bytes: matrix.stride,
            swizzle: sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
        })
    }

    fn encode(of: &Description) -> Result<Self> {
        let sizes = of.sizes.map(|size| size as u64);
        let box_sizes = of.box_sizes.map(|size| size as u32);
        let row_bytes = [of.stride_bytes as u64];
        let steps = [1, 1];
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        // SAFETY: the driver writes the map, whose type has the alignment that it needs, and reads two sizes of the matrix
        // and of its boxes, two steps between elements, and one between rows. It doesn't follow the address; the matrix
        // must be there when a kernel does.
        let encoded = unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                of.element,
                sizes.len() as u32,
                of.first.0 as *mut c_void,
                sizes.as_ptr(),
                row_bytes.as_ptr(),
                box_sizes.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                of.swizzle,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        encoded.result().map_err(failed("describing a matrix to be copied"))?;
        Ok(Self(map))
    }
}
