//! A line in the log now and then, while there is work.

use std::time::Duration;

use crate::engine::{EngineHandle, EngineStats};

const EVERY: Duration = Duration::from_secs(10);

/// Logs what the engine has done since the last line, unless that is nothing.
pub async fn log(engine: EngineHandle) {
    let mut before = engine.stats();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let now = engine.stats();
        if now.steps_total != before.steps_total || now.waiting > 0 {
            line(&before, &now);
        }
        before = now;
    }
}

fn line(before: &EngineStats, now: &EngineStats) {
    let per_second = |before: u64, now: u64| now.saturating_sub(before) as f64 / EVERY.as_secs_f64();
    let prompt = per_second(before.prompt_tokens_total, now.prompt_tokens_total);
    let generation = per_second(before.generation_tokens_total, now.generation_tokens_total);
    let cache = 100 * now.blocks_used / now.blocks_total.max(1);
    tracing::info!(
        "{generation:.1} tokens/s generated, {prompt:.1} prompt tokens/s, {} running, {} waiting, KV cache {cache} % in use",
        now.running,
        now.waiting,
    );
}
