//! Logs: to standard error for people, to `server.log` for later. No text of a prompt or an answer is ever logged.

use std::{
    fs::{OpenOptions, create_dir_all},
    io::{IsTerminal, stderr},
    panic::{self, PanicHookInfo},
    path::Path,
    sync::Mutex,
    thread,
};

use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::config::LogFormat;

/// Name of the server's own log in the log folder.
const FILE_NAME: &str = "server.log";

/// actix tells at info what our own lines tell better.
const DEFAULT_FILTER: &str = "info,actix_server=warn";

/// Starts logging; `RUST_LOG` chooses what, info and above without it.
pub fn start(folder: &Path, format: LogFormat) -> Result<(), String> {
    let path = folder.join(FILE_NAME);
    let fault = |error| format!("{}: {error} (--log-dir chooses another folder)", path.display());
    create_dir_all(folder).map_err(fault)?;
    let file = OpenOptions::new().create(true).append(true).open(&path).map_err(fault)?;
    let terminal = layer(stderr, stderr().is_terminal(), format);
    // Only a second server in one process could be too late, and there's none.
    let _ = tracing_subscriber::registry().with(terminal).with(layer(Mutex::new(file), false, format)).try_init();
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// A panic as one line. Its words may quote a prompt, unless they stand in our own code as they are: such are for who asks
/// to debug.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("no words");
    let literal = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("its words are told at debug");
    tracing::error!(thread = thread.name().unwrap_or("?"), place, "panicked: {literal}");
    tracing::debug!(place, message, "what the panic said");
}

/// Lines for one place.
fn layer<S, W>(writer: W, colours: bool, format: LogFormat) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // A full disk costs lines: to complain of it on standard error, which may lie on the same, would cost the server.
    let lines = fmt::layer().with_writer(writer).with_ansi(colours).log_internal_errors(false);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    lines.with_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER)))
}
