//! A signal that ends the measuring, as async code waits for it.

use std::thread;

use crossbeam::channel::Receiver;
use tokio::sync::watch;

use crate::interrupts::Interrupt;

/// Whether somebody wants the end.
#[derive(Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// From here on all interrupts come here.
    pub fn listen(interrupts: Receiver<Interrupt>) -> Self {
        let (sender, receiver) = watch::channel(false);
        thread::spawn(move || {
            while interrupts.recv().is_ok() {
                sender.send_replace(true);
            }
        });
        Self(receiver)
    }

    /// Comes back when it is wanted.
    pub async fn wanted(&mut self) {
        if self.0.wait_for(|&wanted| wanted).await.is_err() {
            // Nobody can tell any more.
            std::future::pending::<()>().await;
        }
    }
}
