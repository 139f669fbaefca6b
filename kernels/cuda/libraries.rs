//! The libraries that are loaded at run time: whether they are there, and new enough to be called.
//!
//! `cudarc` panics where a library or one of its functions is missing, so nothing of it is called before these checks.
//! It also knows few names and no folders but the loader's. A process that is to use libraries which lie elsewhere (in
//! Python wheels, say), or under other names, is started with [`search_path`] in its `LD_LIBRARY_PATH`.

use std::{
    env, fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use libloading::Library;

use crate::{DeviceError, Result};

/// A library that the backend calls.
struct Needed {
    /// As `cudarc` asks for it.
    name: &'static str,
    /// By which names its makers install it.
    files: &'static [&'static str],
    /// What to do if it isn't there.
    remedy: &'static str,
    /// The functions that are called.
    functions: &'static [&'static str],
}

const DRIVER: Needed = Needed {
    name: "cuda",
    files: &["libcuda.so.1"],
    remedy: "install NVIDIA's driver, 550 or newer (in a container: run it with --gpus all)",
    functions: &[
        "cuInit",
        "cuDriverGetVersion",
        "cuDeviceGet",
        "cuDeviceGetCount",
        "cuDeviceGetName",
        "cuDeviceGetPCIBusId",
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
        "cuFuncGetAttribute",
        "cuFuncSetAttribute",
        "cuLaunchKernelEx",
        "cuOccupancyMaxActiveClusters",
        "cuTensorMapEncodeTiled",
        "cuDeviceCanAccessPeer",
        "cuIpcGetMemHandle",
        "cuIpcOpenMemHandle_v2",
        "cuIpcCloseMemHandle",
        "cuStreamBeginCapture_v2",
        "cuStreamEndCapture",
        "cuGraphInstantiateWithFlags",
        "cuGraphLaunch",
        "cuGraphDestroy",
        "cuGraphExecDestroy",
        "cuStreamCreate",
        "cuStreamDestroy_v2",
        "cuStreamSynchronize",
        "cuStreamQuery",
    ],
};

const COMPILER: Needed = Needed {
    name: "nvrtc",
    files: &["libnvrtc.so.12", "libnvrtc.so.13"],
    remedy: "install CUDA's NVRTC 12 (PyPI: nvidia-cuda-nvrtc-cu12) where LD_LIBRARY_PATH finds it, or name a folder \
             with prebuilt kernels in SHARDWIRE_KERNELS",
    functions: &["nvrtcCreateProgram", "nvrtcCompileProgram", "nvrtcGetPTX", "nvrtcGetCUBIN", "nvrtcGetSupportedArchs"],
};

const COLLECTIVES: Needed = Needed {
    name: "nccl",
    files: &["libnccl.so.2"],
    remedy: "install NCCL 2 (PyPI: nvidia-nccl-cu12) where LD_LIBRARY_PATH finds it",
    functions: &[
        "ncclGetUniqueId",
        "ncclCommInitRank",
        "ncclCommAbort",
        "ncclCommGetAsyncError",
        "ncclAllReduce",
        "ncclAllGather",
    ],
};

/// Nothing ends where it is missing: products are computed without it.
const PRODUCTS: Needed = Needed {
    name: "cublasLt",
    files: &["libcublasLt.so.12", "libcublasLt.so.13"],
    remedy: "to leave products of many rows to NVIDIA's library, install cuBLAS 12 (PyPI: nvidia-cublas-cu12) where \
             LD_LIBRARY_PATH finds it",
    functions: &[
        "cublasLtCreate",
        "cublasLtDestroy",
        "cublasLtMatrixLayoutCreate",
        "cublasLtMatrixLayoutDestroy",
        "cublasLtMatmulDescCreate",
        "cublasLtMatmulDescDestroy",
        "cublasLtMatmulDescSetAttribute",
        "cublasLtMatmulPreferenceCreate",
        "cublasLtMatmulPreferenceDestroy",
        "cublasLtMatmulPreferenceSetAttribute",
        "cublasLtMatmulAlgoGetHeuristic",
        "cublasLtMatmul",
    ],
};

/// Whether NVIDIA's driver can be called.
pub(crate) fn check_driver() -> Result<()> {
    DRIVER.check()
}

/// Whether kernels can be compiled.
pub(crate) fn check_compiler() -> Result<()> {
    COMPILER.check()
}

/// Whether ranks can meet on their GPUs.
pub(crate) fn check_collectives() -> Result<()> {
    COLLECTIVES.check()
}

/// Whether matrix products can be left to NVIDIA's library; the error says why not, and what to do.
pub fn check_products() -> std::result::Result<(), String> {
    PRODUCTS.find()
}

/// Folders for the `LD_LIBRARY_PATH` of a process that is to use GPUs, beyond what the loader looks through anyway; with
/// links in `links` for libraries that are there under another name only.
pub fn search_path(links: &Path) -> io::Result<Vec<PathBuf>> {
    let mut path = Vec::new();
    for needed in [COMPILER, COLLECTIVES, PRODUCTS] {
        let Some(found) = needed.elsewhere() else { continue };
        path.extend(found.parent().map(Path::to_path_buf));
        let file = found.file_name().unwrap_or_default();
        if !cudarc::get_lib_name_candidates(needed.name).iter().any(|name| file == name.as_str()) {
            let link = links.join(format!("lib{}.so", needed.name));
            fs::create_dir_all(links)?;
            // Made under another name and moved, for two servers may start at once.
            let fresh = links.join(format!(".{}.{}", needed.name, std::process::id()));
            let _ = fs::remove_file(&fresh);
            symlink(&found, &fresh)?;
            fs::rename(&fresh, &link)?;
            path.push(links.to_path_buf());
        }
    }
    path.dedup();
    Ok(path)
}

impl Needed {
    fn check(&self) -> Result<()> {
        self.find().map_err(DeviceError::Unavailable)
    }

    /// The error says what is missing, and what to do.
    fn find(&self) -> std::result::Result<(), String> {
        let Self { name, remedy, functions, .. } = self;
        let library = self.load().or_else(|| load(&self.elsewhere()?));
        let library = library.ok_or_else(|| format!("lib{name}.so is not there; {remedy}"))?;
        // SAFETY: the symbol is only looked for, and never called at this type.
        let lacks = |function: &&&str| unsafe { library.get::<unsafe extern "C" fn()>(function.as_bytes()) }.is_err();
        match functions.iter().find(lacks) {
            Some(function) => Err(format!("lib{name}.so is too old: it has no {function}; {remedy}")),
            None => Ok(()),
        }
    }

    /// As `cudarc` will find it.
    fn load(&self) -> Option<Library> {
        cudarc::get_lib_name_candidates(self.name).iter().find_map(|name| load(Path::new(name)))
    }

    /// Where it is, if `cudarc` will not find it by itself.
    fn elsewhere(&self) -> Option<PathBuf> {
        if self.load().is_some() {
            return None;
        }
        let by_loader = self.files.iter().find_map(|file| {
            let library = load(Path::new(file))?;
            let path = loaded_from(file);
            drop(library);
            path
        });
        let in_folders = || {
            let folders = usual_folders();
            let paths = folders.iter().flat_map(|folder| self.files.iter().map(move |file| folder.join(file)));
            paths.into_iter().find(|path| path.is_file())
        };
        by_loader.or_else(in_folders)
    }
}

fn load(name: &Path) -> Option<Library> {
    // SAFETY: loading runs the library's own initialisers: NVIDIA's, which cudarc would run a moment later.
    unsafe { Library::new(name) }.ok()
}

/// Where this process has mapped a library that it has just loaded by name.
fn loaded_from(file: &str) -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let stem = file.split(".so").next().unwrap_or(file);
    let mut paths = maps.lines().filter_map(|line| Some(PathBuf::from(&line[line.find('/')?..])));
    paths.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{stem}.so"))))
}

/// Where CUDA's own packages and Python's wheels put libraries.
fn usual_folders() -> Vec<PathBuf> {
    let of = |variable| env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut folders: Vec<PathBuf> = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(of).collect();
    folders.push("/usr/local/cuda".into());
    folders.iter_mut().for_each(|folder| folder.push("lib64"));
    // Of a virtual environment, and of any other Python whose folder is on the path.
    let on_path = of("PATH").into_iter().flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
    let on_path = on_path.filter_map(|folder| folder.parent().map(Path::to_path_buf));
    let pythons = of("VIRTUAL_ENV").into_iter().chain(on_path).chain(of("HOME").map(|home| home.join(".local")));
    let pythons = pythons.chain(["/usr/local".into(), "/usr".into()]).map(|root| root.join("lib"));
    for python in pythons.flat_map(|folder| entries(&folder)).filter(|path| names_python(path)) {
        for packages in ["site-packages", "dist-packages"] {
            folders.extend(entries(&python.join(packages).join("nvidia")).into_iter().map(|wheel| wheel.join("lib")));
        }
    }
    folders
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn names_python(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_remedy() {
        let missing = Needed { name: "shardwire_no_such", files: &[], remedy: "build it", functions: &[] };
        let expected = "no usable GPU: libshardwire_no_such.so is not there; build it";
        assert_eq!(missing.check().expect_err("there is none").to_string(), expected);
        let (remedy, functions) = ("get a newer one", &["cos", "shardwire_no_such"][..]);
        let old = Needed { name: "m", files: &["libm.so.6"], remedy, functions };
        let expected = "no usable GPU: libm.so is too old: it has no shardwire_no_such; get a newer one";
        assert_eq!(old.check().expect_err("there is no such function").to_string(), expected);
    }

    #[test]
    fn a_library_under_another_name_is_found_where_the_loader_found_it() {
        let path = Needed { name: "m_of_no_such_name", files: &["libm.so.6"], remedy: "", functions: &[] }.elsewhere();
        let path = path.expect("every process has it");
        assert!(path.is_file() && path.to_string_lossy().contains("libm.so"), "{}", path.display());
    }
}
