//! One file on its way into the cache: locked, continued where an earlier download ended, checked, and only then named.

use std::{
    io::Read,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use ureq::{Body, http::Response};

use super::{
    cache::ModelCache,
    client::Client,
    error::HubError,
    growing::Growing,
    listing::HubFile,
    patience::{FAILURES_MAX, Fault, pause_after},
    progress::{FileProgress, Progress, size},
};

/// What is read at once.
const CHUNK_BYTES: usize = 1 << 18;
/// A connection that brought this much was a good one: failures are counted anew.
const GOOD_BYTES: u64 = 16 << 20;
/// How often a pause looks whether it is still of use.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What all files of a download share.
pub struct Transfer<'a> {
    /// Whom to ask.
    pub client: &'a Client,
    /// Where it goes.
    pub cache: &'a ModelCache,
    /// The files' commit.
    pub commit: &'a str,
    /// Who watches.
    pub progress: &'a Progress,
    /// Set when another file has failed: the rest would be of no use now.
    pub stop: &'a AtomicBool,
}

/// Why a file is not there.
#[derive(Debug)]
pub enum Ended {
    /// Something went wrong.
    Failed(HubError),
    /// Something went wrong with another file.
    Stopped,
}

impl From<HubError> for Ended {
    fn from(error: HubError) -> Self {
        Self::Failed(error)
    }
}

impl Transfer<'_> {
    /// Fetches the file, unless another process has done so meanwhile.
    pub fn fetch(&self, file: &HubFile) -> Result<(), Ended> {
        let waiting = || self.progress.say(&format!("{}: another process is fetching it; waiting", file.name));
        let _lock = self.cache.lock(file, waiting)?;
        if self.cache.has(file) {
            self.progress.file(file, file.bytes).end();
            return Ok(());
        }
        let partial = self.cache.partial(file);
        if let Some(left) = partial.metadata().ok().map(|left| left.len()).filter(|&left| left > 0) {
            self.progress.say(&format!("{}: going on behind the {} that are there", file.name, size(left)));
        }
        let mut growing = Growing::open(partial, file)?;
        let watched = self.progress.file(file, growing.bytes);
        self.fill(&mut growing, file, &watched)?;
        growing.complete(self.cache.blob(file), file)?;
        watched.end();
        Ok(())
    }

    /// Asks on until all is there, or the failures are too many.
    fn fill(&self, growing: &mut Growing, file: &HubFile, watched: &FileProgress) -> Result<(), Ended> {
        let mut failures = 0;
        while growing.bytes < file.bytes {
            let before = growing.bytes;
            let (why, named) = match self.receive(growing, file, watched) {
                Ok(()) => continue,
                Err(Interruption::Ended(ended)) => return Err(ended),
                Err(Interruption::Network(Fault::Final(error))) => return Err(error.into()),
                Err(Interruption::Network(Fault::NoNetwork(why))) => (why, None),
                Err(Interruption::Network(Fault::Passing { why, pause })) => (why, pause),
            };
            failures = if growing.bytes >= before + GOOD_BYTES { 1 } else { failures + 1 };
            if failures >= FAILURES_MAX {
                let endpoint = self.client.endpoint().to_owned();
                return Err(HubError::Broken { file: file.name.clone(), endpoint, why }.into());
            }
            let pause = pause_after(failures, named);
            self.progress.say(&format!("{}: {why}; asking again in {:.1} s", file.name, pause.as_secs_f32()));
            self.wait(pause)?;
        }
        Ok(())
    }

    /// One connection: what comes is added.
    fn receive(&self, growing: &mut Growing, file: &HubFile, watched: &FileProgress) -> Result<(), Interruption> {
        let response = self.client.open(self.commit, &file.name, growing.bytes).map_err(Interruption::Network)?;
        if first_byte(&response) != Some(growing.bytes) {
            // It sends all of it, whatever was asked for.
            growing.clear()?;
            watched.at(0);
        }
        if response.status() == 416 {
            return Err(Interruption::broken("it has no byte where this download would go on; it begins anew"));
        }
        let mut body = response.into_body().into_reader();
        let mut chunk = vec![0; CHUNK_BYTES];
        while growing.bytes < file.bytes {
            self.go_on()?;
            let room = usize::try_from(file.bytes - growing.bytes).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
            match body.read(&mut chunk[..room]) {
                Ok(0) => return Err(Interruption::broken("the connection ended early")),
                Ok(count) => growing.add(&chunk[..count])?,
                Err(error) => return Err(Interruption::broken(&error.to_string())),
            }
            watched.at(growing.bytes);
        }
        Ok(())
    }

    fn wait(&self, pause: Duration) -> Result<(), Ended> {
        let end = Instant::now() + pause;
        while Instant::now() < end {
            self.go_on()?;
            thread::sleep(LOOK_EVERY.min(pause));
        }
        Ok(())
    }

    fn go_on(&self) -> Result<(), Ended> {
        if self.stop.load(Ordering::Relaxed) { Err(Ended::Stopped) } else { Ok(()) }
    }
}

/// Why a connection brought no more.
enum Interruption {
    Ended(Ended),
    Network(Fault),
}

impl Interruption {
    fn broken(why: &str) -> Self {
        Self::Network(Fault::Passing { why: why.to_owned(), pause: None })
    }
}

impl From<Ended> for Interruption {
    fn from(ended: Ended) -> Self {
        Self::Ended(ended)
    }
}

impl From<HubError> for Interruption {
    fn from(error: HubError) -> Self {
        Self::Ended(error.into())
    }
}

/// The place in the file of the first byte that comes; none where the response makes no sense.
fn first_byte(response: &Response<Body>) -> Option<u64> {
    match response.status().as_u16() {
        200 => Some(0),
        206 => {
            let range = response.headers().get("content-range")?.to_str().ok()?;
            range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
        }
        _ => None,
    }
}
