//! From a kernel's text to what a driver loads: compiled by NVRTC at first use, and kept on disk.

use std::{
    ffi::{CString, c_char},
    fmt::Write as _,
    path::{Path, PathBuf},
};

use cudarc::nvrtc::{
    result::{self, NvrtcError},
    sys,
};
use sha2::{Digest, Sha256};

use super::{Activations, libraries};
use crate::{DType, DeviceError, Result};

/// The headers that sources include.
const HEADERS: [(&str, &str); 14] = [
    ("clusters.cuh", include_str!("clusters.cuh")),
    ("device.cuh", include_str!("device.cuh")),
    ("norm.cuh", include_str!("norm.cuh")),
    ("peers.cuh", include_str!("peers.cuh")),
    ("kv_cache.cuh", include_str!("kv_cache.cuh")),
    ("attention.cuh", include_str!("attention.cuh")),
    ("attention_fragments.cuh", include_str!("attention_fragments.cuh")),
    ("attention_shares.cuh", include_str!("attention_shares.cuh")),
    ("formats.cuh", include_str!("formats.cuh")),
    ("gate.cuh", include_str!("gate.cuh")),
    ("product.cuh", include_str!("product.cuh")),
    ("results.cuh", include_str!("results.cuh")),
    ("tensor_map.cuh", include_str!("tensor_map.cuh")),
    ("warpgroups.cuh", include_str!("warpgroups.cuh")),
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

/// A compiled source.
#[derive(Debug)]
pub(crate) struct Module {
    /// In NVIDIA's intermediate language (PTX): it says what each kernel takes.
    pub(crate) text: String,
    /// What the driver is given: machine code, for which the driver needs no compiler and need not be as new as ours; or
    /// the text again.
    pub(crate) image: Vec<u8>,
}

/// Where compiled kernels come from.
#[derive(Debug, Clone)]
pub(crate) struct Compiler {
    /// `sm_90a`
    architecture: &'static str,
    /// Where they are kept; nowhere: compiled at each start.
    cache: Option<PathBuf>,
    /// Where their texts lie prebuilt, by names as `rms_norm_bf16.compute_80.ptx`.
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

    /// The module, compiled if need be.
    pub(crate) fn module(&self, variant: &Variant) -> Result<Module> {
        if let Some(text) = self.prebuilt(variant) {
            return Ok(Module { image: text.clone().into_bytes(), text });
        }
        let text = variant.text();
        let kept = self.cache.as_ref().map(|folder| folder.join(self.file_name(variant, &text)));
        if let Some(module) = kept.as_deref().and_then(Module::read) {
            return Ok(module);
        }
        let module = self.compile(variant, &text)?;
        if let Some(path) = kept {
            module.keep(&path);
        }
        Ok(module)
    }

    /// For this very architecture, or for the least that all have.
    fn prebuilt(&self, variant: &Variant) -> Option<String> {
        let folder = self.prebuilt.as_ref()?;
        let name = variant.name(variant.source.name);
        let architectures = [self.architecture.replace("sm_", "compute_"), "compute_80".into()];
        architectures.iter().find_map(|arch| std::fs::read_to_string(folder.join(format!("{name}.{arch}.ptx"))).ok())
    }

    /// By all that the result depends on, but for the compiler's own version.
    fn file_name(&self, variant: &Variant, text: &str) -> String {
        let mut hash = Sha256::new();
        hash.update(text);
        variant.defines().iter().for_each(|define| hash.update(define));
        let digest = hash.finalize().iter().take(12).fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        format!("{}.{}.{digest}", variant.name(variant.source.name), self.architecture)
    }

    fn compile(&self, variant: &Variant, text: &str) -> Result<Module> {
        libraries::check_compiler()?;
        let name = variant.name(variant.source.name);
        let mut options = vec!["--std=c++17".into(), "-default-device".into()];
        options.push(format!("--gpu-architecture={}", supported(self.architecture)));
        options.extend(variant.defines());
        Program::compile(&format!("{name}.cu"), text, &options)
            .map_err(|fault| DeviceError::Failed { doing: format!("compiling {name}"), fault })
    }
}

impl Module {
    fn paths(path: &Path) -> [PathBuf; 2] {
        ["ptx", "cubin"].map(|end| PathBuf::from(format!("{}.{end}", path.display())))
    }

    fn read(path: &Path) -> Option<Self> {
        let [text, image] = Self::paths(path);
        Some(Self { text: std::fs::read_to_string(text).ok()?, image: std::fs::read(image).ok()? })
    }

    /// A cache that can't be written costs the next start some seconds, no more.
    fn keep(&self, path: &Path) {
        let Some(folder) = path.parent() else { return };
        if std::fs::create_dir_all(folder).is_err() {
            return;
        }
        for (path, bytes) in Self::paths(path).iter().zip([self.text.as_bytes(), &self.image]) {
            let partial = PathBuf::from(format!("{}.{}", path.display(), std::process::id()));
            if std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, path)).is_err() {
                let _ = std::fs::remove_file(&partial);
            }
        }
    }
}

/// A source at the compiler.
struct Program(sys::nvrtcProgram);

impl Program {
    /// The module; else what the compiler has to say.
    fn compile(name: &str, text: &str, options: &[String]) -> std::result::Result<Module, String> {
        let words = |text: &str| CString::new(text).map_err(|_| "a text with a zero byte".to_owned());
        let answered = |error: NvrtcError| format!("{error:?}");
        let program = Self(result::create_program(&words(text)?, Some(&words(name)?)).map_err(answered)?);
        // SAFETY: the program lives; so for all calls below.
        let compiled = unsafe { result::compile_program(program.0, options) };
        if let Err(error) = compiled {
            // SAFETY: as above.
            let log = unsafe { result::get_program_log(program.0) }.map(plain).unwrap_or_default();
            return Err(format!("{}: {}", answered(error), log.trim_end_matches('\0').trim()));
        }
        // SAFETY: as above.
        let text = plain(unsafe { result::get_ptx(program.0) }.map_err(answered)?);
        Ok(Module { text: text.trim_end_matches('\0').to_owned(), image: program.image().map_err(answered)? })
    }

    fn image(&self) -> std::result::Result<Vec<u8>, NvrtcError> {
        let mut bytes = 0;
        // SAFETY: the compiler writes a number.
        unsafe { sys::nvrtcGetCUBINSize(self.0, &mut bytes) }.result()?;
        let mut image = vec![0u8; bytes];
        // SAFETY: there is room for as many bytes as it said.
        unsafe { sys::nvrtcGetCUBIN(self.0, image.as_mut_ptr().cast()) }.result()?;
        Ok(image)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: made by `compile`, destroyed here only.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

fn plain(text: Vec<c_char>) -> String {
    String::from_utf8_lossy(&text.into_iter().map(|byte| byte as u8).collect::<Vec<_>>()).into_owned()
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

/// What a GPU is compiled for; `a`: with instructions that later ones may lack.
fn architecture(capability: (u32, u32)) -> &'static str {
    match capability {
        (8, 0..=5) => "sm_80",
        (8, 6..=8) => "sm_86",
        (8, _) => "sm_89",
        (9, _) => "sm_90a",
        (10, 0) => "sm_100a",
        (10, 3) => "sm_103a",
        (10 | 11, _) => "sm_100",
        _ => "sm_120",
    }
}

/// The same, or, where the compiler is older than the GPU, intermediate text of the best that it knows.
fn supported(architecture: &'static str) -> String {
    let number = |name: &str| name.trim_start_matches("sm_").trim_end_matches('a').parse::<i32>().unwrap_or(0);
    let mut count = 0;
    // SAFETY: the compiler writes one number.
    unsafe { sys::nvrtcGetNumSupportedArchs(&mut count) };
    let mut known = vec![0; usize::try_from(count).unwrap_or(0)];
    // SAFETY: there is room for as many numbers as it said.
    unsafe { sys::nvrtcGetSupportedArchs(known.as_mut_ptr()) };
    match known.into_iter().filter(|&known| known <= number(architecture)).max() {
        Some(best) if best < number(architecture) => format!("compute_{best}"),
        _ => architecture.into(),
    }
}
