//! A model's files into the cache, a few at a time.

use std::{
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    cache::ModelCache,
    choice::Choice,
    client::Client,
    error::HubError,
    listing::{HubFile, Listing},
    name::HubName,
    patience::Fault,
    progress::{Progress, size},
    transfer::{Ended, Transfer},
};

/// Files on their way at once.
const AT_ONCE: usize = 4;

/// Fetches what is missing of the choice; where the model then is.
pub fn fetch(
    name: &HubName,
    client: &Client,
    cache: &ModelCache,
    listing: &Listing,
    choice: &Choice,
) -> Result<PathBuf, Fault> {
    let files = facts(client, listing, choice)?;
    let missing: Vec<_> = files.iter().filter(|file| !cache.has(file)).collect();
    if !missing.is_empty() {
        cache.prepare()?;
        check_space(name, cache, &missing)?;
        let bytes = missing.iter().fold(0, |sum: u64, file| sum.saturating_add(file.bytes));
        let progress = Progress::new(&name.repo, missing.len(), bytes, &cache.root().display().to_string());
        let stop = AtomicBool::new(false);
        let transfer = Transfer { client, cache, commit: &listing.commit, progress: &progress, stop: &stop };
        let fetched = fetch_all(&transfer, &missing);
        progress.end(fetched.is_ok());
        fetched?;
    }
    cache.link(&listing.commit, &files.iter().collect::<Vec<_>>())?;
    Ok(cache.path_of(&listing.commit, choice))
}

impl From<HubError> for Fault {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

/// The chosen files with size and content.
fn facts(client: &Client, listing: &Listing, choice: &Choice) -> Result<Vec<HubFile>, Fault> {
    let listed = |name: &String| listing.files.iter().find(|file| file.name == *name);
    choice.names().iter().filter_map(listed).map(|file| client.facts(&listing.commit, file)).collect()
}

/// A download that can't end well is not begun.
fn check_space(name: &HubName, cache: &ModelCache, missing: &[&HubFile]) -> Result<(), HubError> {
    let there = |file: &HubFile| cache.partial(file).metadata().map_or(0, |partial| partial.len());
    let left = |file: &&HubFile| file.bytes.saturating_sub(there(file));
    let needed = missing.iter().map(left).fold(0, u64::saturating_add);
    let free = cache.free_bytes()?;
    if needed <= free {
        return Ok(());
    }
    Err(HubError::NoSpace {
        name: name.repo.clone(),
        needed: size(needed),
        free: size(free),
        path: cache.root().to_path_buf(),
    })
}

/// All of them; the first failure ends the others.
fn fetch_all(transfer: &Transfer, files: &[&HubFile]) -> Result<(), HubError> {
    let next = AtomicUsize::new(0);
    let first_failure = Mutex::new(None);
    let work = || {
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            match transfer.fetch(file) {
                Ok(()) => {}
                Err(Ended::Stopped) => return,
                Err(Ended::Failed(error)) => {
                    transfer.stop.store(true, Ordering::Relaxed);
                    first_failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    return;
                }
            }
        }
    };
    thread::scope(|scope| (0..AT_ONCE.min(files.len())).for_each(|_| drop(scope.spawn(work))));
    first_failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}
