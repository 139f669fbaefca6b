//! The bindings that the CUDA backend calls NVIDIA's libraries by, against NVIDIA's own headers.
//!
//! Libraries are found when the server runs, so that no compiler ever compares what is called with what is there. Here
//! one does: the values, sizes, offsets and types that Rust sees become claims in C++, and the C++ compiler, which sees
//! the headers, refuses the wrong ones. `scripts/cuda-abi` fetches the headers and runs this.

mod bindings;

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

#[test]
#[ignore = "needs NVIDIA's headers and a C++ compiler: scripts/cuda-abi"]
fn bindings_are_as_the_headers_say() {
    if let Err(faults) = compile(&bindings::claims()) {
        panic!("a binding is not as the header says:\n{faults}");
    }
}

#[test]
#[ignore = "needs NVIDIA's headers and a C++ compiler: scripts/cuda-abi"]
fn a_wrong_claim_is_refused() {
    let wrong = [
        "static_assert(CUDA_ERROR_NOT_READY == 601);",
        "static_assert(sizeof(CUipcMemHandle) == 65);",
        "static_assert(offsetof(ncclConfig_t, minCTAs) == 20);",
        "static_assert(std::is_same_v<decltype(&cuMemFree_v2), CUresult (*)(void*)>);",
    ];
    for claim in wrong {
        let faults = compile(&[claim.to_owned()]).expect_err(claim);
        assert!(faults.contains("static assertion failed"), "{claim}:\n{faults}");
    }
}

/// So that whoever uses another function, type or value has it checked too.
#[test]
fn what_the_backend_names_is_checked() {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut named = BTreeSet::new();
    for path in sources(kernels) {
        let text = fs::read_to_string(&path).expect("a source file");
        let code = text.lines().filter_map(|line| line.split("//").next());
        // `CUfunction_attribute_enum` is `CUfunction_attribute` by its other name.
        let names = code.flat_map(words).filter(|word| is_vendors(word)).map(|word| word.trim_end_matches("_enum"));
        named.extend(names.map(str::to_owned));
    }
    let claims = bindings::claims();
    let checked: BTreeSet<&str> = claims.iter().flat_map(|claim| words(claim)).collect();
    let unchecked: Vec<&String> = named.iter().filter(|name| !checked.contains(name.as_str())).collect();
    assert!(unchecked.is_empty(), "add to tests/gpu/abi/bindings.rs: {unchecked:?}");
    assert!(named.contains("cuLaunchKernelEx"), "the backend's sources were not found: {named:?}");
}

/// What the compiler says against the claims.
fn compile(claims: &[String]) -> Result<(), String> {
    const HEADERS: [&str; 7] =
        ["cstddef", "type_traits", "cuda.h", "cuda_runtime.h", "nccl.h", "nvrtc.h", "cublasLt.h"];
    let headers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cuda-toolkit/include");
    assert!(headers.join("cuda.h").exists(), "NVIDIA's headers are missing: run scripts/cuda-toolkit");
    let includes = HEADERS.map(|header| format!("#include <{header}>"));
    let mut compiler = Command::new("c++")
        .args(["-std=c++17", "-fsyntax-only", "-x", "c++", "-isystem"])
        .arg(&headers)
        .arg("-")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a C++ compiler");
    let text = format!("{}\n{}\n", includes.join("\n"), claims.join("\n"));
    compiler.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("the compiler reads");
    let done = compiler.wait_with_output().expect("the compiler ends");
    if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).into_owned()) }
}

/// Rust files of the crate.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let files = files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    files.chain(folders.iter().flat_map(|folder| sources(folder))).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
}

/// Whether NVIDIA's headers have given this name: `cuInit`, `CUstream`, `CU_STREAM_NON_BLOCKING`, `ncclSum`, …
fn is_vendors(word: &str) -> bool {
    let followed_by = |prefix: &str, wanted: fn(&char) -> bool| {
        word.strip_prefix(prefix).is_some_and(|rest| rest.chars().next().as_ref().is_some_and(wanted))
    };
    let constant = ["CU_", "CUDA_ERROR_", "CUDA_SUCCESS", "CUDA_R_", "CUDA_GRAPH_", "CUBLAS_", "CUBLASLT_", "NVRTC_"];
    let function_or_type = ["cu", "nccl", "nvrtc", "cublas", "cublasLt"];
    constant.iter().any(|prefix| word.starts_with(prefix))
        || followed_by("CU", char::is_ascii_lowercase)
        || function_or_type.iter().any(|prefix| followed_by(prefix, char::is_ascii_uppercase))
            && !word.starts_with("cuBLAS")
            && word != "cublasLt" // the library's own name
}
