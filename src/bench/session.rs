//! A server and the one thread on which it is asked.

use std::time::Duration;

use tokio::{
    runtime::{Builder, Runtime},
    select,
};

use super::{
    Halt,
    client::Client,
    figures::Figures,
    load::{Ended, Load, Pacing, Request, Run},
    progress::Progress,
    stop::Stop,
    target::Target,
};
use crate::{config::AskingFlags, interrupts};

/// What measuring needs.
#[derive(Debug)]
pub struct Session {
    runtime: Runtime,
    stop: Stop,
    answer_within: Duration,
    /// Who is measured.
    pub target: Target,
}

impl Session {
    /// Reaches or starts the server, for at most so many requests at once. Call it on the main thread, as
    /// [`crate::own_server::reach`] wants it.
    pub fn open(flags: &AskingFlags, open_max: u32) -> Result<Self, Halt> {
        let interrupts = interrupts::all().map_err(Halt::Refused)?;
        let target = Target::open(flags, open_max, &interrupts)?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Halt::Refused(format!("requests can't be sent: {error}")))?;
        Ok(Self { runtime, stop: Stop::listen(interrupts), answer_within: flags.request_timeout, target })
    }

    /// One round.
    pub fn run(&mut self, requests: &[Request], pacing: Pacing, label: String) -> Run {
        let (client, path) = (self.target.client.clone(), self.target.path());
        self.run_at(&client, path, requests, pacing, label)
    }

    /// The same, of another server.
    pub fn run_at(&mut self, client: &Client, path: &str, requests: &[Request], pacing: Pacing, label: String) -> Run {
        let progress = Progress::new(label, requests.len());
        let load = Load { client, path, requests, pacing, answer_within: self.answer_within };
        let run = self.runtime.block_on(load.run(&mut self.stop, &progress));
        progress.finish(&Figures::of(&run));
        run
    }

    /// Whatever else is to be asked; none if a signal came first.
    pub fn until_stopped<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        self.runtime.block_on(async {
            select! {
                biased;
                () = self.stop.wanted() => None,
                outcome = work => Some(outcome),
            }
        })
    }

    /// A round that is not measured; whether all is well after it.
    pub fn warm_up(&mut self, requests: &[Request], open_max: usize) -> Result<(), Halt> {
        if requests.is_empty() {
            return Ok(());
        }
        let run = self.run(requests, Pacing { arrivals: None, open_max }, "warm-up".into());
        let failure = run.samples.iter().find_map(|sample| sample.outcome.as_ref().err());
        match (run.ended, failure) {
            (Ended::Interrupted, _) => Err(Halt::Interrupted),
            (Ended::ServerGone, _) => Err(Halt::Refused(self.obituary())),
            // Measuring would only bring more of the same.
            (Ended::Whole, Some(why)) if run.samples.iter().all(|sample| sample.outcome.is_err()) => {
                Err(Halt::Refused(format!("{}: {why}", self.target.server.remote.url(self.target.path()))))
            }
            (Ended::Whole, _) => Ok(()),
        }
    }

    /// What to say of a server that is gone.
    pub fn obituary(&mut self) -> String {
        let url = self.target.server.remote.url("");
        self.target.server.obituary().unwrap_or_else(|| format!("nobody listens at {url} any more"))
    }
}
