//! The whole link within one process: the server's ends against the workers'.

use std::{path::PathBuf, time::Duration};

use super::{
    mask::{Allowed, TokenMask},
    report::{Logprobs, Outcome, SampledTokens, StepReport},
    sampling::Sampling,
    step::{Chunk, NewSequence, SequenceId, Step},
    vitals::RankState,
    *,
};

const SOON: Duration = Duration::from_secs(10);
const NOW: Duration = Duration::ZERO;

fn config(world_size: usize) -> LinkConfig {
    LinkConfig {
        world_size,
        epoch: 3,
        step_ring_bytes: 1 << 16,
        return_ring_bytes: 1 << 12,
        mask_ring_bytes: 1 << 12,
        meeting_bytes: 5000,
        spin: false,
    }
}

fn attach(link: &str, rank: usize, world_size: usize) -> Result<WorkerLink, LinkError> {
    WorkerLink::attach(Seat { link, rank, world_size, epoch: 3, spin: false })
}

fn names_left(link: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/dev/shm").unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.to_string_lossy().contains(link)).collect()
}

fn step(number: u64) -> Step {
    let sampling = Sampling { stop_token_ids: vec![2, 7], logprobs: Some(3), ..Sampling::default() };
    let tokens = vec![0, 250, 251, 65_535, 65_536, u32::MAX];
    Step {
        number,
        finished: vec![SequenceId(u64::MAX)],
        started: vec![NewSequence { id: SequenceId(1), tokens, prompt_length: 6, sampling, pooling: None }],
        batch: vec![Chunk {
            id: SequenceId(1),
            start: 0,
            count: 6,
            new_blocks: vec![4, 5],
            samples: true,
            ..Chunk::default()
        }],
    }
}

fn report(step: u64) -> StepReport {
    let logprobs = Some(Logprobs { sampled: -0.25, rank: 0, top: vec![(9, -0.25), (8, f32::NEG_INFINITY)] });
    let outcome = Outcome::Chosen { token: 9, logprobs, confident: false };
    StepReport {
        step,
        tokens: vec![SampledTokens { id: SequenceId(1), outcomes: vec![outcome] }],
        ..StepReport::default()
    }
}

#[test]
fn every_rank_takes_every_step_and_rank_0_reports() {
    let mut server = ServerLink::create(&config(3)).unwrap();
    server.steps.publish(&step(1), NOW).unwrap(); // before anybody has attached
    let mut workers: Vec<_> = (0..3).map(|rank| attach(&server.name(), rank, 3).unwrap()).collect();
    server.steps.publish(&step(2), NOW).unwrap();
    for worker in &mut workers {
        assert_eq!(worker.steps.take(NOW).unwrap(), Some(step(1)));
        assert_eq!(worker.steps.take(NOW).unwrap(), Some(step(2)));
        assert_eq!(worker.steps.take(NOW).unwrap(), None);
    }
    let reporting: Vec<_> = workers.iter().map(|worker| worker.reports.is_some()).collect();
    assert_eq!(reporting, [true, false, false]);
    workers[0].reports.as_mut().unwrap().publish(&report(1), NOW).unwrap();
    assert_eq!(server.reports.take(NOW).unwrap(), Some(report(1)));
    assert_eq!(server.reports.take(NOW).unwrap(), None);
}

#[test]
fn rank_0_alone_takes_the_masks() {
    let mut server = ServerLink::create(&config(2)).unwrap();
    let mut workers: Vec<_> = (0..2).map(|rank| attach(&server.name(), rank, 2).unwrap()).collect();
    assert!(workers[1].masks.is_none());
    let masks = workers[0].masks.as_mut().unwrap();
    assert_eq!(masks.take(NOW).unwrap(), None);
    let sets = [Allowed::All, Allowed::Only(vec![3, u32::MAX]), Allowed::Bits(vec![u32::MAX; 100])];
    for (position, allowed) in sets.into_iter().enumerate() {
        let mask = TokenMask { id: SequenceId(u64::MAX), position: position as u32, allowed };
        server.masks.publish(&mask, NOW).unwrap();
        assert_eq!(masks.take(NOW).unwrap(), Some(mask));
    }
}

#[test]
fn names_go_once_all_have_attached_and_the_link_goes_on() {
    let mut server = ServerLink::create(&config(2)).unwrap();
    let name = server.name();
    assert_eq!(names_left(&name).len(), 5);
    let mut first = attach(&name, 0, 2).unwrap();
    assert!(server.vitals.attached(0) && !server.vitals.all_attached());
    let mut second = attach(&name, 1, 2).unwrap();
    assert!(server.vitals.all_attached());
    server.unlink();
    assert_eq!(names_left(&name), Vec::<PathBuf>::new());
    assert!(matches!(attach(&name, 0, 2), Err(LinkError::System { action: "open", .. })));
    server.steps.publish(&step(1), NOW).unwrap();
    assert!(first.steps.take(NOW).unwrap().is_some() && second.steps.take(NOW).unwrap().is_some());
}

#[test]
fn dropping_the_names_removes_them_while_the_ends_live_on() {
    let ServerLink { mut steps, names, .. } = ServerLink::create(&config(1)).unwrap();
    let name = names.name();
    let mut worker = attach(&name, 0, 1).unwrap();
    drop(names);
    assert_eq!(names_left(&name), Vec::<PathBuf>::new());
    steps.publish(&step(1), NOW).unwrap();
    assert_eq!(worker.steps.take(NOW).unwrap(), Some(step(1)));
}

#[test]
fn two_epochs_and_two_servers_do_not_meet() {
    let server = ServerLink::create(&config(2)).unwrap();
    let name = server.name();
    let seat = Seat { link: &name, rank: 0, world_size: 2, epoch: 3, spin: false };
    let refusals = [
        Seat { epoch: 4, ..seat },
        Seat { link: "0123456789abcdef", ..seat },
        Seat { link: "/etc/passwd", ..seat },
        Seat { rank: 2, ..seat },
        Seat { world_size: 3, ..seat },
    ];
    for refused in refusals {
        assert!(WorkerLink::attach(refused).is_err(), "{refused:?}");
    }
    attach(&name, 0, 2).unwrap();
    assert!(matches!(attach(&name, 0, 2), Err(LinkError::Taken { .. })), "a seat is taken once");
}

#[test]
fn configurations_that_cannot_be_meant_are_refused() {
    let refusals = [
        LinkConfig { world_size: 0, ..config(1) },
        LinkConfig { world_size: 65, ..config(1) },
        LinkConfig { step_ring_bytes: usize::MAX, ..config(1) },
        LinkConfig { return_ring_bytes: (64 << 20) + 1, ..config(1) },
    ];
    for refused in refusals {
        assert!(matches!(ServerLink::create(&refused), Err(LinkError::Config(_))), "{refused:?}");
    }
    let too_large = ServerLink::create(&LinkConfig { meeting_bytes: 1 << 50, ..config(1) });
    assert!(matches!(too_large, Err(LinkError::NoRoom { .. })));
}

#[test]
fn a_rank_that_takes_nothing_is_named() {
    let mut server = ServerLink::create(&config(2)).unwrap();
    let mut workers: Vec<_> = (0..2).map(|rank| attach(&server.name(), rank, 2).unwrap()).collect();
    let error = loop {
        match server.steps.publish(&step(1), Duration::from_millis(1)) {
            Ok(()) => assert!(workers[0].steps.take(NOW).unwrap().is_some()),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LinkError::Full { reader_index: 1, .. }), "{error}");
    assert!(error.to_string().contains("rank 1"), "{error}");
    while workers[1].steps.take(NOW).unwrap().is_some() {}
    server.steps.publish(&step(2), NOW).unwrap();
    assert_eq!(workers[1].steps.take(NOW).unwrap(), Some(step(2)), "the refused step was not published");
}

#[test]
fn a_step_that_can_never_fit_is_told_at_once() {
    let mut server = ServerLink::create(&config(1)).unwrap();
    let mut large = step(1);
    large.started[0].tokens = vec![u32::MAX; 1 << 16];
    assert!(matches!(server.steps.publish(&large, SOON), Err(LinkError::TooLarge { .. })));
    server.steps.publish(&step(1), NOW).unwrap();
}

#[test]
fn all_ends_may_move_between_threads() {
    fn send<T: Send>() {}
    send::<ServerLink>();
    send::<WorkerLink>();
    fn sync<T: Sync>() {}
    sync::<VitalsBoard>();
    sync::<Segment>();
}

#[test]
fn a_failure_reaches_the_server() {
    let server = ServerLink::create(&config(1)).unwrap();
    let worker = attach(&server.name(), 0, 1).unwrap();
    worker.vitals.fail("cannot open model.gguf");
    let vitals = server.vitals.read(0);
    assert_eq!((vitals.state, vitals.error.as_str()), (RankState::Failed, "cannot open model.gguf"));
}

#[test]
fn ranks_share_the_meeting_segment() {
    let server = ServerLink::create(&config(2)).unwrap();
    let workers: Vec<_> = (0..2).map(|rank| attach(&server.name(), rank, 2).unwrap()).collect();
    assert_eq!(workers[0].meeting.len(), 8192);
    assert_eq!(workers[0].meeting.name(), workers[1].meeting.name());
}
