//! A rank that is killed, stands still, panics or runs out of memory, while the server is idle, in prefill, in decode, or
//! draining. Each answer equals that of ranks which live.

use nix::sys::signal::Signal;
use serde_json::json;

use super::{
    COMPLETIONS, Moment, TARGETS, Target, check_no_segment_stays, check_nothing_stays, segments, start, state, texts,
    workers,
};
use crate::server::wait_for;

/// One fault. `words` are what the server says of it.
fn check(target: Target, kind: &str, words: &str, moment: Moment, undisturbed: &[String]) {
    let fault = format!("rank={},kind={kind},{}", target.rank, moment.order());
    let mut server = start(target, Some(&fault));
    if moment == Moment::Idle {
        let is_stopped = || workers(&server, target).iter().any(|&pid| matches!(state(pid), Some('T' | 't')));
        let is_back = || server.get_json("/ranks")["epoch"] == 1 && server.get("/health").0 == 200;
        wait_for("the fault", || (if kind == "stop" { is_stopped() } else { is_back() }).then_some(()));
    }
    let drains = moment == Moment::Draining;
    let told = texts(&server, target, || {
        if drains {
            server.signal(Signal::SIGTERM);
        }
    });
    assert_eq!(told, undisturbed, "{fault}");
    if !drains {
        assert_eq!(server.get_json("/ranks")["restarts"], 1, "{fault}");
        assert_eq!(server.metric("shardwire:sequences_failed_total"), 0.0, "{fault}");
        server.signal(Signal::SIGTERM);
    }
    assert_eq!(server.wait().code(), Some(0), "{fault}");
    assert_eq!(workers(&server, target).len(), 2 * target.ranks, "two starts of each rank");
    let log = server.log("server.log");
    let restarts: Vec<_> = log.lines().filter(|line| line.contains("starting all ranks again")).collect();
    assert!(matches!(restarts[..], [line] if line.contains(words)), "{fault}: {log}");
    let place = |words| log.find(words).expect("it is told");
    assert!(!drains || place("draining") < place("starting all ranks again"), "{fault}: {log}");
    check_nothing_stays(&server, target, &fault);
}

fn check_all(kind: &str, words: &str) {
    let before = segments();
    for target in TARGETS {
        let undisturbed = texts(&start(target, None), target, || ());
        for moment in [Moment::Idle, Moment::Prefill, Moment::Decode, Moment::Draining] {
            check(target, kind, words, moment, &undisturbed);
        }
    }
    check_no_segment_stays(&before);
}

#[test]
fn a_rank_that_is_killed() {
    check_all("kill", "was killed by signal 9");
}

#[test]
fn a_rank_that_stands_still() {
    check_all("stop", "stalled");
}

#[test]
fn a_rank_that_panics() {
    check_all("panic", "a fault was ordered");
}

#[test]
fn a_rank_that_runs_out_of_memory() {
    check_all("oom", "signal 6 (SIGABRT)");
}

/// Their caches outlive them, but only one that nobody can have spoiled is gone on with.
#[test]
fn what_a_killed_rank_had_computed_is_not_computed_again() {
    const PROMPT: f64 = 48.0;
    let target = TARGETS[0];
    for (kind, computed) in [("kill", PROMPT), ("panic", 2.0 * PROMPT)] {
        let server = start(target, Some(&format!("rank=1,kind={kind},step=60")));
        texts(&server, target, || ());
        assert_eq!(server.get_json("/ranks")["restarts"], 1, "{kind}");
        assert_eq!(server.metric("shardwire:prompt_tokens_computed_total"), computed, "{kind}");
    }
}

/// Two ranks die of whatever has this token.
#[test]
fn a_request_that_ranks_die_of_is_given_up_and_no_other() {
    const POISON: u64 = 777;
    let target = TARGETS[0];
    let undisturbed = texts(&start(target, None), target, || ());
    let server = start(target, Some(&format!("rank=1,kind=panic,token={POISON},epoch=all")));
    let mut answer = None;
    let told = texts(&server, target, || {
        let body = json!({"prompt": [1, POISON, 2], "max_tokens": 5});
        answer = Some(server.post(COMPLETIONS, &body));
    });
    assert_eq!(told, undisturbed);
    let (status, error) = answer.expect("an answer");
    let message = error["error"]["message"].as_str().unwrap_or_default();
    assert!(status == 500 && message.contains("given up") && message.contains("a fault was ordered"), "{error}");
    assert_eq!(server.get_json("/ranks")["restarts"], 2);
    assert_eq!(server.metric("shardwire:sequences_poisonous_total"), 1.0);
    let id = |line: &str| line.contains("it is given up") && line.contains("request=\"cmpl-");
    assert!(server.log("server.log").lines().any(id), "{}", server.log("server.log"));
    assert_eq!(texts(&server, target, || ()), undisturbed, "the third group serves");
}
