//! `shardwire bench recover`: a rank is killed now and then, while every stream must go on as if nothing had happened.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{
    Halt, SOME_FAILED,
    client::Client,
    conditions::Conditions,
    failure::Failure,
    figures::{Spread, ms},
    load::Request,
    memory, results,
    session::Session,
    sse::EventStream,
    table::{PARTS, aligned, number},
    workload::Workload,
};
use crate::{
    config::{BenchRecoverFlags, PromptFlags},
    remote::Remote,
};

/// How often the ranks are looked at: the times told are as exact as that.
const TICK: Duration = Duration::from_millis(2);
/// How long after a request that failed the next one follows.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// One rank killed.
#[derive(Debug, Clone, Copy)]
struct Kill {
    rank: usize,
    pid: i32,
    at: Instant,
    /// When the server knew; no piece that comes later is of the group that was killed.
    noticed: Instant,
    /// When every rank was ready again.
    ready: Instant,
}

/// What became of one request.
#[derive(Debug)]
struct Told {
    start: Instant,
    /// When each piece came.
    pieces: Vec<Instant>,
    text: String,
    outcome: Result<(), Failure>,
}

/// Measures; the exit code: 0 if no request was lost and no text is another than undisturbed.
pub fn measure(flags: &BenchRecoverFlags) -> Result<u8, Halt> {
    results::check_writable([flags.asking.json.as_deref(), None])?;
    let mut asking = flags.asking.clone();
    if asking.server.url.is_none() {
        let named = asking.server.serve_words.iter().any(|word| word.to_string_lossy().starts_with("--max-restarts"));
        let restarts_max = format!("--max-restarts={}", flags.kills + 1);
        asking.server.serve_words.extend((!named).then(|| restarts_max.into()));
    }
    let mut session = Session::open(&asking, flags.streams)?;
    let Some(server) = session.target.pid else {
        let why = "ranks are killed by their process ids: --url must name a Shardwire on this machine, of this user";
        return Err(Halt::Refused(why.into()));
    };
    let mut workload = Workload::open(&asking, &PromptFlags::FIXED, 0, &session.target)?;
    let requests = workload.round(flags.streams as usize, &session.target);
    let load = Load {
        client: session.target.client.clone(),
        path: session.target.path(),
        answer_within: asking.request_timeout,
        over: AtomicBool::new(true),
    };
    let undisturbed = session.until_stopped(load.streams(&requests)).ok_or(Halt::Interrupted)?;
    let expected = expected(&undisturbed).map_err(Halt::Refused)?;
    load.over.store(false, Relaxed);
    let remote = session.target.server.remote.clone();
    let murder = Murder { remote, server, count: flags.kills, every: flags.every, limit: asking.request_timeout };
    let (told, kills) = thread::scope(|scope| {
        let killing = scope.spawn(|| {
            let kills = murder.run(asking.seed, &load.over);
            load.over.store(true, Relaxed);
            kills
        });
        let told = session.until_stopped(load.streams(&requests));
        load.over.store(true, Relaxed);
        (told, killing.join().unwrap_or_else(|_| Err("the killing broke its own rules; this is a bug".into())))
    });
    let told = told.ok_or(Halt::Interrupted)?;
    let kills = kills.map_err(|why| Halt::Refused(session.target.server.obituary().unwrap_or(why)))?;
    let findings = Findings::of(&told, &expected, kills);
    let name = format!("{}, {} streams, a rank killed every {} s", workload.name, flags.streams, flags.every.as_secs());
    let conditions = Conditions::of(&session.target, &asking.server.serve_words, name);
    println!("{}\n{}", conditions.text(), findings.table().trim_end());
    if let Some(path) = &asking.json {
        results::write(path, &format!("{}\n", findings.json(&conditions)))?;
    }
    Ok(if findings.lost.is_empty() && findings.wrong == 0 { 0 } else { SOME_FAILED })
}

/// The text of each stream.
fn expected(undisturbed: &[Vec<Told>]) -> Result<Vec<String>, String> {
    let text = |told: &Vec<Told>| match told.first() {
        Some(Told { outcome: Ok(()), text, .. }) => Ok(text.clone()),
        Some(Told { outcome: Err(why), .. }) => Err(format!("before any rank was killed: {why}")),
        None => Err("nothing was asked".into()),
    };
    undisturbed.iter().map(text).collect()
}

/// Streams that ask the same again and again.
struct Load {
    client: Client,
    path: &'static str,
    answer_within: Duration,
    /// Whether the answers that are open are the last.
    over: AtomicBool,
}

impl Load {
    /// All answers of each stream, at least one.
    async fn streams(&self, requests: &[Request]) -> Vec<Vec<Told>> {
        join_all(requests.iter().map(|request| self.stream(request))).await
    }

    async fn stream(&self, request: &Request) -> Vec<Told> {
        let mut all = Vec::new();
        loop {
            let told = self.ask(request).await;
            let failed = told.outcome.is_err();
            all.push(told);
            if self.over.load(Relaxed) {
                return all;
            }
            if failed {
                sleep(AFTER_FAILURE).await;
            }
        }
    }

    async fn ask(&self, request: &Request) -> Told {
        let mut told = Told { start: Instant::now(), pieces: Vec::new(), text: String::new(), outcome: Ok(()) };
        let (mut events, mut ended) = (EventStream::default(), false);
        let take = |bytes: &[u8], now| {
            events.feed(bytes, |data| {
                ended |= data == b"[DONE]";
                told.take(data, now)
            })
        };
        let asked = timeout(self.answer_within, self.client.stream(self.path, &request.json, take)).await;
        told.outcome = match asked {
            Ok(Ok(())) if !ended => Err(Failure::BrokenOff("the stream ended without its end".into())),
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::TimedOut(self.answer_within)),
        };
        told
    }
}

impl Told {
    fn take(&mut self, data: &[u8], now: Instant) -> Result<(), Failure> {
        if data == b"[DONE]" {
            return Ok(());
        }
        let event: Value = serde_json::from_slice(data)
            .map_err(|error| Failure::Malformed(format!("an event that is none ({error})")))?;
        if let Some(message) = event["error"]["message"].as_str() {
            return Err(Failure::Told(message.to_owned()));
        }
        let choice = &event["choices"][0];
        if let Some(text) = choice["text"].as_str().or(choice["delta"]["content"].as_str()) {
            self.text.push_str(text);
            self.pieces.push(now);
        }
        Ok(())
    }

    /// From a kill to the next piece, of an answer that was open then.
    fn pause(&self, kill: &Kill) -> Option<Duration> {
        let next = self.pieces.iter().find(|&&piece| piece > kill.noticed)?;
        (self.start < kill.at).then(|| *next - kill.at)
    }
}

/// Who kills, and when.
struct Murder {
    remote: Remote,
    /// The process whose ranks they are.
    server: u32,
    count: u32,
    /// Between the ranks' readiness and the next death.
    every: Duration,
    /// How long a restart may take.
    limit: Duration,
}

/// What of the ranks matters here.
struct Ranks {
    epoch: u64,
    /// None of a rank that is gone.
    pids: Vec<Option<i32>>,
    ready: bool,
}

impl Murder {
    /// Kills until it is over: a rank by chance each time, the same ones for the same seed.
    fn run(&self, seed: u64, over: &AtomicBool) -> Result<Vec<Kill>, String> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut kills = Vec::new();
        for index in 1..=self.count {
            let pause = Instant::now();
            while pause.elapsed() < self.every {
                if over.load(Relaxed) {
                    return Ok(kills);
                }
                thread::sleep(TICK);
            }
            let ranks = self.ranks()?;
            let rank = rng.random_range(0..ranks.pids.len());
            let pid = ranks.pids[rank].ok_or_else(|| format!("rank {rank} is dead, and nobody here killed it"))?;
            // What a server tells is an allegation, and this one a matter of life and death.
            if memory::server_of_rank(pid.cast_unsigned()) != Some(self.server) {
                return Err(format!("process {pid} is no rank of process {}", self.server));
            }
            let at = Instant::now();
            kill(Pid::from_raw(pid), Signal::SIGKILL)
                .map_err(|error| format!("rank {rank} (pid {pid}) can't be killed: {error}"))?;
            let noticed = self.wait(over, |now| now.epoch > ranks.epoch || now.pids[rank].is_none())?;
            let ready = self.wait(over, |now| now.epoch > ranks.epoch && now.ready)?;
            let (count, seconds) = (self.count, (ready - at).as_secs_f64());
            eprintln!("kill {index} of {count}: rank {rank} (pid {pid}), all ranks ready again after {seconds:.2} s");
            kills.push(Kill { rank, pid, at, noticed, ready });
        }
        Ok(kills)
    }

    fn wait(&self, over: &AtomicBool, condition: impl Fn(&Ranks) -> bool) -> Result<Instant, String> {
        let start = Instant::now();
        while start.elapsed() < self.limit && !over.load(Relaxed) {
            if condition(&self.ranks()?) {
                return Ok(Instant::now());
            }
            thread::sleep(TICK);
        }
        Err(format!("the ranks did not come back within {} s", start.elapsed().as_secs()))
    }

    fn ranks(&self) -> Result<Ranks, String> {
        let url = self.remote.url("/ranks");
        let answer = self.remote.get("/ranks").map_err(|error| format!("{url}: {error}"))?;
        let body: Value = serde_json::from_str(&answer.text).unwrap_or_default();
        let ranks = body["ranks"].as_array().filter(|ranks| !ranks.is_empty());
        let ranks = ranks.ok_or_else(|| format!("{url} tells of no ranks (HTTP {})", answer.status))?;
        let pid = |rank: &Value| i32::try_from(rank["pid"].as_i64()?).ok().filter(|&pid| pid > 1);
        Ok(Ranks {
            epoch: body["epoch"].as_u64().unwrap_or(0),
            pids: ranks.iter().map(pid).collect(),
            ready: ranks.iter().all(|rank| rank["state"] == "ready"),
        })
    }
}

/// What it comes down to.
struct Findings {
    requests: usize,
    /// Why, of each request that has no whole answer.
    lost: Vec<String>,
    /// Answers with another text than undisturbed.
    wrong: usize,
    kills: Vec<Kill>,
    /// Answers that were open at a kill, each as often as that happened.
    disturbed: Option<Spread>,
    restart: Option<Spread>,
}

impl Findings {
    fn of(told: &[Vec<Told>], expected: &[String], kills: Vec<Kill>) -> Self {
        let all = || told.iter().flatten();
        let lost = all().filter_map(|told| told.outcome.as_ref().err()).map(Failure::to_string).collect();
        let is_wrong = |told: &&Told, expected: &String| told.outcome.is_ok() && told.text != *expected;
        let wrong = told.iter().zip(expected);
        let wrong = wrong.map(|(told, expected)| told.iter().filter(|told| is_wrong(told, expected)).count()).sum();
        let pauses = kills.iter().flat_map(|kill| all().filter_map(|told| told.pause(kill))).map(ms).collect();
        let restarts = kills.iter().map(|kill| ms(kill.ready - kill.at)).collect();
        let (disturbed, restart) = (Spread::of(pauses), Spread::of(restarts));
        Self { requests: all().count(), lost, wrong, kills, disturbed, restart }
    }

    fn table(&self) -> String {
        let heads = PARTS.iter().map(|(name, _)| (*name).to_owned()).collect();
        let mut rows = vec![("milliseconds".to_owned(), heads)];
        for (name, spread) in [("kill to next token", self.disturbed), ("kill to ranks ready", self.restart)] {
            let cells = PARTS.iter().map(|(_, of)| spread.map_or("–".into(), |spread| number(of(&spread)))).collect();
            rows.push((name.to_owned(), cells));
        }
        let mut text = format!(
            "{} requests, {} lost, {} wrong texts; {} restarts, {} answers disturbed\n\n{}",
            self.requests,
            self.lost.len(),
            self.wrong,
            self.kills.len(),
            self.disturbed.map_or(0, |spread| spread.count),
            aligned(&rows)
        );
        let mut lost = self.lost.clone();
        lost.sort();
        for same in lost.chunk_by(|a, b| a == b) {
            text.push_str(&format!("lost: {} × {}\n", same.len(), same[0]));
        }
        text
    }

    fn json(&self, conditions: &Conditions) -> Value {
        let kill = |kill: &Kill| json!({"rank": kill.rank, "pid": kill.pid, "ready_ms": ms(kill.ready - kill.at)});
        json!({
            "command": "bench recover",
            "conditions": conditions.json(),
            "requests": self.requests,
            "requests_lost": self.lost.len(),
            "texts_wrong": self.wrong,
            "restarts": self.kills.len(),
            "next_token_ms": self.disturbed,
            "ready_ms": self.restart,
            "kills": self.kills.iter().map(kill).collect::<Vec<_>>(),
            "failures": self.lost,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_those_of_answers_open_at_a_kill() {
        let zero = Instant::now();
        let at = |after: u64| zero + Duration::from_millis(after);
        let kill = Kill { rank: 0, pid: 7, at: at(100), noticed: at(105), ready: at(300) };
        let pause = |start, pieces: &[u64]| {
            let pieces = pieces.iter().copied().map(at).collect();
            let told = Told { start: at(start), pieces, text: String::new(), outcome: Ok(()) };
            told.pause(&kill).map(ms)
        };
        assert_eq!(pause(0, &[50, 102, 350, 351]), Some(250.0), "what was on its way is no sign of the next group");
        assert_eq!(pause(0, &[50, 102]), None, "it ended before");
        assert_eq!(pause(200, &[350]), None, "it began after");
    }
}
