//! One model in the cache that Hugging Face's programs share: `models--OWNER--NAME` with `blobs` (files by the name that the
//! hub gives their content), `snapshots/COMMIT` (links to them under their own names) and `refs` (commits of branches).
//!
//! A snapshot gets its links when all its blobs are there, and a branch its commit after that. So what an interrupted
//! download leaves is never taken for a model; Python's programs make links one by one, so completeness is checked too.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process,
};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use nix::sys::statvfs::statvfs;
use serde_json::Value;

use super::{
    choice::{Choice, INDEX, choose},
    error::HubError,
    listing::HubFile,
    name::{HubName, is_commit},
    settings::Settings,
};

/// Depth of folders in which a snapshot's files are looked for.
const DEPTH_MAX: usize = 4;

/// A model's part of the cache.
pub struct ModelCache {
    /// The cache's folder.
    root: PathBuf,
    /// `models--OWNER--NAME`.
    folder_name: String,
    revision: String,
    repo: CacheRepo,
}

impl ModelCache {
    /// Of this model, at the revision that the settings name. Nothing is read or made yet.
    pub fn new(name: &HubName, settings: &Settings) -> Self {
        let repo = Repo::with_revision(name.repo.clone(), RepoType::Model, settings.revision.clone());
        Self {
            root: settings.cache.clone(),
            folder_name: repo.folder_name(),
            revision: settings.revision.clone(),
            repo: Cache::new(settings.cache.clone()).repo(repo),
        }
    }

    /// What to serve without asking the hub: the snapshot's folder, or the GGUF file in it. The error says what is missing.
    pub fn complete(&self, quant: Option<&str>) -> Result<PathBuf, String> {
        let shown = self.root.display();
        let commit = self.commit().ok_or_else(|| format!("{shown} has no {} of it", self.revision))?;
        let folder = self.snapshot(&commit);
        let choice = choose(&names_below(&folder), quant).map_err(|why| format!("{} {why}", folder.display()))?;
        match missing_shard(&folder).filter(|_| matches!(choice, Choice::Folder(_))) {
            Some(name) => Err(format!("{} lacks {name}", folder.display())),
            None => Ok(self.path_of(&commit, &choice)),
        }
    }

    /// What is served: the folder, or the (first) GGUF file.
    pub fn path_of(&self, commit: &str, choice: &Choice) -> PathBuf {
        let folder = self.snapshot(commit);
        match choice {
            Choice::Folder(_) => folder,
            Choice::Gguf(names) => names.first().map_or(folder.clone(), |name| folder.join(name)),
        }
    }

    /// Whether the file's content is here, whole. Blobs get their names last, so the size tells enough.
    pub fn has(&self, file: &HubFile) -> bool {
        has_bytes(&self.blob(file), file.bytes)
    }

    /// Where the content of the file belongs.
    pub fn blob(&self, file: &HubFile) -> PathBuf {
        self.repo.blob_path(&file.blob)
    }

    /// Where the content grows while it is fetched, under the name that Python's programs use: either goes on where the
    /// other ended.
    pub fn partial(&self, file: &HubFile) -> PathBuf {
        self.repo.blob_path(&format!("{}.incomplete", file.blob))
    }

    /// Makes the folders.
    pub fn prepare(&self) -> Result<(), HubError> {
        for folder in [self.repo.blob_path(""), self.locks()] {
            fs::create_dir_all(&folder).map_err(HubError::cache(&folder))?;
        }
        Ok(())
    }

    /// Nobody else fetches this content while the lock is held; Python's programs heed it too. `waiting` is called before
    /// a wait.
    pub fn lock(&self, file: &HubFile, waiting: impl FnOnce()) -> Result<File, HubError> {
        let path = self.locks().join(format!("{}.lock", file.blob));
        let open = || File::options().create(true).append(true).open(&path);
        let lock = open().map_err(HubError::cache(&path))?;
        let locked = match lock.try_lock() {
            Err(TryLockError::WouldBlock) => {
                waiting();
                lock.lock()
            }
            Err(TryLockError::Error(error)) => Err(error),
            Ok(()) => Ok(()),
        };
        locked.map(|()| lock).map_err(HubError::cache(path))
    }

    /// Bytes that this user may still write here.
    pub fn free_bytes(&self) -> Result<u64, HubError> {
        let space = statvfs(&self.root).map_err(|error| HubError::cache(&self.root)(error.into()))?;
        Ok(space.blocks_available().saturating_mul(space.fragment_size()))
    }

    /// The cache's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Links the files, whose contents are all here, into the commit's snapshot, and makes it the revision's commit.
    pub fn link(&self, commit: &str, files: &[&HubFile]) -> Result<(), HubError> {
        let folder = self.snapshot(commit);
        for file in files {
            let link = folder.join(&file.name);
            if !has_bytes(&link, file.bytes) {
                self.link_one(&link, file).map_err(HubError::cache(link))?;
            }
        }
        if is_commit(&self.revision) || self.commit().as_deref() == Some(commit) {
            return Ok(());
        }
        self.repo.create_ref(commit).map_err(HubError::cache(&self.root))
    }

    /// Relative, so that the cache can be moved; a second name of the file where the disk knows no links. Made elsewhere
    /// and put in its place at once: another server may be reading there.
    fn link_one(&self, link: &Path, file: &HubFile) -> io::Result<()> {
        let new = self.locks().join(format!("{}.{}.link", file.blob, process::id()));
        for folder in [&self.locks(), link.parent().unwrap_or(link)] {
            fs::create_dir_all(folder)?;
        }
        let _ = fs::remove_file(&new);
        let up = "../".repeat(file.name.split('/').count() + 1);
        let linked = symlink(format!("{up}blobs/{}", file.blob), &new);
        linked.or_else(|_| fs::hard_link(self.blob(file), &new))?;
        fs::rename(new, link)
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo.pointer_path(commit)
    }

    fn locks(&self) -> PathBuf {
        self.root.join(".locks").join(&self.folder_name)
    }

    /// The revision's commit, as far as the cache knows.
    fn commit(&self) -> Option<String> {
        if is_commit(&self.revision) {
            return Some(self.revision.clone());
        }
        let reference = self.root.join(&self.folder_name).join("refs").join(&self.revision);
        let commit = fs::read_to_string(reference).ok()?.trim().to_owned();
        is_commit(&commit).then_some(commit)
    }
}

fn has_bytes(path: &Path, bytes: u64) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() == bytes)
}

/// Names of all files below, links followed, in order; a link into nowhere is no file.
fn names_below(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    gather(folder, "", DEPTH_MAX, &mut names);
    names.sort();
    names
}

fn gather(folder: &Path, prefix: &str, depth: usize, names: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        match fs::metadata(entry.path()) {
            Ok(kind) if kind.is_file() => names.push(name),
            Ok(kind) if kind.is_dir() && depth > 1 => gather(&entry.path(), &format!("{name}/"), depth - 1, names),
            _ => {}
        }
    }
}

/// A file that the index names and the folder lacks. A broken index is for whoever loads the model to tell.
fn missing_shard(folder: &Path) -> Option<String> {
    let index: Value = serde_json::from_slice(&fs::read(folder.join(INDEX)).ok()?).ok()?;
    let shards = index["weight_map"].as_object()?.values().filter_map(Value::as_str);
    shards.filter(|shard| !folder.join(shard).is_file()).min().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn cache(root: &Path, revision: &str) -> ModelCache {
        let settings = Settings {
            endpoint: String::new(),
            cache: root.into(),
            token: None,
            offline: true,
            revision: revision.into(),
        };
        ModelCache::new(&"o/n".parse().unwrap(), &settings)
    }

    /// A snapshot of these files, each with its own name as content.
    fn filled(root: &Path, names: &[&str]) -> ModelCache {
        let cache = cache(root, "main");
        cache.prepare().unwrap();
        let file = |name: &&str| HubFile {
            name: name.to_string(),
            bytes: name.len() as u64,
            blob: name.replace('/', "-"),
            sha256: None,
        };
        let files: Vec<_> = names.iter().map(file).collect();
        files.iter().for_each(|file| fs::write(cache.blob(file), &file.name).unwrap());
        cache.link(COMMIT, &files.iter().collect::<Vec<_>>()).unwrap();
        cache
    }

    #[test]
    fn a_snapshot_is_found_by_branch_and_by_commit() {
        let root = tempfile::tempdir().unwrap();
        let main = filled(root.path(), &["config.json", "model.safetensors", "Q8_0/m-Q8_0.gguf"]);
        let snapshot = root.path().join("models--o--n/snapshots").join(COMMIT);
        assert_eq!(main.complete(None), Ok(snapshot.clone()));
        assert_eq!(cache(root.path(), COMMIT).complete(None), Ok(snapshot.clone()));
        assert_eq!(main.complete(Some("q8_0")), Ok(snapshot.join("Q8_0/m-Q8_0.gguf")));
        assert_eq!(fs::read_to_string(snapshot.join("Q8_0/m-Q8_0.gguf")).unwrap(), "Q8_0/m-Q8_0.gguf");
        assert!(fs::read_link(snapshot.join("config.json")).unwrap().is_relative());
        assert!(main.complete(Some("q4_0")).unwrap_err().contains("Q8_0"));
        assert!(cache(root.path(), "v2").complete(None).unwrap_err().contains("no v2"));
    }

    #[test]
    fn what_a_snapshot_lacks_is_named() {
        let check = |names: &[&str], missing: &str| {
            let root = tempfile::tempdir().unwrap();
            let error = filled(root.path(), names).complete(None).unwrap_err();
            assert!(error.contains(missing), "{names:?}: {error}");
        };
        check(&["model.safetensors"], "config.json");
        check(&["config.json"], "model.safetensors");
        let root = tempfile::tempdir().unwrap();
        let cache = filled(root.path(), &["config.json", INDEX, "model-00001-of-00002.safetensors"]);
        let shards =
            r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
        fs::write(root.path().join("models--o--n/blobs").join(INDEX), shards).unwrap();
        assert!(cache.complete(None).unwrap_err().ends_with("lacks model-00002-of-00002.safetensors"));
    }
}
