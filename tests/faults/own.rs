//! The server itself: killed, out of memory, or one of its loops panicking, it ends, and its ranks with it. Where it stands
//! still for a while, nothing is lost.

use std::{io::Write, net::TcpStream, os::unix::process::ExitStatusExt, process::ExitStatus};

use nix::sys::signal::Signal;

use super::{
    COMPLETIONS, Moment, TARGETS, body, check_no_segment_stays, check_no_worker_stays, check_nothing_stays, segments,
    start, start_in_vain, state, texts,
};
use crate::server::{Server, golden, wait_for};

/// The server's end by `end`: while it is idle, with streams, and with streams while it drains. It may have told of the
/// streams what it liked; what it was given is free again, and the next server starts at the same port.
fn check_ends_of_the_server(moments: &[Moment], end: impl Fn(&Server)) {
    let (before, target) = (segments(), TARGETS[0]);
    for &moment in moments {
        let mut server = start(target, None);
        let mut streams: Vec<_> = match moment {
            Moment::Idle => Vec::new(),
            _ => (0..4).map(|seed| server.open_stream(COMPLETIONS, &body(seed))).collect(),
        };
        for stream in &mut streams {
            stream.next().expect("the stream begins");
        }
        if moment == Moment::Draining {
            server.signal(Signal::SIGTERM);
            wait_for("the drain", || server.log("server.log").contains("draining").then_some(()));
        }
        end(&server);
        assert_ne!(server.wait().code(), Some(0), "{moment:?}: it did not end in order");
        check_nothing_stays(&server, target, &format!("the server, {moment:?}"));
        let port = server.url("").rsplit_once(':').expect("a port").1.to_owned();
        let model = golden("models/llama_basic");
        let next = Server::start(&["--model", model.to_str().expect("UTF-8"), "--port", &port]);
        assert_eq!(next.get("/health").0, 200, "{moment:?}");
    }
    check_no_segment_stays(&before);
}

#[test]
fn a_server_that_is_killed() {
    let moments = [Moment::Idle, Moment::Decode, Moment::Draining];
    check_ends_of_the_server(&moments, |server| server.signal(Signal::SIGKILL));
}

/// No byte more than it has. Bodies that are not complete are what it can neither answer nor let go.
#[test]
fn a_server_that_runs_out_of_memory() {
    let refuse_memory = |server: &Server| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the server lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix(" kB"));
        let kibibytes: u64 = line.and_then(|number| number.parse().ok()).expect("a number");
        let limit = rustix::process::Rlimit { current: Some(kibibytes << 10), maximum: Some(kibibytes << 10) };
        let pid = rustix::process::Pid::from_raw(server.pid() as i32);
        rustix::process::prlimit(pid, rustix::process::Resource::As, limit).expect("a limit");
        let address = server.url("").trim_start_matches("http://").to_owned();
        let head = format!("POST {COMPLETIONS} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n", 31 << 20);
        let (head, part) = (head.into_bytes(), vec![b' '; 30 << 20]);
        let hold = |_| {
            let mut client = TcpStream::connect(&address).ok()?;
            // Once it has ended, nobody takes anything.
            client.write_all(&head).and_then(|()| client.write_all(&part)).ok().map(|()| client)
        };
        let _held: Vec<_> = (0..16).map_while(hold).collect();
        wait_for("its end", || matches!(state(server.pid()), None | Some('Z')).then_some(()));
    };
    check_ends_of_the_server(&[Moment::Idle, Moment::Decode], refuse_memory);
}

/// A fault in one of the server's loops, while somebody waits for an answer, and how the server ends of it.
fn check_loop(name: &str, kind: &str, moment: Moment, check_end: impl Fn(ExitStatus)) {
    let (before, target) = (segments(), TARGETS[0]);
    let fault = format!("loop={name},kind={kind},{}", moment.order());
    let mut server = match moment {
        Moment::Idle => start_in_vain(target, &fault),
        _ => start(target, Some(&fault)),
    };
    match moment {
        Moment::Idle => {}
        Moment::Draining => {
            let mut stream = server.open_stream(COMPLETIONS, &body(1));
            stream.next().expect("the stream begins");
            server.signal(Signal::SIGTERM);
            check_given_up(&stream.collect::<Vec<_>>().concat(), &fault);
        }
        // Who waits is told; a process that is gone tells nothing.
        Moment::Prefill | Moment::Decode => match server.try_post(COMPLETIONS, body(1).to_string().as_bytes()) {
            Ok((status, answer)) => {
                assert_eq!(status, 503, "{fault}: {answer}");
                check_given_up(&answer, &fault);
            }
            Err(error) => assert_ne!(kind, "panic", "{fault}: {error}"),
        },
    }
    check_end(server.wait());
    let log = server.log("server.log");
    assert!(kind != "panic" || log.contains("panicked: a fault was ordered"), "{fault}: {log}");
    match moment {
        Moment::Idle => check_no_worker_stays(&server, target),
        _ => check_nothing_stays(&server, target, &fault),
    }
    check_no_segment_stays(&before);
}

fn check_given_up(answer: &str, fault: &str) {
    assert!(answer.contains("its engine has stopped"), "{fault}: {answer}");
}

const ALL_MOMENTS: [Moment; 4] = [Moment::Idle, Moment::Prefill, Moment::Decode, Moment::Draining];

/// The ranks could not be kept.
const GAVE_UP: i32 = 3;

#[test]
fn an_engine_that_panics() {
    for moment in ALL_MOMENTS {
        check_loop("engine", "panic", moment, |end| assert_eq!(end.code(), Some(GAVE_UP), "{moment:?}"));
    }
}

#[test]
fn an_engine_that_runs_out_of_memory() {
    for moment in [Moment::Idle, Moment::Prefill, Moment::Decode] {
        check_loop("engine", "oom", moment, |end| assert_eq!(end.signal(), Some(Signal::SIGABRT as i32), "{moment:?}"));
    }
}

#[test]
fn a_supervisor_that_panics() {
    let target = TARGETS[0];
    for moment in ["loading=yes", "idle=yes"] {
        let fault = format!("loop=supervisor,kind=panic,{moment}");
        let mut server = start_in_vain(target, &fault);
        assert_eq!(server.wait().code(), Some(GAVE_UP), "{fault}");
        check_no_worker_stays(&server, target);
    }
}

/// It looks at the ranks now and then only: the streams may have ended by then, or are told.
#[test]
fn a_supervisor_that_panics_while_ranks_decode() {
    let target = TARGETS[0];
    let fault = format!("loop=supervisor,kind=panic,{}", Moment::Decode.order());
    let mut server = start(target, Some(&fault));
    let streams: Vec<_> = (0..4).map(|seed| server.open_stream(COMPLETIONS, &body(seed))).collect();
    for stream in streams {
        assert_eq!(stream.last().as_deref(), Some("[DONE]"), "{fault}");
    }
    assert_eq!(server.wait().code(), Some(GAVE_UP), "{fault}");
    check_nothing_stays(&server, target, &fault);
}

#[test]
fn a_server_that_stands_still_for_a_while() {
    let target = TARGETS[0];
    let undisturbed = texts(&start(target, None), target, || ());
    let mut server = start(target, None);
    let told = texts(&server, target, || {
        server.signal(Signal::SIGSTOP);
        wait_for("it to stand still", || (state(server.pid()) == Some('T')).then_some(()));
        server.signal(Signal::SIGCONT);
    });
    assert_eq!(told, undisturbed);
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
    check_nothing_stays(&server, target, "the server stood still");
}
