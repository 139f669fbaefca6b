//! Which bindings are checked, library by library, and how each becomes a claim in C++.

use std::{
    ffi::{c_char, c_int, c_uchar, c_uint, c_ulonglong, c_void},
    mem::offset_of,
};

/// All claims.
pub fn claims() -> Vec<String> {
    [driver(), collectives(), compiler(), matrix_products()].concat()
}

/// Enumerators have the value that Rust has for them.
macro_rules! values {
    ($($enumeration:ident { $($name:ident),* $(,)? })*) => {
        vec![$($(value(stringify!($name), $enumeration::$name as i64)),*),*]
    };
}

fn value(name: &str, value: i64) -> String {
    format!("static_assert((long long){name} == {value}, \"{name} is {value} in Rust\");")
}

/// Types have the size and alignment that they have in Rust.
macro_rules! sizes {
    ($($name:ident),* $(,)?) => {
        vec![$({
            let (name, size, alignment) = (stringify!($name), size_of::<$name>(), align_of::<$name>());
            format!(
                "static_assert(sizeof({name}) == {size} && alignof({name}) == {alignment}, \
                 \"{name} has {size} bytes in Rust, aligned to {alignment}\");"
            )
        }),*]
    };
}

/// Fields lie where Rust has them.
macro_rules! fields {
    ($($structure:ident { $($field:ident),* $(,)? })*) => {
        vec![$($({
            let (structure, field, offset) =
                (stringify!($structure), stringify!($field), offset_of!($structure, $field));
            format!(
                "static_assert(offsetof({structure}, {field}) == {offset}, \
                 \"{structure}.{field} is at {offset} in Rust\");"
            )
        }),*),*]
    };
}

/// Functions take and return what they do in Rust: here the Rust compiler checks that the line is the binding's type,
/// there the C++ compiler that it is the header's.
macro_rules! functions {
    ($(fn $name:ident($($argument:ty),* $(,)?) -> $result:ty;)*) => {
        vec![$({
            let _: unsafe fn($($argument),*) -> $result = $name;
            let arguments: Vec<String> = vec![$(c_type(stringify!($argument))),*];
            let (name, result, arguments) =
                (stringify!($name), c_type(stringify!($result)), arguments.join(", "));
            format!(
                "static_assert(std::is_same_v<decltype(&{name}), {result} (*)({arguments})>, \
                 \"{name} has another type\");"
            )
        }),*]
    };
}

/// A type's name in C.
fn c_type(rust: &str) -> String {
    if let Some(target) = rust.strip_prefix("*mut ") {
        return format!("{}*", c_type(target));
    }
    if let Some(target) = rust.strip_prefix("*const ") {
        return format!("{} const*", c_type(target));
    }
    let name = match rust {
        "c_char" => "char",
        "c_int" => "int",
        "c_uchar" => "unsigned char",
        "c_uint" => "unsigned int",
        "c_ulonglong" => "unsigned long long",
        "c_void" => "void",
        "f32" => "float",
        "i64" => "int64_t",
        "u64" => "uint64_t",
        "usize" => "size_t",
        same => same,
    };
    name.to_owned()
}

/// `cuda.h`
fn driver() -> Vec<String> {
    use cudarc::driver::sys::*;
    let values = values! {
        CUresult {
            CUDA_SUCCESS,
            CUDA_ERROR_INVALID_VALUE,
            CUDA_ERROR_OUT_OF_MEMORY,
            CUDA_ERROR_NOT_INITIALIZED,
            CUDA_ERROR_NO_DEVICE,
            CUDA_ERROR_INVALID_DEVICE,
            CUDA_ERROR_INVALID_IMAGE,
            CUDA_ERROR_INVALID_CONTEXT,
            CUDA_ERROR_NO_BINARY_FOR_GPU,
            CUDA_ERROR_ECC_UNCORRECTABLE,
            CUDA_ERROR_INVALID_PTX,
            CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
            CUDA_ERROR_JIT_COMPILER_NOT_FOUND,
            CUDA_ERROR_INVALID_HANDLE,
            CUDA_ERROR_NOT_FOUND,
            CUDA_ERROR_NOT_READY,
            CUDA_ERROR_ILLEGAL_ADDRESS,
            CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
            CUDA_ERROR_LAUNCH_TIMEOUT,
            CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED,
            CUDA_ERROR_ASSERT,
            CUDA_ERROR_MISALIGNED_ADDRESS,
            CUDA_ERROR_LAUNCH_FAILED,
            CUDA_ERROR_NOT_PERMITTED,
            CUDA_ERROR_NOT_SUPPORTED,
            CUDA_ERROR_SYSTEM_DRIVER_MISMATCH,
            CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
            CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
            CUDA_ERROR_STREAM_CAPTURE_UNJOINED,
            CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
            CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
            CUDA_ERROR_UNKNOWN,
        }
        CUdevice_attribute {
            CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK,
            CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK,
            CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
            CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            CU_DEVICE_ATTRIBUTE_COMPUTE_MODE,
            CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE,
            CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH,
            CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED,
            CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED,
        }
        CUfunction_attribute {
            CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK,
            CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
            CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES,
            CU_FUNC_ATTRIBUTE_NUM_REGS,
            CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
            CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT,
        }
        CUstream_flags { CU_STREAM_DEFAULT, CU_STREAM_NON_BLOCKING }
        CUevent_flags { CU_EVENT_DEFAULT, CU_EVENT_BLOCKING_SYNC, CU_EVENT_DISABLE_TIMING }
        CUstreamCaptureMode {
            CU_STREAM_CAPTURE_MODE_GLOBAL,
            CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
            CU_STREAM_CAPTURE_MODE_RELAXED,
        }
        CUstreamCaptureStatus {
            CU_STREAM_CAPTURE_STATUS_NONE,
            CU_STREAM_CAPTURE_STATUS_ACTIVE,
            CU_STREAM_CAPTURE_STATUS_INVALIDATED,
        }
        CUipcMem_flags { CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS }
        CUlaunchAttributeID {
            CU_LAUNCH_ATTRIBUTE_COOPERATIVE,
            CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        }
        CUtensorMapDataType { CU_TENSOR_MAP_DATA_TYPE_UINT16, CU_TENSOR_MAP_DATA_TYPE_UINT8 }
        CUtensorMapInterleave { CU_TENSOR_MAP_INTERLEAVE_NONE }
        CUtensorMapSwizzle { CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_SWIZZLE_NONE }
        CUtensorMapL2promotion { CU_TENSOR_MAP_L2_PROMOTION_L2_256B }
        CUtensorMapFloatOOBfill { CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE }
        CUpointer_attribute { CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL }
    };
    // These are no enumeration in Rust, for they may be combined.
    let flags = {
        use CUgraphInstantiate_flags as Flags;
        vec![
            value(
                "CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH",
                Flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH.0.into(),
            ),
            value("CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD", Flags::CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD.0.into()),
        ]
    };
    let sizes = sizes![
        CUdevice,
        CUdeviceptr,
        CUcontext,
        CUfunction,
        CUuuid,
        CUipcMemHandle,
        CUipcMem_flags,
        CUevent_flags,
        CUgraphInstantiate_flags,
        CUlaunchConfig,
        CUlaunchAttribute,
        CUlaunchAttributeID,
        CUlaunchAttributeValue,
        CUtensorMap,
        CUresult,
    ];
    let fields = fields! {
        CUlaunchConfig {
            gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes, hStream, attrs, numAttrs,
        }
        CUlaunchAttribute { id, value }
        CUipcMemHandle { reserved }
        CUuuid { bytes }
        CUtensorMap { opaque }
    };
    // In C a field of a structure without a name, which Rust has given one.
    let cluster = {
        use CUlaunchAttributeValue_union__bindgen_ty_1 as Dimensions;
        let whole = size_of::<Dimensions>();
        let offsets = [offset_of!(Dimensions, x), offset_of!(Dimensions, y), offset_of!(Dimensions, z)];
        let start = offset_of!(CUlaunchAttributeValue, clusterDim);
        let claim = |(field, offset): (char, usize)| {
            let at = start + offset;
            format!(
                "static_assert(sizeof(CUlaunchAttributeValue::clusterDim) == {whole} && \
                 offsetof(CUlaunchAttributeValue, clusterDim.{field}) == {at}, \
                 \"CUlaunchAttributeValue_union__bindgen_ty_1 has {whole} bytes in Rust, its {field} at {at}\");"
            )
        };
        ['x', 'y', 'z'].into_iter().zip(offsets).map(claim).collect()
    };
    let functions = functions! {
        fn cuInit(c_uint) -> CUresult;
        fn cuDriverGetVersion(*mut c_int) -> CUresult;
        fn cuGetErrorName(CUresult, *mut *const c_char) -> CUresult;
        fn cuGetErrorString(CUresult, *mut *const c_char) -> CUresult;
        fn cuDeviceGet(*mut CUdevice, c_int) -> CUresult;
        fn cuDeviceGetCount(*mut c_int) -> CUresult;
        fn cuDeviceGetName(*mut c_char, c_int, CUdevice) -> CUresult;
        fn cuDeviceGetPCIBusId(*mut c_char, c_int, CUdevice) -> CUresult;
        fn cuDeviceGetUuid_v2(*mut CUuuid, CUdevice) -> CUresult;
        fn cuDeviceGetAttribute(*mut c_int, CUdevice_attribute, CUdevice) -> CUresult;
        fn cuDeviceTotalMem_v2(*mut usize, CUdevice) -> CUresult;
        fn cuDeviceCanAccessPeer(*mut c_int, CUdevice, CUdevice) -> CUresult;
        fn cuDevicePrimaryCtxRetain(*mut CUcontext, CUdevice) -> CUresult;
        fn cuDevicePrimaryCtxRelease_v2(CUdevice) -> CUresult;
        fn cuCtxGetCurrent(*mut CUcontext) -> CUresult;
        fn cuCtxSetCurrent(CUcontext) -> CUresult;
        fn cuCtxSynchronize() -> CUresult;
        fn cuCtxEnablePeerAccess(CUcontext, c_uint) -> CUresult;
        fn cuMemGetInfo_v2(*mut usize, *mut usize) -> CUresult;
        fn cuMemAlloc_v2(*mut CUdeviceptr, usize) -> CUresult;
        fn cuMemFree_v2(CUdeviceptr) -> CUresult;
        fn cuMemHostAlloc(*mut *mut c_void, usize, c_uint) -> CUresult;
        fn cuMemFreeHost(*mut c_void) -> CUresult;
        fn cuMemcpyHtoDAsync_v2(CUdeviceptr, *const c_void, usize, CUstream) -> CUresult;
        fn cuMemcpyDtoHAsync_v2(*mut c_void, CUdeviceptr, usize, CUstream) -> CUresult;
        fn cuMemcpyDtoDAsync_v2(CUdeviceptr, CUdeviceptr, usize, CUstream) -> CUresult;
        fn cuMemsetD8Async(CUdeviceptr, c_uchar, usize, CUstream) -> CUresult;
        fn cuPointerGetAttribute(*mut c_void, CUpointer_attribute, CUdeviceptr) -> CUresult;
        fn cuIpcGetMemHandle(*mut CUipcMemHandle, CUdeviceptr) -> CUresult;
        fn cuIpcOpenMemHandle_v2(*mut CUdeviceptr, CUipcMemHandle, c_uint) -> CUresult;
        fn cuIpcCloseMemHandle(CUdeviceptr) -> CUresult;
        fn cuModuleLoadData(*mut CUmodule, *const c_void) -> CUresult;
        fn cuModuleGetFunction(*mut CUfunction, CUmodule, *const c_char) -> CUresult;
        fn cuFuncSetAttribute(CUfunction, CUfunction_attribute, c_int) -> CUresult;
        fn cuFuncGetAttribute(*mut c_int, CUfunction_attribute, CUfunction) -> CUresult;
        fn cuOccupancyMaxActiveBlocksPerMultiprocessor(*mut c_int, CUfunction, c_int, usize) -> CUresult;
        fn cuOccupancyMaxActiveClusters(*mut c_int, CUfunction, *const CUlaunchConfig) -> CUresult;
        fn cuLaunchKernel(
            CUfunction, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, CUstream, *mut *mut c_void,
            *mut *mut c_void
        ) -> CUresult;
        fn cuLaunchKernelEx(*const CUlaunchConfig, CUfunction, *mut *mut c_void, *mut *mut c_void) -> CUresult;
        fn cuTensorMapEncodeTiled(
            *mut CUtensorMap, CUtensorMapDataType, cuuint32_t, *mut c_void, *const cuuint64_t, *const cuuint64_t,
            *const cuuint32_t, *const cuuint32_t, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
            CUtensorMapFloatOOBfill
        ) -> CUresult;
        fn cuLaunchHostFunc(CUstream, CUhostFn, *mut c_void) -> CUresult;
        fn cuStreamCreate(*mut CUstream, c_uint) -> CUresult;
        fn cuStreamDestroy_v2(CUstream) -> CUresult;
        fn cuStreamSynchronize(CUstream) -> CUresult;
        fn cuStreamQuery(CUstream) -> CUresult;
        fn cuStreamWaitEvent(CUstream, CUevent, c_uint) -> CUresult;
        fn cuStreamBeginCapture_v2(CUstream, CUstreamCaptureMode) -> CUresult;
        fn cuStreamEndCapture(CUstream, *mut CUgraph) -> CUresult;
        fn cuStreamIsCapturing(CUstream, *mut CUstreamCaptureStatus) -> CUresult;
        fn cuGraphInstantiateWithFlags(*mut CUgraphExec, CUgraph, c_ulonglong) -> CUresult;
        fn cuGraphUpload(CUgraphExec, CUstream) -> CUresult;
        fn cuGraphLaunch(CUgraphExec, CUstream) -> CUresult;
        fn cuGraphExecDestroy(CUgraphExec) -> CUresult;
        fn cuGraphDestroy(CUgraph) -> CUresult;
        fn cuEventCreate(*mut CUevent, c_uint) -> CUresult;
        fn cuEventRecord(CUevent, CUstream) -> CUresult;
        fn cuEventQuery(CUevent) -> CUresult;
        fn cuEventSynchronize(CUevent) -> CUresult;
        fn cuEventElapsedTime(*mut f32, CUevent, CUevent) -> CUresult;
        fn cuEventDestroy_v2(CUevent) -> CUresult;
    };
    [values, flags, sizes, fields, cluster, functions].concat()
}

/// `nccl.h`
fn collectives() -> Vec<String> {
    use cudarc::nccl::sys::*;
    let values = values! {
        ncclResult_t {
            ncclSuccess,
            ncclUnhandledCudaError,
            ncclSystemError,
            ncclInternalError,
            ncclInvalidArgument,
            ncclInvalidUsage,
            ncclRemoteError,
            ncclInProgress,
        }
        ncclDataType_t {
            ncclInt8,
            ncclUint8,
            ncclInt32,
            ncclUint32,
            ncclInt64,
            ncclUint64,
            ncclFloat16,
            ncclFloat32,
            ncclFloat64,
            ncclBfloat16,
            ncclFloat8e4m3,
            ncclFloat8e5m2,
        }
        ncclRedOp_t { ncclSum, ncclProd, ncclMax, ncclMin, ncclAvg }
    };
    let sizes = sizes![ncclUniqueId, ncclComm_t, ncclResult_t];
    // Newer versions have fields after these; how large it is a configuration says itself.
    let fields = fields! {
        ncclConfig_t {
            size, magic, version, blocking, cgaClusterSize, minCTAs, maxCTAs, netName, splitShare, trafficClass,
            commName, collnetEnable, CTAPolicy, shrinkShare, nvlsCTAs,
        }
        ncclUniqueId { internal }
    };
    let functions = functions! {
        fn ncclGetVersion(*mut c_int) -> ncclResult_t;
        fn ncclGetErrorString(ncclResult_t) -> *const c_char;
        fn ncclGetLastError(ncclComm_t) -> *const c_char;
        fn ncclGetUniqueId(*mut ncclUniqueId) -> ncclResult_t;
        fn ncclCommInitRank(*mut ncclComm_t, c_int, ncclUniqueId, c_int) -> ncclResult_t;
        fn ncclCommInitRankConfig(*mut ncclComm_t, c_int, ncclUniqueId, c_int, *mut ncclConfig_t) -> ncclResult_t;
        fn ncclCommFinalize(ncclComm_t) -> ncclResult_t;
        fn ncclCommDestroy(ncclComm_t) -> ncclResult_t;
        fn ncclCommAbort(ncclComm_t) -> ncclResult_t;
        fn ncclCommGetAsyncError(ncclComm_t, *mut ncclResult_t) -> ncclResult_t;
        fn ncclGroupStart() -> ncclResult_t;
        fn ncclGroupEnd() -> ncclResult_t;
        fn ncclBroadcast(
            *const c_void, *mut c_void, usize, ncclDataType_t, c_int, ncclComm_t, cudaStream_t
        ) -> ncclResult_t;
        fn ncclAllReduce(
            *const c_void, *mut c_void, usize, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t
        ) -> ncclResult_t;
        fn ncclAllGather(
            *const c_void, *mut c_void, usize, ncclDataType_t, ncclComm_t, cudaStream_t
        ) -> ncclResult_t;
        fn ncclReduceScatter(
            *const c_void, *mut c_void, usize, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t
        ) -> ncclResult_t;
        fn ncclSend(*const c_void, usize, ncclDataType_t, c_int, ncclComm_t, cudaStream_t) -> ncclResult_t;
        fn ncclRecv(*mut c_void, usize, ncclDataType_t, c_int, ncclComm_t, cudaStream_t) -> ncclResult_t;
    };
    [values, sizes, fields, functions].concat()
}

/// `nvrtc.h`
fn compiler() -> Vec<String> {
    use cudarc::nvrtc::sys::*;
    let values = values! {
        nvrtcResult {
            NVRTC_SUCCESS,
            NVRTC_ERROR_INVALID_OPTION,
            NVRTC_ERROR_COMPILATION,
            NVRTC_ERROR_BUILTIN_OPERATION_FAILURE,
            NVRTC_ERROR_INTERNAL_ERROR,
        }
    };
    let functions = functions! {
        fn nvrtcVersion(*mut c_int, *mut c_int) -> nvrtcResult;
        fn nvrtcGetErrorString(nvrtcResult) -> *const c_char;
        fn nvrtcGetNumSupportedArchs(*mut c_int) -> nvrtcResult;
        fn nvrtcGetSupportedArchs(*mut c_int) -> nvrtcResult;
        fn nvrtcCreateProgram(
            *mut nvrtcProgram, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char
        ) -> nvrtcResult;
        fn nvrtcCompileProgram(nvrtcProgram, c_int, *const *const c_char) -> nvrtcResult;
        fn nvrtcDestroyProgram(*mut nvrtcProgram) -> nvrtcResult;
        fn nvrtcGetProgramLogSize(nvrtcProgram, *mut usize) -> nvrtcResult;
        fn nvrtcGetProgramLog(nvrtcProgram, *mut c_char) -> nvrtcResult;
        fn nvrtcGetPTXSize(nvrtcProgram, *mut usize) -> nvrtcResult;
        fn nvrtcGetPTX(nvrtcProgram, *mut c_char) -> nvrtcResult;
        fn nvrtcGetCUBINSize(nvrtcProgram, *mut usize) -> nvrtcResult;
        fn nvrtcGetCUBIN(nvrtcProgram, *mut c_char) -> nvrtcResult;
    };
    [values, functions].concat()
}

/// `cublasLt.h`
fn matrix_products() -> Vec<String> {
    use cudarc::{cublas::sys::cublasOperation_t, cublaslt::sys::*};
    let values = values! {
        cublasStatus_t {
            CUBLAS_STATUS_SUCCESS,
            CUBLAS_STATUS_NOT_INITIALIZED,
            CUBLAS_STATUS_ALLOC_FAILED,
            CUBLAS_STATUS_INVALID_VALUE,
            CUBLAS_STATUS_ARCH_MISMATCH,
            CUBLAS_STATUS_EXECUTION_FAILED,
            CUBLAS_STATUS_INTERNAL_ERROR,
            CUBLAS_STATUS_NOT_SUPPORTED,
        }
        cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T }
        cublasComputeType_t { CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32, CUBLAS_COMPUTE_32I }
        cudaDataType_t { CUDA_R_32F, CUDA_R_16F, CUDA_R_16BF, CUDA_R_8I, CUDA_R_32I, CUDA_R_8F_E4M3, CUDA_R_8F_E5M2 }
        cublasLtOrder_t { CUBLASLT_ORDER_COL, CUBLASLT_ORDER_ROW }
        cublasLtEpilogue_t { CUBLASLT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_BIAS }
        cublasLtPointerMode_t { CUBLASLT_POINTER_MODE_HOST, CUBLASLT_POINTER_MODE_DEVICE }
        cublasLtMatmulDescAttributes_t {
            CUBLASLT_MATMUL_DESC_COMPUTE_TYPE,
            CUBLASLT_MATMUL_DESC_SCALE_TYPE,
            CUBLASLT_MATMUL_DESC_POINTER_MODE,
            CUBLASLT_MATMUL_DESC_TRANSA,
            CUBLASLT_MATMUL_DESC_TRANSB,
            CUBLASLT_MATMUL_DESC_EPILOGUE,
            CUBLASLT_MATMUL_DESC_BIAS_POINTER,
            CUBLASLT_MATMUL_DESC_A_SCALE_POINTER,
            CUBLASLT_MATMUL_DESC_B_SCALE_POINTER,
        }
        cublasLtMatrixLayoutAttribute_t {
            CUBLASLT_MATRIX_LAYOUT_TYPE,
            CUBLASLT_MATRIX_LAYOUT_ORDER,
            CUBLASLT_MATRIX_LAYOUT_ROWS,
            CUBLASLT_MATRIX_LAYOUT_COLS,
            CUBLASLT_MATRIX_LAYOUT_LD,
            CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
            CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
        }
        cublasLtMatmulPreferenceAttributes_t {
            CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        }
    };
    // Of these enumerations, values are set by their address.
    let sizes = sizes![
        cublasLtHandle_t,
        cublasLtMatmulAlgo_t,
        cublasLtMatmulHeuristicResult_t,
        cublasLtEpilogue_t,
        cublasOperation_t,
    ];
    let fields = fields! {
        cublasLtMatmulHeuristicResult_t { algo, workspaceSize, state, wavesCount }
    };
    let functions = functions! {
        fn cublasLtGetVersion() -> usize;
        fn cublasLtCreate(*mut cublasLtHandle_t) -> cublasStatus_t;
        fn cublasLtDestroy(cublasLtHandle_t) -> cublasStatus_t;
        fn cublasLtMatmulDescCreate(*mut cublasLtMatmulDesc_t, cublasComputeType_t, cudaDataType_t) -> cublasStatus_t;
        fn cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t) -> cublasStatus_t;
        fn cublasLtMatmulDescSetAttribute(
            cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t, *const c_void, usize
        ) -> cublasStatus_t;
        fn cublasLtMatrixLayoutCreate(*mut cublasLtMatrixLayout_t, cudaDataType_t, u64, u64, i64) -> cublasStatus_t;
        fn cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t) -> cublasStatus_t;
        fn cublasLtMatrixLayoutSetAttribute(
            cublasLtMatrixLayout_t, cublasLtMatrixLayoutAttribute_t, *const c_void, usize
        ) -> cublasStatus_t;
        fn cublasLtMatmulPreferenceCreate(*mut cublasLtMatmulPreference_t) -> cublasStatus_t;
        fn cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t) -> cublasStatus_t;
        fn cublasLtMatmulPreferenceSetAttribute(
            cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t, *const c_void, usize
        ) -> cublasStatus_t;
        fn cublasLtMatmulAlgoGetHeuristic(
            cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
            cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, c_int,
            *mut cublasLtMatmulHeuristicResult_t, *mut c_int
        ) -> cublasStatus_t;
        fn cublasLtMatmul(
            cublasLtHandle_t, cublasLtMatmulDesc_t, *const c_void, *const c_void, cublasLtMatrixLayout_t,
            *const c_void, cublasLtMatrixLayout_t, *const c_void, *const c_void, cublasLtMatrixLayout_t, *mut c_void,
            cublasLtMatrixLayout_t, *const cublasLtMatmulAlgo_t, *mut c_void, usize, cudaStream_t
        ) -> cublasStatus_t;
    };
    [values, sizes, fields, functions].concat()
}
