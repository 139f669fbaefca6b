//! Ctrl-C and SIGTERM as news for a command that wants to end in order.

use crossbeam::channel::{Receiver, Sender, bounded};
use tokio::{
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
};

/// Who wants an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// Ctrl-C (SIGINT): somebody at the terminal.
    Key,
    /// SIGTERM or SIGHUP: the system, or a terminal that went away.
    System,
}

/// From here on both kinds no longer end the process by themselves; each is told on the channel.
pub fn all() -> Result<Receiver<Interrupt>, String> {
    listen(&[
        (SignalKind::interrupt(), Interrupt::Key),
        (SignalKind::terminate(), Interrupt::System),
        (SignalKind::hangup(), Interrupt::System),
    ])
}

/// As [`all`], of Ctrl-C alone: the system's signals end the process as they always do.
pub fn keys() -> Result<Receiver<Interrupt>, String> {
    listen(&[(SignalKind::interrupt(), Interrupt::Key)])
}

/// One thread listens. While nobody takes the news, the newest are dropped.
fn listen(kinds: &[(SignalKind, Interrupt)]) -> Result<Receiver<Interrupt>, String> {
    let fault = |error: &dyn std::fmt::Display| format!("signals can't be received: {error}");
    let runtime = Builder::new_current_thread().enable_io().build().map_err(|error| fault(&error))?;
    let (sender, receiver) = bounded(4);
    {
        let _entered = runtime.enter();
        for &(kind, news) in kinds {
            let signals = signal(kind).map_err(|error| fault(&error))?;
            runtime.spawn(tell(signals, news, sender.clone()));
        }
    }
    let wait = move || runtime.block_on(std::future::pending::<()>());
    std::thread::Builder::new().name("sw-signals".into()).spawn(wait).map_err(|error| fault(&error))?;
    Ok(receiver)
}

async fn tell(mut signals: Signal, news: Interrupt, listener: Sender<Interrupt>) {
    while signals.recv().await.is_some() {
        let _ = listener.try_send(news);
    }
}
