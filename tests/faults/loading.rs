//! A rank that is killed, stands still, panics or runs out of memory while it loads. At the first start nobody waits yet: the
//! server says why it can't begin. Later, clients wait one start longer.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    TARGETS, Target, check_no_segment_stays, check_no_worker_stays, check_nothing_stays, segments, start,
    start_in_vain, texts,
};
use crate::server::wait_for;

const REFUSED: i32 = 2;

fn check(kind: &str, words: &str) {
    let before = segments();
    for target in TARGETS {
        check_first_start(target, kind, words);
        check_later_start(target, kind, words);
    }
    check_no_segment_stays(&before);
}

fn check_first_start(target: Target, kind: &str, words: &str) {
    let fault = format!("rank={},kind={kind},loading=yes", target.rank);
    let mut server = start_in_vain(target, &fault);
    assert_eq!(server.wait().code(), Some(REFUSED), "{fault}");
    let said = server.log("stderr");
    let last = said.lines().last().unwrap_or_default();
    let rank = format!("rank {}", target.rank);
    assert!([words, &rank, "shardwire: "].iter().all(|words| last.contains(words)), "{fault}: {said}");
    check_no_worker_stays(&server, target);
}

/// The first group is killed from outside, the second one fails in loading, the third one goes on.
fn check_later_start(target: Target, kind: &str, words: &str) {
    let undisturbed = texts(&start(target, None), target, || ());
    let fault = format!("rank={},kind={kind},loading=yes,epoch=1", target.rank);
    let mut server = start(target, Some(&fault));
    let told = texts(&server, target, || {
        let pid = server.get_json("/ranks")["ranks"][0]["pid"].as_i64().expect("rank 0 lives");
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL).expect("rank 0 lives");
    });
    assert_eq!(told, undisturbed, "{fault}");
    // Should the streams have been faster than the kill, the starts are yet to come.
    let third =
        || Some(server.get_json("/ranks")).filter(|ranks| ranks["epoch"] == 2 && server.get("/health").0 == 200);
    let ranks = wait_for("the third group", third);
    assert_eq!(ranks["restarts"], 2, "{fault}");
    assert!(ranks["last_error"].as_str().is_some_and(|error| error.contains(words)), "{fault}: {ranks}");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait().code(), Some(0), "{fault}");
    check_nothing_stays(&server, target, &fault);
}

#[test]
fn a_rank_that_is_killed_while_it_loads() {
    check("kill", "was killed by signal 9");
}

#[test]
fn a_rank_that_stands_still_while_it_loads() {
    check("stop", "its process is stopped by a signal");
}

#[test]
fn a_rank_that_panics_while_it_loads() {
    check("panic", "a fault was ordered");
}

#[test]
fn a_rank_that_runs_out_of_memory_while_it_loads() {
    check("oom", "signal 6 (SIGABRT)");
}
