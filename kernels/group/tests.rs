//! Ranks as threads: the same memory, the same protocol, and a debugger can look at all of them.

use super::*;

fn membership(rank: usize, world_size: usize, waiting: Waiting) -> Membership {
    Membership { rank, world_size, waiting, join_timeout: Duration::from_secs(20) }
}

#[test]
fn a_barrier_holds_everybody_until_the_last() {
    use std::sync::atomic::AtomicUsize;
    for waiting in [Waiting::Spin, Waiting::Sleep] {
        let entered = AtomicUsize::new(0);
        run_ranks(4, waiting, |group| {
            for round in 1..=200 {
                entered.fetch_add(1, SeqCst);
                group.barrier().expect("all are there");
                assert!(entered.load(SeqCst) >= round * 4, "somebody left round {round} early");
                group.barrier().expect("all are there");
            }
        });
    }
}

#[test]
fn waiting_for_others_is_counted() {
    let waited = run_ranks(2, Waiting::Sleep, |group| {
        (0..200).for_each(|_| group.barrier().expect("both are there"));
        group.waited()
    });
    // Somebody is first.
    assert!(waited.iter().sum::<Duration>() > Duration::ZERO, "{waited:?}");
    assert_eq!(Group::solo().waited(), Duration::ZERO);
}

#[test]
fn a_rank_that_leaves_is_named_by_all_others() {
    for waiting in [Waiting::Spin, Waiting::Sleep] {
        let errors = run_ranks(4, waiting, |group| {
            group.barrier().expect("all are there");
            if group.rank() == 2 {
                return None; // dropped: it left
            }
            let error = group.barrier().expect_err("rank 2 is gone");
            assert_eq!(group.barrier().as_ref(), Err(&error), "a lost group stays lost");
            Some(error)
        });
        let lost = DeviceError::PeerLost { rank: 2, collective: "barrier" };
        assert_eq!(errors, [Some(lost.clone()), Some(lost.clone()), None, Some(lost)]);
    }
}

#[test]
fn a_rank_may_leave_after_its_last_collective() {
    for _ in 0..50 {
        run_ranks(3, Waiting::Sleep, |group| group.barrier().expect("whoever left had arrived"));
    }
}

#[test]
fn joining_alone_ends_with_the_name_of_the_missing_rank() {
    let timeout = Duration::from_millis(30);
    let alone = Membership { join_timeout: timeout, ..membership(0, 2, Waiting::Sleep) };
    let error = Group::join(GroupMemory::heap(2), alone).map(drop);
    assert_eq!(error, Err(JoinError::Missing { rank: 1, timeout }));
}

#[test]
fn a_rank_that_gave_up_joining_is_lost_to_the_next() {
    let memory = GroupMemory::heap(2);
    let alone = Membership { join_timeout: Duration::from_millis(1), ..membership(0, 2, Waiting::Sleep) };
    assert!(Group::join(memory.clone(), alone).is_err());
    let late = Group::join(memory, membership(1, 2, Waiting::Sleep)).expect("rank 0 had been there");
    assert_eq!(late.barrier(), Err(DeviceError::PeerLost { rank: 0, collective: "barrier" }));
}

#[test]
fn wrong_members_are_refused() {
    let check = |memory: &GroupMemory, rank, world_size, expected: JoinError| {
        let joined = Group::join(memory.clone(), membership(rank, world_size, Waiting::Sleep)).map(drop);
        assert_eq!(joined, Err(expected));
    };
    let (bytes, needed) = (Group::bytes(2), Group::bytes(3));
    let memory = GroupMemory::heap(2);
    check(&memory, 0, 3, JoinError::TooSmall { bytes, needed, world_size: 3 });
    check(&memory, 2, 2, JoinError::NoSuchRank { rank: 2, world_size: 2 });
    check(&memory, 0, 0, JoinError::NoSuchRank { rank: 0, world_size: 0 });

    std::thread::scope(|scope| {
        for rank in 0..2 {
            let memory = memory.clone();
            scope.spawn(move || Group::join(memory, membership(rank, 2, Waiting::Sleep)).expect("joins").barrier());
        }
    });
    check(&memory, 0, 1, JoinError::OtherLayout);
    check(&memory, 1, 2, JoinError::Taken(1));
}

#[test]
#[should_panic(expected = "is not in the same broadcast")]
fn ranks_in_different_collectives_notice() {
    run_ranks(2, Waiting::Sleep, |group| {
        let words = group.rank();
        if let Some(mut turn) = group.turn::<u32>(Collective::Broadcast).expect("all are there") {
            turn.meet(words).map(drop).expect("all are there");
        }
    });
}

#[test]
fn alone_nothing_happens() {
    let solo = Group::solo();
    assert_eq!((solo.rank(), solo.world_size(), solo.barrier()), (0, 1, Ok(())));
}
