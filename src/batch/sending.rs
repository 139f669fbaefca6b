//! One request until it has its answer: what is asked again, and after which pause.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};

use super::{News, line::Request, record::Record};
use crate::remote::{Answer, Remote};

/// How often an answer that tells of a fault of the server is asked for again; its ranks may be restarting.
const FAULT_RETRIES: u32 = 3;
/// How often a server that can't be reached is tried again before it is given up: half a minute in all.
const REACH_RETRIES: u32 = 6;
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// A thread that sends requests, one after the other.
pub struct Sending {
    /// The server.
    pub remote: Remote,
    /// How long a request may take, pauses included.
    pub limit: Duration,
    /// What to send.
    pub requests: Receiver<Request>,
    /// What came of it.
    pub news: Sender<News>,
    /// Disconnected: what was not begun is not begun any more.
    pub stopped: Arc<Receiver<()>>,
}

impl Sending {
    /// Sends until there are no more requests, or until told to stop.
    pub fn run(self) {
        while let Ok(request) = self.requests.recv() {
            if super::is_stopped(&self.stopped) {
                break;
            }
            let told = self.ask(request).is_some_and(|news| self.news.send(news).is_ok());
            if !told {
                break;
            }
        }
    }

    /// None where it was told to stop while it waited to ask again.
    fn ask(&self, request: Request) -> Option<News> {
        let start = Instant::now();
        let (mut faults, mut unreached, mut refusals) = (0, 0, 0);
        loop {
            let result = self.remote.post(request.path, &request.body);
            let left = self.limit.saturating_sub(start.elapsed());
            let pause = match &result {
                Ok(answer) if is_busy(answer.status) => next(&mut refusals, u32::MAX).map(|pause| later(pause, answer)),
                Ok(answer) if is_fault(answer.status) => next(&mut faults, FAULT_RETRIES),
                Ok(_) | Err(ureq::Error::Timeout(ureq::Timeout::Global)) => None,
                Err(_) => next(&mut unreached, REACH_RETRIES),
            };
            match pause.filter(|&pause| pause < left) {
                Some(pause) if self.wait(pause) => {}
                Some(_) => return None,
                None => return Some(self.outcome(request, result)),
            }
        }
    }

    fn outcome(&self, request: Request, result: Result<Answer, ureq::Error>) -> News {
        match result {
            Ok(answer) => News::Answered(Record::answered(request, answer)),
            Err(ureq::Error::Timeout(_)) => {
                let message = format!("no answer within {} s (--request-timeout)", self.limit.as_secs());
                News::Answered(Record::unanswered(request, message))
            }
            Err(error) => News::ServerGone(format!("{}: {error}", self.remote.url(request.path))),
        }
    }

    /// Whether the pause came to its end.
    fn wait(&self, pause: Duration) -> bool {
        self.stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout)
    }
}

/// Too many requests, or not ready: the server wants to be asked later.
fn is_busy(status: u16) -> bool {
    matches!(status, 429 | 503)
}

/// Waited too long for its turn, or the server lost its ranks, or what stands before it could not reach it.
fn is_fault(status: u16) -> bool {
    matches!(status, 408 | 500 | 502 | 504)
}

/// The pause before the next try, doubling from half a second; none after `retries` tries.
fn next(tried: &mut u32, retries: u32) -> Option<Duration> {
    let pause = Duration::from_millis(500 << (*tried).min(7)).min(PAUSE_MAX);
    *tried += 1;
    (*tried <= retries).then_some(pause)
}

/// The server's word counts where it gives one.
fn later(pause: Duration, answer: &Answer) -> Duration {
    answer.retry_after_s.map_or(pause, |seconds| Duration::from_secs(seconds.max(1)).min(PAUSE_MAX))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let mut tried = 0;
        let pauses: Vec<_> = std::iter::from_fn(|| next(&mut tried, 3)).map(|pause| pause.as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000]);
        let mut tried = 40;
        assert_eq!(next(&mut tried, u32::MAX), Some(PAUSE_MAX));
    }

    #[test]
    fn the_server_says_when_to_ask_again() {
        let answer = |retry_after_s| Answer { status: 429, retry_after_s, request_id: None, text: String::new() };
        let own = Duration::from_millis(500);
        for (said, expected) in [(None, 0.5), (Some(0), 1.0), (Some(7), 7.0), (Some(100_000), 60.0)] {
            assert_eq!(later(own, &answer(said)).as_secs_f64(), expected, "{said:?}");
        }
    }

    /// A server that answers with these statuses, one connection each; its address.
    fn server(statuses: &'static [u16]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for status in statuses {
                let mut stream = listener.accept().unwrap().0;
                let mut request = Vec::new();
                // The body is the last that is sent, and it ends so.
                while !request.ends_with(b"{}") {
                    let mut chunk = [0; 1024];
                    let count = stream.read(&mut chunk).unwrap();
                    request.extend_from_slice(&chunk[..count]);
                }
                let head = "content-type: application/json\r\ncontent-length: 2\r\nconnection: close";
                write!(stream, "HTTP/1.1 {status} x\r\n{head}\r\n\r\n{{}}").unwrap();
            }
        });
        url
    }

    fn ask(url: &str, stopped: Receiver<()>) -> Option<News> {
        let (requests, news) = (crossbeam::channel::never(), crossbeam::channel::bounded(1).0);
        let (remote, limit) = (Remote::new(url, None, None).unwrap(), Duration::from_secs(600));
        let request = Request { id: String::new(), custom_id: String::new(), path: "/v1/x", body: "{}".into() };
        Sending { remote, limit, requests, news, stopped: Arc::new(stopped) }.ask(request)
    }

    #[test]
    fn a_busy_server_is_asked_again() {
        for (statuses, expected) in [(&[200][..], 200), (&[429, 500, 200], 200), (&[400], 400)] {
            let answer = ask(&server(statuses), crossbeam::channel::never());
            let Some(News::Answered(record)) = answer else { panic!("{statuses:?}: no answer") };
            assert_eq!(record.response.unwrap().status_code, expected, "{statuses:?}");
        }
    }

    #[test]
    fn a_stopped_run_does_not_wait_for_a_busy_server() {
        let (stop, stopped) = crossbeam::channel::bounded(0);
        drop(stop);
        assert!(ask(&server(&[503]), stopped).is_none());
    }
}
