//! News for the service manager, as sd_notify(3) has it: when requests may come, that the server lives, what it does, and
//! that it ends. Without `NOTIFY_SOCKET` in the environment nobody is told.

use std::time::Duration;

use actix_web::web;
use sd_notify::{NotifyState, watchdog_enabled};

use crate::{
    api::Api,
    supervisor::{RankReport, ReportedState},
};

/// How often it is looked what the server does.
const EVERY: Duration = Duration::from_secs(1);

/// Requests may come. Told once: what becomes of the ranks later is a matter of the status.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The server is on its way down.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Before there is anything else to tell.
pub fn preparing() {
    tell(&[NotifyState::Status("looking for the model")]);
}

/// Tells what the server does whenever that is something new, and while its own loops run, that it lives.
pub async fn follow(api: web::Data<Api>) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let watchdog = watchdog_enabled();
    // Half of the limit is the manager's own advice; a busy machine shall have more room.
    let pause = watchdog.map_or(EVERY, |limit| EVERY.min(limit / 4));
    let mut told = String::new();
    loop {
        let status = status(&api);
        if status != told {
            tell(&[NotifyState::Status(&status)]);
            told = status;
        }
        if watchdog.is_some() && api.liveness.trouble().is_none() {
            tell(&[NotifyState::Watchdog]);
        }
        tokio::time::sleep(pause).await;
    }
}

/// What the server does, in one line.
fn status(api: &Api) -> String {
    if api.admission.is_draining() {
        return format!("shutting down, requests inside: {}", api.admission.inside());
    }
    let report = api.supervisor.ranks();
    let loaded = |rank: &RankReport| match rank.state {
        ReportedState::Starting => Some(0.0),
        ReportedState::Loading => Some(rank.load_progress),
        ReportedState::Ready => Some(1.0),
        ReportedState::Stalled | ReportedState::Dead => None,
    };
    let shares: Option<Vec<f32>> = report.ranks.iter().map(loaded).collect();
    match (api.supervisor.health(), shares) {
        (Ok(()), _) => "ready".into(),
        (Err(_), Some(shares)) => {
            let percent = 100.0 * shares.iter().sum::<f32>() / report.world_size as f32;
            format!("loading, {percent:.0} % of the weights")
        }
        (Err(why), None) => why.lines().collect::<Vec<_>>().join(" "),
    }
}

/// Nobody may listen any more, which is no fault of ours.
fn tell(news: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(news) {
        tracing::debug!(%error, "the service manager can't be told");
    }
}
