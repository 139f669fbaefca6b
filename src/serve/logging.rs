//! Logs: to standard error for people, to `server.log` for later. No text of a prompt or an answer is ever logged.

use std::{
    fs::{OpenOptions, create_dir_all},
    io::{IsTerminal, stderr},
    path::Path,
    sync::Mutex,
};

use tracing_subscriber::{EnvFilter, Layer, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Name of the server's own log in the log folder.
const FILE_NAME: &str = "server.log";

/// actix tells at info what our own lines tell better.
const DEFAULT_FILTER: &str = "info,actix_server=warn";

/// Starts logging; `RUST_LOG` chooses what, info and above without it.
pub fn start(folder: &Path) -> Result<(), String> {
    let path = folder.join(FILE_NAME);
    let fault = |error| format!("{}: {error} (--log-dir chooses another folder)", path.display());
    create_dir_all(folder).map_err(fault)?;
    let file = OpenOptions::new().create(true).append(true).open(&path).map_err(fault)?;
    let chosen = || EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let terminal = fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal()).with_filter(chosen());
    let file = fmt::layer().with_writer(Mutex::new(file)).with_ansi(false).with_filter(chosen());
    // Only a second server in one process could be too late, and there's none.
    let _ = tracing_subscriber::registry().with(terminal).with(file).try_init();
    Ok(())
}
