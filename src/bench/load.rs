//! One round of load: many requests on one thread, and the time of each.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream::FuturesUnordered};
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    select,
    time::{sleep, timeout},
};

use super::{
    answer::{Answer, Growing},
    client::Client,
    failure::Failure,
    progress::Progress,
    sse::EventStream,
    stop::Stop,
};

/// A request, ready to be sent.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its body.
    pub json: String,
    /// Tokens that its prompt is meant to have.
    pub input_tokens: u32,
    /// Tokens that are wanted.
    pub output_tokens: u32,
}

/// When requests are sent.
#[derive(Debug, Clone)]
pub struct Pacing {
    /// Moments at which they arrive, one each; none: as soon as there is room.
    pub arrivals: Option<Vec<Duration>>,
    /// So many are open at once at most; who arrives then waits, and its time counts from when it is sent.
    pub open_max: usize,
}

/// A round that is to be run.
pub struct Load<'a> {
    /// Who is asked.
    pub client: &'a Client,
    /// At which path.
    pub path: &'a str,
    /// For what.
    pub requests: &'a [Request],
    /// When.
    pub pacing: Pacing,
    /// How long one answer may take.
    pub answer_within: Duration,
}

/// What happened to a request.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When it was sent, counted from the round's start.
    pub start: Duration,
    /// Tokens that its prompt was meant to have.
    pub asked_input_tokens: u32,
    /// Its answer, or why there is none.
    pub outcome: Result<Answer, String>,
}

/// Whether a round came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Every request has its sample.
    Whole,
    /// A signal came; the requests that were open have no sample.
    Interrupted,
    /// Nobody listens at the server's address any more.
    ServerGone,
}

/// What a round brought.
#[derive(Debug)]
pub struct Run {
    /// In the order in which requests ended.
    pub samples: Vec<Sample>,
    /// From the first request's start to the last one's end.
    pub duration: Duration,
    /// The processor time that this process took.
    pub client_cpu: Duration,
    /// How it ended.
    pub ended: Ended,
}

impl Load<'_> {
    /// Runs it.
    pub async fn run(self, stop: &mut Stop, progress: &Progress) -> Run {
        let (start, cpu_before) = (Instant::now(), cpu_time());
        let mut open = FuturesUnordered::new();
        let mut samples = Vec::with_capacity(self.requests.len());
        let mut waiting = self.requests.iter().enumerate().peekable();
        let mut gone = false;
        let ended = loop {
            while let Some((_, request)) = waiting.next_if(|&(index, _)| {
                !gone && open.len() < self.pacing.open_max && self.arrival(index) <= start.elapsed()
            }) {
                open.push(self.ask(request, start));
            }
            let next = waiting.peek().filter(|_| !gone && open.len() < self.pacing.open_max).map(|&(index, _)| index);
            if open.is_empty() && next.is_none() {
                break if gone { Ended::ServerGone } else { Ended::Whole };
            }
            let arrival = next.map_or(Duration::ZERO, |index| self.arrival(index));
            select! {
                biased;
                () = stop.wanted() => break Ended::Interrupted,
                Some((sample, server_is_gone)) = open.next() => {
                    progress.count(&sample);
                    samples.push(sample);
                    gone |= server_is_gone;
                }
                () = sleep(arrival.saturating_sub(start.elapsed())), if next.is_some() => {}
            }
        };
        Run { samples, duration: start.elapsed(), client_cpu: cpu_time().saturating_sub(cpu_before), ended }
    }

    fn arrival(&self, index: usize) -> Duration {
        self.pacing.arrivals.as_ref().map_or(Duration::ZERO, |arrivals| arrivals[index])
    }

    /// One request; and whether its server is gone.
    async fn ask(&self, request: &Request, round: Instant) -> (Sample, bool) {
        let start = Instant::now();
        let answer = timeout(self.answer_within, self.answer(request, start)).await;
        let outcome = answer.unwrap_or(Err(Failure::TimedOut(self.answer_within)));
        let gone = outcome.as_ref().is_err_and(Failure::server_is_gone);
        let outcome = outcome.map_err(|failure| failure.to_string());
        (Sample { start: start - round, asked_input_tokens: request.input_tokens, outcome }, gone)
    }

    async fn answer(&self, request: &Request, start: Instant) -> Result<Answer, Failure> {
        let mut growing = Growing::new(start, request.output_tokens as usize);
        let mut events = EventStream::default();
        let take = |bytes: &[u8], now| events.feed(bytes, |data| growing.take(data, now));
        self.client.stream(self.path, &request.json, take).await?;
        growing.finish(Instant::now())
    }
}

/// Processor time of this process.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
