//! Models by the names that they have on Hugging Face's hub: looked up, fetched where they are missing, and kept in the
//! cache that Hugging Face's own programs share.
//!
//! The hub is asked which commit a branch stands for; what the cache lacks of it is fetched ([`choice`] says what a server
//! needs, [`fetch`] and [`transfer`] bring it). Where the hub can't be asked, a complete model in the cache is served.
//! Nothing incomplete ever looks complete ([`cache`]).

mod cache;
mod certificates;
mod choice;
mod client;
mod error;
mod fetch;
mod gguf;
mod growing;
mod listing;
mod name;
mod patience;
mod progress;
mod settings;
mod transfer;

use std::{path::PathBuf, thread};

use crossbeam::{
    channel::{Receiver, bounded},
    select,
};

use self::{cache::ModelCache, client::Client, name::HubName, patience::Fault, settings::Settings};
pub use self::{certificates::root_certificates, error::HubError};
use crate::{config::HubFlags, default_model, interrupts::Interrupt};

/// Where the model is that somebody named on a command line: a folder or file, a name on the hub, or, if there is no name,
/// the default model. What is not on this machine is fetched, with its progress on standard error. The error is one line.
pub fn model_path(model: Option<&str>, flags: &HubFlags) -> Result<PathBuf, String> {
    let Some(model) = model else { return default_model::locate().map_err(one_line) };
    let path = PathBuf::from(model);
    if path.exists() {
        return Ok(path);
    }
    match model.parse() {
        Ok(name) => locate(&name, flags).map_err(one_line),
        Err(name::NotAName) => Err(format!(
            "--model {model}: there is no such folder or file, and names on Hugging Face's hub are OWNER/NAME or \
             OWNER/NAME:QUANT"
        )),
    }
}

/// As [`model_path`]; none where an interrupt comes first. What was fetched until then is kept, and continued next time.
pub fn model_path_unless(
    interrupts: &Receiver<Interrupt>,
    model: Option<String>,
    flags: HubFlags,
) -> Option<Result<PathBuf, String>> {
    let (sender, found) = bounded(1);
    // Nobody waits for it once an interrupt has come: the process ends.
    thread::spawn(move || sender.send(model_path(model.as_deref(), &flags)));
    select! {
        recv(found) -> path => Some(path.unwrap_or_else(|_| Err("the look-up of the model broke; this is a bug".into()))),
        recv(interrupts) -> _ => None,
    }
}

fn one_line(error: impl ToString) -> String {
    error.to_string().lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// The model's folder in the cache, or its GGUF file.
fn locate(name: &HubName, flags: &HubFlags) -> Result<PathBuf, HubError> {
    let settings = Settings::of(flags)?;
    let cache = ModelCache::new(name, &settings);
    let cached = || cache.complete(name.quant.as_deref());
    if settings.offline {
        return cached().map_err(|missing| HubError::Offline { name: name.repo.clone(), missing });
    }
    let client = Client::new(name, &settings)?;
    let listing = match client.listing(&settings.revision) {
        Ok(listing) => listing,
        // A model that is here can be served, whatever the hub says or doesn't say today.
        Err(fault) => {
            let missing = match cached() {
                Ok(path) => return Ok(served_instead(path, &told(name, &client, fault, ""))),
                Err(missing) => missing,
            };
            return Err(told(name, &client, fault, &missing));
        }
    };
    let choice = choice::choose(&listing.names(), name.quant.as_deref())
        .map_err(|why| HubError::Choice { name: name.repo.clone(), why })?;
    fetch::fetch(name, &client, &cache, &listing, &choice).map_err(|fault| told(name, &client, fault, "not all of it"))
}

fn served_instead(path: PathBuf, error: &HubError) -> PathBuf {
    let why = match error {
        HubError::Unreachable { endpoint, why, .. } => format!("{endpoint} can't be reached ({why})"),
        other => other.to_string(),
    };
    eprintln!("shardwire: {why}; the copy in the cache is taken: {}", path.display());
    path
}

/// A fault of the network as it is told where no attempt is left.
fn told(name: &HubName, client: &Client, fault: Fault, missing: &str) -> HubError {
    match fault {
        Fault::Final(error) => error,
        Fault::NoNetwork(why) | Fault::Passing { why, .. } => HubError::Unreachable {
            name: name.repo.clone(),
            endpoint: client.endpoint().to_owned(),
            why,
            missing: missing.to_owned(),
        },
    }
}
