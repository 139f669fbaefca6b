//! Shared memory that a killed server left behind.
//!
//! A link's names are gone as soon as its ranks have attached, a moment after they were given. Only a server killed within
//! that moment leaves them, and nobody will ever use them again: the next start sweeps them out.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

/// Where segments have their names.
pub const SHARED_MEMORY: &str = "/dev/shm";

/// No group takes this long to attach, so a name as old as this has no owner.
const ABANDONED_AFTER: Duration = Duration::from_secs(600);

/// Removes abandoned segments from the folder, those of other users where that is allowed; answers how many.
pub fn sweep(folder: &Path, now: SystemTime) -> usize {
    let is_abandoned = |meta: &fs::Metadata| {
        let age = meta.modified().ok().and_then(|at| now.duration_since(at).ok());
        meta.is_file() && age.is_some_and(|age| age > ABANDONED_AFTER)
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_segment))
        .filter(|entry| entry.metadata().is_ok_and(|meta| is_abandoned(&meta)))
        .filter(|entry| fs::remove_file(entry.path()).is_ok())
        .count()
}

/// Whether a link gave this name: `shardwire.<16 hexadecimal digits>.<epoch>.<role>`.
fn is_segment(name: &str) -> bool {
    let parts: Vec<_> = name.split('.').collect();
    let [product, link, epoch, role] = parts[..] else { return false };
    let is_hexadecimal = |text: &str| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    product == "shardwire" && is_hexadecimal(link) && is_number(epoch) && !role.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_segments_are_swept_out() {
        let folder = tempfile::tempdir().unwrap();
        let segments = ["shardwire.00ff00ff00ff00ff.0.steps", "shardwire.0123456789abcdef.12.meeting"];
        let others =
            ["shardwire.toolshort.0.steps", "shardwire.00ff00ff00ff00ff.x.steps", "sem.other", "shardwire.log"];
        for name in segments.iter().chain(&others) {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let now = SystemTime::now();
        assert_eq!(sweep(folder.path(), now), 0, "what is young may be in use");
        assert_eq!(sweep(folder.path(), now + ABANDONED_AFTER + Duration::from_secs(60)), segments.len());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), others.len());
        assert_eq!(sweep(&folder.path().join("absent"), now), 0);
    }
}
