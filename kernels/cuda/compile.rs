//! From a kernel's text to what a driver loads: compiled by NVRTC at first use, and kept on disk.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use cudarc::nvrtc::{CompileError, CompileOptions, compile_ptx_with_opts, sys};
use sha2::{Digest, Sha256};

use super::{Activations, libraries};
use crate::{DType, DeviceError, Result};

/// The headers that sources include.
const HEADERS: [(&str, &str); 5] = [
    ("device.cuh", include_str!("device.cuh")),
    ("kv_cache.cuh", include_str!("kv_cache.cuh")),
    ("attention.cuh", include_str!("attention.cuh")),
    ("attention_fragments.cuh", include_str!("attention_fragments.cuh")),
    ("attention_shares.cuh", include_str!("attention_shares.cuh")),
];

/// The kernels of one operation.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    /// The operation.
    pub(crate) name: &'static str,
    /// Its `cuda.cu`.
    pub(crate) text: &'static str,
}

/// A source as it is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Variant {
    /// Which.
    pub(crate) source: &'static Source,
    /// The storage format that it is for, where it is for one.
    pub(crate) format: Option<DType>,
    /// What activations are.
    pub(crate) activations: Activations,
}

/// Where compiled kernels come from.
#[derive(Debug, Clone)]
pub(crate) struct Compiler {
    /// `compute_90a`
    architecture: &'static str,
    /// Where they are kept; nowhere: compiled at each start.
    cache: Option<PathBuf>,
    /// Where they lie prebuilt, by names as `rms_norm_bf16.compute_80.ptx`.
    prebuilt: Option<PathBuf>,
}

impl Variant {
    /// `matmul_q4_0_bf16`: the module, and the end of its kernels' names.
    pub(crate) fn name(&self, entry: &str) -> String {
        let activations = self.activations.name();
        match self.format {
            None => format!("{entry}_{activations}"),
            Some(format) => format!("{entry}_{}_{activations}", format.name()),
        }
    }

    /// The text with its headers.
    fn text(&self) -> String {
        expand(self.source.text)
    }

    fn defines(&self) -> Vec<String> {
        let mut defines = vec![format!("-DACTIVATION_{}", self.activations.name().to_uppercase())];
        if let Some(format) = self.format {
            defines.push(format!("-DFORMAT={}", format.name().to_uppercase()));
            defines.push(format!("-DFORMAT_NAME={}", format.name()));
        }
        defines
    }
}

impl Compiler {
    /// For GPUs of this compute capability.
    pub(crate) fn new(capability: (u32, u32), cache: Option<PathBuf>, prebuilt: Option<PathBuf>) -> Result<Self> {
        if capability < (8, 0) {
            let (major, minor) = capability;
            let fault = format!("the GPU has compute capability {major}.{minor}; 8.0 (A100) is the least");
            return Err(DeviceError::Unavailable(fault));
        }
        // A prebuilt module needs no compiler, and one from the cache neither: whether it is there is asked when it is needed.
        Ok(Self { architecture: architecture(capability), cache, prebuilt })
    }

    /// The module's text in NVIDIA's intermediate language.
    pub(crate) fn ptx(&self, variant: &Variant) -> Result<String> {
        if let Some(folder) = &self.prebuilt {
            let architectures = [self.architecture, "compute_80"];
            let paths =
                architectures.map(|name| folder.join(format!("{}.{name}.ptx", variant.name(variant.source.name))));
            if let Some(text) = paths.iter().find_map(|path| std::fs::read_to_string(path).ok()) {
                return Ok(text);
            }
        }
        let text = variant.text();
        let path = self.cache.as_ref().map(|folder| folder.join(self.file_name(variant, &text)));
        if let Some(kept) = path.as_ref().and_then(|path| std::fs::read_to_string(path).ok()) {
            return Ok(kept);
        }
        let compiled = self.compile(variant, text)?;
        if let Some(path) = path {
            keep(&path, &compiled);
        }
        Ok(compiled)
    }

    /// By all that the result depends on, but for the compiler's own version, which only makes it better.
    fn file_name(&self, variant: &Variant, text: &str) -> String {
        let mut hash = Sha256::new();
        hash.update(text);
        variant.defines().iter().for_each(|define| hash.update(define));
        let digest = hash.finalize().iter().take(12).fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        format!("{}.{}.{digest}.ptx", variant.name(variant.source.name), self.architecture)
    }

    fn compile(&self, variant: &Variant, text: String) -> Result<String> {
        libraries::check_compiler()?;
        let mut options = vec!["--std=c++17".into(), "-default-device".into()];
        options.extend(variant.defines());
        let name = variant.name(variant.source.name);
        let arch = Some(supported(self.architecture));
        let options = CompileOptions { arch, options, name: Some(format!("{name}.cu")), ..CompileOptions::default() };
        let failed = |error: CompileError| {
            let fault = match error {
                CompileError::CompileError { log, .. } => log.to_string_lossy().trim().to_owned(),
                other => other.to_string(),
            };
            DeviceError::Failed { doing: format!("compiling {name}"), fault }
        };
        Ok(compile_ptx_with_opts(text, options).map_err(failed)?.to_src())
    }
}

/// A source with the headers that it includes in their places, each once.
fn expand(text: &str) -> String {
    let mut expanded = String::new();
    for line in text.lines() {
        let header = HEADERS.iter().find(|(name, _)| line == format!("#include \"{name}\""));
        expanded.push_str(&header.map_or_else(|| line.to_owned(), |(_, header)| expand(header)));
        expanded.push('\n');
    }
    expanded
}

/// The virtual architecture whose instructions this GPU has; `a`: those that later ones may lack, too.
fn architecture(capability: (u32, u32)) -> &'static str {
    match capability {
        (8, 0..=5) => "compute_80",
        (8, 6..=8) => "compute_86",
        (8, _) => "compute_89",
        (9, 0) => "compute_90a",
        (9, _) => "compute_90",
        (10, 0) => "compute_100a",
        (10 | 11, _) => "compute_100",
        _ => "compute_120",
    }
}

/// The same, or the best that an older compiler knows.
fn supported(architecture: &'static str) -> &'static str {
    let number = |name: &str| name.trim_start_matches("compute_").trim_end_matches('a').parse::<i32>().unwrap_or(0);
    let mut count = 0;
    // SAFETY: the compiler writes one number.
    unsafe { sys::nvrtcGetNumSupportedArchs(&mut count) };
    let mut known = vec![0; usize::try_from(count).unwrap_or(0)];
    // SAFETY: there is room for as many numbers as it said.
    unsafe { sys::nvrtcGetSupportedArchs(known.as_mut_ptr()) };
    let best = known.into_iter().filter(|&known| known <= number(architecture)).max();
    if best == Some(number(architecture)) {
        return architecture;
    }
    ["compute_100", "compute_90a", "compute_89", "compute_86"]
        .into_iter()
        .find(|name| best.is_some_and(|best| number(name) <= best))
        .unwrap_or("compute_80")
}

/// A cache that can't be written costs the next start a second or two, no more.
fn keep(path: &Path, text: &str) {
    let Some(folder) = path.parent() else { return };
    let partial = path.with_extension(format!("{}.partial", std::process::id()));
    let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&partial, text));
    if written.and_then(|()| std::fs::rename(&partial, path)).is_err() {
        let _ = std::fs::remove_file(&partial);
    }
}
