//! The libraries that are loaded at run time: whether they are there, and new enough to be called.
//!
//! `cudarc` panics where a library or one of its functions is missing. Nothing of it is called before these checks.

use libloading::Library;

use crate::DeviceError;

/// A library that the backend needs.
struct Needed {
    /// As `cudarc` asks for it.
    name: &'static str,
    /// What to do if it isn't there.
    remedy: &'static str,
    /// The functions that are called.
    functions: &'static [&'static str],
}

const DRIVER: Needed = Needed {
    name: "cuda",
    remedy: "install NVIDIA's driver, 550 or newer (in a container: run it with --gpus all)",
    functions: &[
        "cuInit",
        "cuDriverGetVersion",
        "cuDeviceGet",
        "cuDeviceGetCount",
        "cuDeviceGetName",
        "cuDeviceGetAttribute",
        "cuDeviceTotalMem_v2",
        "cuDevicePrimaryCtxRetain",
        "cuDevicePrimaryCtxRelease_v2",
        "cuCtxGetCurrent",
        "cuCtxSetCurrent",
        "cuMemGetInfo_v2",
        "cuMemAlloc_v2",
        "cuMemFree_v2",
        "cuMemcpyHtoDAsync_v2",
        "cuMemcpyDtoHAsync_v2",
        "cuMemcpyDtoDAsync_v2",
        "cuMemsetD8Async",
        "cuModuleLoadData",
        "cuModuleGetFunction",
        "cuFuncSetAttribute",
        "cuLaunchKernel",
        "cuStreamCreate",
        "cuStreamDestroy_v2",
        "cuStreamSynchronize",
        "cuStreamQuery",
    ],
};

const COMPILER: Needed = Needed {
    name: "nvrtc",
    remedy: "install CUDA's NVRTC 12 (PyPI: nvidia-cuda-nvrtc-cu12) and have LD_LIBRARY_PATH name its folder, or say \
             where prebuilt kernels lie (SHARDWIRE_KERNELS)",
    functions: &["nvrtcCreateProgram", "nvrtcCompileProgram", "nvrtcGetPTX", "nvrtcGetSupportedArchs"],
};

const COLLECTIVES: Needed = Needed {
    name: "nccl",
    remedy: "install NCCL 2 (PyPI: nvidia-nccl-cu12) and have LD_LIBRARY_PATH name a folder with libnccl.so",
    functions: &[
        "ncclGetUniqueId",
        "ncclCommInitRank",
        "ncclCommAbort",
        "ncclCommGetAsyncError",
        "ncclAllReduce",
        "ncclAllGather",
    ],
};

/// Whether NVIDIA's driver can be called.
pub(crate) fn check_driver() -> Result<(), DeviceError> {
    DRIVER.check()
}

/// Whether kernels can be compiled.
pub(crate) fn check_compiler() -> Result<(), DeviceError> {
    COMPILER.check()
}

/// Whether ranks can meet on their GPUs.
pub(crate) fn check_collectives() -> Result<(), DeviceError> {
    COLLECTIVES.check()
}

impl Needed {
    fn check(&self) -> Result<(), DeviceError> {
        let Self { name, remedy, functions } = self;
        let unavailable = |fault: String| DeviceError::Unavailable(format!("{fault}; {remedy}"));
        let candidates = cudarc::get_lib_name_candidates(name);
        // SAFETY: loading runs the libraries' own initialisers: NVIDIA's, which cudarc would run a moment later.
        let library = candidates.iter().find_map(|name| unsafe { Library::new(name) }.ok());
        let library = library.ok_or_else(|| unavailable(format!("lib{name}.so is not there")))?;
        // SAFETY: the symbol is only looked for, and never called at this type.
        let lacks = |function: &&&str| unsafe { library.get::<unsafe extern "C" fn()>(function.as_bytes()) }.is_err();
        match functions.iter().find(lacks) {
            Some(function) => Err(unavailable(format!("lib{name}.so is too old: it has no {function}"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_remedy() {
        let missing = Needed { name: "shardwire_no_such", remedy: "build it", functions: &[] };
        let expected = "no usable GPU: libshardwire_no_such.so is not there; build it";
        assert_eq!(missing.check().expect_err("there is none").to_string(), expected);
        let old = Needed { name: "m", remedy: "get a newer one", functions: &["cos", "shardwire_no_such"] };
        let expected = "no usable GPU: libm.so is too old: it has no shardwire_no_such; get a newer one";
        // Where only libm.so.6 is there, which is none of the candidates, it is missing instead.
        let found = old.check().expect_err("there is no such function").to_string();
        assert!(found == expected || found.contains("is not there"), "{found}");
    }
}
