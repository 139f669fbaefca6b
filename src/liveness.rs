//! Whether the server's own loops run: what `/livez` and systemd's watchdog want to know.
//!
//! HTTP alone proves little: its threads would go on answering while the loop that decides hangs. So a task on the main
//! thread asks the engine's loop for a sign, again and again, one question at a time; the supervisor's loop leaves its own
//! ([`Supervisor::silence`]). Ranks don't matter here: they may load for an hour, or be down.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{engine::EngineHandle, supervisor::Supervisor};

/// How often the engine is asked.
const EVERY: Duration = Duration::from_secs(1);
/// A loop that is silent for so long hangs. The longest that is no fault: the supervisor waits for a killed rank's process,
/// which ends only when its driver has let go of it.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);

/// The last signs of life.
#[derive(Clone)]
pub struct Liveness {
    supervisor: Arc<Supervisor>,
    engine: Pulse,
}

/// When something last gave a sign of life. Cheap to clone; all clones are of the same.
#[derive(Debug, Clone)]
pub struct Pulse {
    born: Instant,
    /// Milliseconds after its birth.
    last_ms: Arc<AtomicU64>,
}

impl Default for Pulse {
    /// Its birth is a sign of life.
    fn default() -> Self {
        Self { born: Instant::now(), last_ms: Arc::default() }
    }
}

impl Pulse {
    /// A sign of life.
    pub fn beat(&self) {
        self.last_ms.store(self.now_ms(), Relaxed);
    }

    /// Since the last one.
    pub fn silence(&self) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(self.last_ms.load(Relaxed)))
    }

    fn now_ms(&self) -> u64 {
        self.born.elapsed().as_millis() as u64
    }
}

impl Liveness {
    /// Of a server whose loops have just been started.
    pub fn new(supervisor: Arc<Supervisor>) -> Self {
        Self { supervisor, engine: Pulse::default() }
    }

    /// Which loop hangs, if one does.
    pub fn trouble(&self) -> Option<String> {
        let loops = [("engine", self.engine.silence()), ("supervisor", self.supervisor.silence())];
        let (name, silence) = loops.into_iter().find(|(_, silence)| *silence >= SILENCE_MAX)?;
        Some(format!("the {name}'s loop has given no sign of life for {} s", silence.as_secs()))
    }

    /// Follows the engine for as long as the server lives.
    pub async fn follow(self, engine: EngineHandle) {
        loop {
            // A loop that has ended answers at once, with nothing.
            if engine.sign_of_life().await.is_ok() {
                self.engine.beat();
            }
            tokio::time::sleep(EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_begins_anew_with_each_beat() {
        let pulse = Pulse { born: Instant::now() - Duration::from_secs(100), last_ms: Arc::default() };
        assert!(pulse.silence() >= Duration::from_secs(100));
        pulse.clone().beat();
        assert!(pulse.silence() < Duration::from_secs(100));
    }
}
