//! Where this user's data is kept: `shardwire` in the data folder (XDG's base directory specification).

use std::{env, path::PathBuf};

/// The folder, which may not exist yet; none where the user has no home.
pub fn folder() -> Option<PathBuf> {
    let absolute = |variable| env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join("shardwire"))
}
