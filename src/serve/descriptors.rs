//! How many connections there may be at once: as many as the process may have files, but for those that it needs itself.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Files beside connections: the model, rings, logs, processes and their pipes, the threads' event queues.
const OWN: u64 = 256;
/// Each costs memory of the system too.
const CONNECTIONS_MAX: u64 = 65_536;
/// Fewer are of no use to anybody.
const CONNECTIONS_MIN: u64 = 64;

/// Takes as many descriptors as this user may have, and tells for how many connections they are enough.
pub fn connections_max() -> Result<usize, String> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)
        .map_err(|error| format!("the limit of open files can't be read: {error}"))?;
    // What many systems start programs with (1024) is for those that use select(2). A refusal leaves what there was.
    let limit = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_or(soft, |()| hard);
    match limit.saturating_sub(OWN) {
        few if few < CONNECTIONS_MIN => Err(format!(
            "{limit} open files are too few for a server; raise the limit to {} or more (ulimit -n)",
            OWN + CONNECTIONS_MIN
        )),
        rest => Ok(rest.min(CONNECTIONS_MAX) as usize),
    }
}
